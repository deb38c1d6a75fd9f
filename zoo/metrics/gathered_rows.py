"""States of metrics that grow by rows: a list of tensors in one process, one tensor once processes have met."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["enter_nothing", "join_rows", "split_rows"]


def enter_nothing(rows: list[Tensor], counts: list[Tensor], columns: int, device: torch.device) -> None:
    """No frame, in the shape and type of some: a process whose share of a set is fillers takes part in gathering."""
    rows.append(torch.zeros(0, columns, dtype=torch.float64, device=device))
    counts.append(torch.zeros(0, dtype=torch.int64, device=device))


def join_rows(state: list[Tensor] | Tensor, columns: int | None = None) -> Tensor:
    """The rows of a state as one tensor, ``(N, columns)``, or ``(N,)`` without ``columns``."""
    if isinstance(state, Tensor):
        return state
    if not state:
        return torch.zeros(0) if columns is None else torch.zeros(0, columns, dtype=torch.float64)
    return torch.cat(state)


def split_rows(rows: list[Tensor] | Tensor, counts: list[Tensor] | Tensor, columns: int) -> list[Tensor]:
    """The rows of each frame, on the CPU.

    Example:
        >>> [len(part) for part in split_rows([torch.zeros(3, 2)], [torch.tensor([1]), torch.tensor([2])], 2)]
        [1, 2]
    """
    return list(torch.split(join_rows(rows, columns).cpu(), join_rows(counts).long().tolist()))
