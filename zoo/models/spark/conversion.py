"""Replacement of a network's layers by forms that know which cells are visible; what has no such form is refused."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.models.spark.visible import VisibleCells

__all__ = ["VisibleLayer", "replace_layers"]

_ZERO_STAYS_ZERO = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Tanh, nn.Identity, nn.Dropout),
)
_ZERO_STAYS_ZERO_NAMES = {"timm.layers.activations.GELU"}


class VisibleLayer(nn.Module):
    """A layer that shares the mask of its encoder and knows its own name."""

    visible: VisibleCells
    name: str


def full_name(module: nn.Module) -> str:
    """The type's name with its module's: third-party types need no import to be known."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _reason_against(module: nn.Module) -> str | None:
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return f"padding_mode={module.padding_mode!r} brings masked cells back"
    if isinstance(module, _BatchNorm) and not module.affine:
        return "affine=False is not supported"
    if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) != 1:
        return f"normalized_shape={tuple(module.normalized_shape)} spans positions, not only channels"
    if isinstance(module, nn.MaxPool2d) and module.return_indices:
        return "return_indices=True is not supported"
    return None


def _replaced(
    module: nn.Module, kinds: Mapping[str, type[VisibleLayer]], visible: VisibleCells, name: str
) -> nn.Module | None:
    kind = kinds.get(full_name(module))
    if kind is None:
        return None
    layer = kind.__new__(kind)
    layer.__dict__.update(module.__dict__)  # the same parameters, buffers and settings
    layer.visible, layer.name = visible, name
    return layer


def replace_layers(
    module: nn.Module,
    visible: VisibleCells,
    kinds: Mapping[str, type[VisibleLayer]],
    *,
    unchanged: Collection[str] = (),
    name: str = "",
) -> nn.Module:
    """Replace every layer of ``module``, in place, by its form in ``kinds``; parameters and keys stay.

    Args:
        module: A network or a single layer.
        visible: The mask that the new layers share.
        kinds: New type by the full name of the old one.
        unchanged: Full names of types that need no replacement, besides activations with f(0) = 0.
        name: Of the module, for messages.

    Returns:
        The module, or what replaces it where it is itself a layer.

    Raises:
        ValueError: Naming every layer that cannot be replaced, and why.
    """
    refused: list[str] = []

    def visit(part: nn.Module, path: str) -> nn.Module:
        reason = _reason_against(part)
        layer = None if reason else _replaced(part, kinds, visible, path or type(part).__name__)
        if layer is not None:
            return layer
        known = type(part) in _ZERO_STAYS_ZERO or full_name(part) in {*_ZERO_STAYS_ZERO_NAMES, *unchanged}
        children = dict(part.named_children())
        is_container = isinstance(part, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if reason or not (known or children or is_container):
            refused.append(f"{path or '(the module)'}: {full_name(part)}" + (f" ({reason})" if reason else ""))
        for key, child in children.items():
            setattr(part, key, visit(child, f"{path}.{key}" if path else key))
        return part

    result = visit(module, name)
    if refused:
        raise ValueError(
            "layers that cannot be masked: " + "; ".join(refused) + ". Expected convolutions, max and average pooling, "
            "batch norm, layer norm over channels, linear layers, and activations with f(0) = 0"
        )
    return result
