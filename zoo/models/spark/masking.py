"""Dense layers that keep masked cells at zero and out of their statistics (SparK, arXiv:2301.03580, section 3.1).

The mask lives in a ``VisibleCells`` object that the layers of one encoder share; there is no global variable, so
several encoders can run side by side. Maps are ``(B, C, H, W)``; linear layers and plain layer norms see
``(B, H, W, C)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["VisibleCells", "mask_layers"]


class VisibleCells:
    """Which cells of the coarsest grid are visible, and their repetition at the size of every finer map."""

    def __init__(self) -> None:
        self._mask: Tensor | None = None
        self._scaled: dict[tuple[int, int], Tensor] = {}

    def show(self, mask: Tensor) -> None:
        """Set the mask ``(B, 1, f, f)`` (True is visible) of the next forward pass."""
        if mask.dim() != 4 or mask.shape[1] != 1 or mask.dtype != torch.bool:
            raise ValueError(f"mask: found {mask.dtype} {tuple(mask.shape)}; expected bool (B, 1, rows, columns)")
        if not bool(mask.any()):
            raise ValueError("mask: found no visible cell in the whole batch; expected at least one")
        self._mask, self._scaled = mask, {}

    def at(self, height: int, width: int, *, layer: str = "image") -> Tensor:
        """The mask repeated to ``(B, 1, height, width)``."""
        if self._mask is None:
            raise RuntimeError(f"{layer}: a masked layer ran before a mask was set; run it through its SparseEncoder")
        if (height, width) not in self._scaled:
            rows, columns = self._mask.shape[2:]
            if height % rows or width % columns:
                raise ValueError(
                    f"{layer}: map of {height} x {width} is no multiple of the mask's {rows} x {columns} cells; "
                    "global pooling and strides beyond the backbone's own cannot be masked"
                )
            scaled = self._mask.repeat_interleave(height // rows, 2).repeat_interleave(width // columns, 3)
            self._scaled[height, width] = scaled
        return self._scaled[height, width]


class _Masked(nn.Module):
    visible: VisibleCells
    name: str

    def _mask(self, x: Tensor, *, channels_last: bool = False) -> Tensor:
        if x.dim() != 4:
            raise ValueError(f"{self.name}: found a tensor of shape {tuple(x.shape)}; expected a map of 4 dimensions")
        if channels_last:
            return self.visible.at(x.shape[1], x.shape[2], layer=self.name).permute(0, 2, 3, 1)
        return self.visible.at(x.shape[2], x.shape[3], layer=self.name)


class MaskedConv2d(_Masked, nn.Conv2d):
    """Convolution whose output is zero at masked cells."""

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        return out * self._mask(out)


class MaskedMaxPool2d(_Masked, nn.MaxPool2d):
    """Maximum in which masked cells count as zero."""

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        assert isinstance(out, Tensor)  # indices are refused by mask_layers
        return out * self._mask(out)


class MaskedAvgPool2d(_Masked, nn.AvgPool2d):
    """Mean over the ordinary window, zeros of masked cells included."""

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        return out * self._mask(out)


class MaskedLinear(_Masked, nn.Linear):
    """Linear layer on ``(B, H, W, C)`` whose output is zero at masked cells, bias included."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self._mask(input, channels_last=True)


class MaskedLayerNorm(_Masked, nn.LayerNorm):
    """Layer norm over the channels of ``(B, H, W, C)``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self._mask(input, channels_last=True)


class MaskedLayerNorm2d(_Masked, nn.LayerNorm):
    """Layer norm over the channels of ``(B, C, H, W)``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * self._mask(input)


def _normalize_rows(layer: _BatchNorm, x: Tensor, mask: Tensor, norm: Callable[[Tensor], Tensor]) -> Tensor:
    where = mask[:, 0]  # (B, H, W)
    rows = x.permute(0, 2, 3, 1)[where]  # (N, C)
    if layer.training and len(rows) < 2:
        raise ValueError(f"batch norm: found {len(rows)} visible position; its statistics need at least 2")
    normalized = norm(rows)
    out = normalized.new_zeros(x.shape[0], *x.shape[2:], x.shape[1])
    out[where] = normalized
    return out.permute(0, 3, 1, 2)


class MaskedBatchNorm2d(_Masked, nn.BatchNorm2d):
    """Batch norm over the visible positions of the batch; zero elsewhere."""

    def _check_input_dim(self, input: Tensor) -> None:
        del input  # rows (N, C)

    def forward(self, input: Tensor) -> Tensor:
        return _normalize_rows(self, input, self._mask(input), super().forward)


class MaskedSyncBatchNorm(_Masked, nn.SyncBatchNorm):
    """The same with statistics over all processes."""

    def forward(self, input: Tensor) -> Tensor:
        return _normalize_rows(self, input, self._mask(input), super().forward)


_MASKED: dict[str, type[_Masked]] = {  # by full name: timm's need no import
    "torch.nn.modules.conv.Conv2d": MaskedConv2d,
    "torch.nn.modules.pooling.MaxPool2d": MaskedMaxPool2d,
    "torch.nn.modules.pooling.AvgPool2d": MaskedAvgPool2d,
    "torch.nn.modules.linear.Linear": MaskedLinear,
    "torch.nn.modules.normalization.LayerNorm": MaskedLayerNorm,
    "torch.nn.modules.batchnorm.BatchNorm2d": MaskedBatchNorm2d,
    "torch.nn.modules.batchnorm.SyncBatchNorm": MaskedSyncBatchNorm,
    "zoo.models.spark.convnext.LayerNorm2d": MaskedLayerNorm2d,
    "timm.layers.norm.LayerNorm": MaskedLayerNorm,
    "timm.layers.norm.LayerNorm2d": MaskedLayerNorm2d,
}
_ZERO_STAYS_ZERO = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish),
    *(nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d),
)
_ZERO_STAYS_ZERO_NAMES = {
    "timm.layers.drop.DropPath",
    "zoo.models.spark.convnext.DropPath",
    "timm.layers.activations.GELU",
}


def _full_name(module: nn.Module) -> str:
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


def _masked_layer(module: nn.Module, visible: VisibleCells, name: str) -> nn.Module | None:
    kind = _MASKED.get(_full_name(module))
    if kind is None:
        return None
    masked = kind.__new__(kind)
    masked.__dict__.update(module.__dict__)  # the same parameters, buffers and settings
    masked.visible, masked.name = visible, name
    return masked


def mask_layers(module: nn.Module, visible: VisibleCells, *, name: str = "") -> nn.Module:
    """Replace every spatial layer of ``module``, in place, by its masked form; parameters and keys stay.

    Returns:
        The module, or what replaces it where it is itself a layer.

    Raises:
        ValueError: Naming every layer that cannot be masked, and why.
    """
    refused: list[str] = []

    def visit(part: nn.Module, path: str) -> nn.Module:
        reason = _reason_against(part)
        masked = None if reason else _masked_layer(part, visible, path or type(part).__name__)
        if masked is not None:
            return masked
        known = type(part) in _ZERO_STAYS_ZERO or _full_name(part) in _ZERO_STAYS_ZERO_NAMES
        children = dict(part.named_children())
        is_container = isinstance(part, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if reason or not (known or children or is_container):
            refused.append(f"{path or '(the module)'}: {_full_name(part)}" + (f" ({reason})" if reason else ""))
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
