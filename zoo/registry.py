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

from zoo.hub import Card, find_card, is_card_name, list_cards, pretrained_card

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelInfo", "create_model", "describe_experiment", "describe_models", "list_experiments", "list_models"]


@dataclass(frozen=True)
class ModelInfo:
    """One model of the zoo: its name, class, one-line description and the experiments that train it."""

    name: str
    target: str
    summary: str
    experiments: tuple[str, ...]


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of the models that match a shell pattern.

    Args:
        pattern: Of the names.
        pretrained: Names of weights to load instead, ``system-variant.tag``, whose own name or model's name matches.

    Example:
        >>> list_models("dsvt_w*")
        ['dsvt_waymo_pillar', 'dsvt_waymo_voxel']
        >>> list_models("dsvt_nuscenes", pretrained=True)
        ['dsvt-nuscenes.upstream']
    """
    if pretrained:
        return [card.name for card in list_cards(pattern) if card.is_usable]
    return _names("model", pattern)


def list_experiments(pattern: str = "*") -> list[str]:
    """Names of the experiments, ready-made recipes for ``tools/train.py experiment=NAME``."""
    return _names("experiment", pattern)


def create_model(
    name: str,
    overrides: Sequence[str] = (),
    *,
    pretrained: bool | str = False,
    class_names: Sequence[str] | None = None,
) -> nn.Module:
    """Make a model as its configuration file describes it, untrained or with the weights of a card.

    Args:
        name: One of ``list_models()``, or of ``list_models(pretrained=True)``: the network of that weight.
        overrides: Changes to its arguments, ``["hidden_dim=32"]``.
        pretrained: True: the model's preferred weight, fetched if need be; a text: the weight of this tag or name.
        class_names: What the outputs are to number; weights that were trained on other classes are refused.

    Raises:
        ValueError: There is no such model or weight, which names the nearest; or the weights have other classes, or
            shapes that ``overrides`` do not fit.
        OSError: The weights could not be fetched.

    Example:
        >>> create_model("gridformer_planes", ["channels=8", "resolution=16"]).kind
        'planes'
    """
    from zoo.training.configuration import build, compose

    if is_card_name(name):
        card = find_card(name)
    elif name not in list_models():
        near = difflib.get_close_matches(name, list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(list_models())}"
        raise ValueError(f"name: no model {name!r}; {hint}")
    else:
        card = pretrained_card(name, None if pretrained is True else pretrained) if pretrained else None
    if card is not None and not card.model:
        raise ValueError(f"name: {card.name} is no network of the zoo. {card.note}")
    base = [f"model={name}"] if card is None else card.config_overrides
    model: nn.Module = build(compose([*base, *(f"model.{override}" for override in overrides)]).model)
    if card is not None and pretrained:
        _fill(model, card, class_names)
    return model


def _fill(model: nn.Module, card: Card, class_names: Sequence[str] | None) -> None:
    from zoo.training.weights import find_weights, load_weights

    if class_names is not None and tuple(class_names) != card.class_names:
        found = ", ".join(card.class_names) or "of no classes"
        raise ValueError(f"class_names: {card.name} was trained on {found}; expected {', '.join(class_names)}")
    load_weights(model, find_weights(card.name))


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


def describe_experiment(name: str) -> tuple[str, str]:
    """The model that an experiment trains, and the line that it begins with.

    Raises:
        ValueError: There is no such experiment.
    """
    if name not in list_experiments():
        near = difflib.get_close_matches(name, list_experiments(), n=3)
        raise ValueError(f"experiment: no experiment {name!r}; did you mean {', '.join(near) or 'one of `zoo list`'}?")
    lines = (_folder("experiment") / f"{name}.yaml").read_text().splitlines()
    text = next((line for line in lines if line.startswith("#") and "@package" not in line), "")
    return _model_of(_read("experiment", name)) or "", text.lstrip("# ").strip()


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
