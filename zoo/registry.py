"""What the zoo holds, read from its configuration files: adding a model edits no list.

Nothing here imports torch before a model is made.
"""

from __future__ import annotations

import ast
import difflib
import fnmatch
import importlib.resources
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelInfo", "create_model", "describe_models", "list_experiments", "list_models"]


@dataclass(frozen=True)
class ModelInfo:
    """One model of the zoo: its name, class, one-line description and the experiments that train it."""

    name: str
    target: str
    summary: str
    experiments: tuple[str, ...]


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern.

    Example:
        >>> list_models("no-such-*")
        []
    """
    return _names("model", pattern)


def list_experiments(pattern: str = "*") -> list[str]:
    """Names of the experiments, ready-made recipes for ``tools/train.py experiment=NAME``."""
    return _names("experiment", pattern)


def create_model(name: str, overrides: Sequence[str] = ()) -> nn.Module:
    """Make an untrained model as its configuration file describes it.

    Args:
        name: One of ``list_models()``.
        overrides: Changes to its arguments, ``["hidden_dim=32"]``.

    Raises:
        ValueError: There is no such model; the message names the nearest.
    """
    from zoo.training.configuration import build, compose

    if name not in list_models():
        near = difflib.get_close_matches(name, list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(list_models())}"
        raise ValueError(f"name: no model {name!r}; {hint}")
    return build(compose([f"model={name}", *(f"model.{override}" for override in overrides)]).model)


def describe_models(pattern: str = "*") -> list[ModelInfo]:
    """All about the models that match a shell pattern, without importing them."""
    from zoo.training.configuration import compose

    experiments = {name: _read("experiment", name) for name in list_experiments()}
    infos = []
    for name in list_models(pattern):
        target = str(compose([f"model={name}"]).model._target_)
        users = tuple(experiment for experiment, content in experiments.items() if _model_of(content) == name)
        infos.append(ModelInfo(name, target, _summary(name, target), users))
    return infos


def _folder(group: str) -> Path:
    return Path(str(importlib.resources.files("zoo.configs"))) / group


def _names(group: str, pattern: str) -> list[str]:
    names = sorted(path.stem for path in _folder(group).glob("*.yaml"))
    return [name for name in names if fnmatch.fnmatch(name, pattern)]


def _read(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((_folder(group) / f"{name}.yaml").read_text()) or {}


def _model_of(experiment: dict[str, Any]) -> str | None:
    """The option of the group ``model`` that an experiment chooses."""
    for entry in experiment.get("defaults", []):
        if isinstance(entry, dict):
            for key, value in entry.items():
                if key.removeprefix("override ").strip("/ ") == "model":
                    return value
    return None


def _summary(name: str, target: str) -> str:
    """The comment that a model's configuration begins with, else the first line of its class's docstring."""
    first = (_folder("model") / f"{name}.yaml").read_text().split("\n", 1)[0]
    if first.startswith("#"):
        return first.lstrip("# ").strip()
    module, _, class_name = target.rpartition(".")
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None:
        return ""
    for node in ast.parse(Path(spec.origin).read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return (ast.get_docstring(node) or "").split("\n", 1)[0]
    return ""
