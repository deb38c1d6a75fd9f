"""Cells of points, attention within them and interpolation, against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from zoo.ops import cell_attention, grid_to_rows, point_cells, rows_to_grid, sample_point_grid


@pytest.mark.parametrize("axes", [2, 3])
def test_cells_hold_their_points(axes: int) -> None:
    coords = torch.rand(2, 40, axes)
    cells = point_cells(coords, 4)
    assert cells.packed_info[:, 1].sum() == 80
    for number, (start, count) in enumerate(cells.packed_info.tolist()):
        assert (cells.index[cells.order[start : start + count]] == number).all()
    first = (coords * 4).long()
    expected = sum(first[..., axis] * 4**axis for axis in range(axes)) + torch.tensor([[0], [4**axes]])
    assert torch.equal(cells.index, expected.flatten())


@pytest.mark.parametrize("axes", [2, 3])
def test_attention_against_a_loop(axes: int) -> None:
    coords = torch.rand(2, 30, axes)
    scores = torch.randn(60, 3, dtype=torch.float64, requires_grad=True)
    values = torch.randn(60, 6, dtype=torch.float64, requires_grad=True)
    cells = point_cells(coords, 3)
    found = cell_attention(scores, values, cells)
    rows = []
    for number in range(2 * 3**axes):
        members = cells.index == number
        weights = scores[members].softmax(0).repeat(1, 2)
        rows.append((weights * values[members]).sum(0))
    torch.testing.assert_close(found, torch.stack(rows))
    assert torch.autograd.gradcheck(lambda s, v: cell_attention(s, v, cells), (scores, values))


@pytest.mark.parametrize("axes", [2, 3])
def test_sampling_against_torch(axes: int) -> None:
    grid = torch.randn(2, 5, *(6,) * axes, dtype=torch.float64, requires_grad=True)
    coords = (torch.rand(2, 20, axes, dtype=torch.float64) * 1.2 - 0.1).requires_grad_()
    place = (2 * coords - 1).view(2, 20, *(1,) * (axes - 1), axes)
    expected = F.grid_sample(grid, place, align_corners=True, padding_mode="border").flatten(2).transpose(1, 2)
    found = sample_point_grid(grid, coords)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    ours = torch.autograd.grad((found * weights).sum(), (grid, coords))
    theirs = torch.autograd.grad((expected * weights).sum(), (grid, coords))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_rows_and_grids_are_inverse() -> None:
    grid = torch.randn(2, 5, 4, 4, 4)
    assert torch.equal(rows_to_grid(grid_to_rows(grid), 2, 4, 3), grid)


def test_nothing_is_valid() -> None:
    cells = point_cells(torch.zeros(1, 0, 2), 4)
    assert torch.equal(cell_attention(torch.zeros(0, 1), torch.zeros(0, 8), cells), torch.zeros(16, 8))
    assert sample_point_grid(torch.zeros(1, 3, 4, 4), torch.zeros(1, 0, 2)).shape == (1, 0, 3)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="coords: found 1 values that are NaN or outside"):
        point_cells(torch.tensor([[[0.5, 1.0]]]), 4)
    with pytest.raises(ValueError, match="found 4 axes"):
        point_cells(torch.zeros(1, 1, 4), 4)
    with pytest.raises(ValueError, match="values: found 5 channels for 2 scores"):
        cell_attention(torch.zeros(1, 2), torch.zeros(1, 5), point_cells(torch.zeros(1, 1, 2), 2))
    with pytest.raises(ValueError, match="equal sides"):
        sample_point_grid(torch.zeros(1, 3, 4, 5), torch.zeros(1, 1, 2))


def test_opcheck():
    torch.manual_seed(0)
    ops, utils = torch.ops.zoo, ("test_schema", "test_faketensor")
    coords = 0.05 + 0.9 * torch.rand(2, 7, 2, dtype=torch.float64)
    cells = point_cells(coords, 3)
    torch.library.opcheck(ops.cell_order.default, (cells.index, 18), test_utils=utils)
    scores = torch.randn(14, 2, dtype=torch.float64, requires_grad=True)
    values = torch.randn(14, 4, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(ops.cell_attention.default, (scores, values, cells.order, cells.packed_info))
    grad, weights = torch.randn(18, 4, dtype=torch.float64), torch.rand(14, 2, dtype=torch.float64)
    arguments = (grad, weights, values.detach(), cells.order, cells.packed_info)
    torch.library.opcheck(ops.cell_attention_backward.default, arguments, test_utils=utils)
    rows = torch.randn(2, 9, 4, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(ops.sample_rows.default, (rows, coords.requires_grad_(), 3))
    grad = torch.randn(2, 7, 4, dtype=torch.float64)
    arguments = (grad, rows.detach(), coords.detach(), 3, cells.order, cells.packed_info)
    torch.library.opcheck(ops.sample_rows_backward.default, arguments, test_utils=utils)
