"""A run becomes a weight of the zoo; measured by name it gives its card's figures, or says that it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import zoo
from tests.smoke.runs import ROOT, environment, newest_run, train_here
from tests.smoke.twins import MODELS, SAMPLES
from zoo.convert import main as convert_main
from zoo.convert import make_card
from zoo.hub import find_card
from zoo.train import train
from zoo.training.configuration import compose, load_run
from zoo.training.expectations import UnexpectedFigures
from zoo.training.run_folder import find_checkpoint

SHAPES = (
    "experiment=e3dsnn_shapes",
    *SAMPLES["zoo.data.modelnet.ModelNet"],
    *MODELS["zoo.models.e3dsnn.E3DSNNClassifier"],
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "callbacks=[default,ema]",
    "callbacks.ema.decay=0.5",
    "threads=1",
)
FIELD = (
    "experiment=hollownerf_quickstart",
    *SAMPLES["zoo.data.radiance_fields.RadianceFieldData"],
    "trainer.max_steps=20",
    "trainer.val_check_interval=20",
    "callbacks.prune_field=null",
    "threads=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Cards of one's own, data and runs."""
    folder = tmp_path_factory.mktemp("zoo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_CARDS", str(folder / "weights"))
        yield folder


def paths(folder: Path) -> list[str]:
    return [f"paths.data_dir={folder / 'data'}"]


@pytest.fixture(scope="module")
def classifier(folder: Path) -> str:
    """The name of a weight that was made of a run of two steps, with averaged weights."""
    run = train_here(folder / "runs", *SHAPES, *paths(folder))
    make_card(run, "e3dsnn-toy.v1", metrics=["test/accuracy"], folder=folder / "weights")
    return "e3dsnn-toy.v1"


def measure(folder: Path, name: str, *overrides: str) -> dict[str, float]:
    """As the card's command does."""
    threads = torch.get_num_threads()
    try:
        card = find_card(name)
        given = [*card.config_overrides, "train=false", f"weights={name}", *paths(folder), "threads=1", *overrides]
        return train(compose([*given, f"paths.output_dir={folder / 'measured'}"]), overrides=given)
    finally:
        torch.set_num_threads(threads)


def altered(folder: Path, name: str, tag: str, **changes: Any) -> str:
    """The name of a card like another but for some facts."""
    path = folder / "weights" / "cards" / f"{name}.yaml"
    other = f"{name.partition('.')[0]}.{tag}"
    facts = {**yaml.safe_load(path.read_text()), "name": other, **changes}
    (path.parent / f"{other}.yaml").write_text(yaml.safe_dump(facts))
    return other


def boasting(folder: Path, name: str) -> str:
    """The name of a card that promises half of all more than the weight reaches."""
    value = find_card(name).measured["test/accuracy"].value + 0.5
    return altered(folder, name, "wrong", measured={"test/accuracy": {"value": value, "tolerance": 0.01}})


def test_the_card_tells_where_the_weight_is_from(folder: Path, classifier: str) -> None:
    card, run = find_card(classifier), newest_run(folder / "runs")
    metrics = json.loads((run / "metrics.json").read_text())
    assert card.measured["test/accuracy"].value == metrics["test/accuracy"]
    assert (card.model, card.experiment, card.layout) == ("e3dsnn_t", "e3dsnn_shapes", "zoo")
    assert not [text for text in (*card.overrides, str(card.trained)) if str(folder) in text or "threads=" in text]
    assert len(card.class_names) == 14
    assert card.summary.startswith("Fourteen generated families")
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    averaged, raw = content["state_dict"], content["current_model_state"]
    assert card.packaged is not None
    kept = load_file(card.packaged)
    assert {f"model.{name}" for name in kept} == {name for name in averaged if name.startswith("model.")}
    assert all(torch.equal(value, averaged[f"model.{name}"]) for name, value in kept.items())
    assert any(not torch.equal(value, raw[f"model.{name}"]) for name, value in kept.items())


def test_another_run_may_measure_what_the_card_promises(folder: Path, classifier: str, tmp_path: Path) -> None:
    run = newest_run(folder / "runs")
    weights = run / "checkpoints" / "last.ckpt"
    fewer = ("train=false", f"weights={weights}", "data.eval_batch_size=3")
    other = train_here(folder / "others", *SHAPES, *paths(folder), *fewer)
    card = make_card(run, "e3dsnn-toy.v2", metrics=["test/accuracy"], folder=tmp_path, measured_by=other)
    assert "data.eval_batch_size=3" in card.overrides
    assert card.trained["steps"] == 2
    assert "eval_batch_size" not in card.trained["command"]
    assert card.measured["test/accuracy"].value == json.loads((other / "metrics.json").read_text())["test/accuracy"]
    with pytest.raises(ValueError, match=r"was started with .*expected"):
        make_card(run, "e3dsnn-toy.v3", metrics=["test/accuracy"], folder=tmp_path, measured_by=run)


