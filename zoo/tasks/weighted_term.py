"""A named part of a loss, with a weight and the steps in which it counts."""

from __future__ import annotations

from typing import Generic, TypeVar

from torch import Tensor

__all__ = ["WeightedTerm"]

Step = TypeVar("Step")


class WeightedTerm(Generic[Step]):
    """A weighted loss of what a step has rendered.

    Args:
        weight: Its weight.
        start: First step with it.
        end: First step without it; None: it stays.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, *, weight: float, start: int = 0, end: int | None = None) -> None:
        if weight < 0 or start < 0 or (end is not None and end <= start):
            raise ValueError(
                f"weight, start, end: found {weight}, {start}, {end}, expected weight >= 0, 0 <= start < end"
            )
        self.weight, self.start, self.end = weight, start, end

    def is_active(self, step: int) -> bool:
        """Whether the term counts at a step."""
        return self.weight > 0 and self.start <= step and (self.end is None or step < self.end)

    def __call__(self, rendered: Step) -> Tensor:
        """The weighted loss, a scalar."""
        return self.weight * self.loss(rendered)

    def loss(self, rendered: Step) -> Tensor:
        """The loss without its weight."""
        raise NotImplementedError
