"""Image metrics, with the variant named: PSNR, and SSIM as the different codes compute it.

Images are channel-last ``(..., H, W, C)`` in [0, 1]; leading axes count images, and each gets its own value. A score of
a test set is the mean of its images' values (not the PSNR of the mean error).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.ops.ssim import ssim_map

__all__ = ["SSIM_VARIANTS", "ImagePSNR", "ImageSSIM", "MeanOverImages", "SSIMVariant", "psnr", "ssim"]

SSIMVariant = Literal["gaussian_valid", "uniform_valid", "gaussian_reflect", "gaussian_zero"]


@dataclass(frozen=True)
class _Window:
    size: int
    sigma: float | None  # None: uniform
    border: Literal["valid", "reflect", "zero"]
    sample_covariance: bool = False


SSIM_VARIANTS: dict[str, _Window] = {
    "gaussian_valid": _Window(11, 1.5, "valid"),
    "uniform_valid": _Window(7, None, "valid", sample_covariance=True),
    "gaussian_reflect": _Window(11, 1.5, "reflect"),
    "gaussian_zero": _Window(11, 1.5, "zero"),
}


def _check(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise ValueError(
            f"target: shape {tuple(target.shape)}, expected {tuple(prediction.shape)} as the prediction has"
        )
    if prediction.ndim < 3:
        raise ValueError(f"prediction: shape {tuple(prediction.shape)}, expected (..., H, W, C)")


def psnr(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, ``-10 log10(mean squared error)``, for a signal range of 1.

    Args:
        prediction: ``(..., H, W, C)`` in [0, 1].
        target: the same shape.
        mask: ``(..., H, W)``; where given, the mean runs over the pixels that are not zero. NaN where there are none.

    Returns:
        ``(...)``, infinite for equal images.

    Example:
        >>> psnr(torch.zeros(4, 4, 3), torch.full((4, 4, 3), 0.1))
        tensor(20.)
    """
    _check(prediction, target)
    squared = (prediction - target) ** 2
    if mask is None:
        error = squared.mean(dim=(-3, -2, -1))
    else:
        weight = (mask != 0).to(squared.dtype).unsqueeze(-1).expand_as(squared)
        error = (squared * weight).sum(dim=(-3, -2, -1)) / weight.sum(dim=(-3, -2, -1))
    return -10 * torch.log10(error)


@functools.cache
def _weights(window: _Window) -> tuple[float, ...]:
    """The window along an axis."""
    if window.sigma is None:
        return (1 / window.size,) * window.size
    raw = [math.exp(-((i - window.size // 2) ** 2) / (2 * window.sigma**2)) for i in range(window.size)]
    return tuple(value / math.fsum(raw) for value in raw)


def ssim(
    prediction: Tensor, target: Tensor, *, variant: SSIMVariant = "gaussian_valid", data_range: float = 1.0
) -> Tensor:
    """Structural similarity (Wang et al. 2004), the mean of the local map over pixels and channels.

    The local value is ``(2 mx my + c1) (2 sxy + c2) / ((mx^2 + my^2 + c1) (sxx + syy + c2))`` with ``c1 = (0.01 r)^2``
    and ``c2 = (0.03 r)^2`` for the range ``r``; moments are taken under a window:

    ====================  ==================================================  =====================================
    variant               window                                              where it is used
    ====================  ==================================================  =====================================
    ``gaussian_valid``    11 x 11, sigma 1.5, only windows inside the image   skimage with ``gaussian_weights=True``
    ``uniform_valid``     7 x 7, sample covariance, only inside the image     skimage's default
    ``gaussian_reflect``  11 x 11, sigma 1.5, mirrored border                 torchmetrics' default
    ``gaussian_zero``     11 x 11, sigma 1.5, border of zeros                 3D Gaussian splatting
    ====================  ==================================================  =====================================

    Args:
        prediction: ``(..., H, W, C)``.
        target: the same shape.
        variant: see the table.
        data_range: the range r of the values.

    Returns:
        ``(...)``.

    Raises:
        ValueError: for shapes that differ, an unknown variant, or an image smaller than the window.
    """
    _check(prediction, target)
    if variant not in SSIM_VARIANTS:
        raise ValueError(f"variant: {variant!r}, expected one of {sorted(SSIM_VARIANTS)}")
    window = SSIM_VARIANTS[variant]
    height, width, channels = prediction.shape[-3:]
    if min(height, width) < window.size:
        raise ValueError(f"prediction: {width} x {height} pixels, expected at least {window.size} for {variant!r}")
    leading, half = prediction.shape[:-3], window.size // 2
    x, y = (image.reshape(-1, height, width, channels) for image in (prediction, target))
    if window.border == "reflect":
        x, y = (_mirrored(image, half) for image in (x, y))
    local = ssim_map(
        x, y, _weights(window),
        covariance_scale=window.size**2 / (window.size**2 - 1) if window.sample_covariance else 1.0,
        c1=(0.01 * data_range) ** 2, c2=(0.03 * data_range) ** 2,
    )  # fmt: skip
    if window.border != "zero":
        local = local[:, half:-half, half:-half]
    return local.mean(dim=(-3, -2, -1)).reshape(leading)


def _mirrored(images: Tensor, half: int) -> Tensor:
    planes = torch.nn.functional.pad(images.movedim(-1, 1), (half, half, half, half), mode="reflect")
    return planes.movedim(1, -1)


class MeanOverImages(Metric):
    """Mean of a value that each image gets by itself."""

    total: Tensor
    count: Tensor
    full_state_update = False
    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _score(self, prediction: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add images ``(..., H, W, C)``."""
        scores = self._score(prediction, target)
        self.total += scores.double().sum()
        self.count += scores.numel()

    def compute(self) -> Tensor:
        """The mean, float32; NaN before the first image."""
        return (self.total / self.count).float()


class ImagePSNR(MeanOverImages):
    """Mean over images of `psnr`.

    Example:
        >>> metric = ImagePSNR()
        >>> metric.update(torch.zeros(2, 4, 4, 3), torch.full((2, 4, 4, 3), 0.1))
        >>> metric.compute()
        tensor(20.)
    """

    def _score(self, prediction: Tensor, target: Tensor) -> Tensor:
        return psnr(prediction, target)


class ImageSSIM(MeanOverImages):
    """Mean over images of `ssim`.

    Args:
        variant: window and border, see `ssim`.
        data_range: range of the values.
    """

    def __init__(self, *, variant: SSIMVariant = "gaussian_valid", data_range: float = 1.0) -> None:
        super().__init__()
        self.variant: SSIMVariant = variant
        self.data_range = data_range

    def _score(self, prediction: Tensor, target: Tensor) -> Tensor:
        return ssim(prediction, target, variant=self.variant, data_range=self.data_range)
