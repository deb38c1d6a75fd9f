"""Cells of points, attention within them and interpolation, against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tests.point_grid_arguments import point_grid_arguments
from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads, native_op
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


@pytest.mark.parametrize("axes", [2, 3])
def test_fewer_points_than_cells(axes: int) -> None:
    """Cells without a point are 0, one with a single point is its value, and gradients stay finite."""
    coords = torch.rand(1, 3, axes, generator=torch.Generator().manual_seed(0))
    scores, values = torch.randn(3, 2, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    cells = point_cells(coords, 16)
    assert len(cells.index.unique()) == 3
    rows = cell_attention(scores, values, cells)
    assert torch.equal(rows[cells.index], values)
    assert int((rows != 0).any(dim=1).sum()) == 3
    back = sample_point_grid(rows_to_grid(rows, 1, 16, axes), coords)
    to_scores, to_values = torch.autograd.grad(back.square().sum(), (scores, values))
    assert torch.equal(to_scores, torch.zeros(3, 2))  # a softmax of one
    assert bool((to_values != 0).all())


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("axes", "resolution"), [(2, 1), (2, 2), (2, 7), (3, 5)])
def test_native_against_reference(axes: int, resolution: int, dtype: torch.dtype) -> None:
    for name, arguments in point_grid_arguments(axes, resolution, dtype).items():
        rtol, atol = (1e-5, 2e-5) if dtype == torch.float32 else (1e-12, 1e-13)  # sums over 37 channels
        assert_native_matches_reference(name, *arguments, rtol=rtol, atol=atol)


@pytest.mark.parametrize("points", [7, 600])
def test_points_are_sampled_alike_in_any_order(points: int) -> None:
    """Many points of a volume are read cell by cell, whether the caller has sorted them or not."""
    generator = torch.Generator().manual_seed(0)
    rows, coords = torch.randn(2, 343, 20, generator=generator), torch.rand(2, points, 3, generator=generator)
    order, packed_info = native_op("cell_order")(native_op("cell_index")(coords, 6, 5, 7), 686)
    assert_native_matches_reference("sample_rows", rows, coords, 7, None, None, atol=2e-5)
    found = native_op("sample_rows")(rows, coords, 7, None, None)
    assert torch.equal(found, native_op("sample_rows")(rows, coords, 7, order, packed_info))
    one_by_one = [native_op("sample_rows")(rows[1:], coords[1:, i : i + 1], 7, None, None) for i in range(points)]
    assert torch.equal(found[1:], torch.cat(one_by_one, dim=1))
    if points > 100:
        with pytest.raises(RuntimeError, match="order"):
            native_op("sample_rows")(rows, coords, 7, order + 1, packed_info)


@pytest.mark.parametrize("axes", [2, 3])
def test_any_number_of_threads_gives_the_same_bits(axes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    coords = 0.99 * torch.rand(2, 3000, axes, generator=generator)
    inputs = [
        torch.randn(shape, generator=generator).requires_grad_()
        for shape in ((6000, 4), (6000, 32), (2, 32, *(12,) * axes))
    ]
    place = coords.clone().requires_grad_()

    def run() -> tuple[torch.Tensor, ...]:
        cells = point_cells(coords, 12)
        made = rows_to_grid(cell_attention(inputs[0], inputs[1], cells), 2, 12, axes) * inputs[2]
        sampled = sample_point_grid(made, place)
        gradients = torch.autograd.grad(sampled.square().sum(), (*inputs, place))
        return cells.index, sampled, *(value.contiguous() for value in gradients)

    assert_same_for_all_threads(run)


def test_a_broken_description_of_the_cells_is_refused() -> None:
    arguments = point_grid_arguments(2, 7)
    scores, values, index, order, packed_info = arguments["cell_attention"]
    for broken in (order[:-1], order + 1):
        with pytest.raises(RuntimeError, match="order"):
            native_op("cell_attention")(scores, values, index, broken, packed_info)
    with pytest.raises(RuntimeError, match="index"):
        native_op("cell_attention")(scores, values, index + 2 * 49, order, packed_info)
    with pytest.raises(RuntimeError, match="index"):
        native_op("cell_order")(torch.tensor([0, 4]), 4)


@pytest.mark.parametrize(("axes", "resolution"), [(2, 4), (3, 3)])
def test_opcheck(axes: int, resolution: int) -> None:
    differentiable = {"cell_attention": (0, 1), "sample_rows": (0, 1)}
    cases = point_grid_arguments(axes, resolution)
    assert cases.keys() == {
        "cell_index", "cell_order", "cell_attention", "cell_attention_backward", "sample_rows", "sample_rows_backward",
        "sample_coords_backward",
    }  # fmt: skip
    for name, arguments in cases.items():
        needs_grad = differentiable.get(name, ())
        inputs = [value.requires_grad_() if at in needs_grad else value for at, value in enumerate(arguments)]
        more = ("test_autograd_registration", "test_aot_dispatch_dynamic") if needs_grad else ()
        tests = ("test_schema", "test_faketensor", *more)
        torch.library.opcheck(getattr(torch.ops.zoo, name).default, tuple(inputs), test_utils=tests)
