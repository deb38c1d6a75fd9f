"""Sparse modules: empty input in every layer, containers, norms, weights of other libraries, a U-Net on a real scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.dense_oracle import random_sparse
from tests.samples import sample_data
from tests.sparse_unet import SparseUNet, sample_tensor
from zoo.models.layers import sparse_conv as layers
from zoo.models.layers.sparse_norm import SparseActivation, SparseBatchNorm, SparseLayerNorm
from zoo.models.layers.sparse_pool import SparseAvgPool, SparseGlobalAvgPool, SparseGlobalMaxPool, SparseMaxPool
from zoo.models.layers.sparse_sequential import SparseSequential, ToDense
from zoo.models.layers.spconv_weights import convert_spconv_state, convert_weight, stored_shape, to_spconv_weight
from zoo.ops import SparseTensor, VoxelGrid, native, points_to_sparse, voxels_to_points

LAYERS = {
    "subm": lambda: layers.SubMConv2d(4, 6, 3),
    "subm_depth_wise": lambda: layers.SubMConv2d(4, 4, 7, groups=4),
    "strided": lambda: layers.SparseConv2d(4, 6, 3, stride=2, padding=1),
    "inverse": lambda: SparseSequential(layers.SparseConv2d(4, 6, 2, stride=2), layers.SparseInverseConv2d(6, 3, 2)),
    "transposed": lambda: layers.SparseConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
    "max_pool": lambda: SparseMaxPool(2),
    "avg_pool": lambda: SparseAvgPool(3, stride=2, padding=1),
    "global_avg": SparseGlobalAvgPool,
    "global_max": SparseGlobalMaxPool,
    "batch_norm": lambda: SparseBatchNorm(4),
    "layer_norm": lambda: SparseLayerNorm(4),
    "activation": lambda: SparseActivation(nn.ReLU()),
    "dense": ToDense,
    "plain": lambda: SparseSequential(nn.Linear(4, 2), nn.GELU()),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("rows", [[], [[1, 2, 2]], [[0, 1, 1], [2, 0, 0], [2, 3, 1]]], ids=["none", "one", "gap"])
@pytest.mark.parametrize("training", [True, False])
def test_empty_batches_and_samples(name: str, rows: list, training: bool) -> None:
    module = LAYERS[name]().train(training)
    grid = VoxelGrid(torch.tensor(rows, dtype=torch.int64).reshape(-1, 3), (4, 4), 3)
    features = torch.randn(len(grid), 4, requires_grad=True)
    out = module(SparseTensor(features, grid))
    values = out.features if isinstance(out, SparseTensor) else out
    values.square().sum().backward()
    assert features.grad.shape == features.shape
    assert bool(torch.isfinite(values).all())
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in module.parameters())
    assert all(bool(torch.isfinite(buffer.float()).all()) for buffer in module.buffers())


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_modules_equal_functions_in_every_dimension(ndim: int) -> None:
    x = random_sparse((8, 6, 6)[:ndim], 4, dtype=torch.float32)
    for kind, options in [("SubMConv", {}), ("SparseConv", {"stride": 2}), ("SparseConvTranspose", {"stride": 2})]:
        layer = getattr(layers, f"{kind}{ndim}d")(4, 3, 3, **options)
        assert layer.weight.shape == (3, *(3,) * ndim, 4)
        assert layer(x).num_channels == 3
        assert "kernel_size" in repr(layer)
    down = getattr(layers, f"SparseConv{ndim}d")(4, 3, 2, stride=2, bias=False)
    up = getattr(layers, f"SparseInverseConv{ndim}d")(3, 4, 2, bias=False)
    assert up(down(x)).grid is x.grid
    sites = down(x).grid
    assert down(x, out_grid=sites).grid is sites


def test_sequential_threads_features_and_plain_tensors() -> None:
    x = random_sparse((6, 6), 4, dtype=torch.float32)
    net = SparseSequential(
        layers.SubMConv2d(4, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), SparseGlobalAvgPool(), nn.Linear(8, 2)
    )
    assert net(x).shape == (2, 2)
    assert set(net.state_dict()) >= {"0.weight", "1.running_mean", "4.weight"}


def test_batch_norm_equals_torch_and_survives_one_site() -> None:
    x = random_sparse((6, 6), 4, dtype=torch.float32)
    ours, plain = SparseBatchNorm(4, eps=1e-3, momentum=0.01), nn.BatchNorm1d(4, eps=1e-3, momentum=0.01)
    assert torch.equal(ours(x).features, plain(x.features))
    assert torch.equal(ours.running_var, plain.running_var)
    before = ours.running_var.clone()
    one = SparseTensor(torch.ones(1, 4), VoxelGrid(torch.tensor([[0, 0, 0]]), (2, 2), 1))
    normal = ours(one).features
    torch.testing.assert_close(normal, ours.eval()(one).features)
    assert torch.equal(ours.running_var, before)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: layers.SubMConv3d(4, 4, 2), "kernel_size"),
        (lambda: layers.SubMConv3d(4, 6, 3, groups=4), "groups"),
        (lambda: layers.SparseConv3d(4, 4, (3, 3)), "kernel_size: found 2 values"),
        (lambda: layers.SparseConv2d(4, 4, 3, stride=0), "stride"),
    ],
)
def test_bad_layers(build, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build()


def saved(layer: layers.SparseConvBase, layout: str) -> Tensor:
    """A weight as a file of this layout would hold it, element by element."""
    out = torch.empty(stored_shape(layer, layout)).flatten(0, -3)  # (cells, a, b)
    k0, k1, k2 = layer.kernel_size
    for i in range(k0):
        for j in range(k1):
            for k in range(k2):
                matrix = layer.weight.detach()[:, i, j, k]  # (out, in)
                cell = i + k0 * (j + k1 * k) if layout == "minkowski" else (i * k1 + j) * k2 + k
                out[cell] = matrix if layout == "RSKC" else matrix.T
    return out.reshape(stored_shape(layer, layout))


@pytest.mark.parametrize("layout", ["RSCK", "RSKC", "minkowski", "torchsparse_even"])
def test_weights_of_other_libraries(layout: str) -> None:
    layer = layers.SparseConv3d(5, 7, (3, 2, 4))
    assert torch.equal(convert_weight(saved(layer, layout), layer, layout), layer.weight)
    with pytest.raises(ValueError, match=f"in layout {layout}"):
        convert_weight(torch.zeros(2, 2), layer, layout)


def test_layout_is_found_from_the_shapes_of_all_weights() -> None:
    net = SparseSequential(layers.SubMConv3d(3, 3, 3), nn.BatchNorm1d(3), layers.SubMConv3d(3, 5, 3))
    state = dict(net.state_dict())
    for layout in ("KRSC", "RSCK", "RSKC"):
        upstream = dict(state)
        for key in ("0.weight", "2.weight"):
            layer = net[int(key[0])]
            upstream[key] = state[key] if layout == "KRSC" else saved(layer, layout)
        converted = convert_spconv_state(net, upstream)
        assert converted.keys() == state.keys()
        assert all(torch.equal(converted[key], state[key]) for key in state)
    ambiguous = SparseSequential(layers.SubMConv3d(3, 3, 3))
    with pytest.raises(ValueError, match="say which one"):
        convert_spconv_state(ambiguous, ambiguous.state_dict())
    with pytest.raises(ValueError, match=r"2\.weight: found shape"):
        convert_spconv_state(net, {**state, "2.weight": torch.zeros(5, 2, 2, 2, 3)})
    mixed = {**state, "0.weight": saved(net[0], "RSCK"), "2.weight": saved(net[2], "RSCK")}
    pointwise = layers.SubMConv3d(3, 5, 1)
    assert torch.equal(
        convert_weight(pointwise.weight.detach().reshape(5, 3).T.reshape(1, 1, 1, 3, 5), pointwise, "RSCK"),
        pointwise.weight,
    )
    quirk = to_spconv_weight(pointwise.weight.detach(), pointwise)
    assert torch.equal(convert_weight(quirk, pointwise, "KRSC"), pointwise.weight)
    assert torch.equal(convert_spconv_state(net, mixed)["2.weight"], state["2.weight"])


def test_a_u_net_is_bitwise_equal_for_any_number_of_threads() -> None:
    torch.manual_seed(0)
    net, x = SparseUNet(4, (8, 16), 3).eval(), sample_tensor(400)
    net(x)
    if native.binary() is None:
        pytest.skip(f"torch's own products depend on the number of threads, and {native.reason()}")
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(net(SparseTensor(x.features, VoxelGrid(x.coords, x.spatial_shape, 2))).features)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("precision", ["float32", "bf16-mixed"])
def test_a_real_scan_goes_through_a_u_net_and_back_to_points(precision: str) -> None:
    file = sample_data("kitti_frame") / "training" / "velodyne" / "000008.bin"
    points = torch.from_numpy(np.fromfile(file, dtype=np.float32).reshape(-1, 4))
    assert len(points) > 10_000
    x, point_to_voxel = points_to_sparse(points, [0.05] * 3, [-72, -72, -4, 72, 72, 4])
    assert x.spatial_shape == (2880, 2880, 160)
    inside = point_to_voxel >= 0
    assert float(inside.float().mean()) > 0.95
    cells = ((points[inside, :3] - torch.tensor([-72.0, -72, -4])) / 0.05).floor().int()
    assert torch.equal(x.coords[point_to_voxel[inside], 1:], cells)
    torch.manual_seed(0)
    net = SparseUNet(4, (8, 12, 16, 24), 5)
    features = x.features.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "float32"):
        y = net(x.replace_feature(features))
        logits = voxels_to_points(y.features, point_to_voxel)
    assert y.grid is x.grid
    assert logits.shape == (len(points), 5)
    assert not logits[~inside].any()
    logits.float().square().mean().backward()
    assert bool(torch.isfinite(features.grad).all())
    assert bool(features.grad.any())
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())
