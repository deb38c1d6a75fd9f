"""Compiled and exported networks: maps enter prebuilt, another number of voxels does not compile again."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils import _pytree as pytree

from tests.sparse_unet import FeaturePart, SparseUNet, sample_tensor
from zoo.models.layers.sparse_pool import SparseAvgPool, SparseMaxPool
from zoo.models.layers.sparse_sequential import SparseSequential
from zoo.ops import KernelMap, SparseTensor, VoxelGrid, apply_kernel_map, build_kernel_map, build_maps, sparse_conv


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def small_net() -> SparseUNet:
    torch.manual_seed(0)
    return SparseUNet(4, (8, 12), 3)


def check_compiled(backend: str, tolerance: float) -> None:
    net = small_net()
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(FeaturePart(net), fullgraph=True, backend=counter, dynamic=True)
    counts = []
    for seed, num_points in enumerate((300, 411, 200)):
        x = build_maps(net, sample_tensor(num_points, seed=seed))
        results = []
        for function in (FeaturePart(net), compiled):
            net.zero_grad()
            features = x.features.clone().requires_grad_()
            out = function(features, x.grid)
            out.square().mean().backward()
            results.append([out.detach(), features.grad, *(p.grad.clone() for p in net.parameters())])
        for found, expected in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
        counts.append(counter.frame_count)
    assert counts[0] >= 1
    assert counts == counts[:1] * len(counts), "another N compiled again"


def test_full_graph_with_aot_eager() -> None:
    check_compiled("aot_eager", 1e-5)


@pytest.mark.slow
def test_full_graph_with_inductor() -> None:
    check_compiled("inductor", 1e-4)


def test_sparse_tensors_go_through_compiled_networks() -> None:
    net = small_net().eval()
    x = build_maps(net, sample_tensor(300))
    y = torch.compile(net, fullgraph=True, backend="aot_eager", dynamic=True)(x)
    assert y.grid is x.grid
    torch.testing.assert_close(y.features, net(x).features)


def test_missing_maps_are_an_error_that_says_what_to_do() -> None:
    compiled = torch.compile(small_net(), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"prebuilt maps: call zoo\.ops\.build_maps"):
        compiled(sample_tensor(50))


def test_exported_network_takes_other_sizes() -> None:
    net = small_net().eval()
    part = FeaturePart(net)
    x = build_maps(net, sample_tensor(300))
    dynamic = {0: torch.export.Dim.AUTO}
    leaves = pytree.tree_leaves(x.grid)
    shapes = {"features": dynamic, "grid": [dynamic] * len(leaves)}
    program = torch.export.export(part, (x.features, x.grid), dynamic_shapes=shapes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    reloaded = torch.export.load(file)
    for seed, num_points in enumerate((500, 150), start=1):
        y = build_maps(net, sample_tensor(num_points, seed=seed))
        for module in (program.module(), reloaded.module()):
            torch.testing.assert_close(module(y.features, y.grid), part(y.features, y.grid))


def test_maps_of_given_sites_enter_as_arguments() -> None:
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(5, 8, 4))

        def forward(self, features: Tensor, kernel_map: KernelMap, out_grid: VoxelGrid) -> Tensor:
            return apply_kernel_map(features, self.weight, kernel_map, len(out_grid))

    x, sites = sample_tensor(200), sample_tensor(100, seed=7).grid
    kernel_map = build_kernel_map(x.grid, sites, 2)
    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    expected = sparse_conv(x, layer.weight.unflatten(1, (2, 2, 2)), out_grid=sites).features
    torch.testing.assert_close(compiled(x.features, kernel_map, sites), expected)
    program = torch.export.export(layer, (x.features, kernel_map, sites))
    torch.testing.assert_close(program.module()(x.features, kernel_map, sites), expected)


def test_pytrees_keep_maps_on_both_sides() -> None:
    net = small_net().eval()
    x = build_maps(net, sample_tensor(300))
    leaves, structure = pytree.tree_flatten(x)
    assert all(isinstance(leaf, Tensor) for leaf in leaves)
    twin = pytree.tree_unflatten(leaves, structure)
    assert pytree.tree_flatten(twin)[1] == structure
    assert pytree.treespec_loads(pytree.treespec_dumps(structure)) == structure
    assert twin.grid.maps.submanifold.keys() == x.grid.maps.submanifold.keys()
    assert torch.equal(net(twin).features, net(x).features)
    down = net.down[0](net.stem(x))
    coarse = pytree.tree_map(lambda leaf: leaf, down)  # flattened from below: the fine grid and its maps come along
    fine, _ = coarse.grid.paired_input()
    assert fine.maps.submanifold.keys() == x.grid.maps.submanifold.keys()
    assert fine.maps.strided[next(iter(fine.maps.strided))] is coarse.grid
    assert torch.equal(net.up[0](coarse).features, net.up[0](down).features)


def test_maps_are_built_without_running_the_network() -> None:
    net = SparseSequential(small_net(), SparseMaxPool(2), SparseAvgPool(3, stride=1))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    x = sample_tensor(100)
    assert build_maps(net, x) is x
    assert len(x.grid.maps.strided) == 1
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert isinstance(net(x), SparseTensor)
