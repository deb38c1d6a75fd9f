"""Sizes of hash grids: published parameter counts, options, and what is refused."""

from __future__ import annotations

import math

import pytest

from zoo.ops import HashGridLayout
from zoo.ops.hash_grid_layout import Level


@pytest.mark.parametrize(
    ("levels", "features", "log2_table_size", "per_level_scale", "parameters"),
    [
        (16, 2, 19, 1.447269237440378, 12_599_920),  # nerfacc's field, 16 to 4096
        (16, 2, 19, 1.3819128799677762, 12_196_240),  # the paper, 16 to 2048
        (8, 4, 19, 2.0, 11_681_792),  # instant-ngp's base.json
        (5, 2, 17, 1.681792830507429, 766_528),  # nerfacc's proposal field
    ],
)
def test_parameter_counts_of_tcnn(levels, features, log2_table_size, per_level_scale, parameters):
    layout = HashGridLayout.build(
        num_levels=levels,
        features_per_level=features,
        log2_table_size=log2_table_size,
        per_level_scale=per_level_scale,
    )
    assert layout.num_parameters == parameters


@pytest.mark.parametrize(("log2_table_size", "parameters"), [(17, 3_326_288), (18, 6_209_872), (19, 11_477_728)])
def test_parameter_counts_of_torch_ngp(log2_table_size, parameters):
    layout = HashGridLayout.build(
        log2_table_size=log2_table_size,
        per_level_scale=2 ** (math.log2(1024 / 16) / 15),
        convention="torch_ngp",
    )
    assert layout.num_parameters == parameters


def test_float32_sizes_are_upstreams():
    growth = 2 ** (math.log2(1024 / 16) / 15)
    assert HashGridLayout.build(per_level_scale=growth).levels[-1].resolution == 1025
    growth = math.exp(math.log(8192 / 16) / 7)
    assert HashGridLayout.build(num_levels=8, per_level_scale=growth).levels[-1].resolution == 8193


def test_levels_of_tcnn():
    layout = HashGridLayout.build(num_levels=3, base_resolution=4, log2_table_size=9)
    assert layout.levels == (
        Level(3.0, 4, 64, False, (1, 4, 16)),
        Level(7.0, 8, 512, False, (1, 8, 64)),
        Level(15.0, 16, 512, True, (1, 2654435761, 805459861)),
    )
    assert layout.offsets == (0, 64, 576, 1088)
    assert layout.level_table.tolist()[1] == [64, 512, 0, 1, 8, 64]
    assert (layout.output_dim, layout.shift, layout.bounded, layout.ceil_corners) == (6, 0.5, False, False)


def test_torch_ngp_clamps_before_it_rounds():
    settings = {"num_levels": 2, "base_resolution": 4, "log2_table_size": 9, "convention": "torch_ngp"}
    layout = HashGridLayout.build(**settings)
    assert [level.rows for level in layout.levels] == [128, 512]  # 5^3 = 125 vertices
    assert layout.levels[0].multipliers == (1, 5, 25)
    aligned = HashGridLayout.build(**settings, align_corners=True)
    assert [level.rows for level in aligned.levels] == [64, 512]
    assert (layout.shift, aligned.shift, layout.bounded) == (0.5, 0.0, True)


def test_tiled_grids_leave_out_axes_beyond_the_table():
    layout = HashGridLayout.build(num_levels=4, base_resolution=4, grid_type="tiled")
    assert [level.rows for level in layout.levels] == [64] * 4
    assert [level.multipliers for level in layout.levels] == [(1, 4, 16), (1, 8, 64), (1, 16, 0), (1, 32, 0)]
    assert not any(level.hashed for level in layout.levels)


def test_dense_grids_and_nerfstudio():
    dense = HashGridLayout.build(num_levels=2, base_resolution=4, grid_type="dense", log2_table_size=3)
    assert [level.rows for level in dense.levels] == [64, 512]
    layout = HashGridLayout.build(
        num_levels=3, base_resolution=16, per_level_scale=1.5, log2_table_size=5, convention="nerfstudio"
    )
    assert [(level.scale, level.rows, level.hashed) for level in layout.levels] == [
        (16.0, 32, True),
        (24.0, 32, True),
        (36.0, 32, True),
    ]
    assert (layout.shift, layout.ceil_corners) == (0.0, True)


def test_stored_sizes_replace_computed_ones():
    layout = HashGridLayout.build(num_levels=2, base_resolution=4, log2_table_size=12)
    stored = layout.with_sizes([0, 128, 576], [5, 8])
    assert stored.levels[0] == Level(3.0, 5, 128, False, (1, 5, 25))
    assert stored.offsets == (0, 128, 576)
    assert layout.with_sizes(layout.offsets, [4, 8]) == layout
    with pytest.raises(ValueError, match="expected \\(2, 2, 576\\)"):
        layout.with_sizes([0, 64, 580], [4, 8])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_levels": 0}, "num_levels: found 0, expected 1 to 32"),
        ({"features_per_level": 3}, "features_per_level: found 3, expected one of 1, 2, 4, 8"),
        ({"log2_table_size": 32}, "log2_table_size: found 32, expected 3 to 31"),
        ({"base_resolution": 0}, "base_resolution: found 0"),
        ({"per_level_scale": math.nan}, "per_level_scale: found nan"),
        ({"num_dims": 5}, "num_dims: found 5, expected 2, 3 or 4"),
        ({"convention": "ngp"}, "convention: found 'ngp', expected one of 'tcnn', 'torch_ngp', 'nerfstudio'"),
        ({"align_corners": True}, "align_corners: the tcnn convention has no such option"),
        ({"hash_name": "prime", "convention": "torch_ngp"}, "hash_name: found 'prime'"),
        ({"num_dims": 2, "convention": "nerfstudio"}, "convention: nerfstudio's grid is 3D"),
        ({"interpolation": "nearest", "convention": "torch_ngp"}, "convention: torch_ngp's grid is hash or tiled"),
    ],
)
def test_what_no_convention_knows_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HashGridLayout.build(**settings)
