"""The figures of the SpaRe benchmark and of DTU's sparse-view protocol for one picture, and their means.

=============  ==============================================  ==========================================
name           SpaRe (``protocol="spare"``)                     DTU, RegNeRF (``protocol="dtu"``)
=============  ==============================================  ==========================================
``psnr``       whole picture                                   whole picture
``psnr_m``     pixels of the object mask                       pixels of the object mask
``ssim``       whole picture                                   whole picture
``ssim_m``     tight box of the mask                           both pictures on white outside of the mask
``lpips``      whole picture                                   whole picture
``lpips_m``    tight box of the mask                           both pictures on white outside of the mask
=============  ==============================================  ==========================================

Figures with ``_m`` need a mask, LPIPS its weights; what cannot be had is left out, never 0. SpaRe does not say which
SSIM its server computes; the variant is an argument and belongs beside every figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from zoo.metrics.image import SSIM_VARIANTS, SSIMVariant, psnr, ssim
from zoo.metrics.lpips import LPIPS, Backbone
from zoo.metrics.masked_image import crop_to_mask, on_white

__all__ = ["SpareScores", "mean_scores"]


class SpareScores:
    """Scores pictures; see the module's table.

    Args:
        protocol: ``spare`` or ``dtu``: how the object is cut out.
        ssim_variant: Window and border, see `zoo.metrics.image.ssim`.
        lpips_net: ``alex`` (SpaRe) or ``vgg`` (DTU's papers).
        lpips_weights: Its files (see `zoo.metrics.lpips`); None leaves LPIPS out.

    Raises:
        ValueError: An option is unknown, or a weight file unusable.
    """

    def __init__(
        self,
        *,
        protocol: Literal["spare", "dtu"] = "spare",
        ssim_variant: SSIMVariant = "gaussian_valid",
        lpips_net: Backbone = "alex",
        lpips_weights: str | Sequence[str] | None = None,
    ) -> None:
        if protocol not in ("spare", "dtu"):
            raise ValueError(f"protocol: found {protocol!r}, expected 'spare' or 'dtu'")
        if ssim_variant not in SSIM_VARIANTS:
            raise ValueError(f"ssim_variant: found {ssim_variant!r}, expected one of {sorted(SSIM_VARIANTS)}")
        self.protocol = protocol
        self.ssim_variant: SSIMVariant = ssim_variant
        self.lpips = None if lpips_weights is None else LPIPS(net=lpips_net, weights=lpips_weights)

    @property
    def description(self) -> str:
        """What the figures are, in a line for tables."""
        kept = "LPIPS left out: no weights were given" if self.lpips is None else f"LPIPS: {self.lpips.net}"
        return f"protocol: {self.protocol}; SSIM: {self.ssim_variant}; {kept}"

    @torch.no_grad()
    def __call__(self, prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> dict[str, float]:
        """The figures of a picture ``(H, W, 3)`` in [0, 1] by name.

        Args:
            prediction: The rendering.
            target: The photograph, the same shape.
            mask: Object mask ``(H, W)``; None leaves the figures with ``_m`` out.

        Raises:
            ValueError: The shapes differ, or the mask is empty.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction: found shape {tuple(prediction.shape)}, expected {tuple(target.shape)}")
        scores = {"psnr": float(psnr(prediction, target))} | self._similarity(prediction, target, "")
        if mask is None:
            return scores
        if mask.shape != target.shape[:2]:
            raise ValueError(f"mask: found shape {tuple(mask.shape)}, expected {tuple(target.shape[:2])}")
        scores["psnr_m"] = float(psnr(prediction, target, mask))
        cut = crop_to_mask if self.protocol == "spare" else on_white
        return scores | self._similarity(cut(prediction, mask), cut(target, mask), "_m")

    def _similarity(self, prediction: Tensor, target: Tensor, suffix: str) -> dict[str, float]:
        """SSIM and LPIPS; left out of boxes smaller than their windows."""
        scores, side = {}, min(target.shape[:2])
        if side >= SSIM_VARIANTS[self.ssim_variant].size:
            scores[f"ssim{suffix}"] = float(ssim(prediction, target, variant=self.ssim_variant))
        if self.lpips is not None and side >= 32:
            scores[f"lpips{suffix}"] = float(self.lpips.to(prediction.device)(prediction, target))
        return scores


def mean_scores(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the rows that have it: of a scene's pictures, or of a data set's scenes.

    Example:
        >>> mean_scores([{"psnr": 20.0}, {"psnr": 22.0, "psnr_m": 18.0}])
        {'psnr': 21.0, 'psnr_m': 18.0}
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}
