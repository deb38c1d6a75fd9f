"""Models with weights: by name, from files of every kind, and never by running what a file says."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

import zoo
from zoo.hub.resuming import file_sha256
from zoo.training.weights import find_weights, load_weights, read_weights

SMALL = ["channels=8", "resolution=16"]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a card and a file of a small GridFormer of random weights."""
    for name in ("cards", "files"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("ZOO_CARDS", str(tmp_path))
    torch.manual_seed(3)
    state = zoo.create_model("gridformer_planes", SMALL).state_dict()
    file = tmp_path / "files" / "gridformer-toy.v1.safetensors"
    save_file(state, file, {"class_names": json.dumps(["free", "filled"])})
    facts = {
        "name": "gridformer-toy.v1",
        "summary": "A toy.",
        "status": "available",
        "model": "gridformer_planes",
        "overrides": [f"model.{override}" for override in SMALL],
        "file": file.name,
        "layout": "zoo",
        "sources": [{"package": file.name}],
        "sha256": file_sha256(file),
        "license": "Apache-2.0",
        "origin": "a test",
        "class_names": ["free", "filled"],
    }
    (tmp_path / "cards" / "gridformer-toy.v1.yaml").write_text(yaml.safe_dump(facts))
    return tmp_path


def test_a_model_comes_with_its_weights(own: Path) -> None:
    expected = read_weights(own / "files" / "gridformer-toy.v1.safetensors")
    for model in (
        zoo.create_model("gridformer_planes", pretrained=True),
        zoo.create_model("gridformer_planes", pretrained="v1"),
        zoo.create_model("gridformer_planes", pretrained="gridformer-toy.v1"),
        zoo.create_model("gridformer-toy.v1", pretrained=True, class_names=["free", "filled"]),
    ):
        found = model.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    untrained = zoo.create_model("gridformer-toy.v1").state_dict()
    assert {name: value.shape for name, value in untrained.items()} == {n: v.shape for n, v in expected.items()}
    assert any(not torch.equal(untrained[name], value) for name, value in expected.items())
    assert zoo.list_models("gridformer*", pretrained=True) == ["gridformer-toy.v1"]


def test_what_does_not_match_the_weights_is_said(own: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)weights=gridformer-toy\.v1: does not fit GridFormer: .*size mismatch"):
        zoo.create_model("gridformer_planes", ["channels=16"], pretrained=True)
    with pytest.raises(ValueError, match=r"gridformer-toy\.v1 was trained on free, filled; expected filled, free"):
        zoo.create_model("gridformer_planes", pretrained=True, class_names=["filled", "free"])
    with pytest.raises(ValueError, match=r"no model 'gridformer_plane'; did you mean"):
        zoo.create_model("gridformer_plane", pretrained=True)
    with pytest.raises(ValueError, match=r"weights=gridformer-toy\.v2: .*did you mean gridformer-toy\.v1"):
        zoo.create_model("gridformer-toy.v2", pretrained=True)
    with pytest.raises(ValueError, match=r"lpips-vgg16\.torchvision is no network of the zoo"):
        zoo.create_model("lpips-vgg16.torchvision", pretrained=True)
    with pytest.raises(ValueError, match=r"dsvt-waymo_voxel\.upstream: withheld: .*licence"):
        find_weights("dsvt-waymo_voxel.upstream")
    with pytest.raises(ValueError, match=r"cannot be loaded by name\. .*Unpack it and convert"):
        find_weights("gridformer-rooms.upstream")
    (own / "files" / "gridformer-toy.v1.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match="found sha256"):
        zoo.create_model("gridformer_planes", pretrained=True)


def test_a_file_knows_its_classes(own: Path, tmp_path: Path) -> None:
    file = own / "files" / "gridformer-toy.v1.safetensors"
    assert find_weights(file).class_names == find_weights("gridformer-toy.v1").class_names == ("free", "filled")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert find_weights(tmp_path / "plain.safetensors").class_names == ()


def test_files_of_upstream_are_taken_as_they_are(own: Path) -> None:
    model = zoo.create_model("gridformer-toy.v1")
    state = {f"module.{name}": torch.full_like(value, 2) for name, value in model.state_dict().items()}
    torch.save({"model": state, "loss_val_best": np.float64(0.25), "it": np.int32(7)}, own / "model.pt")
    load_weights(model, own / "model.pt")
    assert all(bool((value == 2).all()) for value in model.state_dict().values())


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_no_code_of_a_file_is_run(form: str, tmp_path: Path) -> None:
    trace, file = tmp_path / "was_here", tmp_path / "evil.pth"
    content = {"state_dict": {"model.a": torch.zeros(1)}, "extra": Evil(trace)}
    if form == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=r"evil\.pth: cannot be read"):
        read_weights(file)
    assert not trace.exists()


def test_scalars_of_numpy_hold_numbers_only(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2), "best": np.float32(0.5), "when": np.datetime64(7, "s")}, tmp_path / "time.pth")
    with pytest.raises(ValueError, match=r"time\.pth: cannot be read"):
        read_weights(tmp_path / "time.pth")
    torch.save({"a": torch.ones(2), "best": np.float32(0.5)}, tmp_path / "good.pth")
    assert torch.equal(read_weights(tmp_path / "good.pth")["a"], torch.ones(2))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(100)}, tmp_path / "whole.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cut\.safetensors: cannot be read"):
        read_weights(tmp_path / "cut.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"list\.pth: found a list, expected a checkpoint"):
        read_weights(tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match=r"expected a \.safetensors file, a checkpoint, or a name"):
        find_weights(tmp_path / "none.pth")
