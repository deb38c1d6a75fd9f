"""Which pixels show something: from a dark backdrop, where no masks are supplied."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["foreground_of_dark_backdrop"]


def foreground_of_dark_backdrop(
    images: Tensor, *, threshold: int = 30, column: int = 49, enclosed: bool = False
) -> Tensor:
    """Pixels in front of a black backdrop, ``(N, H, W)`` bool.

    A pixel is backdrop where its brightest channel lies below ``threshold`` and so do those of the pixels above it in
    its column, up to ``column`` of them (DNGaussian's rule for DTU): shadows and dark parts of the object, which have
    something bright above them, stay.

    Args:
        images: ``(N, H, W, 3)`` uint8.
        threshold: of 255.
        column: so many pixels above must be dark as well; those beyond the border count as dark.
        enclosed: whether a dark pixel must have something bright below it too to stay, within as many pixels: then what
            lies under the object is backdrop. It suits objects on a bright platform that the picture holds all of.

    Raises:
        ValueError: Another shape or dtype.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[-1] < 3:
        raise ValueError(f"images: found {images.dtype} {tuple(images.shape)}, expected torch.uint8 (N, H, W, 3)")
    bright = (images[..., :3].amax(-1) >= threshold).float()
    above = _reach(bright, column)
    if not enclosed:
        return above
    return above & _reach(bright.flip(1), column).flip(1)


def _reach(bright: Tensor, column: int) -> Tensor:
    """Pixels ``(N, H, W)`` that are bright or have something bright at most ``column`` pixels above them."""
    padded = torch.nn.functional.pad(bright[:, None], (0, 0, column, 0))  # above the first row
    return torch.nn.functional.max_pool2d(padded, (column + 1, 1), stride=1)[:, 0] > 0
