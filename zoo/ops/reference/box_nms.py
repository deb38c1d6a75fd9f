"""Suppression of overlapping boxes in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.box_iou import IOU_BEV, measure_pairs, near_pairs

_CHUNK = 1 << 16


def nms_keep(boxes: Tensor, threshold: float, max_kept: int) -> Tensor:
    """Which boxes, best first, survive: no kept box before them overlaps by more than the threshold, ``(N,)`` bool."""
    rows, others = near_pairs(boxes, boxes)
    later = others > rows
    rows, others = rows[later], others[later]
    parts = [
        measure_pairs(boxes[rows[start : start + _CHUNK]], boxes[others[start : start + _CHUNK]], IOU_BEV) > threshold
        for start in range(0, len(rows), _CHUNK)
    ]
    over = torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool, device=boxes.device)
    rows, others = rows[over], others[over]
    starts = torch.searchsorted(rows, torch.arange(len(boxes) + 1, device=rows.device)).tolist()
    others = others.cpu()
    keep, suppressed, kept = torch.zeros(len(boxes), dtype=torch.bool), torch.zeros(len(boxes), dtype=torch.bool), 0
    for row in range(len(boxes)):
        if kept == max_kept:
            break
        if not suppressed[row]:
            keep[row] = True
            kept += 1
            suppressed[others[starts[row] : starts[row + 1]]] = True
    return keep.to(boxes.device)
