"""What a trainer of several processes is given: norms that count all rows, an error that names unused parameters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from zoo.models.layers.synchronized_norm import SynchronizableNorm
from zoo.training.processes import SynchronizedNorms, UnusedParameters


class Two(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(2, 1), nn.Linear(2, 1)
        self.frozen = nn.Linear(2, 1).requires_grad_(False)


def after_backward(strategy: Any) -> None:
    task = Two()
    task.used(torch.ones(1, 2)).sum().backward()
    UnusedParameters().on_after_backward(SimpleNamespace(strategy=strategy, global_step=3), task)  # pyright: ignore


def test_unused_parameters_are_named() -> None:
    with pytest.raises(RuntimeError, match=r"step 3: unused\.weight, unused\.bias got no gradient"):
        after_backward(DDPStrategy())


@pytest.mark.parametrize("strategy", [SingleDeviceStrategy("cpu"), DDPStrategy(find_unused_parameters=True)])
def test_where_they_do_no_harm_nothing_is_said(strategy: Any) -> None:
    after_backward(strategy)


def test_norms_are_synchronised_in_place() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    assert SynchronizedNorms().apply(model) is model
    assert isinstance(model[0], SynchronizableNorm)
    assert isinstance(model[0], nn.BatchNorm2d)
    assert SynchronizedNorms().revert(model) is model
