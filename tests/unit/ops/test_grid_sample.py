"""Grid sampling: coverage, and the order of cells (its golden case is among those of E-3DSNN)."""

from __future__ import annotations

import pytest
import torch

from zoo.ops import grid_sample_points


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
