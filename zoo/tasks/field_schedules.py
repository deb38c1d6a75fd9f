"""Learning-rate schedules of radiance fields, stepped once after each optimizer step."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["exponential_decay", "multi_step_decay"]


def _warm_up(step: int, steps: int, start: float) -> float:
    """From ``start`` to 1 in ``steps`` steps, linearly."""
    return 1.0 if step >= steps else start + (1.0 - start) * step / steps


def exponential_decay(
    optimizer: Optimizer, *, total_steps: int, final: float = 0.1, warmup_steps: int = 0, warmup_start: float = 0.01
) -> LambdaLR:
    """``lr(k) = lr(0) final^(k / total_steps)``, after a linear warm-up (torch-ngp: ``final=0.1``, no warm-up)."""
    if total_steps < 1 or not 0 < final <= 1:
        raise ValueError(
            f"total_steps, final: found {total_steps}, {final}, expected at least 1 and a number in (0, 1]"
        )
    return LambdaLR(
        optimizer,
        lambda step: _warm_up(step, warmup_steps, warmup_start) * final ** (min(step, total_steps) / total_steps),
    )


def multi_step_decay(
    optimizer: Optimizer,
    *,
    total_steps: int,
    milestones: Sequence[float] = (0.5, 0.75, 0.9),
    factor: float = 0.33,
    warmup_steps: int = 100,
    warmup_start: float = 0.01,
) -> LambdaLR:
    """The rate shrinks by ``factor`` at each share of ``total_steps`` in ``milestones`` (nerfacc's NGP recipe)."""
    if total_steps < 1 or any(not 0 < share < 1 for share in milestones):
        raise ValueError(
            f"total_steps, milestones: found {total_steps}, {list(milestones)}, expected 1 or more, and (0, 1)"
        )
    at = [int(share * total_steps) for share in milestones]
    return LambdaLR(
        optimizer,
        lambda step: _warm_up(step, warmup_steps, warmup_start) * factor ** sum(step >= milestone for milestone in at),
    )
