"""Losses of which the average over processes is the loss of one process with all rows, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.process_threads import run_processes
from zoo.losses.center_heatmap import center_focal_loss
from zoo.losses.classification import cross_entropy
from zoo.losses.lovasz import lovasz_softmax
from zoo.losses.photometric import photometric_loss

ROWS, KINDS = 12, 4
SIZES = {"uneven": (7, 2, 3), "one without rows": (9, 0, 3)}
WEIGHTS = torch.tensor([0.01, 0.02, 0.3, 0.001], dtype=torch.float64)  # sums below 1 are divided by as well


def labels() -> Tensor:
    target = torch.arange(ROWS) % KINDS
    target[8:10] = -1  # with the sizes above, a process may have rows and no label
    target[1] = -1
    return target


def heat() -> Tensor:
    target = torch.rand(ROWS, KINDS, dtype=torch.float64) * 0.9
    target[0, 1] = target[2, 3] = target[11, 0] = 1.0
    return target


LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[[], Tensor]]] = {
    "cross entropy": (cross_entropy, labels),
    "weighted": (lambda *rows, **how: cross_entropy(*rows, class_weights=WEIGHTS, **how), labels),
    "smoothed": (lambda *rows, **how: cross_entropy(*rows, class_weights=WEIGHTS, label_smoothing=0.2, **how), labels),
    "lovasz": (lovasz_softmax, labels),
    "heat-map": (center_focal_loss, heat),
    "squares": (photometric_loss, heat),
    "huber": (lambda *rows, **how: photometric_loss(*rows, "huber", 0.3, **how), heat),
    "smooth l1": (lambda *rows, **how: photometric_loss(*rows, "smooth_l1", 0.3, **how), heat),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("name", LOSSES)
def test_the_average_is_the_loss_of_all_rows(
    name: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    loss_of, make_target = LOSSES[name]
    target = make_target()
    x = torch.randn(ROWS, KINDS, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    expected = loss_of(x, target)
    expected.backward()
    parts = list(zip(x.detach().split(sizes), target.split(sizes), strict=True))

    def work(rank: int) -> tuple[Tensor, Tensor]:
        own = parts[rank][0].clone().requires_grad_()
        loss = loss_of(own, parts[rank][1], over_processes=True)
        loss.backward()
        assert own.grad is not None
        return loss.detach().double(), own.grad

    losses, grads = zip(*run_processes(monkeypatch, 3, work), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), expected.detach().double(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.cat(grads) / 3, x.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["cross entropy", "weighted", "lovasz"])
def test_nothing_anywhere_is_zero(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_of, _ = LOSSES[name]
    nothing = torch.full((2,), -1)
    for loss in run_processes(
        monkeypatch, 2, lambda _: loss_of(torch.zeros(2, KINDS).double(), nothing, over_processes=True)
    ):
        assert float(loss) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_alone_nothing_changes(name: str) -> None:
    loss_of, make_target = LOSSES[name]
    x, target = torch.randn(ROWS, KINDS).double(), make_target()
    torch.testing.assert_close(loss_of(x, target, over_processes=True), loss_of(x, target), rtol=1e-6, atol=0)
