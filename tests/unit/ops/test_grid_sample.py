"""Grid sampling: the golden case, coverage, and the order of cells."""

from __future__ import annotations

import pytest
import torch

from tests.parity.cases import Case, find_cases
from zoo.ops import fnv_keys, grid_sample_points

GOLDEN = [case for case in find_cases("e3dsnn") if not isinstance(case.values[0], Case) or case.id == "grid_sample"]


@pytest.mark.parametrize("case", GOLDEN)
def test_fragments_of_the_golden_case(case: Case) -> None:
    clipped = case["output/clipped_coord"]
    sample = grid_sample_points(clipped, case.config["grid_size"], mode="test")
    assert torch.equal(sample.grid_coords, case["output/grid_coord_all"])
    assert torch.equal(fnv_keys(sample.grid_coords), case["output/fnv_key_as_int64"])
    assert torch.equal(sample.inverse, case["output/inverse"])
    assert len(sample.fragments) == case.config["n_parts"]
    for number, fragment in enumerate(sample.fragments):  # order of points inside a cell is unspecified upstream
        assert torch.equal(sample.grid_coords[fragment], case[f"output/part{number}.grid_coord"])
        assert torch.equal(sample.inverse[fragment], case["output/inverse"][case[f"output/part{number}.index"]])


@pytest.mark.parametrize("key", ["fnv", "linear"])
def test_every_point_is_in_a_fragment_and_every_fragment_has_every_cell(key: str) -> None:
    coords = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    sample = grid_sample_points(coords, 0.7, mode="test", key=key)
    assert sorted(set(torch.cat(sample.fragments).tolist())) == list(range(300))
    for fragment in sample.fragments:
        assert torch.equal(sample.inverse[fragment], torch.arange(len(sample.counts)))
    assert torch.equal(torch.bincount(sample.inverse), sample.counts)


def test_training_picks_one_point_of_each_cell_and_follows_the_generator() -> None:
    coords = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    picks = [
        grid_sample_points(coords, 0.7, generator=torch.Generator().manual_seed(seed)).fragments for seed in (1, 1, 2)
    ]
    assert all(len(fragments) == 1 for fragments in picks)
    assert torch.equal(picks[0][0], picks[1][0])
    assert not torch.equal(picks[0][0], picks[2][0])
    inverse = grid_sample_points(coords, 0.7).inverse
    assert torch.equal(inverse[picks[0][0]], torch.arange(int(inverse.max()) + 1))


def test_linear_order_is_lexicographic() -> None:
    coords = torch.rand(200, 2, generator=torch.Generator().manual_seed(3))
    sample = grid_sample_points(coords, 0.2, mode="test", key="linear")
    rows = sample.grid_coords[sample.fragments[0]].tolist()
    assert rows == sorted(rows)


def test_empty_cloud() -> None:
    train = grid_sample_points(torch.zeros(0, 3), 0.1)
    assert train.fragments[0].shape == (0,)
    assert train.inverse.shape == (0,)
    assert grid_sample_points(torch.zeros(0, 3), 0.1, mode="test", key="linear").fragments == ()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"coords": torch.zeros(2, 3, dtype=torch.int64)}, "dtype"),
        ({"coords": torch.zeros(3)}, "shape"),
        ({"coords": torch.full((1, 3), torch.nan)}, "NaN"),
        ({"grid_size": 0.0}, "grid_size"),
        ({"mode": "val"}, "mode"),
        ({"key": "md5"}, "key"),
    ],
)
def test_bad_arguments(arguments: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        grid_sample_points(**{"coords": torch.zeros(2, 3), "grid_size": 0.1, **arguments})
