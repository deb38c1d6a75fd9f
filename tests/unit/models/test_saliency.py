"""Saliency grid, density gate and pruner by their definitions."""

from __future__ import annotations

import pytest
import torch

from zoo.models.saliency import DensityGate, SaliencyGrid, SaliencyPruner, density_gate


def filled_grid(resolution: int = 5, *, align_corners: bool = True) -> SaliencyGrid:
    grid = SaliencyGrid(resolution=resolution, align_corners=align_corners)
    torch.manual_seed(3)
    torch.nn.init.normal_(grid.values)
    return grid


def test_a_new_grid_is_open_everywhere() -> None:
    saliency = SaliencyGrid(resolution=4)(torch.rand(50, 3))
    torch.testing.assert_close(saliency, torch.full((50,), 0.7310586))


@pytest.mark.parametrize("align_corners", [True, False])
def test_vertices_return_their_own_value(align_corners: bool) -> None:
    grid = filled_grid(align_corners=align_corners)
    index = torch.cartesian_prod(*[torch.arange(5)] * 3)
    unit = index / 4 if align_corners else (index + 0.5) / 5
    expected = grid.values[index[:, 0], index[:, 1], index[:, 2]].sigmoid()
    torch.testing.assert_close(grid(unit), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
def test_interpolation_against_brute_force(align_corners: bool) -> None:
    grid = filled_grid(align_corners=align_corners)
    unit = torch.rand(40, 3, generator=torch.Generator().manual_seed(0))
    for point, found in zip(unit, grid(unit), strict=True):
        sites = (point * 4 if align_corners else point * 5 - 0.5).clamp(0, 4).double()
        raw = 0.0
        for i in range(5):
            for j in range(5):
                for k in range(5):
                    weight = (1 - (sites - torch.tensor([i, j, k])).abs()).clamp(min=0).prod()
                    raw += float(weight * grid.values[i, j, k].detach())
        assert float(found) == pytest.approx(torch.tensor(raw).sigmoid().item(), abs=1e-5)


def test_no_points_and_points_outside() -> None:
    grid = filled_grid()
    assert grid(torch.empty(0, 3)).shape == (0,)
    outside, border = torch.tensor([[-3.0, 0.5, 7.0]]), torch.tensor([[0.0, 0.5, 1.0]])
    torch.testing.assert_close(grid(outside), grid(border))


def test_gate_and_its_gradient_are_zero_at_zero() -> None:
    weighted = torch.zeros(3, 8, requires_grad=True)
    gate = density_gate(weighted, 1e5)
    gate.sum().backward()
    assert weighted.grad is not None
    assert float(gate.detach().abs().max()) == 0.0
    assert float(weighted.grad.abs().max()) == 0.0


def test_gate_gradient_against_finite_differences() -> None:
    weighted = (
        1e-5 * torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: density_gate(v, 1e4), (weighted,), eps=1e-9, atol=1e-2)


def test_gate_stays_in_float32_under_autocast() -> None:
    weighted = torch.full((2, 8), 3e-6, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gate = density_gate(weighted, 1e5)
    assert gate.dtype == torch.float32
    assert float(gate[0]) == pytest.approx(torch.tanh(1e5 * weighted[0].float().norm()).item(), rel=1e-4)


def test_gate_schedule_switches_at_its_step() -> None:
    gate = DensityGate(soft=10.0, hard=100.0, switch_step=5)
    seen = []
    for step in (0, 4, 5, 9):
        gate.set_step(step)
        seen.append(float(gate.alpha))
    assert seen == [10.0, 10.0, 100.0, 100.0]


def test_open_cells_are_those_with_a_vertex_above() -> None:
    grid = SaliencyGrid(resolution=4)
    with torch.no_grad():
        grid.values.fill_(-20.0)
        grid.values[0, 0, 0] = 0.0
        grid.values[2, 2, 2] = 0.0
    cells = grid.find_open_cells()
    expected = torch.zeros(3, 3, 3, dtype=torch.bool)
    expected[0, 0, 0] = True
    expected[1:3, 1:3, 1:3] = True
    assert torch.equal(cells, expected)


def test_closed_cells_are_exactly_zero_and_survive_a_checkpoint() -> None:
    grid = filled_grid()
    cells = torch.zeros(4, 4, 4, dtype=torch.bool)
    cells[1, 2, 3] = True
    before = grid(torch.tensor([[0.3, 0.6, 0.9]]))
    grid.close_cells(cells)
    restored = SaliencyGrid(resolution=5)
    restored.load_state_dict(grid.state_dict(), strict=True)
    for field in (grid, restored):
        torch.testing.assert_close(field(torch.tensor([[0.3, 0.6, 0.9]])), before)
        assert float(field(torch.tensor([[0.1, 0.6, 0.9]]))) == 0.0
    with pytest.raises(ValueError, match="open_cells: found"):
        grid.close_cells(torch.zeros(5, 5, 5, dtype=torch.bool))


def test_pruner_waits_for_its_warm_up_and_never_turns_negative() -> None:
    grid = SaliencyGrid(resolution=4)
    pruner = SaliencyPruner(target=0.04, rho=0.5, warmup_steps=2)
    pruner.update(grid, 1)
    assert float(pruner.penalty(grid, 1)) == 0.0
    assert float(pruner.gamma) == 0.0
    pruner.update(grid, 2)
    assert float(pruner.gamma) == pytest.approx(0.5 * (0.7310586 - 0.04))
    with torch.no_grad():
        grid.values.fill_(-30.0)
    for _ in range(20):
        pruner.update(grid, 3)
    assert float(pruner.gamma) == 0.0


def test_sum_reduction_counts_every_vertex() -> None:
    grid = SaliencyGrid(resolution=4)
    assert float(SaliencyPruner(reduction="sum").norm(grid)) == pytest.approx(64 * 0.7310586, rel=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SaliencyGrid(resolution=1), "resolution: found 1"),
        (lambda: DensityGate(soft=2.0, hard=1.0), "soft, hard: found 2.0, 1.0"),
        (lambda: SaliencyPruner(rho=-1.0), "target, rho, gamma0: found"),
        (lambda: SaliencyPruner(reduction="median"), "reduction: found 'median'"),
    ],
)
def test_bad_arguments_are_named(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
