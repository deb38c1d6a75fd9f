"""Rows of Gaussians whose number changes in training, and what an optimiser remembers about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PARAMETER_NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")


class GaussianRows(Mapping[str, Tensor]):
    """Tensors with one row for each Gaussian, by name.

    Args:
        values: ``name -> (N, ...)``, all with the same N.

    Raises:
        ValueError: Numbers of rows that differ.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        counts = {name: len(value) for name, value in values.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"values: found numbers of rows {counts}, expected the same for all")
        self._values = dict(values)

    def __getitem__(self, name: str) -> Tensor:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        """The number of Gaussians."""
        return len(next(iter(self._values.values()))) if self._values else 0

    def select(self, rows: Tensor) -> GaussianRows:
        """The rows that a mask or an index names."""
        return GaussianRows({name: value[rows] for name, value in self._values.items()})


@dataclass
class RowChange:
    """New rows, and the old row that each of them comes from.

    Args:
        rows: The new rows.
        source: ``(M,)`` int64, the old row of each.
        is_new: ``(M,)`` bool, rows that did not exist before: what an optimiser remembers of them is zero.
    """

    rows: GaussianRows
    source: Tensor
    is_new: Tensor

    def carry(self, values: Mapping[str, Tensor], *, inherit: bool = False) -> dict[str, Tensor]:
        """Per-row values of the old rows for the new ones: zero for new rows, or their source's with ``inherit``."""
        carried = {}
        for name, value in values.items():
            taken = value[self.source]
            if not inherit:
                taken[self.is_new] = 0
            carried[name] = taken
        return carried

    def without(self, dropped: Tensor) -> RowChange:
        """The change followed by the removal of some of the new rows ``(M,)`` bool."""
        return RowChange(self.rows.select(~dropped), self.source[~dropped], self.is_new[~dropped])


def replace_rows(parameters: nn.ParameterDict, change: RowChange, optimizers: list[torch.optim.Optimizer]) -> None:
    """Put new rows in the place of a model's parameters, and carry the optimisers' states over.

    Every state tensor that has a row for each Gaussian follows its row; those of new rows are zero; counters stay.
    """
    moved: dict[nn.Parameter, nn.Parameter] = {}
    for name in list(parameters):
        old = parameters[name]
        assert isinstance(old, nn.Parameter)
        fresh = nn.Parameter(change.rows[name].detach().clone(), requires_grad=old.requires_grad)
        parameters[name] = fresh
        moved[old] = fresh
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [moved.get(parameter, parameter) for parameter in group["params"]]
        for old, fresh in moved.items():
            if old not in optimizer.state:
                continue
            state = optimizer.state.pop(old)
            rows = {k: v for k, v in state.items() if isinstance(v, Tensor) and v.dim() and v.shape == old.shape}
            optimizer.state[fresh] = {**state, **change.carry(rows)}


def zero_moments(parameter: nn.Parameter, optimizers: list[torch.optim.Optimizer]) -> None:
    """Let the optimisers forget what they know about a parameter, but not how many steps they made."""
    for optimizer in optimizers:
        for value in optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.dim():
                value.zero_()
