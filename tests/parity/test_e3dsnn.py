"""Golden cases of E-3DSNN; on each of them, binary spikes give the results of integer ones."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from tests.parity.cases import Case, assert_close, dispatch, find_cases, sort_rows
from zoo.losses.classification import cross_entropy
from zoo.losses.lovasz import lovasz_softmax
from zoo.models.e3dsnn import E3DSNNClassifier, E3DSNNSegmentor, remap_upstream
from zoo.models.e3dsnn.blocks import BasicBlock, DownBlock, ResidualBlock
from zoo.models.e3dsnn.detection_backbones import SpikeBEVBackbone, SpikeVoxelBackbone
from zoo.models.energy import measure_energy
from zoo.models.layers.sparse_conv import SparseConvBase
from zoo.models.layers.spconv_weights import to_spconv_weight
from zoo.models.layers.spiking import (
    FiringRates,
    IntegerLIFNeuron,
    IntegerNeuron,
    NeuronSpec,
    binary_inference,
    expand_counts,
)
from zoo.ops import SparseTensor, fnv_keys, grid_sample_points

BINARY = 1e-5  # how far binary spikes may lie from integer ones


def tolerances(case: Case) -> tuple[dict[str, float], dict[str, float]]:
    stated = case.meta["tolerance"]
    forward = {"atol": stated["forward_atol"], "rtol": stated["forward_rtol"]}
    return forward, {"atol": stated["grad_atol"], "rtol": stated["grad_rtol"]}


def load(case: Case, model: nn.Module) -> nn.Module:
    model.load_state_dict(remap_upstream(case.group("state"), model, layout="KRSC"), strict=True)
    return model.train(case.meta["mode"] == "train")


def compare_rows(x: SparseTensor, coords: Tensor, expected: Tensor, tolerance: dict, what: str) -> None:
    assert torch.equal(x.coords.long(), coords[sort_rows(coords)].long()), f"{what}: other sites"
    assert_close(x.features, expected[sort_rows(coords)], **tolerance, what=what)


def compare_gradients(case: Case, model: nn.Module, tolerance: dict) -> None:
    expected = case.group("grad/state")
    layers: Mapping[str, nn.Module] = dict(model.named_modules())
    named = dict(model.named_parameters())
    assert expected
    assert expected.keys() <= named.keys()
    for key, want in expected.items():
        grad = named[key].grad
        assert grad is not None, key
        layer = layers[key.rpartition(".")[0]]
        if key.endswith(".weight") and isinstance(layer, SparseConvBase):
            grad = to_spconv_weight(grad, layer)
        assert_close(grad, want, **tolerance, what=f"grad of {key}")


def compare_statistics(case: Case, model: nn.Module, tolerance: dict) -> None:
    state = model.state_dict()
    for key, want in case.group("output/state_after").items():
        assert_close(state[key], want, **tolerance, what=key)


def neuron_integer(case: Case) -> None:
    limit = case.config["D"]
    suffixes = [key.removeprefix("input/x") for key in case.tensors if key.startswith("input/x")]
    for suffix in suffixes:  # "_lens2": upstream ignores its argument and clamps at D all the same
        x = case[f"input/x{suffix}"].clone().requires_grad_()
        y = IntegerNeuron(max_count=limit)(x)
        y.backward(case[f"input/grad_output{suffix}"])
        assert_close(y, case[f"output/y{suffix}"], atol=case.meta["tolerance"]["atol"], what="counts")
        assert x.grad is not None
        assert_close(x.grad, case[f"grad/input/x{suffix}"], atol=case.meta["tolerance"]["atol"], what="gradient")


def neuron_multistep(case: Case) -> None:
    steps, limit, atol = case.config["T"], case.config["D"], case.meta["tolerance"]["atol"]
    x = case["input/x"].clone().requires_grad_()
    counts = IntegerLIFNeuron(num_steps=steps, max_count=limit, decay=case.config["decay"])(x.flatten(0, 1))
    counts = counts.unflatten(0, x.shape[:2])
    counts.backward(case["input/grad_output"])
    assert_close(counts, case["output/spike_counts"], atol=atol, what="counts")
    assert_close(expand_counts(counts.detach(), limit, steps), case["output/binary"], atol=atol, what="slots")
    assert x.grad is not None
    assert_close(x.grad, case["grad/input/x"], atol=atol, what="gradient")


def block(case: Case) -> None:
    forward, grads = tolerances(case)
    config, state = case.config, case.group("state")
    neuron = NeuronSpec()
    if "conv1.weight" in state:
        model: nn.Module = ResidualBlock(config["in_channels"], neuron)
    elif "down.1.weight" in state:
        kernel = state["down.1.weight"].shape[1]
        geometry = {"kernel_size": kernel, "padding": (kernel - 1) // 2}
        model = DownBlock(config["in_channels"], config["out_channels"], config["depth"], neuron, **geometry)
    else:
        model = BasicBlock(config["in_channels"], neuron)
    load(case, model)
    shape, batch_size = case.meta["spatial_shape"], case.meta["batch_size"]
    features = case["input/features"].clone().requires_grad_()
    x = SparseTensor.from_coords(features, case["input/indices"], shape, batch_size)
    y = model(x)
    assert list(y.spatial_shape) == case.meta["out_spatial_shape"]
    compare_rows(y, case["output/indices"], case["output/features"], forward, "output")
    (y.features[y.grid.rows_of(case["output/indices"])] * case["input/grad_output"]).sum().backward()
    assert features.grad is not None
    assert_close(features.grad, case["grad/input/features"], **grads, what="grad of features")
    compare_gradients(case, model, grads)
    compare_statistics(case, model, forward)
    if case.meta["mode"] == "eval":
        with binary_inference(model):
            assert_close(model(x).features, y.features.detach(), atol=BINARY, rtol=BINARY, what="binary")


def voxels(case: Case, margin: int) -> tuple[Tensor, SparseTensor]:
    """The leaf tensor of the features, and the batch on a grid ``margin`` cells larger than its last site."""
    cells, offset = case["input/grid_coord"], case["input/offset"].long()
    counts = torch.diff(offset, prepend=offset.new_zeros(1))
    batch = torch.repeat_interleave(torch.arange(len(offset)), counts)
    features = case["input/feat"].clone().requires_grad_()
    coords = torch.cat([batch[:, None], cells.long()], dim=1)
    shape = [int(size) + margin for size in cells.amax(dim=0)]
    return features, SparseTensor.from_coords(features, coords, shape, len(offset))


def compare_levels(case: Case, name: str, levels: list[SparseTensor], tolerance: dict) -> None:
    for index, level in enumerate(levels):
        label = "stem" if name == "enc" and index == 0 else f"{name}{index - (name == 'enc')}"
        compare_rows(level, case[f"output/{label}.indices"], case[f"output/{label}.features"], tolerance, label)


def classifier(case: Case) -> None:
    forward, grads = tolerances(case)
    model = build_network(case, E3DSNNClassifier)
    for margin in (96, 1):  # upstream's shape, and the tightest: rounding it up keeps the same sites
        load(case, model)
        features, x = voxels(case, margin)
        with FiringRates(model) as firing:
            logits = model(x)
        assert_close(logits, case["output/logits"], **forward, what="logits")
        smoothing = 0.2  # the recipe's, stated in the case's prose
        loss = cross_entropy(logits, case["input/category"].long(), label_smoothing=smoothing)
        assert_close(loss.reshape(1), case["output/loss"], **forward, what="loss")
        model.zero_grad()
        loss.backward()
        assert features.grad is not None
        assert_close(features.grad, case["grad/input/feat"], **grads, what="grad of features")
        compare_gradients(case, model, grads)
        compare_statistics(case, model, forward)
        rates = firing.rates()
        expected = case.meta["mean_spike_over_D_per_neuron_layer"]
        assert rates.keys() == expected.keys()
        assert all(abs(rates[name] - rate) < 1e-6 for name, rate in expected.items())
    load(case, model)
    compare_levels(case, "enc", model.encode(voxels(case, 96)[1]), forward)
    compare_binary(case, model, 96)


def segmentor(case: Case) -> None:
    forward, grads = tolerances(case)
    model = build_network(case, E3DSNNSegmentor)
    load(case, model)
    features, x = voxels(case, 1)
    logits = x.grid.to_caller_order(model(x))
    assert_close(logits, case["output/logits"], **forward, what="logits")
    weights = case["input/class_weight"]
    loss = cross_entropy(logits, case["input/segment"].long(), class_weights=weights)
    assert_close(loss.reshape(1), case["output/loss"], **forward, what="loss")
    loss.backward()
    assert features.grad is not None
    assert_close(features.grad, case["grad/input/feat"], **grads, what="grad of features")
    compare_gradients(case, model, grads)
    compare_statistics(case, model, forward)
    load(case, model)
    levels = model.encode(voxels(case, 1)[1])
    compare_levels(case, "enc", levels, forward)
    compare_levels(case, "dec", model.decode(levels), forward)
    compare_binary(case, model, 1)


def compare_binary(case: Case, model: nn.Module, margin: int) -> None:
    if case.meta["mode"] != "eval":
        return
    x = voxels(case, margin)[1]
    integer = model(x)
    with binary_inference(model):
        assert_close(model(x), integer.detach(), atol=BINARY, rtol=BINARY, what="binary")


def build_network(case: Case, network: type) -> nn.Module:
    config = {name.replace("enc_depth", "enc_depths"): value for name, value in case.config.items()}
    return network(**config)


def losses(case: Case) -> None:
    config, tolerance = case.config, case.meta["tolerance"]
    close = {"atol": tolerance["atol"], "rtol": tolerance["rtol"]}
    segment, ignore = case["input/segment"].long(), config["ignore_index"]
    computed = {
        "lovasz": lambda logits: lovasz_softmax(logits, segment, ignore_index=ignore),
        "weighted_ce": lambda logits: cross_entropy(
            logits, segment, class_weights=case["input/class_weight"], ignore_index=ignore
        ),
    }
    for name, function in computed.items():
        logits = case["input/logits"].clone().requires_grad_()
        loss = function(logits)
        loss.backward()
        assert_close(loss.reshape(1), case[f"output/{name}"], **close, what=name)
        assert logits.grad is not None
        assert_close(logits.grad, case[f"grad/{name}/input/logits"], **close, what=f"gradient of {name}")
    smooth = cross_entropy(
        case["input/cls_logits"], case["input/category"].long(), label_smoothing=config["label_smoothing"]
    )
    assert_close(smooth.reshape(1), case["output/label_smooth_ce"], **close, what="label_smooth_ce")


def grid_sample(case: Case) -> None:
    clipped = case["output/clipped_coord"]
    sample = grid_sample_points(clipped, case.config["grid_size"], mode="test")
    assert torch.equal(sample.grid_coords, case["output/grid_coord_all"])
    assert torch.equal(fnv_keys(sample.grid_coords), case["output/fnv_key_as_int64"])
    assert torch.equal(sample.inverse, case["output/inverse"])
    assert len(sample.fragments) == case.config["n_parts"]
    for number, fragment in enumerate(sample.fragments):  # order of points inside a cell is unspecified upstream
        assert torch.equal(sample.grid_coords[fragment], case[f"output/part{number}.grid_coord"])
        assert torch.equal(sample.inverse[fragment], case["output/inverse"][case[f"output/part{number}.index"]])


def manifest(case: Case) -> None:
    with torch.device("meta"):
        model = network_of_manifest(case.meta)
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == case.meta["keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == case.meta["params"]


def network_of_manifest(meta: dict) -> nn.Module:
    keys = meta["keys"]
    if "stem.0.weight" in keys:
        widths = {name: meta[name] for name in ("embed_channels", "enc_channels")}
        classes = keys["final.weight"][0]
        widths |= {"enc_depths": meta["enc_depth"], "in_channels": keys["stem.0.weight"][-1], "num_classes": classes}
        if "dec_channels" in meta:
            return E3DSNNSegmentor(**widths, dec_channels=meta["dec_channels"])
        return E3DSNNClassifier(**widths)
    if "conv_input.0.weight" in keys:
        return SpikeVoxelBackbone(
            in_channels=keys["conv_input.0.weight"][-1],
            channels=[
                keys[f"{name}.weight"][0] for name in ("conv1.0.1", "conv2.down.1", "conv3.down.1", "conv4.down.1")
            ],
            depth=len({key.split(".")[2] for key in keys if key.startswith("conv2.blocks.")}),
            out_channels=keys["conv_out.0.weight"][0],
        )
    levels = sorted({key.split(".")[1] for key in keys if key.startswith("blocks.")}, key=int)
    convolutions = [
        [key for key in keys if key.startswith(f"blocks.{level}.") and len(keys[key]) == 4] for level in levels
    ]
    return SpikeBEVBackbone(
        in_channels=keys["blocks.0.2.weight"][1],
        layer_nums=[len(names) - 1 for names in convolutions],
        strides=[1 if level == "0" else 2 for level in levels],  # no shape tells it
        channels=[keys[names[0]][0] for names in convolutions],
        up_strides=[keys[f"deblocks.{level}.1.weight"][-1] for level in levels],
        up_channels=[keys[f"deblocks.{level}.1.weight"][1] for level in levels],
    )


def bev_backbone(case: Case) -> None:
    forward, grads = tolerances(case)
    config = case.config
    model = SpikeBEVBackbone(
        in_channels=config["input_channels"],
        layer_nums=config["LAYER_NUMS"],
        strides=config["LAYER_STRIDES"],
        channels=config["NUM_FILTERS"],
        up_strides=config["UPSAMPLE_STRIDES"],
        up_channels=config["NUM_UPSAMPLE_FILTERS"],
    )
    load(case, model)
    x = case["input/spatial_features"].clone().requires_grad_()
    y = model(x)
    assert_close(y, case["output/spatial_features_2d"], **forward, what="output")
    (y * case["input/grad_output"]).sum().backward()
    assert x.grad is not None
    assert_close(x.grad, case["grad/input/spatial_features"], **grads, what="grad of input")
    compare_gradients(case, model, grads)
    compare_statistics(case, model, forward)
    if case.meta["mode"] == "eval":
        with binary_inference(model):
            assert_close(model(x), y.detach(), atol=BINARY, rtol=BINARY, what="binary")


def energy(case: Case) -> None:
    source = Case(case.path.with_name(case.meta["case"] + ".json"))
    network, margin = (E3DSNNSegmentor, 1) if source.stem.startswith("seg") else (E3DSNNClassifier, 96)
    model = load(source, build_network(source, network))
    report = measure_energy(model, [voxels(source, margin)[1]])
    assert [layer.name for layer in report.layers] == list(case.meta["layers"])
    for layer in report.layers:
        want = case.meta["layers"][layer.name]
        sizes = (layer.pairs, layer.in_channels, layer.out_channels, layer.macs)
        assert sizes == (want["pairs"], want["cin"], want["cout"], want["mac"]), layer.name
        if want["input"] == "real":
            assert (layer.max_count, layer.spike_mean) == (None, None), layer.name
        else:
            assert layer.spike_mean is not None
            assert layer.synaptic_ops == want["sop"], layer.name
            # stated with 6 decimals of a float32 mean: 127 / 408 stands there as 0.311274
            assert abs(layer.spike_mean - want["spike_mean"]) <= 1e-6, layer.name
    totals = {
        "mac_total": report.macs,
        "mac_real_input": report.macs_of_real_input,
        "sop_total": report.synaptic_ops,
        "ann_energy_pJ": report.dense_energy_pj,
        "snn_energy_pJ": report.energy_pj,
    }
    for name, value in totals.items():
        assert value == case.meta[name], name
    assert report.num_samples == len(source["input/offset"])


HANDLERS = {
    "neuron_integer": neuron_integer,
    "neuron_multistep": neuron_multistep,
    "block_": block,
    "cls_": classifier,
    "seg_": segmentor,
    "losses": losses,
    "grid_sample": grid_sample,
    "manifest_": manifest,
    "det_bev": bev_backbone,
    "energy_": energy,
}


@pytest.mark.parametrize("case", find_cases("e3dsnn"))
def test_e3dsnn(case: Case) -> None:
    dispatch(case, HANDLERS)
