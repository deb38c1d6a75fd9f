"""Sparse tensors: dense and back, arithmetic, joining, samples, moving, Open3D, checks."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from tests import samples
from tests.dense_oracle import at_sites, random_grid, random_sparse
from zoo.ops import SparseTensor, VoxelGrid, cat_channels, cat_samples, sparse_from_open3d, sparse_to_open3d


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_dense_and_back(ndim: int) -> None:
    x = random_sparse((5, 4, 3)[:ndim], 2)
    dense = x.dense()
    assert dense.shape == (2, 2, *(5, 4, 3)[:ndim])
    assert torch.equal(at_sites(dense, x.grid), x.features)
    assert int((dense != 0).any(dim=1).sum()) == len(x)
    back = SparseTensor.from_dense(dense)
    assert torch.equal(back.coords, x.coords)
    assert torch.equal(back.features, x.features)
    assert (x.dense(fill=7.0) == 7.0).any(dim=1).sum() == 2 * np.prod(x.spatial_shape) - len(x)


def test_dense_and_back_are_differentiable() -> None:
    x = random_sparse((4, 3), 2)
    assert torch.autograd.gradcheck(lambda f: SparseTensor(f, x.grid).dense(), (x.features.requires_grad_(),))
    mask = torch.rand(2, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    dense = torch.randn(2, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: SparseTensor.from_dense(d, mask).features, (dense,))


def test_callers_order() -> None:
    rows = torch.tensor([[0, 2], [0, 0], [0, 1]])
    x = SparseTensor.from_coords(torch.tensor([[2.0], [0.0], [1.0]]), rows, (3,), 1)
    assert x.features.flatten().tolist() == [0.0, 1.0, 2.0]
    assert x.to_caller_order().flatten().tolist() == [2.0, 0.0, 1.0]


def test_arithmetic() -> None:
    x = random_sparse((4, 4), 2)
    f, row = x.features, torch.tensor([2.0, 3.0], dtype=torch.float64)
    twin = SparseTensor(f + 1, copy.deepcopy(x.grid))  # other grid object, same sites
    pairs = [
        (x + 1, f + 1),
        (1 + x, 1 + f),
        (x - row, f - row),
        (1 - x, 1 - f),
        (x * row, f * row),
        (2 * x, 2 * f),
        (x / 2, f / 2),
        (1 / x, 1 / f),
        (-x, -f),
        (x + twin, f + (f + 1)),
        (x * twin, f * (f + 1)),
        (x.map(torch.relu), f.relu()),
    ]
    for found, expected in pairs:
        assert torch.equal(found.features, expected)
        assert found.grid is x.grid
    with pytest.raises(ValueError, match="same sites"):
        x + random_sparse((4, 4), 2, seed=5)


def test_joining() -> None:
    x, y = random_sparse((4, 4), 2), random_sparse((4, 4), 2, batch_size=3, seed=5)
    both = cat_samples([x, y])
    assert both.batch_size == 5
    assert torch.equal(both.dense(), torch.cat([x.dense(), y.dense()]))
    assert torch.equal(cat_channels([x, x * 2]).features, torch.cat([x.features, x.features * 2], dim=1))
    with pytest.raises(ValueError, match="found none"):
        cat_channels([])
    with pytest.raises(ValueError, match="found none"):
        cat_samples([])
    with pytest.raises(ValueError, match="same sites"):
        cat_channels([x, y])
    with pytest.raises(ValueError, match="one shape"):
        cat_samples([x, random_sparse((4, 5), 2)])


def test_samples() -> None:
    grid = VoxelGrid(torch.tensor([[2, 0], [0, 1], [2, 2]]), (3,), 4)
    x = SparseTensor(torch.tensor([[1.0], [2.0], [3.0]]), grid)
    assert [len(sample) for sample in x.samples()] == [1, 0, 2, 0]
    for index, sample in enumerate(x.samples()):
        assert sample.batch_size == 1
        assert torch.equal(sample.dense()[0], x.dense()[index])
    assert torch.equal(x[1:3].dense(), x.dense()[1:3])
    assert torch.equal(x[-2].dense(), x.dense()[2:3])
    assert x[3:1].batch_size == 0
    assert torch.equal(cat_samples(x.samples()).coords, x.coords)
    for index in (4, -5, slice(0, 4, 2)):
        with pytest.raises(IndexError):
            x[index]


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(copier) -> None:
    x = random_sparse((4, 4), 2)
    twin = copier(x)
    assert torch.equal(twin.features, x.features)
    assert torch.equal(twin.to_caller_order(), x.to_caller_order())


def test_moving_and_converting() -> None:
    x = random_sparse((4, 4), 2)
    assert x.to(torch.float32).features.dtype == torch.float32
    assert x.to(torch.float32).grid is x.grid
    assert x.to("cpu").grid is x.grid
    assert x.to("meta").grid.coords.is_meta
    x.features.requires_grad_()
    assert not x.detach().features.requires_grad
    assert "num_channels=2" in repr(x)
    assert "spatial_shape=(4, 4)" in repr(x.grid)


@pytest.mark.parametrize(
    ("features", "match"),
    [
        (torch.zeros(3, 2), "features: found shape"),
        (torch.zeros(16), "features: found shape"),
        (torch.zeros(16, 2, dtype=torch.int64), "features: found dtype"),
    ],
)
def test_bad_features(features: torch.Tensor, match: str) -> None:
    grid = random_grid((4, 4), batch_size=1, density=1.1)
    with pytest.raises(ValueError, match=match):
        SparseTensor(features, grid)


def test_nan_is_named_where_values_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = random_grid((4, 4), batch_size=1, density=1.1)
    features = torch.zeros(16, 2)
    features[3, 1] = torch.nan
    SparseTensor(features, grid)  # passes through: no cost where nobody asks
    monkeypatch.setenv("ZOO_CHECK", "1")
    with pytest.raises(ValueError, match=r"features: found 1 values that are NaN or infinite, the first at \(3, 1\)"):
        SparseTensor(features, grid)


def test_bad_dense() -> None:
    with pytest.raises(ValueError, match="dense"):
        SparseTensor.from_dense(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="mask"):
        SparseTensor.from_dense(torch.zeros(2, 2, 4), torch.ones(2, 5, dtype=torch.bool))


def test_open3d_clouds() -> None:
    open3d = samples.open3d()
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4 - 1
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points.numpy()))
    cloud.colors = open3d.utility.Vector3dVector(np.full((50, 3), 0.25))
    x, point_to_voxel, origin = sparse_from_open3d(cloud, 0.5)
    assert x.features.shape == (len(x), 6)
    assert bool((point_to_voxel >= 0).all())
    torch.testing.assert_close(x.features[:, 3:], torch.full((len(x), 3), 0.25))
    cells = torch.floor((points - origin) / 0.5).int()
    assert torch.equal(x.coords[point_to_voxel, 1:], cells)
    back = sparse_to_open3d(x, 0.5, origin.tolist(), colors=x.features[:, 3:])
    centres = torch.from_numpy(np.asarray(back.points))
    assert bool(((centres[point_to_voxel] - points).abs() <= 0.25 + 1e-9).all())
    assert back.has_colors()
    with pytest.raises(ValueError, match="expected 3"):
        sparse_to_open3d(random_sparse((4, 4), 2))
    with pytest.raises(ValueError, match="colors"):
        sparse_to_open3d(x, colors=torch.zeros(1, 3))
    with pytest.raises(ValueError, match="no points"):
        sparse_from_open3d(open3d.geometry.PointCloud(), 0.5)
