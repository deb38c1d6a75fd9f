"""A learning rate that falls at shares of the run."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

__all__ = ["step_decay"]


def step_decay(
    optimizer: Optimizer, *, total_steps: int, shares: Sequence[float] = (0.6, 0.8), factor: float = 0.1
) -> MultiStepLR:
    """Multiplies the rate by ``factor`` after each of the given shares of ``total_steps``.

    Raises:
        ValueError: shares outside of (0, 1] or a run without steps.
    """
    if total_steps < 1 or not all(0 < share <= 1 for share in shares):
        raise ValueError(f"total_steps, shares: found {total_steps}, {list(shares)}, expected >= 1, shares in (0, 1]")
    return MultiStepLR(optimizer, milestones=[round(share * total_steps) for share in shares], gamma=factor)
