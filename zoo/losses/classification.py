"""Losses of classification and semantic segmentation."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.ops.processes import num_processes, shared_count

__all__ = ["check_labels", "cross_entropy", "soft_target_loss"]


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -1,
    over_processes: bool = False,
) -> Tensor:
    """Cross entropy of logits (N, K) and labels (N,), a scalar.

    With class weights the mean divides by the sum of the weights of the labels. Without any valid label the loss is 0,
    with a gradient of 0.

    Args:
        logits: (N, K).
        target: int64 (N,), 0..K-1 or ``ignore_index``.
        class_weights: (K,).
        label_smoothing: Share of the target that is spread over all classes.
        ignore_index: Label of rows that do not count.
        over_processes: Whether the loss's average over the processes is to be the mean over the rows of all of them;
            all have to call it then (see `zoo.ops.processes`).

    Raises:
        ValueError: Shapes that do not fit, or labels outside of 0..K-1.

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([1, -1]))
        tensor(1.3863)
    """
    valid = check_labels(logits, target, ignore_index)
    weights = None if class_weights is None else class_weights.to(logits)
    if over_processes and num_processes() > 1:
        counted = valid.sum() if weights is None else weights[target[valid]].sum()
        least = 1.0 if weights is None else torch.finfo(weights.dtype).tiny
        total = F.cross_entropy(
            logits, target, weights, ignore_index=ignore_index, reduction="sum", label_smoothing=label_smoothing
        )
        return total / shared_count(counted, least=least)
    if not bool(valid.any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits, target, weight=weights, label_smoothing=label_smoothing, ignore_index=ignore_index)


def check_labels(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Which rows count, bool (N,); ValueError unless logits are (N, K) and labels (N,) in range."""
    if logits.dim() != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            f"target: found shape {tuple(target.shape)} for logits {tuple(logits.shape)}, expected (N, K) and (N,)"
        )
    valid = target != ignore_index
    num_classes = logits.shape[1]
    outside = valid & ((target < 0) | (target >= num_classes))
    if bool(outside.any()):
        raise ValueError(
            f"target: found label {int(target[outside][0])}, expected 0 to {num_classes - 1} or {ignore_index}; does "
            "the class list match the network?"
        )
    return valid


def soft_target_loss(
    logits: Tensor, target: Tensor, *, kind: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
) -> Tensor:
    """Mean loss of logits against shares of the classes, both (N, K).

    ``cross_entropy``: ``-sum_k target_k log softmax(logits)_k``. ``binary_cross_entropy``: every class on its own, the
    mean over rows and classes.

    Raises:
        ValueError: Different shapes, or an unknown kind.

    Example:
        >>> import torch
        >>> soft_target_loss(torch.zeros(2, 4), torch.full((2, 4), 0.25))
        tensor(1.3863)
    """
    if logits.dim() != 2 or target.shape != logits.shape:
        raise ValueError(f"target: found shape {tuple(target.shape)} for logits {tuple(logits.shape)}, expected (N, K)")
    if kind == "cross_entropy":
        return F.cross_entropy(logits, target)
    if kind == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits(logits, target)
    raise ValueError(f"kind: found {kind!r}, expected 'cross_entropy' or 'binary_cross_entropy'")
