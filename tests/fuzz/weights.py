"""Readers of weights, fields, checkpoints and cards."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from tests.fuzz.harness import Case, Reader
from tests.unit.rendering.test_field_file import write as write_field
from zoo.data.bad_samples import SampleError
from zoo.hub.catalogue import read_card
from zoo.metrics.lpips import read_backbone
from zoo.rendering.field_file import load_field
from zoo.training.configuration import read_config
from zoo.training.weights import Weights, read_weights

STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.zeros(2, dtype=torch.float16)}
CARD = """name: toy-model.tag
summary: A toy.
status: available
model: hollownerf
file: model.safetensors
sources:
  - url: https://example.org/model.safetensors
  - hub: owner/repository
    path: model.safetensors
sha256: unknown
size: 10
license: MIT
origin: nobody
class_names: [a, b]
paper: {psnr: 3.0}
measured: {psnr: {value: 3.0, tolerance: 0.1}}
"""


@cache
def _field() -> bytes:
    with TemporaryDirectory() as folder:
        write_field(Path(folder) / "field.safetensors")
        return (Path(folder) / "field.safetensors").read_bytes()


def _checkpoint(root: Path) -> None:
    content: dict[str, Any] = {
        "state_dict": {f"model.{name}": value for name, value in STATE.items()},
        "config": {"model": {"_target_": "zoo.models.hollownerf.HollowNeRF"}, "seed": 0},
        "global_step": 3,
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}],
    }
    torch.save(content, root / "a.ckpt")


def _state(path: Path) -> None:
    found = read_weights(path)
    assert all(isinstance(value, torch.Tensor) for value in found.values())


def _config(root: Path) -> None:
    assert isinstance(read_config(root / "a.ckpt"), dict)


def _classes(root: Path) -> None:
    names = Weights(root / "a.safetensors").class_names
    assert all(isinstance(name, str) for name in names)


def _legacy(root: Path) -> None:
    torch.save(STATE, root / "a.pth", _use_new_zipfile_serialization=False)


def _safetensors(root: Path) -> None:
    save_file(STATE, root / "a.safetensors", metadata={"class_names": '["a", "b"]'})


def _card(root: Path) -> None:
    (root / "cards").mkdir()
    (root / "cards" / "toy-model.tag.yaml").write_text(CARD)


WEIGHTS = (
    Reader(
        "safetensors",
        (
            Case(
                "safetensors",
                "a.safetensors",
                "safetensors",
                _safetensors,
                lambda root: _state(root / "a.safetensors"),
                (SampleError, ValueError),
            ),
            Case(
                "safetensors-classes", "a.safetensors", "safetensors", _safetensors, _classes, (SampleError, ValueError)
            ),
            Case(
                "field",
                "field.safetensors",
                "safetensors",
                lambda root: (root / "field.safetensors").write_bytes(_field()),
                lambda root: load_field(root / "field.safetensors"),
                (SampleError, ValueError),
            ),
        ),
    ),
    Reader(
        "checkpoint",
        (
            Case(
                "ckpt",
                "a.ckpt",
                "checkpoint",
                _checkpoint,
                lambda root: _state(root / "a.ckpt"),
                (SampleError, ValueError),
            ),
            Case("ckpt-config", "a.ckpt", "checkpoint", _checkpoint, _config, (SampleError, ValueError)),
            Case(
                "pth-legacy",
                "a.pth",
                "checkpoint",
                _legacy,
                lambda root: _state(root / "a.pth"),
                (SampleError, ValueError),
            ),
            Case(
                "backbone",
                "a.pth",
                "checkpoint",
                _legacy,
                lambda root: read_backbone(root / "a.pth"),
                (SampleError, ValueError),
            ),
        ),
    ),
    Reader(
        "card",
        (
            Case(
                "card",
                "cards/toy-model.tag.yaml",
                "text",
                _card,
                lambda root: read_card(root / "cards" / "toy-model.tag.yaml"),
                (SampleError, ValueError),
            ),
        ),
    ),
)
