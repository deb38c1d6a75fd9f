"""Waymo Open Dataset's 3D detection figures: AP and APH at LEVEL_1 and LEVEL_2, from detections at 101 score cutoffs.

Objects and detections of a class are matched in each frame so that the sum of their 3D IoU is largest; pairs below the
class's IoU cannot match. This is done anew for every cutoff 0, 0.01 ... 1, with the detections that score as much.

The published description leaves open which precision the points have that fill gaps of the recall; here it is that of
the next measured point, the highest precision at that recall or beyond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.ops import boxes_iou_3d

__all__ = ["CUTOFFS", "LEAST_IOU", "WaymoAP", "average_precision", "count_frame", "object_levels"]

Floats = NDArray[np.floating[Any]]

CUTOFFS = np.arange(101) / 100
LEAST_IOU = {"Vehicle": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5, "Sign": 0.5}
RECALL_STEP = 0.05
_HITS, _ALARMS, _MISSED_1, _MISSED_2, _HEADING = range(5)


def object_levels(difficulty: NDArray[np.int64], num_points: NDArray[np.int64]) -> NDArray[np.int64]:
    """LEVEL 1 or 2 of objects, 0 for those that do not count.

    Args:
        difficulty: ``(M,)``; 1 and 2 as labelled, anything else: by the points.
        num_points: ``(M,)``; objects without a point do not count, more than 5 make an ungraded one easy.
    """
    by_points = np.where(num_points > 5, 1, 2)
    graded = np.isin(difficulty, (1, 2))
    return np.where(num_points > 0, np.where(graded, difficulty, by_points), 0)


def count_frame(overlap: Floats, heading: Floats, scores: Floats, levels: NDArray[np.int64], least: float) -> Floats:
    """Counts of one frame and class at every cutoff.

    Args:
        overlap: 3D IoU of detections and objects, ``(K, M)``.
        heading: accuracy of the heading of each pair in [0, 1], ``(K, M)``.
        scores: ``(K,)``.
        levels: 1 or 2, ``(M,)``.
        least: pairs that overlap less cannot match.

    Returns:
        Hits, false alarms, misses at LEVEL_1, misses at both levels, summed accuracy of the hits' headings,
        ``(5, 101)``.
    """
    counts = np.zeros((5, len(CUTOFFS)))
    weights = np.where(overlap >= least, overlap, 0.0)
    matched: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    before = None
    for number, cutoff in enumerate(CUTOFFS):
        active = scores >= cutoff
        if before is None or not np.array_equal(active, before):
            matched, before = _match(weights, np.flatnonzero(active)), active
        assert matched is not None
        rows, columns = matched
        found = np.zeros(len(levels), dtype=bool)
        found[columns] = True
        counts[_HITS, number] = len(rows)
        counts[_ALARMS, number] = active.sum() - len(rows)
        counts[_MISSED_1, number] = (~found & (levels == 1)).sum()
        counts[_MISSED_2, number] = (~found).sum()
        counts[_HEADING, number] = heading[rows, columns].sum()
    return counts


def _match(weights: Floats, active: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the matching of largest weight among the active rows; weight 0 is no match."""
    chosen = weights[active]
    rows, columns = np.nonzero(chosen)
    if len(np.unique(rows)) < len(rows) or len(np.unique(columns)) < len(columns):
        rows, columns = linear_sum_assignment(chosen, maximize=True)
        real = chosen[rows, columns] > 0
        rows, columns = rows[real], columns[real]
    return active[rows], columns