def test_measured_by_name_it_gives_the_card_s_figures(
    folder: Path, classifier: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="zoo")
    card = find_card(classifier)
    found = measure(folder, classifier, "expect=true")
    assert found["test/accuracy"] == card.measured["test/accuracy"].value
    assert "e3dsnn-toy.v1: test/accuracy: expected" in caplog.text
    wrong = boasting(folder, classifier)
    with pytest.raises(UnexpectedFigures, match=r"e3dsnn-toy\.wrong: test/accuracy: expected .* measured"):
        measure(folder, wrong, "expect=true")
    assert measure(folder, wrong)["test/accuracy"] == found["test/accuracy"]
    assert "NOT AS EXPECTED" in caplog.text


def test_nothing_is_expected_of_another_measurement(folder: Path, classifier: str) -> None:
    with pytest.raises(ValueError, match=r"of another configuration \(data\.seed: .*measure it with: python tools"):
        measure(folder, classifier, "expect=true", "data.seed=77")
    with pytest.raises(ValueError, match=r"expect=true: needs train=false test=true and weights=NAME"):
        measure(folder, classifier, "expect=true", "test=false", "train=true")
    with pytest.raises(ValueError, match="expected one weight of the experiment 'other'; train it"):
        train(compose([*SHAPES, "ckpt=pretrained", "train=false", "name=other"]))


def test_weights_of_other_classes_are_refused(folder: Path, classifier: str) -> None:
    turned = altered(folder, classifier, "turned", class_names=list(find_card(classifier).class_names[::-1]))
    with pytest.raises(ValueError, match=r"trained on the classes .*; the data has"):
        measure(folder, turned)
    with pytest.raises(ValueError, match=r"(?s)e3dsnn-toy\.v1: does not fit E3DSNNClassifier: .*mismatch for final"):
        zoo.create_model(classifier, ["num_classes=5"], pretrained=True)


def test_a_field_keeps_its_occupancy_grid(folder: Path) -> None:
    run = train_here(folder / "fields", *FIELD, *paths(folder))
    card = make_card(run, "hollownerf-toy.v1", metrics=["test/psnr", "test/ssim"], folder=folder / "weights")
    assert card.packaged is not None
    assert "task/renderer.occupancy.binaries" in load_file(card.packaged)
    found = measure(folder, card.name, "expect=true")
    assert found["test/psnr"] == pytest.approx(card.measured["test/psnr"].value, abs=1e-5)
    checkpoint = find_checkpoint(card.name, output_dir=folder / "out", name=None)
    assert checkpoint == find_checkpoint(card.name, output_dir=folder / "out", name=None)
    _, parts = load_run(checkpoint)
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    state = parts.task.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], value) for name, value in saved.items())


def test_a_card_is_made_of_a_finished_run_only(
    folder: Path, classifier: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, weights = str(newest_run(folder / "runs")), folder / "weights"

    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            convert_main([*arguments, "--into", str(weights)])
        assert ended.value.code == 1
        return capsys.readouterr().err

    assert "exists; say --overwrite" in refused(run, "--card", classifier, "--metric", "test/accuracy")
    assert "expected some of" in refused(run, "--card", "e3dsnn-toy.v2", "--metric", "test/psnr")
    assert "expected some of" in refused(run, "--card", "e3dsnn-toy.v2")
    assert "without experiment=NAME" in refused(str(weights), "--card", "e3dsnn-toy.v2", "--metric", "test/accuracy")
    monkeypatch.setattr("zoo.training.card_export.MAX_PACKAGED_BYTES", 10)
    assert "expected at most" in refused(run, "--card", "e3dsnn-toy.v2", "--metric", "test/accuracy")
    assert not (weights / "cards" / "e3dsnn-toy.v2.yaml").exists()
    assert not (weights / "files" / "e3dsnn-toy.v2.safetensors").exists()


@pytest.mark.slow
def test_the_command_of_a_card_ends_as_it_promises(folder: Path, classifier: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *find_card(classifier).config_overrides, "train=false"]
    command += [f"weights={classifier}", "expect=true", *paths(folder), f"paths.output_dir={folder / 'there'}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test/accuracy: expected" in done.stdout
    wrong = boasting(folder, classifier)
    command = [word.replace(classifier, wrong) for word in command]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "NOT AS EXPECTED" in done.stdout
