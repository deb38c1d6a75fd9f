"""Golden cases of the hash grids of three conventions, spherical harmonics, and a field of tiny-cuda-nn networks."""

from __future__ import annotations

import math
import re

import pytest
import torch

from tests.parity.cases import Case, assert_close, assert_close_to_peak, dispatch, find_cases, require_keys
from zoo.models.layers.encodings import DirectionEncoding
from zoo.models.layers.hash_grid import HashGrid
from zoo.models.layers.mlp import MLP
from zoo.models.tcnn_parameters import (
    join_network_parameters,
    network_parameter_count,
    pad_width,
    split_network_parameters,
    table_from_parameters,
)
from zoo.ops import HashGridLayout, hash_encode, spherical_harmonics, use_backend

BACKENDS = ("native", "reference")


def bound(case: Case, *keys: str, exact: bool = False) -> float:
    """The number in the first of the named tolerances that is there; the smaller one where sizes are exact."""
    tolerance = case.meta["tolerance"]
    text = next(tolerance[key] for key in keys if key in tolerance)
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?e-?\d+|\d+\.\d+", text)]
    return min(numbers) if exact else numbers[0]


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def tcnn_layout(config: dict) -> HashGridLayout:
    """The layout of tiny-cuda-nn's own configuration keys, its defaults included."""
    grid_types = {"HashGrid": "hash", "TiledGrid": "tiled", "DenseGrid": "dense"}
    features = config.get("n_features_per_level", 2)
    return HashGridLayout.build(
        num_dims=config.get("n_input_dims", 3),
        num_levels=config["n_features"] // features if "n_features" in config else config.get("n_levels", 16),
        features_per_level=features,
        log2_table_size=config.get("log2_hashmap_size", 19),
        base_resolution=config.get("base_resolution", 16),
        per_level_scale=config.get("per_level_scale", 2.0),
        grid_type=grid_types.get(config.get("otype", "Grid"), config.get("type", "Hash").lower()),
        interpolation=config.get("interpolation", "Linear").lower(),
        hash_name=snake(config.get("hash", "CoherentPrime")),
    )


def torch_ngp_layout(config: dict) -> HashGridLayout:
    levels, base = config["num_levels"], config["base_resolution"]
    scale = config.get("per_level_scale")
    if scale is None:
        scale = 2.0 ** (math.log2(config["desired_resolution"] / base) / (levels - 1))
    return HashGridLayout.build(
        num_dims=config.get("input_dim", 3),
        num_levels=levels,
        features_per_level=config.get("level_dim", 2),
        log2_table_size=config["log2_hashmap_size"],
        base_resolution=base,
        per_level_scale=scale,
        grid_type=config.get("gridtype", "hash"),
        interpolation=config.get("interpolation", "linear"),
        align_corners=config.get("align_corners", False),
        convention="torch_ngp",
    )


def nerfstudio_layout(config: dict) -> HashGridLayout:
    levels = config["num_levels"]
    growth = math.exp((math.log(config["max_res"]) - math.log(config["min_res"])) / max(levels - 1, 1))
    return HashGridLayout.build(
        num_levels=levels,
        features_per_level=config.get("features_per_level", 2),
        log2_table_size=config["log2_hashmap_size"],
        base_resolution=config["min_res"],
        per_level_scale=growth,
        convention="nerfstudio",
    )


def check_grid(case: Case, layout: HashGridLayout, table_key: str) -> None:
    """Outputs and both gradients on both back-ends, through the module that loads upstream's keys."""
    require_keys(case, [f"state/{table_key}", "input/x", "input/grad_out", "output/enc", f"grad/{table_key}", "grad/x"])
    grid = HashGrid(layout)
    state = {key: value for key, value in case.group("state").items() if key in (table_key, "offsets")}
    grid.load_state_dict(state, strict=True)
    exact = layout.convention == "tcnn"
    for backend in BACKENDS:
        with use_backend(backend):
            x, table = case["input/x"].clone().requires_grad_(), grid.table.detach().clone().requires_grad_()
            encoded = hash_encode(x, table, layout)
            encoded.backward(case["input/grad_out"])
            assert_close(encoded, case["output/enc"], atol=bound(case, "output", exact=exact), what=f"{backend} enc")
            expected = case[f"grad/{table_key}"].view(table.shape)
            assert_close(
                table.grad, expected, atol=bound(case, f"grad_{table_key}", "grad_params"), what=f"{backend} grad table"
            )
            assert_close_to_peak(x.grad, case["grad/x"], rtol=bound(case, "grad_x"), what=f"{backend} grad x")
            check_borders(case, layout, table.detach(), backend)


