"""CPU kernels of the sparse convolution: many tiles and chunks, instruction sets, thread counts, memory safety."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from zoo.ops import native
from zoo.ops.dispatch import REFERENCES

OPS = torch.ops.zoo
SHAPE = (11, 40, 40)
ISAS = ("baseline", "avx2", "avx512")


@pytest.fixture(autouse=True)
def _native_kernels() -> None:
    if not native.settle():
        pytest.skip(native.reason())


def sites(count: int, shape: tuple[int, ...], batch_size: int = 2, seed: int = 0) -> Tensor:
    """Sorted distinct rows (count, 1 + D), int32."""
    cells = batch_size
    for size in shape:
        cells *= size
    keys = torch.randperm(cells, generator=torch.Generator().manual_seed(seed))[:count].sort()[0]
    columns = []
    for size in reversed(shape):
        columns.append(keys % size)
        keys = keys // size
    return torch.stack([keys, *reversed(columns)], dim=1).to(torch.int32)


def subm_map(coords: Tensor, size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return OPS.kernel_map(coords, coords, SHAPE, SHAPE, 2, [size] * 3, [1] * 3, [size // 2] * 3, [1] * 3)


def convolutions(
    pairs: tuple[Tensor, Tensor, Tensor], rows: int, channels: tuple[int, int], groups: int, dtype: torch.dtype
) -> dict[str, tuple]:
    """Arguments of the three ops, by name."""
    generator = torch.Generator().manual_seed(1)
    c_in, c_out = channels
    features = torch.randn(rows, c_in, generator=generator, dtype=torch.float64).to(dtype)
    grad = torch.randn(rows, c_out, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(c_out, len(pairs[2]) - 1, c_in // groups, generator=generator, dtype=torch.float64).to(dtype)
    return {
        "sparse_conv": (features, weight, *pairs, rows, groups),
        "sparse_conv_dgrad": (grad, weight, *pairs, rows, groups),
        "sparse_conv_wgrad": (features, grad, *pairs, groups),
    }


def largest_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


# Widths of 1 to 4 vectors and several blocks, with and without a tail, for both roles.
@pytest.mark.parametrize("channels", [(7, 16), (16, 7), (32, 48), (48, 80), (130, 33), (1, 64), (64, 1), (20, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_tiles_equal_the_reference(channels, dtype):
    coords = sites(3000, SHAPE)
    for name, arguments in convolutions(subm_map(coords), 3000, channels, 1, dtype).items():
        found, expected = getattr(OPS, name)(*arguments), REFERENCES[name](*arguments)
        assert largest_error(found, expected) < (2e-6 if dtype == torch.float32 else 1e-14), name


@pytest.mark.parametrize(("channels", "groups"), [((24, 24), 24), ((24, 48), 12), ((64, 32), 2), ((5, 5), 5)])
def test_groups_equal_the_reference(channels, groups):
    coords = sites(2000, SHAPE)
    for name, arguments in convolutions(subm_map(coords), 2000, channels, groups, torch.float64).items():
        assert largest_error(getattr(OPS, name)(*arguments), REFERENCES[name](*arguments)) < 1e-14, name


@pytest.mark.parametrize("groups", [1, 4, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_do_not_depend_on_threads(groups, dtype):
    coords = sites(9000, SHAPE)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            arguments = convolutions(subm_map(coords), 9000, (32, 32), groups, dtype)
            results.append([getattr(OPS, name)(*values) for name, values in arguments.items()])
    finally:
        torch.set_num_threads(before)
    for one, other in itertools.product(results[:1], results[1:]):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_maps_of_several_chunks_do_not_depend_on_threads(size):
    coords = sites(20000 if size < 5 else 9000, SHAPE)
    expected = REFERENCES["kernel_map"](
        coords, coords.clone(), SHAPE, SHAPE, 2, [size] * 3, [1] * 3, [size // 2] * 3, [1] * 3
    )
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(subm_map(coords, size), expected, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bits", [1, 20, 41, 63])
def test_sort_is_stable_for_any_number_of_threads(bits):
    generator = torch.Generator().manual_seed(0)
    low = -(2**62) if bits == 63 else 0
    keys = torch.randint(low, 2 ** min(bits, 62), (70_000,), generator=generator)
    expected = REFERENCES["sort_keys"](keys)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            assert all(torch.equal(a, b) for a, b in zip(OPS.sort_keys(keys), expected, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(5, 2**20, 2**20), (2**31 - 1, 3, 2**20), (2**30, 2**31 - 1)])
@pytest.mark.parametrize("transposed", [False, True])
def test_output_sites_of_huge_shapes(shape, transposed):
    """Slabs that no bitmap could hold."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randint(0, size // 2, (200,), generator=generator) for size in (2, *shape)], dim=1)
    rows[:, 0] = rows[:, 0] + torch.arange(200) % 2
    coords = torch.unique(rows, dim=0).to(torch.int32)
    ones = [1] * len(shape)
    out_shape = list(shape) if transposed else [(size - 1) // 2 + 1 for size in shape]
    arguments = (coords, shape, out_shape, 2, [3 * one for one in ones], [2 * one for one in ones], ones, ones)
    assert torch.equal(
        OPS.conv_output_coords(*arguments, transposed), REFERENCES["conv_output_coords"](*arguments, transposed)
    )


@pytest.mark.parametrize("op", ["sparse_conv", "sparse_conv_dgrad", "sparse_conv_wgrad"])
def test_maps_that_would_read_or_write_outside_are_refused(op):
    coords = sites(50, SHAPE)
    pairs_in, pairs_out, offsets = subm_map(coords)
    centre = int(offsets[13])
    broken = {
        "beyond the rows": (pairs_in.clone().index_fill_(0, torch.tensor([len(pairs_in) - 1]), 50), pairs_out, offsets),
        "negative": (pairs_in, pairs_out.clone().index_fill_(0, torch.tensor([0]), -1), offsets),
        "not ascending": (
            pairs_in,
            pairs_out.clone().index_copy_(0, torch.tensor([centre, centre + 1]), pairs_out[[centre + 1, centre]]),
            offsets,
        ),
        "offsets beyond the pairs": (pairs_in, pairs_out, offsets + 1),
    }
    for pairs in broken.values():
        arguments = convolutions(pairs, 50, (4, 4), 1, torch.float32)[op]
        with pytest.raises(RuntimeError, match=rf"{op}: (pairs_in|pairs_out|offsets)"):
            getattr(OPS, op)(*arguments)


SCRIPT = """
import sys, torch
from tests.unit.ops.test_sparse_conv_native import convolutions, largest_error, sites, subm_map, OPS, SHAPE
from zoo.ops import native
from zoo.ops.dispatch import REFERENCES
assert native.settle(), native.reason()
pairs = subm_map(sites(1500, SHAPE))
for dtype, limit in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
    for channels, groups in (((37, 37), 1), ((8, 16), 1), ((72, 24), 1), ((12, 12), 12), ((24, 30), 3)):
        for name, arguments in convolutions(pairs, 1500, channels, groups, dtype).items():
            error = largest_error(getattr(OPS, name)(*arguments), REFERENCES[name](*arguments))
            assert error < limit, (name, channels, groups, dtype, error)
print("checked")
"""


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_equals_the_reference(isa):
    """The run-time choice is made once in a process; a CPU without the set tests a narrower one again."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "ZOO_ISA_LIMIT": isa},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "checked", done.stderr[-2000:]
