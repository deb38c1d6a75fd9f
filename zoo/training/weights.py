"""Model weights by the name of a card or out of a file: safetensors, checkpoints of this package, files of upstream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zoo.hub import Card, fetch, find_card, is_card_name
from zoo.training.upstream_layouts import layout_of, read_content, remap

__all__ = ["TASK_PREFIX", "Weights", "find_weights", "load_task_state", "load_weights", "read_weights"]

TASK_PREFIX = "task/"  # in safetensors: what a task keeps beside its model, such as an occupancy grid
_WRAPPERS = ("state_dict", "module")  # Lightning's checkpoints, and files of upstream projects
_MODEL = "model."  # a task holds its model under this name


@dataclass(frozen=True)
class Weights:
    """A file of weights and, where it was named by one, its card."""

    path: Path
    card: Card | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the outputs number, as far as card or file say."""
        if self.card is not None:
            return self.card.class_names
        if self.path.suffix != ".safetensors":
            return ()
        try:
            with safe_open(self.path, framework="pt") as file:
                names = json.loads((file.metadata() or {}).get("class_names", "[]"))
        except (SafetensorError, OSError, ValueError, RecursionError) as error:
            raise ValueError(f"weights={self.path}: cannot be read as safetensors ({error})") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"weights={self.path}: class_names is {names!r}, expected a list of words")
        return tuple(names)


def find_weights(weights: str | Path) -> Weights:
    """What ``weights=`` means: a file, else the name of a card, whose file is fetched if need be.

    Raises:
        FileNotFoundError: Neither a file nor the form of a name.
        ValueError: No weight has the name, or it cannot be loaded; the message says why.
        OSError: It could not be fetched.
    """
    if Path(weights).is_file():
        return Weights(Path(weights))
    if not is_card_name(str(weights)):
        raise FileNotFoundError(
            f"weights={weights}: no such file; expected a .safetensors file, a checkpoint, or a name that "
            "`zoo download` lists"
        )
    card = find_card(str(weights))
    if card.status in ("available", "converted") and not card.is_usable:
        raise ValueError(f"weights={weights}: cannot be loaded by name. {card.note}")
    return Weights(fetch(card), card)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors in ``path``: of the model in a checkpoint of this package, else all.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no weights that can be read without running code from it.
    """
    return _chosen(read_content(path), path)


def load_weights(model: nn.Module, weights: str | Path | Weights, *, layout: str | None = None) -> None:
    """Load weights strictly: every name and shape has to fit. Files of upstream projects are remapped.

    A model with a method ``adopt_weights(state)`` decides itself what it takes: a classifier takes the backbone of a
    pre-trained network.

    Args:
        model: The network.
        weights: A card's name, a file, or what `find_weights` found.
        layout: Whose names the file has, ``zoo`` or one of `LAYOUTS`; None: the card's, or what the file looks like.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Names or shapes do not fit; the message lists them.
    """
    found = weights if isinstance(weights, Weights) else find_weights(weights)
    adopt = getattr(model, "adopt_weights", None)
    content = read_content(found.path)
    try:
        state = _state_for(model, content, found, layout or (found.card.layout if found.card is not None else ""))
        if adopt is not None:
            adopt(state)
        else:
            model.load_state_dict(state, strict=True)
    except (RuntimeError, ValueError) as error:
        name = found.card.name if found.card is not None else found.path
        raise ValueError(f"weights={name}: does not fit {type(model).__name__}: {error}") from error


def load_task_state(task: LightningModule, weights: Weights) -> None:
    """What the task keeps beside its model, where the file has it: a field is rendered through its occupancy grid.

    Raises:
        ValueError: It does not fit.
    """
    if weights.path.suffix != ".safetensors":
        return
    content = read_content(weights.path)
    inside = {name.removeprefix(TASK_PREFIX): value for name, value in content.items() if name.startswith(TASK_PREFIX)}
    if not inside:
        return
    try:
        result = task.load_state_dict(inside, strict=False)
    except RuntimeError as error:
        raise ValueError(f"weights={weights.path}: does not fit {type(task).__name__}: {error}") from error
    if result.unexpected_keys:
        raise ValueError(
            f"weights={weights.path}: found {result.unexpected_keys[:3]}, which {type(task).__name__} does not have"
        )


def _state_for(model: nn.Module, content: Mapping[str, Any], weights: Weights, layout: str) -> dict[str, Tensor]:
    if layout not in ("", "zoo"):
        return remap(content, model, layout)
    chosen = _chosen(content, weights.path)
    upstream = layout_of(model)
    if layout == "" and upstream is not None and not _is_ours(content, chosen, model, weights.path):
        return remap(content, model, upstream)
    return chosen


def _is_ours(content: Mapping[str, Any], chosen: Mapping[str, Tensor], model: nn.Module, path: Path) -> bool:
    """Whether a file was written by this package, or has its names."""
    state = content.get("state_dict")
    if isinstance(state, Mapping) and any(str(name).startswith(_MODEL) for name in state):
        return True
    return path.suffix == ".safetensors" or chosen.keys() == model.state_dict().keys()


def _chosen(content: Mapping[str, Any], path: str | Path) -> dict[str, Tensor]:
    state = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    named = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    inside = {name.removeprefix(_MODEL): value for name, value in named.items() if name.startswith(_MODEL)}
    chosen = {name: value for name, value in (inside or named).items() if not name.startswith(TASK_PREFIX)}
    if not chosen and not any(isinstance(value, Mapping) for value in content.values()):
        raise ValueError(f"weights={path}: the file holds no tensors of a model")
    return chosen
