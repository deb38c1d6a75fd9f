"""Spike counts in plain torch."""

from __future__ import annotations

from torch import Tensor


def spike_counts(membrane: Tensor, max_count: int, half_up: bool) -> Tensor:
    """Clamped to 0..D and rounded, halves up or to the even number."""
    clamped = membrane.clamp(0, max_count)
    return clamped.add_(0.5).floor_() if half_up else clamped.round_()
