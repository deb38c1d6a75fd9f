"""The learning-rate schedule of Gaussians: that of the means falls, the others stay."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from zoo.models.gaussians.scene import GaussianLearningRates

__all__ = ["means_decay"]


def means_decay(optimizer: Optimizer, *, total_steps: int, final: float = 0.01) -> LambdaLR:
    """``lr(k) = lr(0) final^(k / total_steps)`` for the group that is named ``means`` (3DGS: 0.01 in 30,000 steps).

    Raises:
        ValueError: A number is out of range.
    """
    if total_steps < 1 or not 0 < final <= 1:
        raise ValueError(
            f"total_steps, final: found {total_steps}, {final}, expected at least 1 and a number in (0, 1]"
        )
    factor = GaussianLearningRates().means_factor
    falling = [group.get("name") == "means" for group in optimizer.param_groups]
    return LambdaLR(
        optimizer,
        [(lambda step: factor(step, total_steps, final)) if falls else (lambda step: 1.0) for falls in falling],
    )
