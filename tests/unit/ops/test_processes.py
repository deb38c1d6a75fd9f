"""Collectives: sums, gathered rows and shared denominators, with the gradients that averaging them has to give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.process_threads import run_processes
from zoo.ops.processes import (
    gather_over_processes,
    gather_rows,
    num_processes,
    shared_count,
    sum_over_processes,
    zero_of,
)

SHARES = ([0, 1, 2, 3, 4], [], [5, 6])  # rows of three processes


def test_alone_each_is_the_identity() -> None:
    x = torch.randn(3, 2)
    assert num_processes() == 1
    assert torch.equal(sum_over_processes(x), x)
    assert torch.equal(gather_over_processes(x), x[None])
    assert torch.equal(gather_rows(x), x)
    assert [float(shared_count(count)) for count in (0, 1, 7)] == [1, 1, 7]
    assert float(shared_count(torch.tensor(0.0), least=0.25)) == 0.25


def test_shared_count_makes_the_average_a_mean_over_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.rand(7, dtype=torch.float64)
    parts = run_processes(monkeypatch, 3, lambda rank: values[SHARES[rank]].sum() / shared_count(len(SHARES[rank])))
    assert float(torch.stack(parts).mean()) == pytest.approx(float(values.mean()), rel=1e-7)
    assert [float(x) for x in run_processes(monkeypatch, 2, lambda _: shared_count(0))] == [0.5, 0.5]


def test_gathered_rows_have_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)

    def loss_of(x: Tensor) -> Tensor:
        return (x.sum(0) ** 3).sum() + x.prod(1).sum() ** 2

    loss_of(rows).backward()

    def work(rank: int) -> tuple[Tensor, Tensor]:
        own = rows.detach()[SHARES[rank]].requires_grad_()
        loss = loss_of(gather_rows(own))
        loss.backward()
        assert own.grad is not None
        return loss.detach(), own.grad / 3  # averaged, as DDP does

    losses, grads = zip(*run_processes(monkeypatch, 3, work), strict=True)
    assert rows.grad is not None
    torch.testing.assert_close(torch.cat(grads), rows.grad)
    torch.testing.assert_close(torch.stack(losses), loss_of(rows.detach()).expand(3))


def test_a_missing_process_is_an_error_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(rank: int) -> None:
        if rank == 1:
            raise KeyError("gone")
        sum_over_processes(torch.ones(1))

    with pytest.raises(KeyError, match="gone"):
        run_processes(monkeypatch, 2, work)


def test_zero_reaches_every_parameter() -> None:
    used, frozen = torch.ones(2, requires_grad=True), torch.ones(2)
    zero = zero_of([used, frozen])
    zero.backward()
    assert float(zero.detach()) == 0
    assert used.grad is not None
    assert torch.equal(used.grad, torch.zeros(2))
