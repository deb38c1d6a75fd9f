"""The CUDA sources of the point and segment ops, on the fibre emulator, against the references."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.emulation import emulated_ops
from tests.point_grid_arguments import point_grid_arguments
from zoo.ops import PointTree, dispatch, pack_info
from zoo.ops.neighbors import _checked_queries


def lattice(count: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Points with ties and duplicates whose distances are exact."""
    return torch.randint(-8, 9, (count, 3), generator=torch.Generator().manual_seed(seed)).to(dtype) / 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_searches(count, dtype):
    offsets, query_offsets = torch.tensor([0, count // 3, count]), torch.tensor([0, 20, 41])
    tree = PointTree.from_points(lattice(count, dtype), offsets)
    arguments = (*_checked_queries(tree, lattice(41, dtype, 1), query_offsets), *tree.parts)
    for name, extra in (("point_knn", (5,)), ("point_ball", (0.8, 4))):
        for found, wanted in zip(
            getattr(emulated_ops(), name)(*arguments, *extra),
            dispatch.REFERENCES[name](*arguments, *extra),
            strict=True,
        ):
            assert torch.equal(found, wanted), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 40, 1300])
def test_furthest_points(count, dtype):
    points, offsets = lattice(count, dtype), torch.tensor([0, count // 2, count // 2, count])
    samples = torch.repeat_interleave(torch.arange(3), offsets.diff())
    order = dispatch.REFERENCES["point_order"](points, samples)
    arguments = (points[order], order, offsets, 25)
    found = emulated_ops().furthest_points(*arguments)
    assert torch.equal(found, dispatch.REFERENCES["furthest_points"](*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "queries", "channels"), [(0, 3, 2), (4, 0, 2), (30, 70, 19)])
def test_interpolation(rows, queries, channels, dtype):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, channels, generator=generator, dtype=dtype)
    indices = torch.randint(-1, rows, (queries, 3), generator=generator) if rows else torch.full((queries, 3), -1)
    weights = torch.rand(queries, 3, generator=generator, dtype=dtype)
    grad = torch.randn(queries, channels, generator=generator, dtype=dtype)
    ordered, uses = indices.reshape(-1).sort(stable=True)
    edges = torch.searchsorted(ordered, torch.arange(rows + 1))
    info = torch.stack([edges[:-1], edges.diff()], 1)
    for name, arguments in (
        ("interpolate_rows", (features, indices, weights)),
        ("interpolate_rows_backward", (grad, features, indices, weights, uses, info)),
    ):
        torch.testing.assert_close(getattr(emulated_ops(), name)(*arguments), dispatch.REFERENCES[name](*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 200])
def test_segment_softmax(count, dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(count, 6, generator=generator, dtype=dtype)
    grad = torch.randn(count, 6, generator=generator, dtype=dtype)
    runs = pack_info(torch.randint(9, (count,), generator=generator).sort().values, 9)
    softmax = dispatch.REFERENCES["segment_softmax"](values, runs)
    torch.testing.assert_close(emulated_ops().segment_softmax(values, runs), softmax)
    torch.testing.assert_close(
        emulated_ops().segment_softmax_backward(grad, softmax, runs),
        dispatch.REFERENCES["segment_softmax_backward"](grad, softmax, runs),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("axes", "resolution"), [(2, 1), (2, 6), (3, 4)])
def test_points_and_grids(axes, resolution, dtype):
    for name, arguments in point_grid_arguments(axes, resolution, dtype).items():
        found = getattr(emulated_ops(), name)(*arguments)
        rtol, atol = (1e-5, 2e-5) if dtype == torch.float32 else (1e-12, 1e-13)  # sums over 37 channels
        torch.testing.assert_close(found, dispatch.REFERENCES[name](*arguments), rtol=rtol, atol=atol)