def average_precision(hits: Floats, alarms: Floats, missed: Floats, weighted: Floats | None = None) -> float:
    """Area under precision over recall, in [0, 1].

    Of points with the same recall the best stays; precision is the highest at that recall or beyond; gaps of more than
    0.05 are filled in steps of 0.05; at recall 0 it is that of the next point. Trapezoids between the points.

    Args:
        hits: at each cutoff, ``(T,)``.
        alarms: ``(T,)``.
        missed: ``(T,)``.
        weighted: numerator of the precision instead of ``hits``, for APH.
    """
    objects = hits + missed
    recall = np.divide(hits, objects, out=np.zeros(len(hits)), where=objects > 0)
    numerator, alarmed = hits if weighted is None else weighted, hits + alarms
    precision = np.divide(numerator, alarmed, out=np.ones(len(hits)), where=(alarmed > 0) & (recall > 0))
    recalls = np.unique(np.append(recall[recall > 0], 0.0))
    if len(recalls) == 1:
        return 0.0
    best = np.array([precision[recall == value].max() if value else 0.0 for value in recalls])
    best = np.maximum.accumulate(best[::-1])[::-1]  # recall 0 takes the next point's, the highest of all
    places, values = [0.0], [float(best[1])]
    for place, value in zip(recalls[1:].tolist(), best[1:].tolist(), strict=True):
        gap = place - places[-1]
        for step in range(1, int(np.ceil(gap / RECALL_STEP - 1e-9))):
            places.append(place - gap + step * RECALL_STEP)
            values.append(value)
        places.append(place)
        values.append(value)
    return float(np.trapezoid(values, places))


class WaymoAP(Metric):
    """AP and APH in percent: ``CLASS_L1/AP``, ``CLASS_L1/APH``, the same with ``L2``, and means over the classes.

    Args:
        class_names: of the detections' labels.
        least_iou: of a match for each class, `LEAST_IOU` by default; classes without are not measured.
        averaged: the classes of ``mAP`` and ``mAPH``; Waymo's headline takes these three.
    """

    full_state_update = False
    higher_is_better = True
    counts: Tensor

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        least_iou: Mapping[str, float] | None = None,
        averaged: Sequence[str] = ("Vehicle", "Pedestrian", "Cyclist"),
    ) -> None:
        super().__init__()
        self.class_names, self.least_iou = list(class_names), dict(least_iou or LEAST_IOU)
        self.averaged = list(averaged)
        self.measured = [name for name in self.class_names if name in self.least_iou]
        if not self.measured:
            raise ValueError(f"class_names: found {self.class_names}, expected some of {', '.join(self.least_iou)}")
        shape = (len(self.measured), 5, len(CUTOFFS))
        self.add_state("counts", default=torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, found: Sequence[Detections], frames: Sequence[DetectionFrame]) -> None:
        """Add samples."""
        for detections, frame in zip(found, frames, strict=True):
            levels = object_levels(frame.difficulty, frame.num_points)
            names = np.array(frame.names, dtype=str)
            for place, name in enumerate(self.measured):
                wanted = (names == name) & (levels > 0)
                chosen = (detections.labels == self.class_names.index(name)).cpu()
                boxes = detections.boxes.detach().cpu()[chosen][:, :7].double()
                scores = detections.scores.detach().cpu()[chosen].double().numpy()
                objects = torch.from_numpy(np.asarray(frame.boxes, dtype=np.float64)[wanted][:, :7])
                if not len(boxes) and not len(objects):
                    continue
                turn = (boxes[:, None, 6] - objects[None, :, 6]).numpy() % (2 * np.pi)
                heading = 1 - np.minimum(turn, 2 * np.pi - turn) / np.pi
                overlap = boxes_iou_3d(boxes, objects).numpy()
                counts = count_frame(overlap, heading, scores, levels[wanted], self.least_iou[name])
                self.counts[place] += torch.from_numpy(counts).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Percent by name."""
        figures: dict[str, float] = {}
        for place, name in enumerate(self.measured):
            counts = self.counts[place].cpu().numpy()
            for level, missed in ((1, counts[_MISSED_1]), (2, counts[_MISSED_2])):
                hits, alarms = counts[_HITS], counts[_ALARMS]
                figures[f"{name}_L{level}/AP"] = 100 * average_precision(hits, alarms, missed)
                figures[f"{name}_L{level}/APH"] = 100 * average_precision(hits, alarms, missed, counts[_HEADING])
        averaged = [name for name in self.averaged if name in self.measured]
        for level in (1, 2) if averaged else ():
            for kind in ("AP", "APH"):
                values = [figures[f"{name}_L{level}/{kind}"] for name in averaged]
                figures[f"L{level}/m{kind}"] = float(np.mean(values))
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in figures.items()}
