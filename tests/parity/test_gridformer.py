"""Golden cases of GridFormer: coordinates, attention, levels, whole networks, training steps, boundary sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.cases import Case, assert_close, dispatch, find_cases
from tests.parity.surface_cases import SURFACE_HANDLERS
from zoo.data.occupancy_boundary import boundary_flags
from zoo.losses.occupancy import margin_bce
from zoo.models.gridformer import GridFormer, remap_upstream
from zoo.models.gridformer.attention import PointGridLayer, PointValues, Projection
from zoo.models.gridformer.coordinates import (
    PLANES,
    crop_cell_index,
    divisible_resolution,
    flat_cell_index,
    lattice,
    normalize_in_crop,
    normalize_to_plane,
    normalize_to_volume,
)
from zoo.models.gridformer.planes import PlaneDown, PlaneUp
from zoo.models.gridformer.volume import VolumeDown, VolumeUp
from zoo.ops import sample_point_grid


def tolerance(case: Case) -> dict[str, float]:
    return {name: case.meta["tolerance"][name] for name in ("atol", "rtol")}


def projections_of(points: Tensor, planes: bool, padding: float = 0.1) -> list[Projection]:
    if planes:
        return [Projection(normalize_to_plane(points, plane, padding)) for plane in PLANES]
    return [Projection(normalize_to_volume(points, padding))]


def coordinates(case: Case) -> None:
    near, points, found = tolerance(case), case["input/points"], case.group("output")
    checked = set()
    for name, expected in found.items():
        kind, *rest = name.split("_")
        padding = next((float(text[3:]) for text in rest if text.startswith("pad")), 0.1)
        cells = next((int(text[4:]) for text in rest if text.startswith("reso")), 0)
        if kind in ("plane", "grid", "index"):
            where = "grid" if kind == "grid" else rest[0]
            coords = (
                normalize_to_volume(points, padding) if where == "grid" else normalize_to_plane(points, where, padding)
            )
            if kind == "index":
                assert torch.equal(flat_cell_index(coords, cells)[:, None], expected), name
            else:
                assert_close(coords, expected, **near, what=name)
        elif kind == "sampled":
            is_volume = rest[0] == "grid"
            grid = case["input/grid_feature" if is_volume else "input/plane_feature"]
            coords = normalize_to_volume(points) if is_volume else normalize_to_plane(points, rest[0])
            assert_close(sample_point_grid(grid, coords).transpose(1, 2), expected, **near, what=name)
        elif kind == "crop":
            axes = list(PLANES.get(rest[1], (0, 1, 2)))
            low, high = (np.asarray(end)[axes].tolist() for end in case.config["vol_range"])
            inside = normalize_in_crop(case["input/crop_points"][:, axes], low, high)
            if rest[0] == "index":
                assert torch.equal(crop_cell_index(inside, cells)[None], expected), name
            else:
                assert_close(inside, expected, **near, what=name)
        elif kind == "make":
            shape = [int(text) for text in rest[-3:]]
            assert_close(lattice(expected[0].tolist(), expected[-1].tolist(), shape), expected, **near, what=name)
        else:
            pytest.fail(f"{case.path}: unknown output {name}")
        checked.add(kind)
    assert checked == {"plane", "grid", "index", "sampled", "crop", "make"}
    for given, expected in case.config["update_reso"].items():
        assert divisible_resolution(*map(int, given.split(","))) == expected


def attention_core(case: Case) -> None:
    near, config = tolerance(case), case.config
    query = case["input/q"].requires_grad_()
    keys, values = case["input/k"].requires_grad_(), case["input/v"].requires_grad_()
    axes, channels = query.dim() - 2, config["C"]
    layer = PointGridLayer(in_channels=channels, channels=channels, axes=axes).eval()
    missing = layer.load_state_dict(case.group("state"), strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith(("fc_k", "fc_v", "conv_q")) for name in missing.missing_keys)
    (projection,) = projections_of(case["input/points"], planes=False)
    found = layer.attend(PointValues(keys.flatten(0, 1), values.flatten(0, 1)), query, projection)
    assert_close(found, case["output/grid"], **near, what="grid")
    cells = projection.cells(config["resolution"]).index.view(len(query), -1)
    first = torch.arange(len(query))[:, None] * config["resolution"] ** axes
    assert torch.equal(cells - first, case["output/cell_index"])
    (found * case["input/loss_w"]).sum().backward()
    for name, leaf in (("v", values), ("k", keys), ("q", query)):
        assert leaf.grad is not None
        assert_close(leaf.grad, case[f"grad/{name}"], **near, what=f"gradient of {name}")


def level(case: Case) -> None:
    config, kind = case.config, case.config["layer"]
    planes, down = kind.endswith("2d"), kind in ("down2d", "enc3d")
    widths: dict[str, Any] = {"in_channels": config["c_in"], "channels": config["c_out"]}
    coarser = config["resolution_out"] != config["resolution_in"]
    if down:
        layer = (PlaneDown if planes else VolumeDown)(**widths, pool=coarser)
    else:
        layer = PlaneUp(**widths, enlarge=coarser) if planes else VolumeUp(**widths)
    layer.load_state_dict(case.group("state"))
    layer.eval()
    names = list(PLANES) if planes else ["grid"]
    projections = projections_of(case["input/points"], planes, config["padding"])
    features = case["input/point_features"].requires_grad_()
    inputs = [[case[f"input/grid_{name}"] for name in names]]
    if not down:
        inputs.append([case[f"input/skip_{name}"] for name in names])
    given = inputs if planes else [one[0] for one in inputs]
    grids, points = layer(*given, features.flatten(0, 1), projections if planes else projections[0])
    grids, points = grids if planes else [grids], points.view(*features.shape[:2], -1)
    near = tolerance(case)
    for name, grid in zip(names, grids, strict=True):
        assert_close(grid, case[f"output/grid_{name}"], **near, what=f"grid {name}")
    assert_close(points, case["output/point_features"], **near, what="point features")
    scalar = (points * case["input/loss_w_points"]).sum()
    scalar = scalar + sum((g * case[f"input/loss_w_{n}"]).sum() for n, g in zip(names, grids, strict=True))
    scalar.backward()
    parameters = dict(layer.named_parameters())
    for name, expected in case.group("grad").items():
        leaf = features if name == "point_features" else parameters[name]
        assert leaf.grad is not None
        assert_close(leaf.grad, expected, atol=near["atol"], rtol=2e-3, what=f"gradient of {name}")


def network_of(case: Case) -> GridFormer:
    config = case.config
    channels = config["hidden_dim"] if "hidden_dim" in config else config["hidden"]
    model = GridFormer(kind=config["kind"], channels=channels, resolution=config["resolution"])
    published = {"model": {f"module.{name}": value for name, value in case.group("state").items()}}
    model.load_state_dict(remap_upstream(published), strict=True)
    return model


def network(case: Case) -> None:
    near, model = tolerance(case), network_of(case).eval()
    with torch.no_grad():
        maps = model.encode(case["input/points"])
        logits = model.decode(maps, case["input/queries"])
    assert_close(logits, case["output/logits"], **near, what="logits")
    names = list(PLANES) if model.kind == "planes" else ["grid"]
    compared = 0
    for depth, grids in enumerate(maps):
        for name, grid in zip(names, grids, strict=True):
            expected = case[f"output/feat{depth}_{name}"]
            stride = grid.shape[-1] // expected.shape[-1]
            some = grid[:1, :, *(slice(None, None, stride) for _ in range(grid.dim() - 2))]
            assert_close(some, expected, **near, what=f"map {depth} {name}")
            compared += 1
    assert compared == len(case.group("output")) - 1


def train_step(case: Case) -> None:
    model, limits = network_of(case).train(), case.meta["tolerance"]
    logits = model(case["input/points"], case["input/queries"])
    loss = margin_bce(logits, case["input/occ"], margin=case.config["margin"])
    assert_close(loss, case["output/loss"], rtol=limits["loss"]["rtol"], what="loss")
    loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == set(case.config["parameters_without_gradient"])
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for name, expected in case.group("grad").items():
        grad = parameters[name].grad
        assert grad is not None
        assert_close(grad, expected, atol=3e-2 * max(float(expected.abs().max()), 1e-2), what=f"gradient of {name}")
    seen = 0
    for name, expected in case.group("output").items():
        if name.startswith("after_"):
            assert_close(buffers[name.removeprefix("after_")], expected, **limits["running_stats"], what=name)
            seen += 1
    assert seen


def losses(case: Case) -> None:
    near = tolerance(case)
    for margin in case.config["margins"]:
        logits = case["input/logits"].clone().requires_grad_()
        loss = margin_bce(logits, case["input/occ"], margin=margin)
        loss.backward()
        assert_close(loss, case[f"output/loss_m{margin}"], **near, what=f"loss, margin {margin}")
        assert logits.grad is not None
        assert_close(logits.grad, case[f"grad/logits_m{margin}"], **near, what=f"gradient, margin {margin}")


def boundary(case: Case) -> None:
    config, limits = case.config, case.meta["tolerance"]
    points, occupancy = case["input/points"].numpy(), case["input/occ"].numpy()
    flags = boundary_flags(points, occupancy, radius=config["radius"], max_neighbors=config["k"])
    agreement = float((flags == case["output/contrastive"].bool().numpy()).mean())
    assert agreement >= (1.0 if limits.get("exact") else limits["min_agreement"])


def state_dict(case: Case) -> None:
    config, meta = case.config, case.meta
    kind = "planes" if any(".unet." in name for name in meta["entries"]) else "grid"
    with torch.device("meta"):
        model = GridFormer(kind=kind, channels=config["hidden_dim"], resolution=config["resolution"])
    state = model.state_dict()
    found = {name: [list(value.shape), str(value.dtype).removeprefix("torch.")] for name, value in state.items()}
    assert found == meta["entries"]
    assert len(found) == meta["n_entries"]
    for part, module in (("", model), ("_encoder", model.encoder), ("_decoder", model.decoder)):
        assert sum(parameter.numel() for parameter in module.parameters()) == meta[f"n_parameters{part}"]


HANDLERS: dict[str, Callable[[Case], None]] = {
    "coords": coordinates,
    "point_grid_attention_core": attention_core,
    "layer_down2d": level,
    "layer_up2d": level,
    "layer_enc3d": level,
    "layer_dec3d": level,
    "net_planes": network,
    "net_grid": network,
    "train_step": train_step,
    "margin_bce": losses,
    "boundary_sampling": boundary,
    "statedict": state_dict,
    **SURFACE_HANDLERS,  # extraction of meshes and their metrics
}


@pytest.mark.parametrize("case", find_cases("gridformer"))
def test_golden(case):
    dispatch(case, HANDLERS)
