"""Cards say the truth about files and networks, and are found by name, by model and by tag."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import torch
import yaml

import zoo
from zoo.download import main
from zoo.hub import Card, find_card, list_cards, pretrained_card
from zoo.hub.catalogue import read_card
from zoo.hub.resuming import file_sha256
from zoo.registry import describe_experiment, list_models
from zoo.training.card_export import MAX_PACKAGED_BYTES
from zoo.training.configuration import compose
from zoo.training.upstream_layouts import LAYOUTS

CARDS = list_cards()
USABLE = [card for card in CARDS if card.is_usable]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of cards of one's own."""
    for name in ("cards", "files"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("ZOO_CARDS", str(tmp_path))
    return tmp_path


def write(folder: Path, stem: str, **facts: object) -> Path:
    path = folder / "cards" / f"{stem}.yaml"
    path.write_text(yaml.safe_dump({"name": stem, "summary": "One.", "status": "available", **facts}))
    return path


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_a_card_names_what_exists(card: Card) -> None:
    assert card.summary.endswith(".")
    assert card.model in ["", *list_models()]
    assert card.layout in ["", "zoo", "archive", "torchvision", *LAYOUTS]
    if card.experiment:
        assert describe_experiment(card.experiment)[0] == card.model
    if not card.is_usable:
        assert card.note, "says why, or what to do"
    if card.packaged is not None:
        assert file_sha256(card.packaged) == card.sha256
        assert card.packaged.stat().st_size == card.size
        assert card.measured
        assert card.command


def test_packaged_weights_are_small_and_have_cards() -> None:
    folder = Path(str(importlib.resources.files("zoo.weights"))) / "files"
    files = set(folder.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= MAX_PACKAGED_BYTES
    assert files == {card.packaged for card in CARDS if card.packaged is not None}


@pytest.mark.parametrize("model", sorted({card.model for card in USABLE}))
def test_every_model_with_weights_has_one_to_prefer(model: str) -> None:
    assert pretrained_card(model).model == model


@pytest.mark.slow
@pytest.mark.parametrize("card", USABLE, ids=lambda card: card.name)
def test_the_network_of_a_card_can_be_built(card: Card) -> None:
    from zoo.training.configuration import build

    with torch.device("meta"):
        network = build(compose(card.config_overrides).model)
    millions = {"spark-resnet200.backbone": 65, "spark-convnext_l.backbone": 198, "dsvt-nuscenes.upstream": 7.1}
    if card.name in millions:
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions[card.name], rel=0.02)


def test_cards_are_found_by_name_and_pattern() -> None:
    assert find_card("dsvt-nuscenes.upstream").class_names[0] == "car"
    with pytest.raises(ValueError, match=r"no weight has this name; did you mean .*dsvt-nuscenes\.upstream"):
        find_card("dsvt-nuscene.upstream")
    assert zoo.list_models("spark_convnext_s*", pretrained=True) == [
        "spark-convnext_s.backbone",
        "spark-convnext_s.decoder",
    ]
    assert "dsvt-waymo_pillar.upstream" not in zoo.list_models("dsvt*", pretrained=True)
    assert [card.name for card in list_cards("lpips*")] == ["lpips-alexnet.torchvision", "lpips-vgg16.torchvision"]


def test_a_model_s_weight_is_chosen_by_tag() -> None:
    assert pretrained_card("spark_resnet50").name == "spark-resnet50.decoder"
    assert pretrained_card("spark_resnet50", "spark-resnet101.decoder").overrides
    assert pretrained_card("spark_resnet50_classifier", "backbone").name == "spark-resnet50.backbone"
    with pytest.raises(ValueError, match=r"spark-resnet50\.backbone.*is a weight of spark_resnet50_classifier"):
        pretrained_card("spark_resnet50", "spark-resnet50.backbone")
    with pytest.raises(ValueError, match=r"dsvt-waymo_pillar\.upstream is withheld"):
        pretrained_card("dsvt_waymo_pillar")
    with pytest.raises(ValueError, match="comes in an archive: fetch it"):
        pretrained_card("gridformer_grid", "upstream")
    with pytest.raises(ValueError, match=r"no weight of the tag 'v9' to load; it has spark-resnet"):
        pretrained_card("spark_resnet50", "v9")
    with pytest.raises(ValueError, match="no weight to load; train it"):
        pretrained_card("gaussians")


def test_several_weights_need_a_choice(own: Path) -> None:
    facts = {
        "model": "ngp",
        "license": "MIT",
        "origin": "here",
        "file": "a.pth",
        "sources": [{"url": "https://a.test/a"}],
    }
    write(own, "ngp-a.v1", **facts)
    write(own, "ngp-b.v1", **facts)
    with pytest.raises(ValueError, match=r"has several weights; say which: ngp-a\.v1, ngp-b\.v1"):
        pretrained_card("ngp", "v1")
    write(own, "ngp-b.v1", preferred=True, **facts)
    assert pretrained_card("ngp", "v1").name == "ngp-b.v1"
    assert find_card("dsvt-nuscenes.upstream").folder != own


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"colour": "red"}, r"toy-a\.b\.yaml: unknown keys colour; expected some of"),
        ({"status": "maybe"}, "status: found 'maybe', expected one of available"),
        ({"sha256": "xyz"}, "sha256: found 'xyz'"),
        ({"file": "../a.pth", "sources": [{"drive": "x"}]}, "file: found '../a.pth', expected a plain file name"),
        ({"file": "a.pth", "sources": [{"url": "http://a.test/a"}]}, "expected https:// or file://"),
        ({"file": "a.pth", "sources": [{"ftp": "a"}]}, "sources: found"),
        ({"file": "a.pth", "sources": [{"hub": "a/b", "path": "../a.pth"}]}, "found the path '../a.pth'"),
        ({"license": 3}, "license: found 3, expected words"),
        ({"model": "ngp", "file": "a.pth", "sources": [{"drive": "x"}]}, "license, origin: expected all three"),
        ({"name": "toy-c.d"}, "name: found 'toy-c.d'"),
    ],
)
def test_a_wrong_card_is_refused(own: Path, facts: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_card(write(own, "toy-a.b", **facts))


def test_the_command_quotes_what_a_shell_would_change(own: Path) -> None:
    path = write(own, "toy-a.b", experiment="toy", overrides=["data.x=[1,2]", "seed=3"], note="-")
    assert read_card(path).command == (
        "python tools/train.py experiment=toy 'data.x=[1,2]' seed=3 train=false weights=toy-a.b expect=true"
    )


def test_downloading_by_command(own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_CACHE", str(own / "cache"))
    (own / "toy.bin").write_bytes(b"weights")
    places = [{"url": (own / "toy.bin").as_uri()}]
    write(own, "toy-a.b", file="toy.bin", sources=places, note="-")
    write(own, "toy-b.b", status="withheld", note="It may not be passed on.")
    assert main(["toy-a.b"]) == 0
    (path,) = capsys.readouterr().out.split()
    assert Path(path).read_bytes() == b"weights"
    assert main(["toy-*", "--to", str(own / "stick")]) == 0
    assert (own / "stick" / "toy-a.b" / "toy.bin").is_file()
    assert main(["toy-b.b"]) == 1
    assert "withheld" in capsys.readouterr().err
    assert main(["toy-c.b"]) == 1
    assert "did you mean" in capsys.readouterr().err
    assert main(["toi-*"]) == 1
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert "toy-a.b" in listed
    assert "spark-convnext_l384" in listed
    (own / "toy.bin").unlink()
    assert main(["toy-a.b", "--to", str(own / "other"), "--offline"]) == 1
    assert "could not be fetched" in capsys.readouterr().err
    assert main(["toy-a.b", "--to", str(own / "other"), "--offline", "--mirror", str(own / "stick")]) == 0
