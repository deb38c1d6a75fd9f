"""Encodings that open from coarse to fine while a field trains."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

__all__ = ["LevelSchedule", "frequency_mask", "level_weights"]

LevelRamp = Literal["linear", "cosine"]


def frequency_mask(length: int, step: int, end: int) -> Tensor:
    """Multipliers ``(length,)`` of a positional encoding of three coordinates at ``step`` (FreeNeRF, eq. 4).

    With ``p = min(length / 3 * step / end + 1, length / 3)`` and ``k = floor(p)`` the first ``3 k`` entries are 1, the
    next three ``p - k``, the rest 0, all within [1e-8, 1 - 1e-8]; from ``end`` on everything is 1.

    Args:
        length: Channels of the encoding, a multiple of 3: the coordinates first, then from low to high frequency.
        step: Training step.
        end: The step at which all is open.

    Raises:
        ValueError: ``length`` is no positive multiple of 3, or ``end`` not positive.

    Example:
        >>> frequency_mask(9, 1, 6).round(decimals=2)
        tensor([1.0000, 1.0000, 1.0000, 0.5000, 0.5000, 0.5000, 0.0000, 0.0000, 0.0000])
    """
    if length < 3 or length % 3 or end < 1:
        raise ValueError(f"length, end: found {length}, {end}, expected a positive multiple of 3 and at least 1")
    if step >= end:
        return torch.ones(length)
    opened = min(length / 3 * step / end + 1, length / 3)
    place = torch.arange(length) // 3
    return (opened - place).clamp(0, 1).clamp(1e-8, 1 - 1e-8)


def level_weights(num_levels: int, progress: float, start_levels: int, ramp: LevelRamp = "linear") -> Tensor:
    """Weights ``(num_levels,)`` of the levels of a hash grid, the coarsest first: FreeNeRF's mask for hash grids.

    ``w_l = clip(progress (num_levels - start_levels) + start_levels - l, 0, 1)``; ``cosine`` smooths the ramp as BARF
    does, ``(1 - cos(pi w)) / 2``.

    Args:
        num_levels: L.
        progress: Share of the schedule that has passed; 1 or more opens all.
        start_levels: Levels that are open at the start, 1 to L.
        ramp: How a level opens.

    Example:
        >>> level_weights(4, 0.25, 2)
        tensor([1.0000, 1.0000, 0.5000, 0.0000])
    """
    if not 1 <= start_levels <= num_levels:
        raise ValueError(f"start_levels: found {start_levels}, expected 1 to {num_levels}")
    if ramp not in ("linear", "cosine"):
        raise ValueError(f"ramp: found {ramp!r}, expected 'linear' or 'cosine'")
    opened = min(max(progress, 0.0), 1.0) * (num_levels - start_levels) + start_levels
    weights = (opened - torch.arange(num_levels)).clamp(0, 1)
    return weights if ramp == "linear" else (1 - torch.cos(torch.pi * weights)) / 2


class LevelSchedule(nn.Module):
    """Multiplies the channels of each level of a hash grid by a weight that follows the training step.

    The weights are a buffer: a checkpoint holds them, so that a field is evaluated as it was last trained.

    Args:
        end_step: From this step on all levels are open.
        start_levels: Levels open at the start.
        ramp: ``linear`` or ``cosine``.
        num_levels: L; must be the grid's.
        features_per_level: F.
    """

    weights: Tensor

    def __init__(
        self,
        *,
        end_step: int,
        num_levels: int,
        start_levels: int = 4,
        features_per_level: int = 2,
        ramp: LevelRamp = "linear",
    ) -> None:
        super().__init__()
        if end_step < 1:
            raise ValueError(f"end_step: found {end_step}, expected at least 1")
        self.end_step, self.start_levels, self.num_levels = end_step, start_levels, num_levels
        self.features_per_level = features_per_level
        self.ramp: LevelRamp = ramp
        self.register_buffer("weights", level_weights(num_levels, 0.0, start_levels, ramp))

    @property
    def width(self) -> int:
        """L F, the width of the encoding."""
        return self.num_levels * self.features_per_level

    def set_step(self, step: int) -> None:
        """Bring the weights to the optimizer step ``step``."""
        weights = level_weights(self.num_levels, step / self.end_step, self.start_levels, self.ramp)
        self.weights.copy_(weights)

    def forward(self, features: Tensor) -> Tensor:
        """Weighted features ``(N, L F)``, level by level."""
        return features * self.weights.repeat_interleave(self.features_per_level).to(features.dtype)