def check_borders(case: Case, layout: HashGridLayout, table: torch.Tensor, backend: str) -> None:
    """Boundary points, and those outside of the unit cube."""
    atol = bound(case, "x_edge", "output")
    for name in ("edge", "oob"):
        if f"input/x_{name}" not in case:
            continue
        x = case[f"input/x_{name}"].clone().requires_grad_()
        encoded = hash_encode(x, table, layout)
        assert_close(encoded, case[f"output/enc_{name}"], atol=atol, what=f"{backend} {name}")
        if f"grad/x_{name}" in case:
            encoded.sum().backward()
            rtol = bound(case, "grad_x")
            assert_close_to_peak(x.grad, case[f"grad/x_{name}"], rtol=rtol, what=f"{backend} grad x {name}")


def tcnn(case: Case) -> None:
    layout = tcnn_layout(case.config)
    for level, scale in zip(layout.levels, case["state/scale"].tolist(), strict=True):
        assert level.scale == scale
    assert [level.resolution for level in layout.levels] == case["state/resolution"].tolist()
    assert list(layout.offsets) == case["state/offset"].tolist()
    check_grid(case, layout, "params")


def torch_ngp(case: Case) -> None:
    layout = torch_ngp_layout(case.config)
    assert list(layout.offsets) == case["state/offsets"].tolist()
    assert_close(layout.scale_table, case["state/scale"], rtol=2e-7, what="scale")
    check_grid(case, layout, "embeddings")


def nerfstudio(case: Case) -> None:
    layout = nerfstudio_layout(case.config)
    assert layout.scale_table.tolist() == case["state/scalings"].tolist()
    check_grid(case, layout, "hash_table")


def harmonics(case: Case) -> None:
    degree = case.config["degree"]
    assert case.config.get("n_output", degree**2) == degree**2
    for backend in BACKENDS:
        with use_backend(backend):
            directions = case["input/dirs"].clone().requires_grad_()
            values = spherical_harmonics(directions, degree)
            values.backward(case["input/grad_out"])
            assert_close(values, case["output/sh"], atol=bound(case, "output"), what=f"{backend} sh")
            assert_close(directions.grad, case["grad/dirs"], atol=bound(case, "grad"), what=f"{backend} grad")
            if "input/dirs_unnormalised" in case:
                raw = spherical_harmonics(case["input/dirs_unnormalised"], degree)
                expected = case["output/sh_unnormalised"]  # up to 20, where 1e-6 is half a unit in the last place
                rtol = 4 * torch.finfo(torch.float32).eps
                assert_close(raw, expected, atol=bound(case, "output"), rtol=rtol, what=f"{backend} raw")
            unit = DirectionEncoding(degree, unit_input=True)((case["input/dirs"] + 1) / 2)
            assert_close(unit, case["output/sh"], atol=bound(case, "output"), what=f"{backend} unit input")
            if "output/sh_nerfstudio" in case:
                signed = DirectionEncoding(degree, sign="nerfstudio")(case["input/dirs"])
                assert_close(signed, case["output/sh_nerfstudio"], atol=bound(case, "output"), what="nerfstudio sign")


def field_networks(config: dict, layout: HashGridLayout) -> tuple[dict, dict]:
    """The shapes of both networks of nerfacc's field."""
    base = {
        "in_dim": pad_width(layout.output_dim),
        "hidden_dim": config["n_neurons"],
        "num_hidden_layers": config["mlp_base_hidden_layers"],
        "out_dim": 1 + config["geo_feat_dim"],
    }
    head = {
        "in_dim": 16 + config["geo_feat_dim"],
        "hidden_dim": config["n_neurons"],
        "num_hidden_layers": config["mlp_head_hidden_layers"],
        "out_dim": 3,
    }
    return base, head


