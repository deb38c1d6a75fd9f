"""Model weights out of a file: safetensors, or the model inside a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["load_weights", "read_weights"]

_WRAPPERS = ("state_dict", "module")  # Lightning's checkpoints, and files of upstream projects
_MODEL = "model."  # a task holds its model under this name


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict of the model in ``path``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no weights that can be read without running code from it.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"weights={path}: no such file; expected a .safetensors file or a checkpoint")
    if file.suffix == ".safetensors":
        return load_file(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not its own
        raise ValueError(f"weights={path}: cannot be read as a checkpoint of tensors ({error})") from error
    state = content if isinstance(content, dict) else {}
    state = next((state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)), state)
    inside = {name.removeprefix(_MODEL): value for name, value in state.items() if name.startswith(_MODEL)}
    chosen = inside or {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not chosen:
        raise ValueError(f"weights={path}: the file holds no tensors of a model")
    return chosen


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights strictly: every name and shape has to fit.

    A model with a method ``adopt_weights(state)`` decides itself what it takes: a classifier takes the backbone of a
    pre-trained network.

    Raises:
        ValueError: Names or shapes do not fit; the message lists them.
    """
    adopt = getattr(model, "adopt_weights", None)
    try:
        if adopt is not None:
            adopt(read_weights(path))
        else:
            model.load_state_dict(read_weights(path), strict=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"weights={path}: does not fit {type(model).__name__}: {error}") from error
