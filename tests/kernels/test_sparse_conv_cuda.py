"""The CUDA sources of the sparse convolution on the fibre emulator against the references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.emulation import emulated_ops
from tests.kernels.sparse_maps import POINT, STRIDED, SUBMANIFOLD, Geometry, random_map
from zoo.ops import dispatch

SHAPE = (5, 6, 7)
TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def arguments(
    count: int, geometry: Geometry, channels: tuple[int, int], groups: int, dtype: torch.dtype, shape=SHAPE
) -> dict[str, tuple]:
    """Arguments of the three ops, by name."""
    pairs, num_out = random_map(count, shape, geometry)
    generator, (c_in, c_out) = torch.Generator().manual_seed(1), channels

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64).to(dtype)

    features, grad = normal(count, c_in), normal(num_out, c_out)
    weight = normal(c_out, len(pairs[2]) - 1, c_in // groups)
    return {
        "sparse_conv": (features, weight, *pairs, num_out, groups),
        "sparse_conv_dgrad": (grad, weight, *pairs, count, groups),
        "sparse_conv_wgrad": (features, grad, *pairs, groups),
    }


def check(calls: dict[str, tuple]) -> None:
    for name, values in calls.items():
        found, expected = getattr(emulated_ops(), name)(*values), dispatch.REFERENCES[name](*values)
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        tolerance = TOLERANCES[expected.dtype]
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("channels", [(5, 7), (16, 32), (33, 65), (1, 18), (18, 1)])
@pytest.mark.parametrize("geometry", [POINT, SUBMANIFOLD, STRIDED], ids=["point", "submanifold", "strided"])
def test_channels_and_geometries(geometry, channels):
    count = 150 if geometry is POINT else 70
    check(arguments(count, geometry, channels, 1, torch.float32))


def test_spikes_take_the_dense_kernel():
    features, weight, *pairs, num_out, _ = arguments(70, SUBMANIFOLD, (16, 32), 1, torch.float32)["sparse_conv"]
    check({"spike_conv": (features.relu(), weight, *pairs, num_out, 1.0, 0.0)})


@pytest.mark.parametrize("channels", [(5, 18), (40, 36)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype, channels):
    check(arguments(100, STRIDED, channels, 1, dtype))


@pytest.mark.parametrize(("channels", "groups"), [((8, 12), 4), ((40, 40), 40), ((6, 12), 6), ((5, 5), 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups(channels, groups, dtype):
    check(arguments(60, SUBMANIFOLD, channels, groups, dtype))


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("groups", [1, 4])
def test_no_row_and_one_row(count, groups):
    for geometry in (POINT, SUBMANIFOLD, STRIDED):
        check(arguments(count, geometry, (4, 4), groups, torch.float32))


@pytest.mark.parametrize(("channels", "groups"), [((4, 6), 1), ((3, 3), 3)])
def test_long_offsets_are_summed_in_stretches(channels, groups):
    calls = arguments(1300, POINT, channels, groups, torch.float64, shape=(9, 9, 9))
    check({"sparse_conv_wgrad": calls["sparse_conv_wgrad"]})


def test_strided_values_and_rows_without_pairs():
    (features, weight, *pairs, num_out, _), *_ = arguments(60, SUBMANIFOLD, (6, 6), 1, torch.float32).values()
    turned = features.t().contiguous().t()
    check({"sparse_conv": (turned, weight.flip(0), *pairs, num_out + 70, 1)})


@pytest.mark.parametrize(("channels", "groups"), [((20, 36), 1), ((12, 12), 12)])
def test_fibre_order_does_not_change_a_bit(channels, groups, monkeypatch):
    calls = arguments(150, SUBMANIFOLD, channels, groups, torch.float32)
    for name, values in calls.items():
        found = []
        for seed in ("1", "2"):
            monkeypatch.setenv("ZOO_EMULATOR_SEED", seed)
            found.append(getattr(emulated_ops(), name)(*values))
        assert torch.equal(*found), name


def test_nan_stays_in_the_windows_that_hold_it():
    for name, (x, *rest) in arguments(70, SUBMANIFOLD, (5, 7), 1, torch.float32).items():
        x[10, 2] = torch.nan
        found, expected = getattr(emulated_ops(), name)(x, *rest), dispatch.REFERENCES[name](x, *rest)
        assert 0 < int(expected.isnan().sum()) < expected.numel()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_pairs_outside_the_tensors_count_for_nothing():
    ops, x, y = emulated_ops(), torch.ones(12, 4)[:4], torch.ones(12, 4)[:4]  # there is memory behind the rows
    rows_in, rows_out = torch.tensor([0, 1, 9], dtype=torch.int32), torch.tensor([0, 2, 3], dtype=torch.int32)
    offsets = torch.tensor([0, 3])
    for groups in (1, 4):
        weight, depth = torch.ones(4, 1, 4 // groups), 4.0 / groups
        assert ops.sparse_conv(x, weight, rows_in, rows_out, offsets, 4, groups)[:, 0].tolist() == [depth, 0, depth, 0]
        grad = ops.sparse_conv_dgrad(y, weight, rows_out, rows_in, offsets, 4, groups)
        assert grad[:, 0].tolist() == [depth, 0, depth, 0]
        assert ops.sparse_conv_wgrad(x, y, rows_in, rows_out, offsets, groups).unique().tolist() == [2.0]


def test_wrong_maps_do_not_reach_outside():
    ops, x = emulated_ops(), torch.ones(4, 4)
    for groups in (1, 4):
        weight = torch.ones(4, 2, 4 // groups)
        for rows, offsets in (
            ([0, 9, 3], [0, 2, 3]),
            ([-5, 1, 2], [0, 1, 3]),
            ([3, 1, 0], [0, 3, 3]),
            ([0, 1, 2], [-7, 50, 2**40]),
            ([2, 2, 2], [3, 1, 0]),
        ):
            pairs = torch.tensor(rows, dtype=torch.int32)
            for sides in ((pairs, pairs.clamp(0, 3)), (pairs.clamp(0, 3), pairs)):
                ops.sparse_conv(x, weight, *sides, torch.tensor(offsets), 4, groups)
                ops.sparse_conv_dgrad(x, weight, *sides, torch.tensor(offsets), 4, groups)
                ops.sparse_conv_wgrad(x, x, *sides, torch.tensor(offsets), groups)


def test_arguments_that_do_not_fit_are_refused():
    features, weight, *rest = arguments(10, SUBMANIFOLD, (4, 4), 1, torch.float32)["sparse_conv"]
    for wrong in ((features[:, :3], weight), (features, weight[:, :5]), (features, weight.double())):
        with pytest.raises(RuntimeError, match="sparse_conv: weight"):
            emulated_ops().sparse_conv(*wrong, *rest)
    with pytest.raises(RuntimeError, match="neither float32 nor float64"):
        emulated_ops().sparse_conv(features.int(), weight.int(), *rest)
