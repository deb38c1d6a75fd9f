"""Pruning drops exactly the rows that no open cell addresses, and changes nothing that can be seen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.models.test_hollownerf import small_field, small_hollow_field, some_rays
from zoo.models.field_pruning import CLOSED, addressable_rows, cell_borders, cells_touching, open_vertices, prune
from zoo.models.hollownerf import HollowNeRF
from zoo.models.layers.occupancy_grid import OccupancyGrid
from zoo.models.saliency import SaliencyGrid
from zoo.ops import HashGridLayout, grid_rows, hash_encode


def rows_by_brute_force(layout: HashGridLayout, grid: SaliencyGrid, cells: Tensor) -> Tensor:
    """Rows read by the points of a fine lattice in every open cell, cell borders and their neighbours included."""
    borders = cell_borders(grid)
    neighbours = [torch.nextafter(borders, torch.full((), end)) for end in (-1.0, 1.0)]
    places = torch.cat([torch.linspace(0, 1, 4001), borders, *neighbours]).clamp(0, 1).unique()
    cell = grid.vertex_positions(places).floor().long().clamp(max=grid.resolution - 2)
    needed = torch.zeros(layout.num_rows, dtype=torch.bool)
    for level in range(layout.num_levels):
        position = (places.double() * layout.levels[level].scale + layout.shift).float()
        low = position.floor().long()
        high = position.ceil().long() if layout.ceil_corners else low + 1
        touched = [torch.cat([low[cell == c], high[cell == c]]).unique() for c in range(grid.resolution - 1)]
        for i, j, k in cells.nonzero().tolist():
            vertices = torch.cartesian_prod(touched[i], touched[j], touched[k])
            needed[grid_rows(vertices, layout, level)] = True
    return needed


@pytest.mark.parametrize("convention", ["torch_ngp", "tcnn", "nerfstudio"])
@pytest.mark.parametrize("align_corners", [True, False])
def test_rows_are_exactly_those_that_open_cells_address(convention, align_corners: bool) -> None:
    layout = HashGridLayout.build(
        num_levels=5, log2_table_size=11, base_resolution=4, per_level_scale=1.7, convention=convention
    )
    grid = SaliencyGrid(resolution=7, align_corners=align_corners)
    cells = torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.04
    needed = addressable_rows(layout, grid, cells)
    assert torch.equal(needed, rows_by_brute_force(layout, grid, cells))
    assert 0 < int(needed.sum()) < layout.num_rows


def test_no_open_cell_needs_no_row_and_all_need_all_they_reach() -> None:
    layout = HashGridLayout.build(num_levels=3, log2_table_size=10, base_resolution=4, per_level_scale=2.0)
    grid = SaliencyGrid(resolution=5)
    assert not addressable_rows(layout, grid, torch.zeros(4, 4, 4, dtype=torch.bool)).any()
    points = torch.rand(20000, 3, generator=torch.Generator().manual_seed(0))
    table = torch.zeros(layout.num_rows, 2, requires_grad=True)
    hash_encode(points, table, layout).sum().backward()
    assert table.grad is not None
    read = table.grad.abs().sum(dim=1) > 0
    assert not (read & ~addressable_rows(layout, grid, torch.ones(4, 4, 4, dtype=torch.bool))).any()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("resolution", [2, 3, 10, 64])
def test_cell_borders_are_exact(resolution: int, align_corners: bool) -> None:
    grid = SaliencyGrid(resolution=resolution, align_corners=align_corners)
    borders = cell_borders(grid)
    index = torch.arange(resolution - 1)
    assert bool((grid.vertex_positions(borders).floor() >= index).all())
    before = torch.nextafter(borders[1:], torch.zeros(()))
    assert bool((grid.vertex_positions(before).floor() < index[1:]).all())


def shell_field() -> HollowNeRF:
    """A hollow field of which only a shell of cells is salient, with features that matter."""
    field = small_hollow_field()
    assert field.saliency is not None
    with torch.no_grad():
        torch.nn.init.normal_(field.encoding.table, generator=torch.Generator().manual_seed(2))
        field.saliency.values.fill_(-40.0)
        field.saliency.values[2, 1:5, 1:5] = 2.0
    return field


def test_pruning_changes_no_density_or_colour_of_a_closed_field() -> None:
    field, pruned = shell_field(), shell_field()
    occupancy = OccupancyGrid(roi_aabb=[-1, -1, -1, 1, 1, 1], resolution=8, levels=2)
    occupancy.binaries.fill_(True)
    report = prune(pruned, occupancy)
    positions, directions = some_rays(2000)
    before, after = field(positions, directions), pruned(positions, directions)
    torch.testing.assert_close(after.density, before.density, atol=1e-6, rtol=0)
    seen = before.density > 1e-6
    assert 0 < int(seen.sum()) < 2000
    torch.testing.assert_close(after.rgb[seen], before.rgb[seen])
    occupied, _ = occupancy.query(positions)
    inside = occupancy.binaries[0][tuple(((positions + 1) * 4).long().clamp(0, 7).T)]
    assert bool(inside[seen].all())
    assert len(occupied) == 2000
    assert report.open_cells == int(pruned.saliency.open_cells.sum()) < report.cells
    assert sum(report.rows_after) == int((pruned.encoding.table != 0).any(dim=1).sum()) < sum(report.rows_before)
    assert report.occupied_after == int(occupancy.binaries.sum()) < report.occupied_before


def test_values_away_from_open_cells_are_closed_for_good() -> None:
    field = shell_field()
    prune(field)
    assert field.saliency is not None
    assert field.saliency.open_cells is not None
    kept = open_vertices(field.saliency.open_cells)
    assert bool((field.saliency.values[~kept] == CLOSED).all())
    assert bool((field.saliency.values[kept] > CLOSED).all())
    again = prune(field)
    assert again.open_cells == int(field.saliency.open_cells.sum())


def test_occupancy_cells_that_touch_open_cells_stay() -> None:
    grid = SaliencyGrid(resolution=5)
    cells = torch.zeros(4, 4, 4, dtype=torch.bool)
    cells[0, 1, 3] = True
    touching = cells_touching(cells, grid, torch.tensor([[0.0] * 3, [1.0] * 3]), (8, 8, 8))
    expected = torch.zeros(8, 8, 8, dtype=torch.bool)
    expected[0:3, 1:5, 5:8] = True  # cells of the same place and those that share a face with them
    assert torch.equal(touching, expected)


def test_a_field_without_saliency_is_refused() -> None:
    with pytest.raises(ValueError, match="no saliency grid"):
        prune(small_field())
