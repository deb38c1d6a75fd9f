"""How many rays a training step draws, so that the number of samples along them stays near a target."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RayBudget"]


class RayBudget(nn.Module):
    """Adapts the number of rays: ``rays <- clamp(rays * target / samples)`` after each step.

    Early on nearly all space is occupied and a ray has many samples; later a few. A constant number of samples makes a
    step cost the same throughout. The number is a buffer: checkpoints hold it, and a resumed run draws the same rays.
    All numbers are those of a step over all processes, which divide its rays among themselves.

    Args:
        target_samples: Samples of a step to aim at; None keeps ``initial_rays``.
        initial_rays: Rays of the first step.
        min_rays: Never fewer rays than this.
        max_rays: Never more rays than this.
        inertia: Share of the old number in the new one, in [0, 1).
    """

    num_rays: Tensor

    def __init__(
        self,
        *,
        target_samples: int | None = 1 << 18,
        initial_rays: int = 1024,
        min_rays: int = 64,
        max_rays: int = 1 << 16,
        inertia: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < min_rays <= initial_rays <= max_rays:
            raise ValueError(
                f"initial_rays: found {initial_rays}, expected min_rays={min_rays} to max_rays={max_rays}, all positive"
            )
        if not 0 <= inertia < 1:
            raise ValueError(f"inertia: found {inertia}, expected a number in [0, 1)")
        self.target_samples, self.min_rays, self.max_rays = target_samples, min_rays, max_rays
        self.inertia = inertia
        self.register_buffer("num_rays", torch.tensor(initial_rays))

    def update(self, num_samples: int) -> None:
        """Learn from a step that had ``num_samples`` samples along its ``num_rays`` rays."""
        if self.target_samples is None:
            return
        rays = int(self.num_rays)
        wanted = rays * self.target_samples / max(num_samples, 1)
        blended = self.inertia * rays + (1 - self.inertia) * min(wanted, float(self.max_rays))
        self.num_rays.fill_(min(max(round(blended), self.min_rays), self.max_rays))
