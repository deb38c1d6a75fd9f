"""GridPull's field, losses, gradients, band and steps against golden values of the upstream code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.parity.cases import Case, assert_close, dispatch, find_cases, require_keys, sort_rows
from zoo.losses.pulling import band_edges, continuity_loss, normal_consistency_loss, pull_loss, surface_loss
from zoo.models.gridpull import DistanceGrid, FieldSample, band_cells, pull


def _losses(
    case: Case, field: DistanceGrid, queries: Tensor, targets: Tensor
) -> tuple[dict[str, Tensor], FieldSample, FieldSample]:
    """The weighted terms under upstream's names, and the field at queries and targets."""
    weights, shape = case.config["weights"], (field.resolution,) * 3
    edges = band_edges(case["input/smooth_index"], case["input/smooth_weight"], shape)
    at_queries, at_targets = field(queries), field(targets)
    terms = {
        "l2_loss": weights["pull"] * pull_loss(queries, targets, pull(queries, at_queries)),
        "vox_loss": weights["smooth"] * continuity_loss(field.values, edges),
        "sdf_loss": weights["surface"] * surface_loss(at_targets.value),
        "grad_loss": weights["normal"] * normal_consistency_loss(at_queries.normal, at_targets.normal),
    }
    return terms, at_queries, at_targets


def check_pull(case: Case) -> None:
    """Value, gradient, pulled points, every loss, gradients to the grid, and 30 steps of Adam."""
    field = DistanceGrid(resolution=case.config["size"])
    with torch.no_grad():
        field.values.copy_(case["input/grid"])
    queries, targets = case["input/queries"], case["input/targets"]
    terms, at_queries, at_targets = _losses(case, field, queries, targets)
    total = torch.stack(list(terms.values())).sum()
    tolerance = case.meta["tolerance"]
    outputs = {
        "value": at_queries.value,
        "gradient_voxel_units": at_queries.gradient,
        "gradient_unit": at_queries.normal,
        "pulled": pull(queries, at_queries),
        "distance_weight": (queries - targets).norm(dim=-1).exp(),
        "value_at_target": at_targets.value,
        "gradient_unit_at_target": at_targets.normal,
        "loss": total.reshape(1),
        **{name: term.reshape(1) for name, term in terms.items()},
    }
    require_keys(case, [f"output/{name}" for name in outputs])
    for name, value in outputs.items():
        assert_close(value, case[f"output/{name}"], **tolerance["value"], what=name)
    (pull_only,) = torch.autograd.grad(
        terms["l2_loss"] / case.config["weights"]["pull"], field.values, retain_graph=True
    )
    assert_close(pull_only, case["grad/grid_pull_only"], **tolerance["grad"], what="grad/grid_pull_only")
    (whole,) = torch.autograd.grad(total, field.values)
    assert_close(whole, case["grad/grid_total"], **tolerance["grad"], what="grad/grid_total")
    _check_steps(case, field)


def _check_steps(case: Case, field: DistanceGrid) -> None:
    config, tolerance = case.config, case.meta["tolerance"]
    optimizer = torch.optim.Adam(field.parameters(), lr=config["base_lr"], betas=(0.9, 0.999), eps=1e-8)
    losses, rates = [], []
    for step in range(config["traj_steps"]):
        rate = config["base_lr"] * config["lr_decay"] ** (50 * step // config["decay_every"])
        optimizer.param_groups[0]["lr"] = rate
        terms, *_ = _losses(case, field, case["input/traj_queries"][step], case["input/traj_targets"][step])
        loss = torch.stack(list(terms.values())).sum()
        losses.append(loss.detach())
        rates.append(rate)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_close(torch.tensor(rates), case["output/traj_lr"], rtol=1e-6, what="traj_lr")
    assert_close(torch.stack(losses), case["output/traj_loss"], **tolerance["traj_loss"], what="traj_loss")
    expected = case["output/traj_final_grid"]  # "compare loosely": 5 % of the mean
    assert bool(field.values.isfinite().all())
    assert (field.values - expected).abs().mean() <= 0.05 * expected.abs().mean()


def check_band_index(case: Case) -> None:
    """The cells of the band with their weights, and the start of the grid in upstream's units."""
    size, level = case.config["size"], case.config["level"]
    cells = DistanceGrid(resolution=size).to_cells(case["input/points"])
    assert_close(cells, case["output/voxel_coords"], atol=1e-5, what="voxel_coords")
    index, weight = band_cells(cells, size, level)
    order = sort_rows(case["output/index"])
    assert torch.equal(index, case["output/index"][order])
    assert torch.equal(weight, case["output/weight"][order])
    narrow, _ = band_cells(cells, size, 3)
    assert torch.equal(narrow, case["output/index_level3"][sort_rows(case["output/index_level3"])])
    for name, expected in case.group("output").items():
        if name.startswith("init_sphere"):
            radius, resolution = name.removeprefix("init_sphere_r").split("_size")
            start = DistanceGrid(resolution=int(resolution), radius=float(radius), start="upstream")
            assert_close(start.values, expected, rtol=1e-6, what=name)


HANDLERS = {"pull": check_pull, "band_index": check_band_index}


@pytest.mark.parametrize("case", find_cases("gridpull"))
def test_golden_case(case: Case) -> None:
    dispatch(case, HANDLERS)
