"""Spike counts: against scalars, the reference, gradients of the window, dtypes and edges."""

from __future__ import annotations

import math

import pytest
import torch

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from zoo.ops import spike_counts

EDGES = [-math.inf, -1.0, -0.0, 0.0, 0.25, 0.5, 0.75, 1.5, 2.5, 3.4999, 3.5, 4.0, 4.5, math.inf]


def scalar(u: float, most: int, half_up: bool) -> float:
    clamped = min(max(u, 0.0), float(most))
    return float(math.floor(clamped + 0.5) if half_up else round(clamped))


@pytest.mark.parametrize("half_up", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most", [1, 4])
def test_every_edge_against_scalars(most: int, dtype: torch.dtype, half_up: bool) -> None:
    u = torch.tensor(EDGES, dtype=dtype)
    found = spike_counts(u, most, half_up=half_up)
    assert found.dtype == dtype
    assert found.tolist() == [scalar(value, most, half_up) for value in u.tolist()]


@pytest.mark.parametrize("half_up", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3), (1,), (70, 33), (2, 3, 5, 7)])
def test_native_equals_reference(shape: tuple[int, ...], dtype: torch.dtype, half_up: bool) -> None:
    u = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert_native_matches_reference("spike_counts", u, 4, half_up, rtol=0, atol=0)
    if u.dim() == 2:
        assert_native_matches_reference("spike_counts", u.T, 4, half_up, rtol=0, atol=0)


@pytest.mark.parametrize("half_up", [True, False])
def test_nan_stays(half_up: bool) -> None:
    assert spike_counts(torch.tensor([math.nan, 1.0]), 4, half_up=half_up).isnan().tolist() == [True, False]


@pytest.mark.parametrize(("half_up", "expected"), [(True, [0, 0, 1, 1, 0, 0]), (False, [0, 1, 1, 1, 1, 0])])
def test_the_gradient_passes_inside_the_window(half_up: bool, expected: list[float]) -> None:
    u = torch.tensor([-0.5, 0.0, 0.2, 3.9, 4.0, 4.1], requires_grad=True)
    (spike_counts(u, 4, half_up=half_up) * torch.arange(1.0, 7.0)).sum().backward()
    assert u.grad is not None
    assert u.grad.tolist() == [step * (k + 1) for k, step in enumerate(expected)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_the_stored_value(dtype: torch.dtype) -> None:
    u = torch.tensor([0.498, 0.5, 1.2, 7.0]).to(dtype).requires_grad_()
    found = spike_counts(u, 4, half_up=True)
    assert found.dtype == dtype
    assert found.tolist() == [0, 1, 1, 4]
    found.sum().backward()
    assert u.grad is not None
    assert u.grad.tolist() == [1, 1, 1, 0]


def test_op_registration_and_threads() -> None:
    u = torch.randn(50, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for half_up in (True, False):
        torch.library.opcheck(torch.ops.zoo.spike_counts.default, (u, 4, half_up))
    large = torch.randn(300, 1000)
    assert_same_for_all_threads(lambda: spike_counts(large, 4, half_up=True))


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="max_count: found 0"):
        spike_counts(torch.zeros(2), 0, half_up=True)
    with pytest.raises(ValueError, match="u: "):
        spike_counts(torch.zeros(2, dtype=torch.int64), 4, half_up=True)
