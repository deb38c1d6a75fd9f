"""HollowNeRF's parts against golden values of the paper's formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.parity.cases import Case, assert_close, assert_close_to_peak, dispatch, find_cases
from zoo.models.hollownerf import HollowNeRF, remap_upstream
from zoo.models.saliency import DensityGate, SaliencyGrid, SaliencyPruner


def check_saliency_gate(case: Case) -> None:
    """Saliency, weighted features, gate, gated density and the gradients to the grid, the features and the decoder."""
    config = case.config
    grid = SaliencyGrid(resolution=config["T"])
    grid.load_state_dict({"values": case["state/saliency_grid"]}, strict=True)
    gate = DensityGate(soft=config["alpha"], hard=config["alpha"])
    features = case["input/features"].clone().requires_grad_()
    first, second = (nn.Parameter(case[f"state/{name}"].clone()) for name in ("w1", "w2"))

    saliency = grid(case["input/u"])
    weighted = saliency[:, None] * features
    opened = gate(weighted)
    decoded = (weighted @ first.T).relu() @ second.T
    density, geometry = opened * decoded[:, 0].exp(), decoded[:, 1:]
    outputs = {"saliency": saliency, "weighted": weighted, "gate": opened, "sigma": density, "geo": geometry}
    for name, value in outputs.items():
        assert_close(value, case[f"output/{name}"], rtol=1e-4, atol=1e-5, what=name)

    ((density * case["input/grad_sigma"]).sum() + (geometry * case["input/grad_geo"]).sum()).backward()
    for name, parameter in {"saliency_grid": grid.values, "features": features, "w1": first, "w2": second}.items():
        assert parameter.grad is not None
        assert_close_to_peak(parameter.grad, case[f"grad/{name}"], rtol=1e-3, what=f"grad/{name}")


def check_admm_sequence(case: Case) -> None:
    """The multiplier's whole sequence under plain gradient descent."""
    config = case.config
    grid = SaliencyGrid(resolution=config["T"])
    grid.load_state_dict({"values": case["input/saliency_grid0"]}, strict=True)
    pruner = SaliencyPruner(target=config["C"], rho=config["rho"], gamma0=config["gamma0"])
    history = []
    for step in range(config["steps"]):
        data = (case["input/target"] * (grid.values.sigmoid() - 1).square()).mean()
        penalty = pruner.penalty(grid, step)
        history.append(torch.stack([pruner.norm(grid), penalty, pruner.gamma.clone(), data]).detach())
        (slope,) = torch.autograd.grad(data + penalty, grid.values)
        if step == 0:
            assert_close(slope, case["output/grad_step0"], rtol=1e-4, what="grad_step0")
        with torch.no_grad():
            grid.values -= config["lr"] * slope
        pruner.update(grid, step)
    assert_close(torch.stack(history), case["output/history"], rtol=1e-4, atol=1e-9, what="history")
    assert_close(grid.values, case["output/saliency_grid_final"], rtol=1e-4, what="saliency_grid_final")
    assert_close(pruner.gamma.reshape(1), case["output/gamma_final"], rtol=1e-4, what="gamma_final")


HANDLERS = {"saliency_gate": check_saliency_gate, "admm_sequence": check_admm_sequence}


@pytest.mark.parametrize("case", find_cases("hollownerf"))
def test_golden_case(case: Case) -> None:
    dispatch(case, HANDLERS)


TCNN_FIELDS = [case for case in find_cases("hashgrid") if case.id.startswith(("tcnn_ngp_field", "absent", "empty"))]


@pytest.mark.parametrize("case", TCNN_FIELDS)
def test_field_of_nerfacc(case: Case) -> None:
    """The whole ungated field from a checkpoint in nerfacc's and tiny-cuda-nn's layout."""
    config = case.config
    field = HollowNeRF(
        aabb=config["aabb"],
        num_levels=config["n_levels"],
        features_per_level=config["n_features_per_level"],
        log2_table_size=config["log2_hashmap_size"],
        base_resolution=config["base_resolution"],
        per_level_scale=config["per_level_scale"],
        convention="tcnn",
        hidden_dim=config["n_neurons"],
        geometry_dim=config["geo_feat_dim"],
        density_layers=config["mlp_base_hidden_layers"],
        color_layers=config["mlp_head_hidden_layers"],
        density_offset=-1.0,
        constant_color_input=True,
    )
    field.load_state_dict(remap_upstream(case.group("state"), field), strict=True)
    with torch.no_grad():
        output = field(case["input/positions"], case["input/directions"])
    assert_close(output.density[:, None], case["output/density"], rtol=1e-3, what="density")
    assert_close(output.rgb, case["output/rgb"], atol=2e-4, what="rgb")
