"""GridPull's grid on shapes with known distances."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import Tensor

from zoo.losses.pulling import band_edges, continuity_loss
from zoo.models.gridpull import DistanceGrid, band_cells, pull, sample_field
from zoo.rendering.mesh import as_trimesh


def _ball_cloud(count: int, radius: float = 0.5) -> Tensor:
    return (
        torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=1) * radius
    )


def test_gradient_is_that_of_the_value() -> None:
    values = torch.randn(5, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    cells = (torch.rand(9, 3, generator=torch.Generator().manual_seed(1)) * 4).double().requires_grad_()
    field = sample_field(values, cells)
    (slope,) = torch.autograd.grad(field.value.sum(), cells, retain_graph=True)
    torch.testing.assert_close(field.gradient, slope)
    assert torch.autograd.gradcheck(lambda v: sample_field(v, cells.detach())[:2], (values,))


def test_corners_are_read_exactly() -> None:
    values = torch.randn(4, 5, 6)
    corners = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(6))
    torch.testing.assert_close(sample_field(values, corners.float()).value, values.reshape(-1), atol=1e-6, rtol=1e-6)


def test_positions_outside_of_the_grid_continue_it() -> None:
    axes = [torch.arange(size, dtype=torch.float64) for size in (4, 5, 6)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    outside = torch.rand(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 40 - 20
    field = sample_field(2 * x - 3 * y + z + 1, outside)
    torch.testing.assert_close(field.value, outside @ torch.tensor([2.0, -3.0, 1.0]).double() + 1)
    torch.testing.assert_close(field.gradient, torch.tensor([2.0, -3.0, 1.0]).double().expand(50, 3))


def test_fewer_points_than_cells() -> None:
    """600 points in 110,592 cells still close a surface."""
    grid, cloud = DistanceGrid(resolution=48), _ball_cloud(600)
    grid.begin(cloud)
    mesh = as_trimesh(grid.surface(cloud, 6))
    assert mesh.is_watertight
    assert mesh.body_count == 1
    assert (torch.from_numpy(mesh.vertices).norm(dim=1) - 0.5).abs().max() < 2 * grid.cell_size  # as wide as gaps are


def test_continuity_is_the_weighted_sum_over_six_neighbours() -> None:
    values = torch.randn(9, 9, 9, dtype=torch.float64, requires_grad=True)
    index, weight = band_cells(torch.tensor([[3.2, 4.0, 4.9], [5.0, 5.0, 2.0]]), 9, 2)
    weight = weight.double()
    total = values.new_zeros(())
    for axis in range(3):
        for sign in (-1, 1):
            step = torch.zeros(3, dtype=torch.int64)
            step[axis] = sign
            total = total + (weight * (values[tuple((index + step).T)] - values[tuple(index.T)]).square()).mean()
    ours = continuity_loss(values, band_edges(index, weight, values.shape))
    torch.testing.assert_close(ours, total)
    torch.testing.assert_close(*(torch.autograd.grad(x, values)[0] for x in (ours, total)))


def test_the_band_is_clipped_to_the_grid() -> None:
    index, weight = band_cells(torch.tensor([[0.0, 4.0, 8.0], [40.0, 0.0, 0.0]]), 9, 3)
    assert 1 <= int(index.min()) <= int(index.max()) <= 7
    assert len(index) == len(weight) > 0
    with pytest.raises(ValueError, match="level"):
        band_cells(torch.zeros(1, 3), 9, 0)
    with pytest.raises(ValueError, match="no corner"):
        band_edges(index[:0], weight[:0], (9, 9, 9))


def test_frame_and_world() -> None:
    grid = DistanceGrid(resolution=8)
    low, high = torch.tensor([1e4, -2.0, 3.0]).double(), torch.tensor([1e4 + 4, 0.0, 4.0]).double()
    grid.place(low, high)
    corners = grid.to_frame(torch.stack([low, high]))
    torch.testing.assert_close(corners, torch.tensor([[-0.5, -0.25, -0.125], [0.5, 0.25, 0.125]]))
    torch.testing.assert_close(grid.to_world(corners), torch.stack([low, high]))
    torch.testing.assert_close(grid.to_cells(torch.tensor([[-1.0, 0.0, 1.0]])), torch.tensor([[0.0, 3.5, 7.0]]))
    with pytest.raises(ValueError, match="longest side"):
        grid.place(low, low)
    with pytest.raises(ValueError, match="half_extent"):
        DistanceGrid(half_extent=0.4)


def test_pulling_through_a_true_distance_lands_on_the_surface() -> None:
    grid = DistanceGrid(resolution=64, radius=0.5)
    queries = _ball_cloud(200, 0.5) + 0.03 * torch.randn(200, 3, generator=torch.Generator().manual_seed(2))
    pulled = pull(queries, grid(queries))
    assert (pulled.norm(dim=1) - 0.5).abs().max() < 2e-3


def test_the_surface_of_a_true_distance() -> None:
    grid = DistanceGrid(resolution=48, radius=0.5)
    cloud = _ball_cloud(4000)
    for resolution in (None, 70):
        mesh = as_trimesh(grid.surface(cloud, 5, resolution=resolution))
        assert mesh.is_watertight
        assert abs(mesh.volume / (torch.pi / 6) - 1) < 0.02
        assert (torch.from_numpy(mesh.vertices).norm(dim=1) - 0.5).abs().max() < 3e-3


def test_what_the_band_shuts_off_is_inside() -> None:
    grid, cloud = DistanceGrid(resolution=48, radius=0.5), _ball_cloud(4000)
    with torch.no_grad():
        grid.values.copy_(torch.where(grid.values < -0.3, 1.0, grid.values))  # a start that nothing has reached
    mesh = as_trimesh(grid.surface(cloud, 5))
    assert isinstance(mesh, trimesh.Trimesh)
    assert mesh.body_count == 1
    assert (torch.from_numpy(mesh.vertices).norm(dim=1) - 0.5).abs().max() < 3e-3


def test_a_field_without_a_zero_has_no_surface() -> None:
    grid = DistanceGrid(resolution=16, radius=0.0)
    with torch.no_grad():
        grid.values.fill_(1.0)
    assert len(grid.surface(_ball_cloud(10), 8).faces) == 0
