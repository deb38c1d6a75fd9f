"""Dense layers that keep masked cells at zero and out of their statistics (SparK, arXiv:2301.03580, section 3.1).

This is upstream's way: dense layers, each followed by a product with the mask, which save no work. Maps are
``(B, C, H, W)``; linear layers and plain layer norms see ``(B, H, W, C)``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.models.layers.synchronized_norm import SynchronizableNorm
from zoo.models.spark.conversion import VisibleLayer, replace_layers
from zoo.models.spark.visible import VisibleCells

__all__ = ["mask_layers"]


class _Masked(VisibleLayer):
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
        raise ValueError(f"batch norm found {len(rows)} visible position; its statistics need at least 2")
    normalized = norm(rows)
    out = normalized.new_zeros(x.shape[0], *x.shape[2:], x.shape[1])
    out[where] = normalized
    return out.permute(0, 3, 1, 2)


class MaskedBatchNorm2d(_Masked, SynchronizableNorm, nn.BatchNorm2d):
    """Batch norm over the visible positions of the batch; zero elsewhere."""

    def _check_input_dim(self, input: Tensor) -> None:
        del input  # rows (N, C)

    def forward(self, input: Tensor) -> Tensor:
        return _normalize_rows(self, input, self._mask(input), super().forward)


_MASKED: dict[str, type[_Masked]] = {  # by full name: timm's need no import
    "torch.nn.modules.conv.Conv2d": MaskedConv2d,
    "torch.nn.modules.pooling.MaxPool2d": MaskedMaxPool2d,
    "torch.nn.modules.pooling.AvgPool2d": MaskedAvgPool2d,
    "torch.nn.modules.linear.Linear": MaskedLinear,
    "torch.nn.modules.normalization.LayerNorm": MaskedLayerNorm,
    "torch.nn.modules.batchnorm.BatchNorm2d": MaskedBatchNorm2d,
    "torch.nn.modules.batchnorm.SyncBatchNorm": MaskedBatchNorm2d,
    "zoo.models.spark.convnext.LayerNorm2d": MaskedLayerNorm2d,
    "timm.layers.norm.LayerNorm": MaskedLayerNorm,
    "timm.layers.norm.LayerNorm2d": MaskedLayerNorm2d,
}
_UNCHANGED = {"torch.nn.modules.dropout.Dropout2d", "timm.layers.drop.DropPath", "zoo.models.spark.convnext.DropPath"}


def mask_layers(module: nn.Module, visible: VisibleCells, *, name: str = "") -> nn.Module:
    """Replace every spatial layer of ``module``, in place, by its masked form; parameters and keys stay.

    Returns:
        The module, or what replaces it where it is itself a layer.

    Raises:
        ValueError: Naming every layer that cannot be masked, and why.
    """
    return replace_layers(module, visible, _MASKED, unchanged=_UNCHANGED, name=name)
