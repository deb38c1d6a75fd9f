"""MixUp, CutMix and label smoothing of a batch, as convnets are fine-tuned (arXiv:1710.09412, 1905.04899)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.image_samples import ImageBatch

__all__ = ["Mixing", "smooth_targets"]


def smooth_targets(label: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Labels ``(B,)`` to ``(B, K)``: ``smoothing / K`` for every class, and ``1 - smoothing`` more for the label."""
    return F.one_hot(label, num_classes).float() * (1 - smoothing) + smoothing / num_classes


class Mixing:
    """Mixes each picture with that at the mirrored place of the batch, with one share for the whole batch.

    MixUp: ``x = lam x_i + (1 - lam) x_j``. CutMix: a rectangle of ``x_j`` that covers ``1 - lam`` of the picture where
    it is not cut off by the border, and ``lam`` is what is left after that. Targets are mixed with the same ``lam``.

    Args:
        num_classes: K.
        mixup_alpha: of the beta distribution of ``lam``; 0: no MixUp.
        cutmix_alpha: likewise; 0: no CutMix.
        probability: of mixing a batch at all.
        switch_probability: of CutMix where both are on.
        label_smoothing: share of the target that is spread over all classes.

    Raises:
        ValueError: on arguments out of range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        mixup_alpha: float = 0.8,
        cutmix_alpha: float = 1.0,
        probability: float = 1.0,
        switch_probability: float = 0.5,
        label_smoothing: float = 0.1,
    ) -> None:
        shares = (probability, switch_probability, label_smoothing)
        if num_classes < 1 or min(mixup_alpha, cutmix_alpha) < 0 or not all(0 <= share <= 1 for share in shares):
            raise ValueError(
                f"num_classes={num_classes}, mixup_alpha={mixup_alpha}, cutmix_alpha={cutmix_alpha}, probability="
                f"{probability}, switch_probability={switch_probability}, label_smoothing={label_smoothing}: expected "
                "at least 1, at least 0 twice, and three shares in [0, 1]"
            )
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.probability, self.switch_probability = probability, switch_probability

    def __call__(self, batch: ImageBatch, rng: np.random.Generator) -> ImageBatch:
        """The mixed batch with ``target``; ``rng`` decides all.

        Raises:
            ValueError: the batch has no labels, or one that is no class.
        """
        if batch.label is None or int(batch.label.max()) >= self.num_classes:
            raise ValueError(
                f"mixing.num_classes: found {self.num_classes} for the labels {batch.label}, expected labelled "
                "pictures and as many classes as they have"
            )
        target = smooth_targets(batch.label, self.num_classes, self.label_smoothing)
        mixes = rng.random() < self.probability
        cuts = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or rng.random() < self.switch_probability)
        alpha = self.cutmix_alpha if cuts else self.mixup_alpha
        if not mixes or alpha == 0:
            return replace(batch, target=target)
        lam = float(rng.beta(alpha, alpha))
        image = batch.image.clone()
        if cuts:
            rows, columns = _rectangle(image.shape[2], image.shape[3], 1 - lam, rng)
            image[..., rows, columns] = batch.image.flip(0)[..., rows, columns]
            lam = 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (image.shape[2] * image.shape[3])
        else:
            image = torch.lerp(batch.image.flip(0), batch.image, lam)
        return replace(batch, image=image, target=target * lam + target.flip(0) * (1 - lam))


def _rectangle(height: int, width: int, area: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """A rectangle of the picture's shape about a random middle, cut off at the borders."""
    side = area**0.5
    slices = []
    for extent in (height, width):
        half, middle = int(extent * side) // 2, int(rng.integers(extent))
        slices.append(slice(max(0, middle - half), min(extent, middle + half)))
    return slices[0], slices[1]
