"""The one-cycle schedule against the figures of the reference implementation."""

from __future__ import annotations

import pytest
import torch

from zoo.tasks.one_cycle import OneCycle

# total steps 100, LR 3e-3, div 100, pct_start 0.1: step, learning rate, first beta
REFERENCE = [
    (0, 3.0e-5, 0.95),
    (5, 1.515e-3, 0.90),
    (10, 3e-3, 0.85),
    (50, 1.76047e-3, 0.891318),
    (99, 9.1676e-7, 0.949970),
]


def test_reference_values() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-3, betas=(0.9, 0.99))
    schedule = OneCycle(optimizer, total_steps=100, pct_start=0.1, div=100.0)
    found = {}
    for step in range(100):
        found[step] = (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"])
        optimizer.step()
        schedule.step()
    for step, rate, beta in REFERENCE:
        assert found[step][0] == pytest.approx(rate, rel=1e-4)
        assert found[step][1] == pytest.approx((beta, 0.99), rel=1e-5)


def test_a_restored_schedule_goes_on() -> None:
    def make() -> tuple[torch.optim.Optimizer, OneCycle]:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=3e-3)
        return optimizer, OneCycle(optimizer, total_steps=20)

    first, schedule = make()
    for _ in range(7):
        first.step()
        schedule.step()
    second, restored = make()
    second.load_state_dict(first.state_dict())
    restored.load_state_dict(schedule.state_dict())
    for optimizer, stepped in ((first, schedule), (second, restored)):
        optimizer.step()
        stepped.step()
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"]
    assert first.param_groups[0]["betas"] == second.param_groups[0]["betas"]


def test_arguments() -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="total_steps, pct_start, div, momentums: found 0"):
        OneCycle(optimizer, total_steps=0)
