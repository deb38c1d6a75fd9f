"""The one-cycle schedule of detection recipes: learning rate up and down again, Adam's first beta down and up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["OneCycle"]


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1.0 + math.cos(math.pi * share))


class OneCycle(LRScheduler):
    """Cosine from ``lr / div`` to ``lr`` over the first ``pct_start`` of the steps, then to ``lr / div / 1e4``.

    Adam's first beta goes from ``momentums[0]`` to ``momentums[1]`` and back along the same curves. ``lr`` is that of
    each parameter group. Stepped once after each optimizer step.

    Args:
        optimizer: Adam or AdamW.
        total_steps: of the run.
        pct_start: share of the steps in which the rate rises.
        div: by how much the rate starts lower.
        momentums: first beta at the ends and at the peak.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        pct_start: float = 0.4,
        div: float = 10.0,
        momentums: Sequence[float] = (0.95, 0.85),
    ) -> None:
        if total_steps < 1 or not 0 <= pct_start <= 1 or div < 1 or len(momentums) != 2:
            raise ValueError(
                f"total_steps, pct_start, div, momentums: found {total_steps}, {pct_start}, {div}, {list(momentums)}; "
                "expected at least 1, a share, at least 1, and two numbers"
            )
        self.total_steps, self.turn, self.div = total_steps, int(pct_start * total_steps), div
        self.momentums = tuple(momentums)
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Any]:
        """Rates of the groups at this step; sets their betas as well."""
        step = min(self.last_epoch, self.total_steps)
        high, low = self.momentums
        if step < self.turn:
            share = step / self.turn
            factor, beta = _cosine(1.0 / self.div, 1.0, share), _cosine(high, low, share)
        else:
            share = (step - self.turn) / max(1, self.total_steps - self.turn)
            factor, beta = _cosine(1.0, 1.0 / self.div / 1e4, share), _cosine(low, high, share)
        for group in self.optimizer.param_groups:
            group["betas"] = (beta, group["betas"][1])
        return [base * factor for base in self.base_lrs]
