"""Batch norms over the rows of all processes: values, gradients and running statistics of one process with all rows."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from tests.process_threads import run_processes
from zoo.models.layers.sparse_norm import RowBatchNorm
from zoo.models.layers.synchronized_norm import SynchronizableNorm, batch_moments, synchronize_norms


def norms(make: Callable[[], nn.Module]) -> tuple[nn.Module, list[nn.Module]]:
    """One norm with uneven parameters, and copies for three processes."""
    one = make().double()
    for parameter in one.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    return one, [synchronize_norms(deepcopy(one)) for _ in range(3)]


CASES = {
    "rows": (lambda: nn.BatchNorm1d(4), (7, 4)),
    "few rows": (lambda: RowBatchNorm(4, momentum=0.01, eps=1e-3), (7, 4)),
    "maps": (lambda: nn.BatchNorm2d(4), (7, 4, 3, 2)),
    "volumes": (lambda: nn.BatchNorm3d(4), (7, 4, 2, 1, 3)),
    "sequences": (lambda: nn.BatchNorm1d(4, momentum=None), (7, 4, 5)),
    "no parameters": (lambda: nn.BatchNorm1d(4, affine=False), (7, 4)),
    "no running statistics": (lambda: nn.BatchNorm1d(4, track_running_stats=False), (7, 4)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("sizes", [(4, 1, 2), (0, 7, 0)])
def test_three_processes_are_one(case: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    make, shape = CASES[case]
    one, shared = norms(make)
    x, target = torch.randn(shape, dtype=torch.float64) * 3 + 5, torch.randn(shape, dtype=torch.float64)
    x.requires_grad_()
    expected = one(x)
    (expected * target).sum().backward()
    xs, targets = x.detach().split(sizes), target.split(sizes)

    def work(rank: int) -> tuple[Tensor, Tensor]:
        own = xs[rank].clone().requires_grad_()
        out = shared[rank](own)
        (out * targets[rank]).sum().backward()
        assert own.grad is not None
        return out.detach(), own.grad

    outs, grads = zip(*run_processes(monkeypatch, 3, work), strict=True)
    torch.testing.assert_close(torch.cat(outs), expected.detach())
    torch.testing.assert_close(torch.cat(grads), x.grad)
    for name, parameter in one.named_parameters():
        parts = [norm.get_parameter(name).grad for norm in shared]
        torch.testing.assert_close(torch.stack([part for part in parts if part is not None]).sum(0), parameter.grad)
    for norm in shared:
        assert isinstance(norm, type(one))
        for name, value in one.state_dict().items():
            torch.testing.assert_close(norm.state_dict()[name], value)
        torch.testing.assert_close(norm.eval()(x), one.eval()(x))
        one.train()


def test_moments_far_from_zero_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(600, 2) + 20_000.0  # a sum of squares in float32 would lose the variance
    parts = x.split((500, 100))
    for count, mean, variance in run_processes(monkeypatch, 2, lambda rank: batch_moments(parts[rank])):
        assert count == 600
        torch.testing.assert_close(mean, x.double().mean(0).float())
        torch.testing.assert_close(variance.double(), x.double().var(0, unbiased=False), rtol=1e-4, atol=0)


def test_one_row_in_all_uses_running_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    _, shared = norms(lambda: RowBatchNorm(4))
    x = torch.randn(1, 4, dtype=torch.float64)
    outs = run_processes(monkeypatch, 3, lambda rank: shared[rank](x[: int(rank == 1)]))
    assert [len(out) for out in outs] == [0, 1, 0]
    torch.testing.assert_close(outs[1], shared[1].eval()(x))
    assert torch.equal(shared[1].state_dict()["running_mean"], torch.zeros(4, dtype=torch.float64))


def test_half_precision_is_counted_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = [synchronize_norms(nn.BatchNorm1d(2)) for _ in range(2)]
    x = torch.randn(2, 5, 2).bfloat16()
    outs = run_processes(monkeypatch, 2, lambda rank: norms[rank](x[rank]))
    expected = nn.BatchNorm1d(2)(x.flatten(0, 1).float()).bfloat16()
    assert torch.equal(torch.cat(outs), expected)


def test_alone_a_synchronised_norm_is_the_ordinary_one() -> None:
    one, shared = norms(lambda: nn.BatchNorm2d(4))
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert torch.equal(shared[0](x), one(x))


def test_norms_without_such_a_form_are_refused() -> None:
    class Odd(nn.BatchNorm1d):
        pass

    with pytest.raises(ValueError, match=r"1: found Odd.*SynchronizableNorm"):
        synchronize_norms(nn.Sequential(nn.Linear(2, 2), Odd(2)))
    assert not any(isinstance(module, SynchronizableNorm) for module in synchronize_norms(nn.Linear(2, 2)).modules())
