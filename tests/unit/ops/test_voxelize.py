"""Voxelisation against a loop over points; interpolation against a loop over corners; gradients; bad input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from zoo.ops import (
    SparseTensor,
    devoxelize,
    dynamic_voxelize,
    points_to_sparse,
    points_to_voxel_mean,
    voxelize,
    voxels_to_points,
)

SIZE, RANGE = [0.5, 0.5, 1.0], [-2.0, -2.0, -1.0, 2.0, 2.0, 1.0]


def cloud(num_points: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.cat(
        [torch.randn(num_points, 3, generator=generator), torch.rand(num_points, 1, generator=generator)], 1
    )


def cell_of(point: list[float]) -> tuple[int, ...] | None:
    cell = tuple(math.floor((p - low) / size) for p, low, size in zip(point, RANGE[:3], SIZE, strict=False))
    return cell if all(0 <= c < n for c, n in zip(cell, (8, 8, 2), strict=True)) else None


@pytest.mark.parametrize(("max_points", "max_voxels"), [(1, 1000), (3, 20), (100, 5), (2, 1)])
def test_hard_voxels_equal_a_loop_over_points(max_points: int, max_voxels: int) -> None:
    points, sample = cloud(300), torch.arange(300) % 3
    voxels: dict[tuple, list[int]] = {}
    expected = []
    for row, point in enumerate(points.tolist()):
        cell = cell_of(point)
        if cell is None:
            expected.append(None)
            continue
        key = (int(sample[row]), *cell)
        opened = sum(other[0] == key[0] for other in voxels)
        members = voxels.get(key) if key in voxels or opened >= max_voxels else voxels.setdefault(key, [])
        kept = members is not None and len(members) < max_points
        if kept:
            members.append(row)
        expected.append(key if kept else None)
    found = voxelize(
        points, SIZE, RANGE, max_points=max_points, max_voxels=max_voxels, batch_index=sample, batch_size=3
    )
    assert [tuple(row) for row in found.coords.tolist()] == list(voxels)
    assert found.num_points.tolist() == [len(members) for members in voxels.values()]
    for block, members in zip(found.points, voxels.values(), strict=True):
        assert torch.equal(block[: len(members)], points[members])
        assert not block[len(members) :].any()
    names = [*list(voxels), None]
    assert [names[row] for row in found.point_to_voxel.tolist()] == expected


def test_dynamic_voxels_equal_a_loop_over_points() -> None:
    points, sample = cloud(200), torch.arange(200) // 100
    found = dynamic_voxelize(points, SIZE, RANGE, batch_index=sample, batch_size=2)
    cells = [cell_of(point) for point in points.tolist()]
    for row, (cell, voxel) in enumerate(zip(cells, found.point_to_voxel.tolist(), strict=True)):
        assert (voxel == -1) == (cell is None)
        if cell is not None:
            assert found.grid.coords[voxel].tolist() == [int(sample[row]), *cell]
    assert found.grid.spatial_shape == (8, 8, 2)
    kept = found.point_to_voxel[found.point_to_voxel >= 0]
    assert torch.equal(found.num_points, torch.bincount(kept))


def test_point_order_does_not_change_the_grid() -> None:
    points = cloud(200)
    shuffle = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    straight, shuffled = dynamic_voxelize(points, SIZE, RANGE), dynamic_voxelize(points[shuffle], SIZE, RANGE)
    assert torch.equal(straight.grid.coords, shuffled.grid.coords)
    assert torch.equal(straight.point_to_voxel[shuffle], shuffled.point_to_voxel)


def test_points_that_are_not_finite_are_outside() -> None:
    points = torch.tensor([[torch.nan, 0, 0], [0, torch.inf, 0], [0, 0, -torch.inf], [0, 0, 0]])
    assert dynamic_voxelize(points, SIZE, RANGE).point_to_voxel.tolist() == [-1, -1, -1, 0]
    assert voxelize(points, SIZE, RANGE, max_points=2, max_voxels=2).point_to_voxel.tolist() == [-1, -1, -1, 0]


def test_no_points() -> None:
    empty = torch.zeros(0, 4)
    assert dynamic_voxelize(empty, SIZE, RANGE).grid.num_sites == 0
    hard = voxelize(empty, SIZE, RANGE, max_points=2, max_voxels=2)
    assert hard.points.shape == (0, 2, 4)
    assert hard.coords.shape == (0, 4)
    x, _ = points_to_sparse(empty, SIZE, RANGE)
    assert x.features.shape == (0, 4)
    assert devoxelize(x, torch.zeros(0, 3)).shape == (0, 4)
    assert devoxelize(x, torch.ones(2, 3)).tolist() == [[0.0] * 4] * 2


def test_means_equal_a_loop_over_voxels() -> None:
    points = cloud(200)
    x, point_to_voxel = points_to_sparse(points, SIZE, RANGE)
    for voxel in range(len(x)):
        torch.testing.assert_close(x.features[voxel], points[point_to_voxel == voxel].mean(0))


def test_means_and_reading_back_are_differentiable() -> None:
    generator = torch.Generator().manual_seed(0)
    index = torch.tensor([0, 2, -1, 2, 0, 0])
    values = torch.randn(6, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: points_to_voxel_mean(v, index, 4), (values,))
    features = torch.randn(3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: voxels_to_points(f, index), (features,))


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_trilinear_interpolation_equals_a_loop_over_corners(ndim: int) -> None:
    generator = torch.Generator().manual_seed(ndim)
    mask = torch.rand(2, *(4,) * ndim, generator=generator) < 0.6
    dense = torch.randn(2, 3, *(4,) * ndim, generator=generator, dtype=torch.float64)
    x = SparseTensor.from_dense(dense, mask)
    positions = torch.rand(40, ndim, generator=generator, dtype=torch.float64) * 5 - 0.5
    sample = torch.arange(40) % 2
    found = devoxelize(x, positions, sample)
    for row, (position, b) in enumerate(zip(positions, sample, strict=True)):
        base = torch.floor(position - 0.5).long()
        total, value = 0.0, torch.zeros(3, dtype=torch.float64)
        for corner in itertools.product((0, 1), repeat=ndim):
            cell = base + torch.tensor(corner)
            if (cell < 0).any() or (cell > 3).any() or not mask[(b, *cell)]:
                continue
            weight = (1 - (position - 0.5 - cell).abs()).prod()
            total, value = total + weight, value + weight * dense[(b, slice(None), *cell)]
        expected = value / total if total > 0 else value
        torch.testing.assert_close(found[row], expected)


def test_nearest_reads_the_voxel_that_holds_the_point() -> None:
    x, point_to_voxel = points_to_sparse(cloud(100), SIZE, RANGE)
    units = (cloud(100)[:, :3] - torch.tensor(RANGE[:3])) / torch.tensor(SIZE)
    assert torch.equal(devoxelize(x, units, mode="nearest"), voxels_to_points(x.features, point_to_voxel))
    far = torch.tensor([[1e30, 0, 0], [torch.nan, 0, 0], [-1e30, 0, 0]])
    assert not devoxelize(x, far, mode="nearest").any()


def test_interpolation_is_differentiable_in_features_and_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(1, 3, 3, generator=generator) < 0.8
    grid = SparseTensor.from_dense(torch.zeros(1, 2, 3, 3), mask).grid
    features = torch.randn(len(grid), 2, dtype=torch.float64, generator=generator, requires_grad=True)
    positions = torch.rand(5, 2, dtype=torch.float64, generator=generator) * 2 + 0.6
    assert torch.autograd.gradcheck(
        lambda f, p: devoxelize(SparseTensor(f, grid), p), (features, positions.requires_grad_())
    )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"points": torch.zeros(4, 3, dtype=torch.int64)}, "points: found dtype"),
        ({"points": torch.zeros(4, 2)}, "points: found shape"),
        ({"voxel_size": [0.5, 0.0, 1.0]}, "voxel_size"),
        ({"point_range": [0.0, 1.0]}, "point_range"),
        ({"point_range": [0.0, 0.0, 0.0, 0.1, 1.0, 1.0]}, "point_range"),
        ({"batch_index": torch.tensor([0, 1, 2, 0])}, "batch_index: found 0 to 2"),
        ({"batch_index": torch.zeros(4)}, "batch_index: found dtype"),
        ({"batch_index": torch.zeros(3, dtype=torch.int64)}, "batch_index: found shape"),
        ({"point_range": [-1e9, -1e9, -1e9, 1e9, 1e9, 1e9], "voxel_size": [1e-3] * 3}, "spatial_shape"),
    ],
)
def test_bad_arguments(arguments: dict, match: str) -> None:
    valid = {"points": torch.zeros(4, 4), "voxel_size": SIZE, "point_range": RANGE, "batch_size": 2}
    with pytest.raises(ValueError, match=match):
        dynamic_voxelize(**{**valid, **arguments})
    with pytest.raises(ValueError, match=match):
        voxelize(**{**valid, **arguments}, max_points=2, max_voxels=2)


def test_bad_limits() -> None:
    with pytest.raises(ValueError, match="max_points"):
        voxelize(torch.zeros(1, 3), SIZE, RANGE, max_points=0, max_voxels=1)
