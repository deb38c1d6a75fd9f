"""Non-maximum suppression of rotated boxes, seen from above."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.box_iou import checked_boxes
from zoo.ops.dispatch import define_op
from zoo.ops.reference import box_nms as reference

_nms_keep = define_op(
    "nms_keep(Tensor boxes, float threshold, int max_kept) -> Tensor",
    reference=reference.nms_keep,
    fake=lambda boxes, threshold, max_kept: boxes.new_empty(boxes.shape[0], dtype=torch.bool),
    autocast="float32",
)


def nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    max_candidates: int | None = None,
    max_kept: int | None = None,
) -> Tensor:
    """Rows of the boxes that no better kept box overlaps by a BEV IoU of more than ``threshold``.

    Boxes are taken by falling score, of equal scores the lower row first. The result is that of comparing each with all
    that were kept before it; the CPU kernel compares with those nearby only.

    Args:
        boxes: ``(N, 7)`` centre, edge lengths, yaw. A box without area or with numbers that are not finite overlaps
            nothing: it is kept and suppresses none.
        scores: ``(N,)``; NaN comes last.
        threshold: In [0, 1]; a pair exactly at it keeps both.
        max_candidates: Look at so many of the best boxes only.
        max_kept: Stop after so many.

    Returns:
        ``(K,)`` int64 rows by falling score, without gradient.

    Raises:
        ValueError: Wrong shape, dtype or device, or a limit out of range.

    Example:
        >>> import torch
        >>> box = torch.tensor([0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0])
        >>> offsets = torch.tensor([7 * [0.0], [0.2, 0, 0, 0, 0, 0, 0.1], [9.0, 0, 0, 0, 0, 0, 0]])
        >>> boxes = box + offsets
        >>> nms_rotated(boxes, torch.tensor([0.5, 0.9, 0.7]), 0.5)
        tensor([1, 2])
    """
    boxes = checked_boxes("boxes", boxes)
    checks.check_shape("scores", scores, (len(boxes),))
    checks.check_dtype("scores", scores, checks.FLOATING_OR_HALF)
    checks.check_same_device("scores", scores, "boxes", boxes)
    if not 0 <= threshold <= 1 or math.isnan(threshold):
        raise ValueError(f"threshold: found {threshold}, expected a number from 0 to 1")
    for name, limit in (("max_candidates", max_candidates), ("max_kept", max_kept)):
        if limit is not None and limit < 0:
            raise ValueError(f"{name}: found {limit}, expected at least 0, or None for no limit")
    ranked = torch.where(torch.isnan(scores.detach()), -math.inf, scores.detach())
    order = torch.argsort(ranked, descending=True, stable=True)[:max_candidates]
    keep = _nms_keep(boxes.detach()[order].contiguous(), float(threshold), len(boxes) if max_kept is None else max_kept)
    return order[keep]


def nms_rotated_per_class(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    thresholds: Sequence[float],
    *,
    max_candidates: int | None = None,
    max_kept: int | None = None,
) -> Tensor:
    """`nms_rotated` for each class by itself, with its own threshold; the limits hold for each class.

    Args:
        boxes: ``(N, 7)``.
        scores: ``(N,)``.
        labels: ``(N,)`` int64 from 0; boxes of a class without a threshold are left out.
        thresholds: of class 0, 1, ...
        max_candidates: Look at so many of the best boxes of a class.
        max_kept: Keep so many of a class.

    Returns:
        ``(K,)`` int64 rows: those of class 0 by falling score, then those of class 1, and so on.

    Raises:
        ValueError: As `nms_rotated`; labels of another shape or dtype.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([0.0, 0.0, 0.0, 4.0, 2.0, 1.5, 0.0]).repeat(3, 1)
        >>> nms_rotated_per_class(boxes, torch.tensor([0.5, 0.9, 0.7]), torch.tensor([0, 0, 1]), [0.7, 0.6])
        tensor([1, 2])
    """
    checks.check_shape("labels", labels, (len(boxes),))
    checks.check_dtype("labels", labels, torch.int64)
    kept = []
    for label, threshold in enumerate(thresholds):
        rows = torch.nonzero(labels == label).squeeze(1)
        found = nms_rotated(boxes[rows], scores[rows], threshold, max_candidates=max_candidates, max_kept=max_kept)
        kept.append(rows[found])
    return torch.cat(kept) if kept else labels.new_zeros(0)
