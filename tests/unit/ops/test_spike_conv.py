"""Event-driven convolution: equals the dense one at any density, dtype, width, thread count and instruction set."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tests.dense_oracle import random_grid
from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads, native_op
from zoo.ops import (
    KernelMap,
    SparseTensor,
    apply_kernel_map,
    break_even_density,
    native,
    sparse_conv,
    sparse_inverse_conv,
    spike_conv,
    spike_linear,
    subm_conv,
)
from zoo.ops.dispatch import REFERENCES
from zoo.ops.kernel_map import ConvGeometry, find_map, strided_grid

# Widths of one to eight vectors, of several blocks, with and without tails.
WIDTHS = [(1, 1), (3, 5), (16, 16), (7, 40), (33, 70), (64, 64), (20, 130), (130, 33), (64, 200)]
TOLERANCES = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
ALWAYS, NEVER = 1.0, 0.0


def spikes(rows: int, channels: int, density: float, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Counts 0 to 4, of which a share of about ``density`` is not zero."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 5, (rows, channels), generator=generator)
    return (counts * (torch.rand(rows, channels, generator=generator) < density)).to(dtype)


def kernel_map(kind: str, shape: tuple[int, ...] = (9, 8, 7)) -> tuple[int, int, KernelMap]:
    """Input rows, output rows and map."""
    grid = random_grid(shape, density=0.15, seed=0)
    if kind == "subm":
        return len(grid), len(grid), find_map(grid, grid, ConvGeometry.submanifold(3, 3))
    down, down_map = strided_grid(grid, ConvGeometry.of(3, 2, 2))
    return (len(grid), len(down), down_map) if kind == "strided" else (len(down), len(grid), down_map.swapped())


def arguments(
    kind: str, widths: tuple[int, int], density: float, dtype: torch.dtype = torch.float32, break_even: float = ALWAYS
) -> tuple:
    """Arguments of the op."""
    num_in, num_out, pairs = kernel_map(kind)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(widths[1], pairs.volume, widths[0], generator=generator, dtype=torch.float64).to(dtype)
    features = spikes(num_in, widths[0], density, dtype)
    return features, weight, pairs.pairs_in, pairs.pairs_out, pairs.offsets, num_out, break_even, 0.0


def assert_close(found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCES[expected.dtype]
    scale = float(expected.double().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("kind", ["subm", "strided", "inverse"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_native_equals_reference(kind: str, widths: tuple[int, int], density: float) -> None:
    values = arguments(kind, widths, density)
    assert_close(native_op("spike_conv")(*values), REFERENCES["spike_conv"](*values))


@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("widths", [(5, 7), (64, 64), (40, 100)], ids=str)
def test_dtypes(widths: tuple[int, int], dtype: torch.dtype) -> None:
    values = arguments("subm", widths, 0.2, dtype)
    found = native_op("spike_conv")(*values)
    assert found.dtype == dtype
    assert_close(found, REFERENCES["spike_conv"](*values))


def test_rows_without_spikes_and_columns_of_spikes() -> None:
    features, weight, *rest = arguments("subm", (24, 48), 0.3)
    features[::2] = 0
    features[1::4] = 3
    features[:, 5:] *= -0.0  # a negative zero is no event
    values = (features, weight, *rest)
    assert_close(native_op("spike_conv")(*values), REFERENCES["spike_conv"](*values))
    silent = native_op("spike_conv")(torch.zeros_like(features), weight, *rest)
    assert not silent.any()


def test_any_values_will_do() -> None:
    features, weight, *rest = arguments("subm", (19, 33), 0.5)
    features = torch.randn(features.shape) * features
    assert_native_matches_reference("spike_conv", features, weight, *rest, rtol=1e-4, atol=1e-4)
    features[3, 2] = float("nan")
    found = native_op("spike_conv")(features, weight, *rest)
    assert torch.equal(found.isnan(), REFERENCES["spike_conv"](features, weight, *rest).isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("widths", [(16, 40), (64, 64)], ids=str)
def test_results_do_not_depend_on_threads(widths: tuple[int, int], dtype: torch.dtype) -> None:
    native.settle()
    if native.binary() is None:
        pytest.skip(f"torch's own products depend on the number of threads, and {native.reason()}")
    grid = random_grid((16, 40, 40), density=0.3, seed=0)  # several tiles
    pairs = find_map(grid, grid, ConvGeometry.submanifold(3, 3))
    weight = torch.randn(widths[1], 27, widths[0], generator=torch.Generator().manual_seed(0)).to(dtype)
    features = spikes(len(grid), widths[0], 0.2, dtype)
    assert_same_for_all_threads(lambda: spike_conv(features, weight, pairs, len(grid), density=ALWAYS))


def test_density_decides() -> None:
    """The two kernels add in different orders, which shows which of them ran."""
    native.settle()
    if native.binary() is None:
        pytest.skip(native.reason())
    num_in, num_out, pairs = kernel_map("subm")
    weight = torch.randn(64, 27, 64, generator=torch.Generator().manual_seed(1))
    limit = break_even_density(64, 64, pairs.num_pairs / num_in)
    assert 0.2 < limit < 1
    for density, events in ((limit - 0.1, True), (limit + 0.1, False)):
        features = spikes(num_in, 64, density)
        always = spike_conv(features, weight, pairs, num_out, density=ALWAYS)
        never = spike_conv(features, weight, pairs, num_out, density=NEVER)
        assert torch.equal(never, apply_kernel_map(features, weight, pairs, num_out))
        assert not torch.equal(always, never)
        assert_close(always, never)
        assert torch.equal(spike_conv(features, weight, pairs, num_out), always if events else never)
        exact = float((features != 0).sum()) / features.numel()
        assert torch.equal(spike_conv(features, weight, pairs, num_out, density=exact), always)
        assert torch.equal(spike_conv(features, weight, pairs, num_out, density=exact - 1e-6), never)


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2", "AVX512"])
def test_break_even_density(capability: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert break_even_density(16, 16) == 0
    assert break_even_density(0, 8) == 0
    assert break_even_density(32, 32) > 0.1
    for channels in (64, 128, 256):
        assert 0.1 < break_even_density(channels, channels, 1.5) < break_even_density(channels, channels) < 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_linear(dtype: torch.dtype) -> None:
    features = spikes(50, 70, 0.2, dtype).requires_grad_()
    weight, bias = torch.randn(40, 70).to(dtype).requires_grad_(), torch.randn(40).to(dtype).requires_grad_()
    found, expected = spike_linear(features, weight, bias), torch.nn.functional.linear(features, weight, bias)
    assert_close(found.detach(), expected.detach())
    grads = [torch.autograd.grad(out.sum(), (features, weight, bias)) for out in (found, expected)]
    for value, wanted in zip(*grads, strict=True):
        assert_close(value, wanted)
    assert_close(spike_linear(features.detach(), weight).detach(), (expected - bias).detach())
    assert spike_linear(features[:0], weight, bias).shape == (0, 40)


def test_linear_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="expected 4 in the last axis"):
        spike_linear(torch.zeros(2, 4), torch.zeros(3, 5))
    with pytest.raises(ValueError, match="bias: found shape"):
        spike_linear(torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(4))


def test_layers_that_read_spikes() -> None:
    grid = random_grid((9, 8, 7), density=0.3, seed=2)
    x = SparseTensor(spikes(len(grid), 48, 0.1), grid)
    cube, square = torch.randn(64, 3, 3, 3, 48), torch.randn(48, 2, 2, 2, 48)
    bias = torch.arange(64.0)
    assert_close(subm_conv(x, cube, bias, spikes=True).features, subm_conv(x, cube, bias).features)
    down, expected = sparse_conv(x, square, stride=2, spikes=True), sparse_conv(x, square, stride=2)
    assert_close(down.features, expected.features)
    sent = down.replace_feature(spikes(len(down), 48, 0.1))
    assert_close(sparse_inverse_conv(sent, square, spikes=True).features, sparse_inverse_conv(sent, square).features)
    grouped = torch.randn(48, 3, 3, 3, 24)
    found = subm_conv(x, grouped, groups=2, spikes=True)
    assert torch.equal(found.features, subm_conv(x, grouped, groups=2).features)


def test_gradients_are_those_of_the_dense_convolution() -> None:
    num_in, num_out, pairs = kernel_map("strided")
    weight = torch.randn(48, 8, 32, dtype=torch.float64, requires_grad=True)
    features = spikes(num_in, 32, 0.2, torch.float64).requires_grad_()
    grad = torch.randn(num_out, 48, dtype=torch.float64)
    found = torch.autograd.grad(spike_conv(features, weight, pairs, num_out), (features, weight), grad)
    expected = torch.autograd.grad(apply_kernel_map(features, weight, pairs, num_out), (features, weight), grad)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted)


def test_gradcheck() -> None:
    grid = random_grid((3, 3, 2), density=0.4, seed=0)
    pairs = find_map(grid, grid, ConvGeometry.submanifold(3, 3))
    features = spikes(len(grid), 3, 0.5, torch.float64) + 0.5  # away from zero, where finite differences cross
    weight = torch.randn(2, 27, 3, dtype=torch.float64)
    inputs = [features.requires_grad_(), weight.requires_grad_()]
    assert torch.autograd.gradcheck(lambda x, w: spike_conv(x, w, pairs, len(grid), density=ALWAYS), inputs)


def test_opcheck() -> None:
    features, weight, *rest = arguments("strided", (6, 9), 0.3)
    torch.library.opcheck(torch.ops.zoo.spike_conv.default, (features.requires_grad_(), weight.requires_grad_(), *rest))


def test_autocast() -> None:
    num_in, num_out, pairs = kernel_map("subm")
    features, weight = spikes(num_in, 32, 0.2), torch.randn(32, 27, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = spike_conv(features, weight, pairs, num_out, density=ALWAYS)
    half = spike_conv(features.bfloat16(), weight.bfloat16(), pairs, num_out, density=ALWAYS)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, half)


@pytest.mark.parametrize("density", [ALWAYS, NEVER, "auto"])
def test_no_rows(density: float | str) -> None:
    grid = random_grid((4, 4, 4), density=0.0, seed=0)
    pairs = find_map(grid, grid, ConvGeometry.submanifold(3, 3))
    out = spike_conv(torch.zeros(0, 5), torch.ones(7, 27, 5), pairs, 0, density=density)  # pyright: ignore[reportArgumentType]
    assert out.shape == (0, 7)
    features = torch.zeros(len(grid), 0)
    assert spike_conv(features, torch.ones(7, 27, 0), pairs, len(grid), density=density).shape == (len(grid), 7)  # pyright: ignore[reportArgumentType]


def test_bad_arguments() -> None:
    num_in, num_out, pairs = kernel_map("subm")
    features, weight = torch.zeros(num_in, 4), torch.zeros(2, 27, 4)
    for density in (-0.1, 1.1, float("nan"), "most"):
        with pytest.raises(ValueError, match="density: found"):
            spike_conv(features, weight, pairs, num_out, density=density)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="kernel cells"):
        spike_conv(features, weight[:, 1:], pairs, num_out)
    with pytest.raises(ValueError, match="expected 4 in the last axis"):
        spike_conv(features, weight[..., 1:], pairs, num_out)
    with pytest.raises(ValueError, match="features: found dtype"):
        spike_conv(features.int(), weight, pairs, num_out)


def test_maps_that_would_read_or_write_outside_are_refused() -> None:
    if not native.settle():
        pytest.skip(native.reason())
    features, weight, pairs_in, pairs_out, offsets, num_out, *_ = arguments("subm", (8, 16), 0.2)
    last = torch.tensor([len(pairs_in) - 1])
    for broken in (
        (pairs_in.index_fill(0, last, len(features)), pairs_out, offsets),
        (pairs_in, pairs_out.index_fill(0, torch.tensor([0]), -1), offsets),
        (pairs_in, pairs_out, offsets + 1),
    ):
        with pytest.raises(RuntimeError, match=r"spike_conv: (pairs_in|pairs_out|offsets)"):
            native_op("spike_conv")(features, weight, *broken, num_out, ALWAYS, 0.0)


SCRIPT = """
import torch
from tests.unit.ops.test_spike_conv import WIDTHS, arguments, assert_close
from zoo.ops import native
from zoo.ops.dispatch import REFERENCES
assert native.settle(), native.reason()
for dtype in (torch.float32, torch.float64):
    for widths in WIDTHS:
        for density in (0.1, 1.0):
            values = arguments("subm", widths, density, dtype)
            assert_close(torch.ops.zoo.spike_conv(*values), REFERENCES["spike_conv"](*values))
print("checked")
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_every_instruction_set_equals_the_reference(isa: str) -> None:
    """The run-time choice is made once in a process; a CPU without the set tests a narrower one again."""
    if not native.settle():
        pytest.skip(native.reason())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "ZOO_ISA_LIMIT": isa},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "checked", done.stderr[-2000:]
