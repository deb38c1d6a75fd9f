"""Golden cases of spconv: outputs, and gradients of features, weights and biases, rows matched by coordinate."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.parity.cases import Case, assert_close, dispatch, find_cases, sort_rows
from zoo.models.layers import sparse_conv as layers
from zoo.models.layers.sparse_pool import SparseMaxPool
from zoo.models.layers.spconv_weights import convert_spconv_state, convert_weight, reinterprets, to_spconv_weight
from zoo.ops import SparseTensor


def build(case: Case, kind: str, key: str, geometry: dict) -> nn.Module:
    """The layer of ``kind`` whose weights the case keeps under ``key``."""
    weight = case[f"state/{key}.weight"]
    ndim = len(case.meta["op"]["spatial_shape"])
    layer_class = getattr(layers, f"{kind}{ndim}d")
    return layer_class(
        weight.shape[-1], weight.shape[0], weight.shape[1:-1], bias=f"state/{key}.bias" in case, **geometry
    )


def run(case: Case, modules: dict[str, nn.Module]) -> None:
    op = case.meta["op"]
    net = nn.ModuleDict(modules)
    state = convert_spconv_state(net, case.group("state"), layout="KRSC")
    net.load_state_dict(state, strict=True)
    features = case["input/features"].clone().requires_grad_()
    x = SparseTensor.from_coords(features, case["input/indices"], op["spatial_shape"], op["batch_size"])
    outputs = {}
    for name, module in net.items():
        x = outputs[name] = module(x)
    assert list(x.spatial_shape) == op["out_spatial_shape"]
    tolerance = case.meta["tolerance"]
    forward = {"atol": tolerance["forward_atol"], "rtol": tolerance["forward_rtol"]}
    grads = {"atol": tolerance["grad_atol"], "rtol": tolerance["grad_rtol"]}
    compare_rows(x, case["output/indices"], case["output/features"], forward, "output")
    if "output/down.features" in case:
        assert list(outputs["down"].spatial_shape) == op["down_spatial_shape"]
        compare_rows(outputs["down"], case["output/down.indices"], case["output/down.features"], forward, "down")
    if op["kind"].startswith("SubM") or "Inverse" in op["kind"]:
        assert torch.equal(x.grid.to_caller_order(x.coords).long(), case["input/indices"])
        assert torch.equal(case["output/indices"], case["input/indices"])
        assert_close(x.to_caller_order(), case["output/features"], **forward, what="output in the caller's order")
    rows = x.grid.rows_of(case["output/indices"])
    (x.features[rows] * case["input/grad_output"]).sum().backward()
    assert features.grad is not None
    assert_close(features.grad, case["grad/input/features"], **grads, what="grad of features")
    compare_parameters(case, net, grads)


def compare_rows(x: SparseTensor, coords: Tensor, expected: Tensor, tolerance: dict, what: str) -> None:
    assert torch.equal(x.coords.long(), coords[sort_rows(coords)]), f"{what}: other sites"
    assert_close(x.features, expected[sort_rows(coords)], **tolerance, what=what)


def compare_parameters(case: Case, net: nn.ModuleDict, tolerance: dict) -> None:
    named = dict(net.named_parameters())
    expected = case.group("grad/state")
    assert named.keys() == expected.keys()
    for key, parameter in named.items():
        grad = parameter.grad
        assert grad is not None
        if key.endswith(".weight"):
            layer = net[key.removesuffix(".weight")]
            assert isinstance(layer, layers.SparseConvBase)
            grad = to_spconv_weight(grad, layer)
        assert_close(grad, expected[key], **tolerance, what=f"grad of {key}")


def geometry_of(case: Case, *names: str) -> dict:
    op = case.meta["op"]
    return {name: op[name] for name in names}


def submanifold(case: Case) -> None:
    keys = sorted({key.split(".")[0] for key in case.group("state")})
    run(case, {key: build(case, "SubMConv", key, geometry_of(case, "dilation")) for key in keys})


def strided(case: Case) -> None:
    geometry = geometry_of(case, "stride", "padding", "dilation")
    keys = sorted({key.split(".")[0] for key in case.group("state")})
    run(case, {key: build(case, "SparseConv", key, geometry) for key in keys})


def inverse(case: Case) -> None:
    down = build(case, "SparseConv", "down", geometry_of(case, "stride", "padding", "dilation"))
    run(case, {"down": down, "up": build(case, "SparseInverseConv", "up", {})})


def max_pool(case: Case) -> None:
    op = case.meta["op"]
    run(case, {"pool": SparseMaxPool(op["kernel_size"], **geometry_of(case, "stride", "padding", "dilation"))})


def transpose(case: Case) -> None:
    geometry = geometry_of(case, "stride", "padding", "dilation")
    if "output_padding" in case.meta["op"]:
        geometry["output_padding"] = case.meta["op"]["output_padding"]
    run(case, {"conv": build(case, "SparseConvTranspose", "conv", geometry)})


HANDLERS = {"subm": submanifold, "conv": strided, "inverse": inverse, "maxpool": max_pool, "transpose": transpose}


@pytest.mark.parametrize("case", find_cases("spconv"))
def test_spconv(case: Case) -> None:
    dispatch(case, {f"{name}{ndim}d": handler for name, handler in HANDLERS.items() for ndim in (1, 2, 3)})


def test_kernel_1_quirk_round_trip() -> None:
    layer = layers.SubMConv3d(3, 5, 1, bias=False)
    assert reinterprets(layer)
    upstream = torch.randn(5, 1, 1, 1, 3)
    converted = convert_weight(upstream, layer, "KRSC")
    assert torch.equal(torch.eye(3) @ converted.reshape(5, 3).T, upstream.reshape(3, 5))
    assert torch.equal(to_spconv_weight(converted, layer), upstream)