def run_layers(weights: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for weight in weights[:-1]:
        x = torch.relu(x @ weight.T)
    return x @ weights[-1].T


def with_constant(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """``x`` with the constant 1 that the first matrix may expect behind its inputs."""
    return torch.cat([x, x.new_ones(len(x), weight.shape[1] - x.shape[1])], dim=1)


def tcnn_field(case: Case) -> None:
    config = case.config
    layout = tcnn_layout({**config, "n_input_dims": 3})
    base_shape, head_shape = field_networks(config, layout)
    base, head = (case[f"state/mlp_{name}.params"].clone().requires_grad_() for name in ("base", "head"))
    aabb = torch.tensor(config["aabb"])
    unit = (case["input/positions"] - aabb[:3]) / (aabb[3:] - aabb[:3])
    inside = ((unit > 0) & (unit < 1)).all(dim=-1, keepdim=True)
    weights, rest = split_network_parameters(base, **base_shape, padding="zeros")
    encoded = hash_encode(unit, table_from_parameters(rest, layout), layout)
    padded = torch.nn.functional.pad(encoded, (0, base_shape["in_dim"] - layout.output_dim))
    decoded = run_layers(weights, padded)
    density, geometry = (decoded[:, :1] - 1).exp() * inside, decoded[:, 1:]
    weights, rest = split_network_parameters(head, **head_shape)
    assert len(rest) == 0
    features = torch.cat([spherical_harmonics(case["input/directions"], 4), geometry], dim=1)
    rgb = run_layers(weights, with_constant(features, weights[0])).sigmoid()

    atol, rtol = (float(number) for number in re.findall(r"[ar]tol (\S+?)(?:,|$)", case.meta["tolerance"]["fp32"]))
    assert_close(rgb, case["output/rgb"], atol=atol, what="rgb")
    assert_close(density, case["output/density"], rtol=rtol, what="density")
    assert_close(geometry, case["output/geo_feat"], atol=atol, what="geo_feat")
    checked = len(density) - 4  # the loss leaves out the rows outside of the box
    loss = 0.1 * (density * case["input/grad_density"])[:checked].sum() + (rgb * case["input/grad_rgb"]).sum()
    loss.backward()
    assert_close_to_peak(base.grad, case["grad/mlp_base.params"], rtol=rtol, what="grad base")
    assert_close_to_peak(head.grad, case["grad/mlp_head.params"], rtol=rtol, what="grad head")
    check_modules(case, layout, features.detach(), rgb.detach())


def check_modules(case: Case, layout: HashGridLayout, features: torch.Tensor, rgb: torch.Tensor) -> None:
    """The vectors go into the modules and come out again as they were."""
    base_shape, head_shape = field_networks(case.config, layout)
    flat = case["state/mlp_head.params"]
    assert len(flat) == network_parameter_count(**head_shape)
    weights, _ = split_network_parameters(flat, **head_shape)
    head = MLP(weights[0].shape[1], [head_shape["hidden_dim"]] * head_shape["num_hidden_layers"], 3, bias=False)
    head.load_weights(weights)
    assert_close(head(with_constant(features, weights[0])).sigmoid(), rgb, atol=1e-6, what="MLP")
    flat = case["state/mlp_base.params"]
    weights, rest = split_network_parameters(flat, **base_shape, padding="zeros")
    assert torch.equal(join_network_parameters(weights, encoding=rest), flat)


HANDLERS = {
    "tcnn": tcnn,
    "torchngp": torch_ngp,
    "nerfstudio": nerfstudio,
    "sh_": harmonics,
    "tcnn_ngp_field": tcnn_field,
}


@pytest.mark.parametrize("case", find_cases("hashgrid"))
def test_hashgrid(case):
    is_named = isinstance(case, Case) and case.stem.startswith(("sh_", "tcnn_ngp_field"))
    dispatch(case, HANDLERS, None if is_named or not isinstance(case, Case) else case.meta["variant"])
