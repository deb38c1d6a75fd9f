"""Sparse convolutions: dense oracle, native against reference, gradients, threads, dtypes, empty input, bad input."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.dense_oracle import (
    at_sites,
    dense_conv,
    dense_conv_transpose,
    random_grid,
    random_sparse,
    random_weight,
)
from zoo.ops import (
    KernelMap,
    SparseTensor,
    VoxelGrid,
    apply_kernel_map,
    native,
    sort_keys,
    sparse_conv,
    sparse_conv_transpose,
    sparse_inverse_conv,
    subm_conv,
)
from zoo.ops.dispatch import REFERENCES
from zoo.ops.kernel_map import ConvGeometry, find_map, strided_grid, transposed_grid
from zoo.ops.map_conv import _sparse_conv, _sparse_conv_dgrad, _sparse_conv_wgrad

CHANNELS = [(1, 1, 1), (3, 5, 1), (16, 32, 1), (33, 70, 1), (64, 64, 1), (6, 6, 6), (8, 4, 4)]


def maps(seed: int = 0) -> dict[str, tuple[int, int, KernelMap]]:
    """Kernel maps of each kind as (input rows, output rows, map)."""
    grid = random_grid((9, 8, 7), density=0.15, seed=seed)
    down, down_map = strided_grid(grid, ConvGeometry.of(3, 3, 2, 1))
    up, up_map = transposed_grid(grid, ConvGeometry.of(3, 2, 2), (0, 0, 0))
    return {
        "subm": (len(grid), len(grid), find_map(grid, grid, ConvGeometry.submanifold(3, 3))),
        "strided": (len(grid), len(down), down_map),
        "inverse": (len(down), len(grid), down_map.swapped()),
        "transposed": (len(grid), len(up), up_map),
    }


Channels = tuple[int, int, int]


def values(num_in: int, num_out: int, kernel_map: KernelMap, channels: Channels, dtype: torch.dtype) -> list[Tensor]:
    c_in, c_out, groups = channels
    generator = torch.Generator().manual_seed(0)
    shapes = [(num_in, c_in), (c_out, kernel_map.volume, c_in // groups), (num_out, c_out)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def run_ops(kind: str, channels: tuple[int, int, int], dtype: torch.dtype, ops: list) -> list[Tensor]:
    num_in, num_out, kernel_map = maps()[kind]
    features, weight, grad = values(num_in, num_out, kernel_map, channels, dtype)
    pairs = kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets
    return [
        ops[0](features, weight, *pairs, num_out, channels[2]),
        ops[1](grad, weight, *pairs, num_in, channels[2]),
        ops[2](features, grad, *pairs, channels[2]),
    ]


def native_only() -> None:
    sort_keys(torch.zeros(1, dtype=torch.int64))  # looks for the binary
    if native.binary() is None:
        pytest.skip(f"torch's own products depend on the number of threads, and {native.reason()}")


NATIVE = [_sparse_conv, _sparse_conv_dgrad, _sparse_conv_wgrad]
REFERENCE = [REFERENCES[name] for name in ("sparse_conv", "sparse_conv_dgrad", "sparse_conv_wgrad")]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 1e-2}


@pytest.mark.parametrize("kind", ["subm", "strided", "inverse", "transposed"])
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_native_equals_reference(kind: str, channels: tuple[int, int, int], dtype: torch.dtype) -> None:
    for found, expected in zip(
        run_ops(kind, channels, dtype, NATIVE), run_ops(kind, channels, dtype, REFERENCE), strict=True
    ):
        assert found.dtype == expected.dtype == dtype
        scale = float(expected.double().abs().max())
        torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype] * scale, rtol=0)


@pytest.mark.parametrize("channels", [(3, 5, 1), (64, 64, 1), (6, 6, 6)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_results_do_not_depend_on_threads(channels: tuple[int, int, int], dtype: torch.dtype) -> None:
    native_only()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(run_ops("subm", channels, dtype, NATIVE) + run_ops("strided", channels, dtype, NATIVE))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_convolution_equals_the_dense_one(ndim: int, groups: int) -> None:
    shape = (9, 7, 6)[:ndim]
    x = random_sparse(shape, 4, density=0.3)
    ones, twos, zeros = (1,) * ndim, (2,) * ndim, (0,) * ndim
    cube = random_weight(8, (3,) * ndim, 4 // groups)
    even = random_weight(8, twos, 4 // groups)
    bias = torch.arange(8.0, dtype=torch.float64)

    y = subm_conv(x, cube, bias, groups=groups)
    torch.testing.assert_close(y.features, at_sites(dense_conv(x, cube, ones, ones, ones, groups), x.grid) + bias)
    y = subm_conv(x, cube, dilation=2, groups=groups)
    torch.testing.assert_close(y.features, at_sites(dense_conv(x, cube, ones, twos, twos, groups), x.grid))

    y = sparse_conv(x, cube, bias, stride=2, padding=1, groups=groups)
    torch.testing.assert_close(y.features, at_sites(dense_conv(x, cube, twos, ones, ones, groups), y.grid) + bias)
    sites = random_grid(y.spatial_shape, density=0.5, seed=9)
    given = sparse_conv(x, cube, bias, stride=2, padding=1, groups=groups, out_grid=sites)
    assert given.grid is sites
    torch.testing.assert_close(given.features, at_sites(dense_conv(x, cube, twos, ones, ones, groups), sites) + bias)

    y = sparse_conv(x, even, stride=2, groups=groups)
    torch.testing.assert_close(y.features, at_sites(dense_conv(x, even, twos, zeros, ones, groups), y.grid))
    back = random_weight(4, twos, 8 // groups)
    z = sparse_inverse_conv(y, back, groups=groups)
    extra = tuple(size % 2 for size in shape)
    assert z.grid is x.grid
    expected = dense_conv_transpose(y, back, twos, zeros, ones, extra, groups)
    torch.testing.assert_close(z.features, at_sites(expected, x.grid))

    y = sparse_conv_transpose(x, cube, bias, stride=2, padding=1, output_padding=1, groups=groups)
    expected = dense_conv_transpose(x, cube, twos, ones, ones, ones, groups)
    assert y.spatial_shape == expected.shape[2:]
    torch.testing.assert_close(y.features, at_sites(expected, y.grid) + bias)
    sites = random_grid(y.spatial_shape, density=0.2, seed=9)
    given = sparse_conv_transpose(x, cube, stride=2, padding=1, output_padding=1, groups=groups, out_grid=sites)
    torch.testing.assert_close(given.features, at_sites(expected, sites))


@pytest.mark.parametrize("kind", ["subm", "strided", "inverse", "transposed"])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradcheck(kind: str, groups: int) -> None:
    x = random_sparse((3, 3, 2), 4, density=0.3)
    cube, square = random_weight(2, (3, 3, 3), 4 // groups), random_weight(2, (2, 2, 2), 4 // groups)
    down_grid = sparse_conv(x, square, stride=2, groups=groups).grid

    def run(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if kind == "subm":
            return subm_conv(SparseTensor(features, x.grid), weight, bias, groups=groups).features
        if kind == "strided":
            return sparse_conv(
                SparseTensor(features, x.grid), weight, bias, stride=2, padding=1, groups=groups
            ).features
        if kind == "inverse":
            return sparse_inverse_conv(SparseTensor(features, down_grid), weight, bias, groups=groups).features
        return sparse_conv_transpose(SparseTensor(features, x.grid), weight, bias, stride=2, groups=groups).features

    weight = square if kind == "inverse" else cube
    features = torch.randn(len(down_grid), 4, dtype=torch.float64) if kind == "inverse" else x.features
    inputs = [features.requires_grad_(), weight.requires_grad_(), torch.randn(2, dtype=torch.float64).requires_grad_()]
    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("name", ["sparse_conv", "sparse_conv_dgrad", "sparse_conv_wgrad"])
def test_opcheck(name: str) -> None:
    num_in, num_out, kernel_map = maps()["strided"]
    features, weight, grad = values(num_in, num_out, kernel_map, (4, 6, 2), torch.float32)
    pairs = kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets
    arguments = {
        "sparse_conv": (features.requires_grad_(), weight.requires_grad_(), *pairs, num_out, 2),
        "sparse_conv_dgrad": (grad, weight.detach(), *pairs, num_in, 2),
        "sparse_conv_wgrad": (features.detach(), grad, *pairs, 2),
    }
    torch.library.opcheck(getattr(torch.ops.zoo, name).default, arguments[name])


def test_opcheck_of_maps() -> None:
    grid = random_grid((5, 4))
    shape = [5, 4]
    geometry = [[3, 3], [1, 1], [1, 1], [1, 1]]
    torch.library.opcheck(torch.ops.zoo.sort_keys.default, (grid.keys,))
    torch.library.opcheck(torch.ops.zoo.kernel_map.default, (grid.coords, grid.coords, shape, shape, 2, *geometry))
    torch.library.opcheck(torch.ops.zoo.conv_output_coords.default, (grid.coords, shape, shape, 2, *geometry, False))


def test_memory_layouts() -> None:
    x = random_sparse((6, 6), 4, dtype=torch.float32)
    weight = random_weight(4, (3, 3), 4, dtype=torch.float32)
    expected = subm_conv(x, weight).features
    strided = torch.stack([x.features, x.features], dim=2)[..., 0]
    assert not strided.is_contiguous()
    torch.testing.assert_close(subm_conv(x.replace_feature(strided), weight).features, expected)
    turned = weight.movedim(-1, 0).contiguous().movedim(0, -1)
    assert not turned.is_contiguous()
    torch.testing.assert_close(subm_conv(x, turned).features, expected)
    features = x.features.clone().requires_grad_()
    subm_conv(x.replace_feature(features), weight).features.sum().backward()  # an expanded gradient
    assert features.grad is not None
    ones = torch.ones_like(expected)
    kernel_map = find_map(x.grid, x.grid, ConvGeometry.submanifold(2, 3))
    flat = weight.flatten(1, 2)
    pairs = kernel_map.pairs_in, kernel_map.pairs_out, kernel_map.offsets
    torch.testing.assert_close(features.grad, _sparse_conv_dgrad(ones, flat, *pairs, len(x), 1))


def test_bfloat16_and_autocast() -> None:
    x = random_sparse((6, 6), 8, dtype=torch.float32)
    weight, bias = random_weight(8, (3, 3), 8, dtype=torch.float32), torch.ones(8)
    expected = subm_conv(x, weight, bias).features
    half = subm_conv(x.to(torch.bfloat16), weight.bfloat16(), bias.bfloat16()).features
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, atol=0.2, rtol=0.02)
    features, parameter = x.features.clone().requires_grad_(), weight.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = subm_conv(x.replace_feature(features), parameter, bias).features
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, half)
    mixed.float().sum().backward()
    assert features.grad is not None
    assert features.grad.dtype == parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("rows", [[], [[1, 0, 0, 0]], [[1, 2, 1, 1], [1, 2, 1, 2]]])
def test_empty_batch_and_empty_samples(rows: list) -> None:
    grid = VoxelGrid(torch.tensor(rows, dtype=torch.int64).reshape(-1, 4), (4, 4, 4), 3)
    features = torch.randn(len(grid), 2, requires_grad=True)
    weights = [torch.randn(2, 3, 3, 3, 2, requires_grad=True), torch.randn(2, 2, 2, 2, 2, requires_grad=True)]
    x = subm_conv(SparseTensor(features, grid), weights[0])
    y = sparse_conv(x, weights[1], stride=2)
    z = sparse_inverse_conv(y, weights[1])
    assert z.grid is grid
    up = sparse_conv_transpose(z, weights[0], stride=2)
    up.features.sum().backward()
    assert features.grad.shape == features.shape
    assert all(weight.grad.shape == weight.shape for weight in weights)
    if not rows:
        assert not any(weight.grad.any() for weight in weights)


def test_sites_without_inputs_get_the_bias() -> None:
    x = SparseTensor(torch.ones(1, 1), VoxelGrid(torch.tensor([[0, 0]]), (8,), 1))
    sites = VoxelGrid(torch.tensor([[0, 0], [0, 5]]), (8,), 1)
    out = sparse_conv(x, torch.ones(1, 3, 1), torch.tensor([0.5]), padding=1, out_grid=sites)
    assert out.features.flatten().tolist() == [1.5, 0.5]


@pytest.mark.parametrize(
    ("weight", "options", "match"),
    [
        (torch.zeros(2, 3, 4), {}, "weight: found shape"),
        (torch.zeros(2, 3, 3, 3), {}, "expected 4 in the last axis"),
        (torch.zeros(2, 3, 3, 4), {"groups": 3}, "groups: found 3"),
        (torch.zeros(2, 3, 3, 4), {"groups": 0}, "groups: found 0"),
        (torch.zeros(2, 3, 3, 4, dtype=torch.float64), {}, "weight: found dtype"),
        (torch.zeros(2, 2, 3, 4), {}, "odd sizes"),
        (torch.zeros(2, 3, 3, 4), {"bias": torch.zeros(3)}, "bias"),
    ],
)
def test_bad_arguments(weight: Tensor, options: dict, match: str) -> None:
    x = random_sparse((4, 4), 4, dtype=torch.float32)
    with pytest.raises(ValueError, match=match):
        subm_conv(x, weight, **options)


def test_bad_maps() -> None:
    _, num_out, kernel_map = maps()["subm"]
    features = torch.zeros(num_out, 2)
    with pytest.raises(ValueError, match="kernel cells"):
        apply_kernel_map(features, torch.zeros(2, 2, 2), kernel_map, num_out)
    wrong = KernelMap(kernel_map.pairs_in.long(), kernel_map.pairs_out, kernel_map.offsets, (3, 3, 3))
    with pytest.raises(ValueError, match="pairs_in: found dtype"):
        apply_kernel_map(features, torch.zeros(2, 27, 2), wrong, num_out)


def test_inverse_needs_its_pair() -> None:
    x = random_sparse((4, 4), 2, dtype=torch.float32)
    with pytest.raises(ValueError, match="no strided layer"):
        sparse_inverse_conv(x, torch.zeros(2, 2, 2, 2))
    down = sparse_conv(x, torch.zeros(2, 2, 2, 2), stride=2)
    with pytest.raises(ValueError, match=r"expected \(2, 2\)"):
        sparse_inverse_conv(down, torch.zeros(2, 3, 3, 2))
