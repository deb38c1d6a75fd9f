"""Reductions over segments against a loop over segments; gradients; threads; bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from zoo.ops import pack_info, segment_max, segment_mean, segment_min, segment_softmax, segment_sum

REDUCTIONS = {"sum": segment_sum, "mean": segment_mean, "max": segment_max, "min": segment_min}


def random_case(rows: int, segments: int, channels: int = 5, dtype: torch.dtype = torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, channels, generator=generator, dtype=dtype)
    return values, torch.randint(segments, (rows,), generator=generator)


def loop(name: str, values: torch.Tensor, ids: torch.Tensor, segments: int) -> torch.Tensor:
    out = values.new_zeros(segments, values.shape[1])
    for segment in range(segments):
        rows = values[ids == segment]
        if len(rows):
            reduced = {"sum": rows.sum(0), "mean": rows.mean(0), "max": rows.amax(0), "min": rows.amin(0)}
            out[segment] = reduced[name]
    return out


@pytest.mark.parametrize("channels", [1, 5, 16, 37])  # columns go in tiles of 16
@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize(("rows", "segments"), [(0, 0), (0, 3), (1, 1), (60, 9), (40, 100)])
def test_reductions_equal_a_loop(name, rows, segments, channels):
    values, ids = random_case(rows, max(segments, 1), channels)
    expected = loop(name, values, ids, segments)
    torch.testing.assert_close(REDUCTIONS[name](values, ids, segments), expected)
    ordered, order = torch.sort(ids, stable=True)
    runs = pack_info(ordered, segments)
    torch.testing.assert_close(REDUCTIONS[name](values[order], packed_info=runs), expected)


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(0, 50), segments=st.integers(1, 12), channels=st.integers(1, 4), seed=st.integers(0, 999))
def test_softmax_is_softmax_in_each_segment(rows, segments, channels, seed):
    values, ids = random_case(rows, segments, channels, seed=seed)
    found = segment_softmax(values * 30, ids, segments)
    assert found.shape == values.shape
    for segment in range(segments):
        torch.testing.assert_close(found[ids == segment], torch.softmax(values[ids == segment] * 30, 0))
    ordered, order = torch.sort(ids, stable=True)
    torch.testing.assert_close(
        segment_softmax(values[order] * 30, packed_info=pack_info(ordered, segments)), found[order]
    )


@pytest.mark.parametrize("name", [*REDUCTIONS, "softmax"])
def test_gradients(name):
    values, ids = random_case(17, 6, 3)
    function = segment_softmax if name == "softmax" else REDUCTIONS[name]
    assert torch.autograd.gradcheck(lambda x: function(x, ids, 6), (values.requires_grad_(),))
    ordered, order = torch.sort(ids, stable=True)
    runs = pack_info(ordered, 6)
    assert torch.autograd.gradcheck(lambda x: function(x, packed_info=runs), (values.detach()[order].requires_grad_(),))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_softmax_matches_the_reference(dtype):
    for rows, segments, channels in ((0, 0, 3), (0, 2, 3), (1, 1, 1), (700, 40, 7)):
        values, ids = random_case(rows, max(segments, 1), channels, dtype)
        runs = pack_info(ids.sort().values, segments)
        grad = torch.randn(values.shape, dtype=dtype)
        softmax = segment_softmax(values, packed_info=runs)
        assert_native_matches_reference("segment_softmax", values, runs)
        assert_native_matches_reference("segment_softmax_backward", grad, softmax, runs)
        assert_native_matches_reference("segment_softmax", values.t().contiguous().t(), runs)


def test_weights_far_below_the_largest_are_exact():
    depths = torch.linspace(0, 87.3, 4001, dtype=torch.float64)
    values = torch.stack([torch.zeros_like(depths), -depths]).float()
    runs = torch.tensor([[0, 2]])
    found, expected = segment_softmax(values, packed_info=runs), torch.softmax(values.double(), 0)
    torch.testing.assert_close(found.double(), expected, rtol=4e-7, atol=0)
    beyond = torch.tensor([[0.0, 0.0, 0.0, 1.0], [-200.0, -float("inf"), float("nan"), 1e30]])
    torch.testing.assert_close(
        segment_softmax(beyond, packed_info=runs), torch.softmax(beyond, 0), rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("largest", [True, False])
def test_the_first_nan_wins_and_ties_go_to_the_first_row(largest):
    nan = float("nan")
    columns = [[1.0, 1.0, 0.0], [nan, 1.0, 2.0], [1.0, nan, nan], [-float("inf"), float("inf"), 0.0]]
    values = torch.tensor(columns).T.repeat(1, 5).contiguous()  # 20 columns: a full tile and a part of one
    for dtype in (torch.float32, torch.float64):
        assert_native_matches_reference("segment_extreme", values.to(dtype), torch.tensor([[0, 3]]), largest)


def test_same_for_all_threads():
    values, ids = random_case(6000, 500, 9, torch.float32)

    def run():
        x = values.clone().requires_grad_()
        outputs = [function(x, ids, 500) for function in (*REDUCTIONS.values(), segment_softmax)]
        sum(out.square().sum() for out in outputs).backward()
        return *outputs, x.grad

    assert_same_for_all_threads(run)


def test_extreme_values_do_not_overflow():
    values = torch.tensor([[1e4], [1e4], [-1e4]])
    found = segment_softmax(values, torch.tensor([0, 0, 0]), 1)
    torch.testing.assert_close(found, torch.tensor([[0.5], [0.5], [0.0]]))


def test_half_precision_is_computed_in_float32():
    values, ids = random_case(30, 4, dtype=torch.bfloat16)
    found = segment_softmax(values, ids, 4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, segment_softmax(values.float(), ids, 4))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(segment_softmax(values.float(), ids, 4), found)


def test_opcheck():
    values, ids = random_case(12, 4, 3)
    runs = pack_info(ids.sort().values, 4)
    torch.library.opcheck(torch.ops.zoo.segment_softmax.default, (values.requires_grad_(), runs))
    detached = values.detach()
    torch.library.opcheck(torch.ops.zoo.segment_softmax_backward.default, (detached, detached.softmax(0), runs))


@pytest.mark.parametrize("function", [*REDUCTIONS.values(), segment_softmax])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": torch.zeros(3)}, r"values: found shape \(3,\), expected \(N, C\)"),
        ({"values": torch.zeros(3, 2, dtype=torch.int64)}, "values: found dtype int64"),
        ({"segment_ids": torch.zeros(4, dtype=torch.int64)}, "segment_ids: found shape"),
        ({"segment_ids": torch.zeros(3, dtype=torch.int32)}, "segment_ids: found dtype int32"),
        ({"segment_ids": torch.tensor([0, 2, 1])}, "found values from 0 to 2, expected 0 to 1"),
        ({"segment_ids": torch.tensor([0, -1, 1])}, "found values from -1 to 1"),
        ({"num_segments": None}, "num_segments: found None"),
        ({"segment_ids": None}, "found both or neither"),
        ({"packed_info": torch.zeros(2, 2, dtype=torch.int64)}, "found both or neither"),
    ],
)
def test_bad_arguments_are_named(function, change, words):
    arguments = {"values": torch.zeros(3, 2), "segment_ids": torch.tensor([0, 0, 1]), "num_segments": 2} | change
    with pytest.raises(ValueError, match=words):
        function(**arguments)


def test_runs_that_do_not_tile_the_rows_are_refused(monkeypatch):
    runs = torch.tensor([[0, 2], [3, 1]])
    monkeypatch.setenv("ZOO_CHECK", "1")
    with pytest.raises(ValueError, match="do not tile"):
        segment_softmax(torch.zeros(4, 1), packed_info=runs)
