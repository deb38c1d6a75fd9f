"""Regularisers on rendered depth: smoothness of patches, order of pixel pairs, correlation with a supplied map."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["depth_continuity_loss", "depth_ranking_loss", "patch_smoothness_loss", "pearson_loss"]


def patch_smoothness_loss(
    depth: Tensor, opacity: Tensor | None = None, *, kind: Literal["squared", "absolute"] = "squared"
) -> Tensor:
    """Mean squared (or absolute) difference to the right and lower neighbour within patches (RegNeRF), a scalar.

    The mean runs over patches and the ``(P - 1)^2`` pixels that have both neighbours; the two differences are added.

    Args:
        depth: ``(B, P, P)``.
        opacity: ``(B, P, P)``; where given, a pixel counts by its own detached opacity.
        kind: ``squared`` or ``absolute``.

    Raises:
        ValueError: Another shape, or patches of less than 2 pixels.

    Example:
        >>> patch_smoothness_loss(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]))
        tensor(5.)
    """
    if depth.dim() != 3 or min(depth.shape[1:]) < 2:
        raise ValueError(f"depth: found shape {tuple(depth.shape)}, expected (B, P, P) with P of at least 2")
    if kind not in ("squared", "absolute"):
        raise ValueError(f"kind: found {kind!r}, expected 'squared' or 'absolute'")
    corner = depth[:, :-1, :-1]
    right, down = corner - depth[:, :-1, 1:], corner - depth[:, 1:, :-1]
    loss = right**2 + down**2 if kind == "squared" else right.abs() + down.abs()
    if opacity is not None:
        loss = loss * opacity[:, :-1, :-1].detach()
    return loss.mean()


def depth_ranking_loss(nearer: Tensor, farther: Tensor, margin: float = 1e-4) -> Tensor:
    """Mean of ``max(nearer - farther + margin, 0)`` over pixel pairs ``(K,)`` whose order is known (SparseNeRF)."""
    return (nearer - farther + margin).clamp_min(0).mean()


def depth_continuity_loss(depth: Tensor, neighbour: Tensor, margin: float = 1e-4) -> Tensor:
    """Mean of ``max(|depth - neighbour| - margin, 0)`` over pixels ``(K,)`` that should lie on one surface."""
    return ((depth - neighbour).abs() - margin).clamp_min(0).mean()


def pearson_loss(prediction: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """One minus the correlation of two maps of one shape, ``1 - mean(z(x) z(y))``, a scalar.

    ``z(x) = (x - mean) / (std + eps)`` with the sample deviation (n - 1). Scale and shift of the target do not matter,
    which suits monocular depth (LM-Gaussian, FSGS).

    Raises:
        ValueError: The shapes differ or hold fewer than two values.
    """
    if prediction.shape != target.shape or prediction.numel() < 2:
        raise ValueError(
            f"target: found shape {tuple(target.shape)}, expected {tuple(prediction.shape)} of at least 2 values"
        )
    first = (prediction - prediction.mean()) / (prediction.std() + eps)
    second = (target - target.mean()) / (target.std() + eps)
    return 1 - torch.mean(first * second)
