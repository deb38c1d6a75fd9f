"""Checks of arguments.

Dtype, device and shape are checked at each call, values where a type is built, or everywhere with ``ZOO_CHECK=1``.
Every message names the argument, what was found and what was expected.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64)
FLOATING_OR_HALF = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def checks_values() -> bool:
    """Whether ``ZOO_CHECK=1`` asks for checks of values (range, finiteness) at every call; they cost time."""
    return os.environ.get("ZOO_CHECK", "0") not in ("", "0")


def check_shape(name: str, tensor: Tensor, shape: Sequence[int | str | None]) -> None:
    """Raise ValueError unless ``tensor`` has the given shape; a string or None stands for any size."""
    fits = tensor.dim() == len(shape) and all(
        not isinstance(want, int) or have == want for have, want in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("*" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: found shape {tuple(tensor.shape)}, expected ({wanted})")


def check_dtype(name: str, tensor: Tensor, dtypes: torch.dtype | Sequence[torch.dtype]) -> None:
    """Raise ValueError unless ``tensor`` has one of the given dtypes."""
    allowed = (dtypes,) if isinstance(dtypes, torch.dtype) else tuple(dtypes)
    if tensor.dtype not in allowed:
        wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise ValueError(f"{name}: found dtype {str(tensor.dtype).removeprefix('torch.')}, expected {wanted}")


def check_same_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless both tensors are on one device."""
    if tensor.device != other.device:
        raise ValueError(
            f"{name}: found on device {tensor.device}, expected {other.device}, the device of {other_name}"
        )


def check_same_dtype(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless both tensors have one dtype."""
    if tensor.dtype != other.dtype:
        raise ValueError(f"{name}: found dtype {tensor.dtype}, expected {other.dtype}, the dtype of {other_name}")


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError where values are NaN or infinite; says how many and where the first one is."""
    bad = ~torch.isfinite(tensor)
    if bool(bad.any()):
        first = tuple(int(i) for i in bad.nonzero()[0])
        raise ValueError(
            f"{name}: found {int(bad.sum())} values that are NaN or infinite, the first at {first}; expected finite"
        )


def check_option(name: str, value: str, options: Sequence[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``options``."""
    if value not in options:
        raise ValueError(f"{name}: found {value!r}, expected one of {', '.join(map(repr, options))}")
