"""The focal loss of independent classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

__all__ = ["sigmoid_focal_loss"]


def sigmoid_focal_loss(logits: Tensor, target: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    r"""Focal loss of every entry, of the same shape: :math:`-a\,(1 - p_t)^\gamma \ln p_t`.

    :math:`p_t` is the probability given to the truth, :math:`a` is alpha for ones and 1 - alpha for zeros (Lin et al.,
    ICCV 2017).

    Args:
        logits: Any shape.
        target: 0 or 1, same shape.
        alpha: Weight of ones.
        gamma: How much easy entries are held back.

    Example:
        >>> import torch
        >>> sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
        tensor([0.0433, 0.1300])
    """
    if logits.shape != target.shape:
        raise ValueError(f"target: found shape {tuple(target.shape)}, expected {tuple(logits.shape)}")
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    missed = target * (1 - probability) + (1 - target) * probability
    return (target * alpha + (1 - target) * (1 - alpha)) * missed.pow(gamma) * entropy
