"""Losses of occupancy networks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

__all__ = ["margin_bce"]


def margin_bce(logits: Tensor, occupancy: Tensor, *, margin: float = 0.0) -> Tensor:
    r"""Cross entropy of occupancy with a margin, summed over the queries and averaged over the batch.

    .. math:: L = \frac{1}{B} \sum_{bq} \mathrm{softplus}(m - (2 y_{bq} - 1) z_{bq})

    GridFormer (arXiv:2401.02292): margin 0 in the first stage, 2 in the second. The sum over the queries is what the
    published learning rates belong to.

    Args:
        logits: ``(B, Q)``.
        occupancy: ``(B, Q)``, 0 outside and 1 inside.
        margin: How far beyond 0 a logit must lie, m.

    Raises:
        ValueError: The shapes differ or there is no sample.
    """
    if logits.shape != occupancy.shape or logits.dim() != 2 or not len(logits):
        raise ValueError(
            f"logits, occupancy: found {tuple(logits.shape)} and {tuple(occupancy.shape)}, expected both (B, Q), B > 0"
        )
    target = occupancy.to(logits.dtype)
    shifted = logits - margin * (2 * target - 1)
    return F.binary_cross_entropy_with_logits(shifted, target, reduction="sum") / len(logits)
