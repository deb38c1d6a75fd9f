"""What is trained around SparK: sizes of the recipes' networks, handing weights on, probes, synchronised norms."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from zoo.convert import convert, main
from zoo.metrics.feature_neighbors import classify_by_neighbors
from zoo.models.layers.synchronized_norm import SynchronizableNorm, synchronize_norms
from zoo.models.spark import ConvNeXt, ImageClassifier, SmallResNet, SparK, resnet, sample_mask, timm_state
from zoo.models.spark.masking import MaskedBatchNorm2d
from zoo.models.spark.sparse_layers import SparseBatchNorm2d
from zoo.registry import create_model
from zoo.tasks.image_classification import layer_decay_scales
from zoo.training.weights import load_weights


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("spark_resnet50", (23.51, 6.23, 23.18)), ("spark_convnext_s", (49.45, 1.75, 23.18))],
)
def test_sizes_of_the_pretrained_networks(name: str, millions: tuple[float, float, float]) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert isinstance(model, SparK)
    densify = [model.norms, model.projections, model.mask_tokens]
    found = (count(model.encoder), sum(count(part) for part in densify), count(model.decoder))
    assert tuple(round(number / 1e6, 2) for number in found) == millions


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet50", 25_557_032), ("convnext_s", 50_223_688), ("convnext_b", 88_591_464)],
)
def test_sizes_of_the_classifiers(name: str, parameters: int) -> None:
    with torch.device("meta"):
        assert count(create_model(f"spark_{name}_classifier")) == parameters


BACKBONES: dict[str, Any] = {
    "resnet": lambda: resnet(depths=(1, 1, 1, 1), channels=(4, 8, 16, 32)),
    "basic": lambda: resnet(depths=(1, 1, 1, 1), channels=(16, 16, 32, 32), block="basic"),
    "convnext": lambda: ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64)),
    "small": lambda: SmallResNet(depths=(1, 1, 1), width=16),
}


@pytest.fixture(params=sorted(BACKBONES))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


def pretrained(family: str) -> SparK:
    torch.manual_seed(1)
    return SparK(backbone=BACKBONES[family](), decoder_width=64, densify_norm="bn")


def test_a_pretrained_backbone_is_handed_on(family: str, tmp_path: Path) -> None:
    spark = pretrained(family)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {f"model.{key}": value for key, value in spark.state_dict().items()}}, path)
    torch.manual_seed(2)
    model = ImageClassifier(backbone=BACKBONES[family](), num_classes=3)
    load_weights(model, path)
    image = torch.randn(2, 3, 64, 64)
    mask = torch.ones(2, 1, *spark.encoder.cells(64, 64), dtype=torch.bool)
    last = spark.eval().encoder(image, mask)[-1]
    assert last is not None
    torch.testing.assert_close(model.eval().features(image), last.mean((2, 3)), rtol=1e-4, atol=1e-5)
    other = ImageClassifier(backbone=BACKBONES[family](), num_classes=7)  # from the classifier to one of other classes
    other.adopt_weights(model.state_dict())
    torch.testing.assert_close(other.eval().features(image), model.features(image))
    same = ImageClassifier(backbone=BACKBONES[family](), num_classes=3)
    same.adopt_weights(model.state_dict())
    torch.testing.assert_close(same.eval()(image), model(image))


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    model = ImageClassifier(backbone=SmallResNet(depths=(1, 1, 1), width=16), num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save({"module": pretrained("convnext").state_dict(), "epoch": 3}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: does not fit ImageClassifier: .* missing, such as bn1"):
        load_weights(model, tmp_path / "other.pth")
    wide = SparK(backbone=SmallResNet(depths=(1, 1, 1), width=24), decoder_width=32)
    with pytest.raises(ValueError, match="of another shape"):
        model.adopt_weights(wide.state_dict())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def upstream_names(spark: SparK) -> dict[str, torch.Tensor]:
    pairs = {"encoder.backbone.": "sparse_encoder.sp_cnn.", "decoder.": "dense_decoder.", "norms.": "densify_norms."}
    renamed = {}
    for key, value in spark.state_dict().items():
        old = next((old for old in pairs if key.startswith(old)), "")
        renamed[pairs.get(old, "") + key.removeprefix(old) if old else key] = value
    return renamed


@pytest.mark.parametrize("form", ["run", "with decoder", "bare"])
def test_files_of_upstream_hand_their_backbone_on(form: str, tmp_path: Path) -> None:
    spark = pretrained("resnet")
    bare = {key.removeprefix("encoder.backbone."): v for key, v in spark.state_dict().items() if "backbone" in key}
    content: dict[str, Any] = {
        "run": {"args": "text", "epoch": 7, "module": {**upstream_names(spark), "config": {"sbn": True}}},
        "with decoder": upstream_names(spark),
        "bare": {**bare, "fc.weight": torch.zeros(9, 128), "fc.bias": torch.zeros(9)},
    }[form]
    torch.save(content, tmp_path / "file.pth")
    model = ImageClassifier(backbone=BACKBONES["resnet"](), num_classes=3)
    load_weights(model, tmp_path / "file.pth")
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, bare[key]), key


@pytest.mark.parametrize("family", ["resnet", "convnext"])
def test_timm_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="timm (extra image) is not installed")
    model = ImageClassifier(backbone=BACKBONES[family](), num_classes=5).eval()
    torch.nn.init.normal_(model.head.weight)
    if family == "convnext":
        nn.init.normal_(model.norm.weight)  # type: ignore[arg-type]
    torch.save(
        {"state_dict": {f"model.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "a.ckpt"
    )
    assert convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors") == len(model.state_dict())
    if family == "resnet":
        other = timm.models.resnet.ResNet(
            timm.models.resnet.Bottleneck, (1, 1, 1, 1), channels=(4, 8, 16, 32), num_classes=5
        )
    else:
        other = timm.models.convnext.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), num_classes=5)
    other.load_state_dict(load_file(tmp_path / "a.safetensors"), strict=True)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(other.eval()(image), model(image), rtol=1e-4, atol=1e-5)


def test_conversion_leaves_the_decoder_out_and_refuses_what_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spark = pretrained("resnet")
    source = tmp_path / "published.pth"
    torch.save(upstream_names(spark), source)
    names = set(timm_state(spark.state_dict()))
    assert "conv1.weight" in names
    assert not any("decoder" in name or "token" in name for name in names)
    with pytest.raises(SystemExit) as ended:
        main([str(source), str(tmp_path / "d2.pkl"), "--to", "detectron2"])
    assert ended.value.code == 0
    arrays = pickle.loads((tmp_path / "d2.pkl").read_bytes())
    assert arrays["matching_heuristics"] is True
    assert {
        "stem.conv1.weight",
        "stem.conv1.norm.weight",
        "res2.0.conv3.norm.bias",
        "res5.0.shortcut.norm.weight",
    } <= set(arrays["model"])
    assert len(arrays["model"]) == len(names)
    assert convert(source, tmp_path / "zoo.safetensors", to="zoo") == len(spark.state_dict())
    load_weights(spark, tmp_path / "zoo.safetensors")
    with pytest.raises(SystemExit) as ended:
        main([str(source), str(tmp_path / "zoo.safetensors")])
    assert ended.value.code == 1
    assert "exists; say --overwrite" in capsys.readouterr().err
    torch.save({"a": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="holds no ResNet or ConvNeXt"):
        convert(tmp_path / "odd.pth", tmp_path / "x.pth")
    with pytest.raises(ValueError, match="expected one of"):
        convert(source, tmp_path / "x.onnx")
    torch.save(pretrained("convnext").state_dict(), tmp_path / "c.pth")
    with pytest.raises(ValueError, match="detectron2 has ResNets only"):
        convert(tmp_path / "c.pth", tmp_path / "c.pkl", to="detectron2")


def test_rates_fall_from_the_classifier_to_the_stem() -> None:
    with torch.device("meta"):
        rates = layer_decay_scales(ImageClassifier(backbone=resnet(), num_classes=10), 0.7)
        others = layer_decay_scales(ImageClassifier(backbone=ConvNeXt(depths=(3, 3, 27, 3)), num_classes=10), 0.5)
        small = layer_decay_scales(ImageClassifier(backbone=SmallResNet(), num_classes=10), 0.5)
    assert rates["head.weight"] == 1.0
    assert rates["backbone.conv1.weight"] == pytest.approx(0.7**7)
    assert rates["backbone.layer4.2.conv3.weight"] == pytest.approx(0.7)
    assert others["norm.weight"] == others["head.bias"] == 1.0
    assert others["backbone.downsample_layers.0.0.weight"] == pytest.approx(0.5**13)
    assert small["head.weight"] == 1.0
    assert (
        small["backbone.conv1.weight"]
        < small["backbone.layer1.0.conv1.weight"]
        < small["backbone.layer3.1.bn2.bias"]
        < 1
    )


def test_a_probe_changes_nothing_of_its_backbone() -> None:
    model = ImageClassifier(backbone=SmallResNet(depths=(1, 1), width=16), num_classes=3, frozen=True).train()
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    head = model.head.weight.detach().clone()
    for _ in range(2):
        model(torch.randn(4, 3, 16, 16)).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(before[key], value) for key, value in model.backbone.state_dict().items())
    assert not torch.equal(head, model.head.weight)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("backend", ["masked_dense", "sparse"])
def test_small_networks_are_masked_without_leaks(backend: Any) -> None:
    spark = SparK(backbone=BACKBONES["small"](), decoder_width=64, backend=backend).eval()
    image = torch.randn(2, 3, 32, 32)
    mask = sample_mask(2, 4, 4, 0.6, torch.Generator().manual_seed(0))
    hidden = ~mask.repeat_interleave(8, 2).repeat_interleave(8, 3)
    noisy = torch.where(hidden, torch.randn_like(image) * 100, image)
    for one, other in zip(spark.encoder(image, mask), spark.encoder(noisy, mask), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize(("backend", "expected"), [("masked_dense", MaskedBatchNorm2d), ("sparse", SparseBatchNorm2d)])
def test_synchronised_norms_stay_masked(backend: Any, expected: type[nn.Module]) -> None:
    spark = SparK(backbone=BACKBONES["resnet"](), decoder_width=64, backend=backend)
    keys = spark.state_dict().keys()
    synchronize_norms(spark)
    assert spark.state_dict().keys() == keys
    norms = [module for module in spark.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, SynchronizableNorm) and norm.is_synchronized for norm in norms)
    norm = next(module for module in spark.encoder.modules() if isinstance(module, expected))
    assert norm.visible is spark.encoder.visible


def test_neighbors_vote_by_similarity() -> None:
    known = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    labels = torch.tensor([0, 0, 1, 1, 1])
    asked = torch.tensor([[3.0, 0.2], [0.0, 0.5]])
    assert classify_by_neighbors(known, labels, asked, 2, neighbors=5, rows_at_once=1).tolist() == [0, 1]
    assert classify_by_neighbors(known, labels, asked, 2, neighbors=5, temperature=100.0).tolist() == [1, 1]
    assert classify_by_neighbors(known, labels, asked[:0], 2).shape == (0,)
    with pytest.raises(ValueError, match="N of at least 1"):
        classify_by_neighbors(known[:0], labels[:0], asked, 2)


def test_channels_that_onednn_cannot_differentiate_are_refused() -> None:
    with pytest.raises(ValueError, match="width: found shortcuts of 8 channels, expected at least 16"):
        SmallResNet(width=8)
    with pytest.raises(ValueError, match="channels: found shortcuts of 8 channels"):
        resnet(channels=(8, 16, 32, 64), block="basic")
