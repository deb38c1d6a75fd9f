"""E-3DSNN off the golden path: odd inputs, other neurons, time steps, upstream files, binary spikes."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from zoo.models.e3dsnn import E3DSNNClassifier, E3DSNNSegmentor, e3dsnn_classifier, remap_upstream
from zoo.models.e3dsnn.detection_backbones import SpikeBEVBackbone, SpikeVoxelBackbone
from zoo.models.energy import measure_energy
from zoo.models.layers.sparse_conv import SparseConvBase
from zoo.models.layers.spconv_weights import to_spconv_weight
from zoo.models.layers.spike_conv import mean_over_steps, repeat_steps
from zoo.models.layers.spiking import NeuronSpec, SpikingNeuron, binary_inference
from zoo.ops import SparseTensor, VoxelGrid
from zoo.registry import create_model

SMALL = {"embed_channels": 6, "enc_channels": (6, 8, 8, 12), "enc_depths": (1, 1, 1, 1)}


def classifier(**options) -> E3DSNNClassifier:
    torch.manual_seed(0)
    return E3DSNNClassifier(**{"in_channels": 4, "num_classes": 5, **SMALL, **options})


def segmentor(**options) -> E3DSNNSegmentor:
    torch.manual_seed(0)
    return E3DSNNSegmentor(**{"in_channels": 4, "num_classes": 5, **SMALL, "dec_channels": (8, 8, 6, 12), **options})


def voxels(shape: tuple[int, int, int], batch_size: int = 2, per_sample: int = 60, seed: int = 0) -> SparseTensor:
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.arange(batch_size).repeat_interleave(per_sample)]
    columns += [torch.randint(0, size, (batch_size * per_sample,), generator=generator) for size in shape]
    grid, _ = VoxelGrid.unique(torch.stack(columns, dim=1), shape, batch_size)
    return SparseTensor(torch.randn(len(grid), 4, generator=generator), grid)


def empty(batch_size: int = 2) -> SparseTensor:
    return SparseTensor(torch.zeros(0, 4), VoxelGrid(torch.zeros(0, 4, dtype=torch.int32), (1, 1, 1), batch_size))


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("e3dsnn_t", 1_874_216),
        ("e3dsnn_s", 3_271_144),
        ("e3dsnn_l", 17_330_600),
        ("e3dsnn_h", 46_574_248),
        ("e3dsnn_seg", 20_049_683),
    ],
)
def test_configurations_have_the_published_sizes(name: str, number: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in create_model(name).parameters()) == number


def test_the_detector_s_configuration_has_upstream_s_backbones() -> None:
    with torch.device("meta"):
        model = create_model("e3dsnn_kitti")
    assert sum(parameter.numel() for parameter in model.get_submodule("backbone_3d").parameters()) == 1_722_368
    assert sum(parameter.numel() for parameter in model.get_submodule("backbone_2d").parameters()) == 1_219_328


@pytest.mark.parametrize("make", [classifier, segmentor])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        empty(),
        empty(0),
        SparseTensor.from_coords(torch.ones(1, 4), torch.tensor([[0, 0, 0, 0]]), (1, 1, 1), 1),
        SparseTensor.from_coords(torch.ones(2, 4), torch.tensor([[0, 2, 0, 9], [2, 2, 0, 9]]), (3, 1, 10), 3),
        voxels((40, 3, 17)),
        voxels((15, 15, 15)),
    ],
    ids=["empty", "no-samples", "one-voxel", "an-empty-sample", "a-short-axis", "short-axes"],
)
def test_odd_clouds_pass_forward_and_backward(make, training: bool, x: SparseTensor) -> None:
    model = make().train(training)
    logits = model(x)
    rows = x.batch_size if make is classifier else len(x)
    assert logits.shape == (rows, 5)
    assert bool(torch.isfinite(logits).all())
    logits.square().sum().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    model, head = segmentor().eval(), classifier().eval()
    x = voxels((33, 18, 29))
    alone = [x[index] for index in range(2)]
    torch.testing.assert_close(model(x), torch.cat([model(sample) for sample in alone]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head(x), torch.cat([head(sample) for sample in alone]), atol=1e-5, rtol=1e-5)


def test_voxels_of_a_last_odd_plane_reach_the_coarse_levels_only_if_the_border_is_kept() -> None:
    x = SparseTensor.from_coords(torch.ones(2, 4), torch.tensor([[0, 0, 0, 0], [0, 16, 0, 0]]), (17, 16, 16), 1)
    assert [len(level) for level in segmentor().eval().encode(x)] == [2, 1, 1, 1, 1]
    assert [len(level) for level in segmentor(keep_border=True).eval().encode(x)] == [2, 2, 2, 2, 2]
    assert [len(level) for level in classifier().eval().encode(x)] == [2, 2, 2, 2, 2]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    x = voxels((16, 16, 16))
    features = x.features.clone()
    features[3, 1] = bad
    with pytest.raises(ValueError, match="NaN or infinite"):
        classifier()(x.replace_feature(features))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: classifier(num_classes=0), "num_classes"),
        (lambda: classifier(enc_depths=(1, 1)), "as many of each"),
        (lambda: classifier(embed_channels=0), "too small"),
        (lambda: segmentor(dec_channels=(8, 8)), "dec_channels"),
        (lambda: segmentor(norm_momentum=0.0), "norm_momentum"),
        (lambda: classifier(activation="relu", num_steps=2), "no memory"),
        (lambda: e3dsnn_classifier("XL"), "size"),
        (lambda: classifier()(voxels((4, 4, 4)).map(lambda values: values[:, :3])), "expected 4"),
        (lambda: SpikeVoxelBackbone(channels=(8, 8)), "4 numbers"),
        (lambda: SpikeVoxelBackbone.output_shape((16, 100, 100)), "flatter voxels"),
        (lambda: SpikeBEVBackbone(in_channels=4, layer_nums=(1,)), "levels"),
        (lambda: SpikeVoxelBackbone(neuron=NeuronSpec("integer_lif", num_steps=2)), "time"),
    ],
)
def test_bad_arguments(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("make", [classifier, segmentor])
def test_running_statistics_move_as_told(make) -> None:
    x = voxels((20, 18, 17))
    for momentum in (0.01, 0.25):
        model = make(norm_momentum=momentum)
        model(x)
        entering = model.stem[0](x).features
        torch.testing.assert_close(model.stem[1].running_mean, momentum * entering.mean(dim=0))
    assert make().stem[1].momentum == 0.01


def spread(model: nn.Module, x: SparseTensor) -> nn.Module:
    """Give the normalisations statistics under which neurons fire."""
    model.train()
    for _ in range(3):
        model(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = 1.0
    model(x)
    return model.eval()


@pytest.mark.parametrize("make", [classifier, segmentor])
@pytest.mark.parametrize(
    "neuron",
    [
        {"max_count": 2},
        {"activation": "integer_lif", "num_steps": 3, "max_count": 4},
        {"activation": "lif", "num_steps": 4, "max_count": 1, "surrogate": "sigmoid"},
    ],
    ids=["D2", "T3", "lif"],
)
def test_other_neurons_train_and_binary_spikes_give_the_same(make, neuron: dict) -> None:
    model, x = make(**neuron), voxels((20, 18, 17))
    model(x).square().mean().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not bool(torch.isfinite(p.grad).all())]
    assert not silent
    spread(model, x)
    integer = model(x).detach()
    assert integer.std() > 0
    with binary_inference(model):
        torch.testing.assert_close(model(x), integer, atol=1e-5, rtol=1e-5)
    report = measure_energy(model, [x])
    assert report.num_samples == 2
    assert 0 < report.firing_rate < 1
    assert report.energy_pj < report.dense_energy_pj
    assert report.layers[0].pairs == classifier()._modules["stem"][0].kernel_map(x).num_pairs  # once, not T times


def test_one_step_of_integer_lif_is_the_integer_network() -> None:
    x = voxels((20, 18, 17))
    one = spread(classifier(), x)
    other = classifier(activation="integer_lif", num_steps=1).eval()
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(x), one(x))


def test_the_artificial_twin_has_the_same_parameters_and_no_spikes() -> None:
    twin, model, x = segmentor(activation="relu"), segmentor(), voxels((20, 18, 17))
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert not [module for module in twin.modules() if isinstance(module, SpikingNeuron)]
    report = measure_energy(twin, [x])
    assert report.energy_pj == pytest.approx(report.dense_energy_pj)
    assert report.synaptic_ops == 0


def test_time_steps_are_samples_of_the_batch() -> None:
    x = voxels((9, 9, 9))
    repeated = repeat_steps(x, 3)
    assert repeated.batch_size == 6
    for step, sample in itertools.product(range(3), range(2)):
        assert torch.equal(repeated[step * 2 + sample].coords, x[sample].coords)
    mean = mean_over_steps(repeated, 3)
    assert torch.equal(mean.coords, x.coords)
    torch.testing.assert_close(mean.features, x.features)


def upstream_state(model: nn.Module, layout: str) -> dict[str, Tensor]:
    layers = {name + ".weight": layer for name, layer in model.named_modules() if isinstance(layer, SparseConvBase)}
    state = {}
    for key, value in model.state_dict().items():
        if key in layers:
            value = to_spconv_weight(value, layers[key])
            if layout == "RSCK":  # spconv 1.x multiplies by its matrix as it is
                value = model.state_dict()[key].permute(1, 2, 3, 4, 0).contiguous()
        state[key] = value
    return state


@pytest.mark.parametrize("layout", ["KRSC", "RSCK"])
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone."])
@pytest.mark.parametrize("make", [classifier, segmentor])
def test_pointcept_files_load(make, prefix: str, layout: str) -> None:
    model = make()
    file = {"epoch": 3, "state_dict": {prefix + key: value for key, value in upstream_state(model, layout).items()}}
    other = copy.deepcopy(model)
    nn.init.zeros_(other.final.weight)
    other.load_state_dict(remap_upstream(file, other), strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key


def test_openpcdet_backbones_load() -> None:
    volume, plane = SpikeVoxelBackbone(channels=(4, 8, 8, 6), depth=1, out_channels=8), SpikeBEVBackbone(in_channels=16)
    state = {f"backbone_3d.{key}": value for key, value in upstream_state(volume, "RSCK").items()}
    state |= {f"backbone_2d.{key}": value for key, value in plane.state_dict().items()}
    state["global_step"] = torch.zeros(1)
    for model in (volume, plane):
        loaded = remap_upstream({"model_state": state, "version": "pcdet"}, copy.deepcopy(model))
        assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())


def test_files_of_other_networks_are_refused_by_name() -> None:
    model = classifier()
    state = upstream_state(model, "KRSC")
    with pytest.raises(ValueError, match=r"lacks 1 keys \['final.bias'\]"):
        remap_upstream({key: value for key, value in state.items() if key != "final.bias"}, model)
    with pytest.raises(ValueError, match=r"1 unknown keys \['head'\]"):
        remap_upstream(state | {"head": torch.zeros(1)}, model)
    with pytest.raises(ValueError, match="shape"):
        remap_upstream(state | {"final.bias": torch.zeros(7)}, model)


def test_detection_backbones_shapes_and_binary_spikes() -> None:
    torch.manual_seed(0)
    volume = SpikeVoxelBackbone(channels=(4, 8, 8, 6), depth=1, out_channels=8)
    x = voxels((41, 48, 32), per_sample=400)
    spread(volume, x)
    levels = volume(x)
    assert levels.out.spatial_shape == SpikeVoxelBackbone.output_shape((41, 48, 32)) == (2, 6, 4)
    assert [level.spatial_shape[1] for level in levels[:4]] == [48, 24, 12, 6]
    plane = SpikeBEVBackbone(in_channels=16, layer_nums=(1, 1), channels=(8, 8), up_channels=(4, 6)).eval()
    view = levels.out.dense().flatten(1, 2).detach()
    assert plane(view).shape == (2, 10, 6, 4)
    with binary_inference(volume), binary_inference(plane):
        torch.testing.assert_close(volume(x).out.features, levels.out.features.detach())
        binary = plane(view)
    torch.testing.assert_close(binary, plane(view).detach(), atol=1e-5, rtol=1e-5)


def test_energy_of_dense_convolutions_by_brute_force() -> None:
    torch.manual_seed(0)
    plane = SpikeBEVBackbone(in_channels=3, layer_nums=(1, 1), channels=(4, 4), up_channels=(2, 2))
    view = torch.randint(0, 5, (2, 3, 6, 8)).float()
    report = measure_energy(plane, [view])
    first = report.layers[0]
    assert (first.name, first.pairs) == ("blocks.0.2", 2 * 6 * 8 * 9)
    padded = nn.functional.pad(view, (1, 1, 1, 1))
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1)
    assert first.synaptic_ops == int(windows.sum()) * 4
    assert first.spike_mean == pytest.approx(float(padded.mean()), rel=1e-6)
    assert first.macs == first.pairs * 3 * 4
    rise = next(layer for layer in report.layers if layer.name == "deblocks.1.1")
    assert rise.pairs == 2 * 3 * 4 * 4
    assert rise.synaptic_ops == rise.spikes * 4 * 2
    flat = report.metrics("test/energy/")
    assert flat["test/energy/mj"] == pytest.approx(report.energy_pj / 2 / 1e9)
