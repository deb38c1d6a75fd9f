"""How a rendered view is compared with its photograph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.metrics.image import psnr, ssim
from zoo.metrics.lpips import LPIPS, Backbone

__all__ = ["ViewScores"]


class ViewScores:
    """PSNR, SSIM and, where the weights of its network are given, LPIPS of a picture.

    Args:
        lpips_net: Network of LPIPS: ``alex`` or ``vgg``.
        lpips_weights: Its files (see `zoo.metrics.lpips`); None leaves LPIPS out, since nobody may ship them with this
            package.

    Raises:
        ValueError: A file is missing or does not hold the network.
    """

    def __init__(self, *, lpips_net: Backbone = "alex", lpips_weights: str | Sequence[str] | None = None) -> None:
        self.lpips = None if lpips_weights is None else LPIPS(net=lpips_net, weights=lpips_weights)

    @torch.no_grad()
    def __call__(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The figures by name, for pictures ``(H, W, 3)`` in [0, 1]."""
        scores = {"psnr": psnr(prediction, target), "ssim": ssim(prediction, target)}
        if self.lpips is not None:
            scores["lpips"] = self.lpips.to(prediction.device)(prediction, target)
        return scores
