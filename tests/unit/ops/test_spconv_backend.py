"""The spconv back-end: same modules, same weights, same results and gradients; what it lacks is refused."""

from __future__ import annotations

import pytest
import torch

from tests.dense_oracle import random_sparse
from zoo.models.layers.sparse_conv import (
    SparseConv3d,
    SparseConvTranspose3d,
    SparseInverseConv3d,
    SubMConv2d,
    SubMConv3d,
)
from zoo.models.layers.sparse_sequential import SparseSequential
from zoo.ops import (
    SparseTensor,
    VoxelGrid,
    sparse_conv,
    sparse_conv_transpose,
    sparse_inverse_conv,
    subm_conv,
    use_backend,
)

pytest.importorskip("spconv", reason="the optional package spconv is not installed")


def run(backend: str, net: torch.nn.Module, x: SparseTensor) -> list[torch.Tensor]:
    """Output and all gradients, on a fresh grid."""
    features = x.features.clone().requires_grad_()
    net.zero_grad()
    with use_backend(backend):
        y = net(SparseTensor(features, VoxelGrid(x.coords, x.spatial_shape, x.batch_size)))
        y.features.square().sum().backward()
    return [y.coords, y.features.detach(), features.grad, *(p.grad.clone() for p in net.parameters())]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.2])
def test_same_results_and_gradients(density: float) -> None:
    torch.manual_seed(0)
    net = SparseSequential(
        SubMConv3d(4, 8, 3),
        SubMConv3d(8, 8, 3, dilation=2),
        SparseConv3d(8, 12, 3, stride=2, padding=1),
        SubMConv3d(12, 6, 1),
        SparseConvTranspose3d(6, 6, 3, stride=2, padding=1, output_padding=1),
        SparseConv3d(6, 6, 2, stride=2),
        SparseInverseConv3d(6, 4, 2),
    )
    x = random_sparse((16, 14, 12), 4, density=density, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        ours, theirs = run("native", net, x), run("spconv", net, x)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    for found, expected in zip(theirs, ours, strict=True):
        scale = float(expected.abs().max()) if expected.numel() else 1.0
        torch.testing.assert_close(found, expected, atol=1e-5 * max(scale, 1e-6), rtol=1e-4)


def test_two_dimensions() -> None:
    x = random_sparse((9, 8), 4, dtype=torch.float32)
    net = SubMConv2d(4, 4, 3)
    for found, expected in zip(run("spconv", net, x), run("native", net, x), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_spconv_lacks_is_refused() -> None:
    x = random_sparse((6, 6), 4, dtype=torch.float32)
    weight = torch.zeros(4, 3, 3, 4)
    down = sparse_conv(x, torch.zeros(4, 2, 2, 4), stride=2)  # with the native back-end
    with use_backend("spconv"):
        with pytest.raises(ValueError, match="groups: found 2"):
            subm_conv(x, weight[..., :2], groups=2)
        with pytest.raises(ValueError, match="out_grid"):
            sparse_conv(x, weight, padding=1, out_grid=x.grid)
        with pytest.raises(ValueError, match="out_grid"):
            sparse_conv_transpose(x, weight, padding=1, out_grid=x.grid)
        with pytest.raises(ValueError, match="expected float32"):
            subm_conv(x.to(torch.float64), weight.double())
        with pytest.raises(ValueError, match="no spconv rulebook"):
            sparse_inverse_conv(down, torch.zeros(4, 2, 2, 4))
