"""Signed distances by flooding, against formulas."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor

from zoo.models.flooded_distance import flooded_distance
from zoo.models.gridpull import DistanceGrid
from zoo.rendering.mesh import as_trimesh


def _sphere(count: int, radius: float) -> Tensor:
    directions = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(directions, dim=1) * radius


def _corner_radii(resolution: int) -> Tensor:
    axis = torch.arange(resolution) - (resolution - 1) / 2
    return torch.cartesian_prod(axis, axis, axis).norm(dim=1).view((resolution,) * 3)


@pytest.mark.parametrize("count", [40_000, 600])
def test_a_ball(count: int) -> None:
    """A dense cloud needs the thinnest wall, a sparse one a thicker one; both give the ball's signed distance."""
    resolution, radius = 40, 12.0
    middle = (resolution - 1) / 2
    found = flooded_distance(_sphere(count, radius) + middle, resolution)
    assert found is not None
    expected = _corner_radii(resolution) - radius
    clear = expected.abs() > (1.0 if count == 40_000 else 2.0)
    assert (found.sign() == expected.sign())[clear].all()
    nearest = (found - expected).abs()
    assert nearest[clear].mean() < (0.02 if count == 40_000 else 0.3)


def test_two_balls_and_a_cavity() -> None:
    first, second = _sphere(20_000, 6.0) + torch.tensor([10.0, 16, 16]), _sphere(20_000, 6.0) + 24
    found = flooded_distance(torch.cat([first, second]), 40)
    assert found is not None
    assert found[10, 16, 16] < -5
    assert found[24, 24, 24] < -5
    assert found[10, 30, 30] > 5
    hollow = flooded_distance(torch.cat([_sphere(30_000, 14.0), _sphere(10_000, 6.0)]) + 19.5, 40)
    assert hollow is not None
    assert hollow[19, 19, 19] < 0  # the flood does not come there


def test_an_open_sheet_encloses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    axis = torch.linspace(-0.5, 0.5, 60)
    sheet = torch.cartesian_prod(axis, axis, torch.zeros(1))
    grid = DistanceGrid(resolution=32, start="flood")
    assert flooded_distance(grid.to_cells(sheet), 32) is None
    before = grid.values.clone()
    with caplog.at_level(logging.WARNING):
        grid.begin(sheet)
    assert "encloses nothing" in caplog.text
    assert torch.equal(grid.values, before)


def test_the_start_of_a_grid_has_the_surface_in_it() -> None:
    cloud = _sphere(20_000, 0.5)
    grid = DistanceGrid(resolution=48, start="flood")
    grid.begin(cloud)
    mesh = as_trimesh(grid.surface(cloud, 4))
    assert mesh.is_watertight
    assert mesh.body_count == 1
    assert (torch.from_numpy(mesh.vertices).norm(dim=1) - 0.5).abs().max() < grid.cell_size
    ball = DistanceGrid(resolution=48, start="ball")
    before = ball.values.clone()
    ball.begin(cloud)
    assert torch.equal(ball.values, before)
    with pytest.raises(ValueError, match="start: found"):
        DistanceGrid(start="sphere")  # pyright: ignore[reportArgumentType]
