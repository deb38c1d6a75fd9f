"""Scenes larger than the cube of training."""

from __future__ import annotations

import pytest
import torch

from zoo.models.gridformer import GridFormer, SlidingWindow


@pytest.fixture
def model() -> GridFormer:
    torch.manual_seed(0)
    return GridFormer(kind="grid", channels=8, resolution=8).eval()


def cube() -> torch.Tensor:
    corners = torch.tensor([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]])
    return torch.cat([corners, torch.rand(80, 3) - 0.5])


def test_a_scene_of_one_cube_is_the_network_itself(model: GridFormer) -> None:
    points, queries = cube(), torch.rand(30, 3) - 0.5
    scene = SlidingWindow(model, 2 * points + 3, window=2.0)
    assert scene.counts == [1, 1, 1]
    with torch.no_grad():
        expected = model(points[None], queries[None])[0]
    torch.testing.assert_close(scene.logits(2 * queries + 3, chunk_size=7), expected, atol=1e-4, rtol=1e-4)


def test_two_cubes_apart_give_what_each_gives(model: GridFormer) -> None:
    points, queries = cube(), (torch.rand(30, 3) - 0.5) * 0.5
    shift = torch.tensor([4.0, 0.0, 0.0])
    scene = SlidingWindow(model, torch.cat([points, points + shift]), window=1.0, overlap=0.0)
    assert scene.counts == [5, 1, 1]
    with torch.no_grad():
        expected = model(points[None], queries[None])[0]
    torch.testing.assert_close(scene.logits(queries), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scene.logits(queries + shift), expected, atol=1e-3, rtol=1e-3)
    assert (scene.logits(queries + shift / 2) < -10).all()  # nothing between them


def test_bad_scenes_are_named(model: GridFormer) -> None:
    with pytest.raises(ValueError, match="window=0"):
        SlidingWindow(model, cube(), window=0.0)
    with pytest.raises(ValueError, match="at least one point"):
        SlidingWindow(model, torch.zeros(0, 3), window=1.0)
    with pytest.raises(ValueError, match="NaN"):
        SlidingWindow(model, cube() * float("nan"), window=1.0)
