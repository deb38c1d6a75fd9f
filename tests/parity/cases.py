"""The harness of the golden cases: finds them by glob, loads them, and turns their tolerance into a comparison.

A case is ``NAME.json`` (configuration, tolerance) with, mostly, ``NAME.safetensors`` beside it. ``$ZOO_PARITY_DIR``
names the folder that holds a sub-folder for each subject; the default is ``../shared/parity`` from the project's root.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_DIR = ROOT.parent / "shared" / "parity"


@dataclass(frozen=True)
class Case:
    """One golden case."""

    path: Path  # of the JSON file

    @property
    def stem(self) -> str:
        return self.path.stem

    @functools.cached_property
    def meta(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @property
    def config(self) -> dict[str, Any]:
        return self.meta.get("config", {})

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        file = self.path.with_suffix(".safetensors")
        return load_file(file) if file.exists() else {}

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below ``prefix/``, by the rest of their key."""
        cut = len(prefix) + 1
        return {key[cut:]: value for key, value in self.tensors.items() if key.startswith(prefix + "/")}


def parity_dir() -> Path | None:
    """The folder of the golden cases, or None where none is to be had (the suite then skips)."""
    named = os.environ.get("ZOO_PARITY_DIR")
    if named:
        return Path(named)
    return DEFAULT_DIR if DEFAULT_DIR.is_dir() else None


def find_cases(folder: str) -> list[Any]:
    """The cases of a folder as pytest parameters (id = stem); one skipped or failing stand-in where there are none."""
    root = parity_dir()
    if root is None:
        return [
            pytest.param(None, id="absent", marks=pytest.mark.skip(reason="no golden cases: ZOO_PARITY_DIR is not set"))
        ]
    paths = sorted((root / folder).glob("*.json"))
    if not paths:
        return [pytest.param(root / folder, id="empty")]
    return [pytest.param(Case(path), id=path.stem) for path in paths]


def dispatch(case: Case | Path, handlers: dict[str, Any], kind: str | None = None) -> None:
    """Run the handler whose name begins the case's stem (the longest) or equals ``kind``; it fails if there is none."""
    if isinstance(case, Path):
        pytest.fail(f"{case} holds no golden case (*.json)")
    label = kind if kind is not None else case.stem
    names = [name for name in handlers if label == name or (kind is None and label.startswith(name))]
    if not names:
        pytest.fail(f"{case.path}: unknown kind {label!r}; known kinds: {sorted(handlers)}")
    handlers[max(names, key=len)](case)


def assert_close(actual: Tensor, expected: Tensor, *, atol: float = 0.0, rtol: float = 0.0, what: str = "") -> None:
    """Shapes equal and ``|actual - expected| <= atol + rtol |expected|`` everywhere."""
    assert tuple(actual.shape) == tuple(expected.shape), (
        f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    )
    torch.testing.assert_close(
        actual.detach().double().cpu(), expected.double(), atol=atol, rtol=rtol, msg=lambda text: f"{what}: {text}"
    )


def assert_close_to_peak(actual: Tensor, expected: Tensor, *, rtol: float, what: str = "") -> None:
    """``|actual - expected| <= rtol max|expected|`` everywhere."""
    assert_close(actual, expected, atol=rtol * float(expected.abs().max()), what=what)


def sort_rows(coords: Tensor) -> Tensor:
    """The permutation that orders integer coordinate rows lexicographically, first column first."""
    order = torch.arange(len(coords))
    for column in reversed(range(coords.shape[1])):
        order = order[torch.argsort(coords[order, column], stable=True)]
    return order


def require_keys(case: Case, keys: Iterable[str]) -> None:
    """Fail with the missing names where a case lacks tensors that its kind promises."""
    missing = [key for key in keys if key not in case]
    assert not missing, f"{case.path}: lacks {missing}"
