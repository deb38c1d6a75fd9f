"""nuScenes' detection figures (``detection_cvpr_2019``): mAP by distance of centres, errors of hits, and NDS."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.data.nuscenes_results import ATTRIBUTES, MOST_BOXES, default_attributes
from zoo.metrics.gathered_rows import enter_nothing, split_rows

__all__ = ["DISTANCES", "ERRORS", "MOST_RANGE", "BoxTable", "NuScenesNDS", "nuscenes_figures"]

Floats = NDArray[np.floating[Any]]

DISTANCES = (0.5, 1.0, 2.0, 4.0)
ERROR_DISTANCE = 2.0
ERRORS = ("ATE", "ASE", "AOE", "AVE", "AAE")
MOST_RANGE = {
    **dict.fromkeys(("car", "truck", "bus", "trailer", "construction_vehicle"), 50.0),
    **dict.fromkeys(("pedestrian", "motorcycle", "bicycle"), 40.0),
    **dict.fromkeys(("traffic_cone", "barrier"), 30.0),
}
_NUMBER = {name: number for number, name in enumerate(ATTRIBUTES)}
_FIRST_BIN = 11  # recall 0.11: up to 0.1 nothing counts
_LEAST_PRECISION = 0.1
_UNDEFINED = {"traffic_cone": ("AOE", "AVE", "AAE"), "barrier": ("AVE", "AAE")}


@dataclass(frozen=True)
class BoxTable:
    """Boxes of many samples, one a row.

    Attributes:
        samples: number of the sample, ``(N,)``.
        labels: ``(N,)``, 0 is the first class.
        boxes: ``(N, 9)`` x, y, z, dx, dy, dz, yaw, vx, vy about the vehicle; NaN where a velocity is not known.
        scores: ``(N,)``; of objects they are not looked at.
        attributes: ``(N,)`` numbers, -1 where there is none; None where nothing is known of them.
    """

    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: Floats
    scores: Floats
    attributes: NDArray[np.int64] | None = None

    def select(self, rows: NDArray[Any]) -> BoxTable:
        """Some of the rows."""
        kept = None if self.attributes is None else self.attributes[rows]
        return BoxTable(self.samples[rows], self.labels[rows], self.boxes[rows], self.scores[rows], kept)


def _within(table: BoxTable, ranges: Floats) -> BoxTable:
    return table.select(np.hypot(table.boxes[:, 0], table.boxes[:, 1]) < ranges[table.labels])


def _best_of_each_sample(table: BoxTable, most: int) -> BoxTable:
    order = np.lexsort((-table.scores, table.samples))
    samples = table.samples[order]
    place = np.arange(len(order)) - np.searchsorted(samples, samples)
    return table.select(np.sort(order[place < most]))


@dataclass(frozen=True)
class _Class:
    """Objects and detections of a class, detections by falling score."""

    truth: BoxTable
    found: BoxTable

    def match(self, least: float) -> NDArray[np.int64]:
        """The object of each detection, -1 for none: the nearest free one of its sample, if nearer than ``least``."""
        partner = np.full(len(self.found.samples), -1)
        order = np.argsort(self.truth.samples, kind="stable")
        samples, places = self.truth.samples[order], self.truth.boxes[order, :2]
        begin = np.searchsorted(samples, self.found.samples)
        end = np.searchsorted(samples, self.found.samples, side="right")
        taken = np.zeros(len(order), dtype=bool)
        for row in np.flatnonzero(end > begin):
            near = slice(begin[row], end[row])
            away = np.hypot(*(places[near] - self.found.boxes[row, :2]).T)
            away[taken[near]] = np.inf
            best = int(away.argmin())
            if away[best] < least:
                taken[begin[row] + best] = True
                partner[row] = order[begin[row] + best]
        return partner

    def precision(self, partner: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Precision and score at the recalls 0, 0.01 ... 1."""
        bins = np.linspace(0, 1, 101)
        hits = np.cumsum(partner >= 0).astype(np.float64)
        if not len(self.truth.samples) or not len(hits) or not hits[-1]:
            return np.zeros(101), np.zeros(101)
        recall, precision = hits / len(self.truth.samples), hits / np.arange(1, len(hits) + 1)
        return np.interp(bins, recall, precision, right=0), np.interp(bins, recall, self.found.scores, right=0)

    def errors(self, partner: NDArray[np.int64], period: float) -> dict[str, Floats]:
        """Errors of the hits by falling score, NaN where they are not known."""
        hit = partner >= 0
        a, b = self.truth.boxes[partner[hit]], self.found.boxes[hit]
        shared = np.minimum(a[:, 3:6], b[:, 3:6]).prod(1)
        turn = (a[:, 6] - b[:, 6] + period / 2) % period - period / 2
        if self.truth.attributes is None or self.found.attributes is None:
            wrong = np.full(len(a), np.nan)
        else:
            wanted, given = self.truth.attributes[partner[hit]], self.found.attributes[hit]
            wrong = np.where(wanted < 0, np.nan, wanted != given)
        return {
            "ATE": np.hypot(a[:, 0] - b[:, 0], a[:, 1] - b[:, 1]),
            "ASE": 1 - shared / (a[:, 3:6].prod(1) + b[:, 3:6].prod(1) - shared),
            "AOE": np.abs(turn),
            "AVE": np.hypot(a[:, 7] - b[:, 7], a[:, 8] - b[:, 8]),
            "AAE": wrong,
        }


def _running_mean(values: Floats) -> Floats:
    known = np.cumsum(~np.isnan(values))
    if not len(known) or not known[-1]:
        return np.ones(len(values))
    return np.divide(np.nancumsum(values), known, out=np.zeros(len(values)), where=known > 0)


def _mean_error(error: Floats, hit_scores: Floats, scores: Floats) -> float:
    """The running mean of the errors, averaged over the recalls from 0.11 to the highest one; 1 where there is none."""
    reached = np.flatnonzero(scores)
    if not len(reached) or reached[-1] < _FIRST_BIN:
        return 1.0
    running = np.interp(scores[::-1], hit_scores[::-1], _running_mean(error)[::-1])[::-1]
    return float(running[_FIRST_BIN : reached[-1] + 1].mean())


def nuscenes_figures(truth: BoxTable, found: BoxTable, class_names: Sequence[str]) -> dict[str, float]:
    """mAP, the mean errors and NDS, each also by class.

    A detection, by falling score, takes the nearest free object of its class and sample within 0.5, 1, 2 or 4 m.
    ``AP`` is the mean over the recalls 0.11 ... 1 of ``max(precision - 0.1, 0) / 0.9``, then over the distances.
    Errors are those of hits within 2 m: of place (m), scale (1 - IoU of the aligned boxes), orientation (rad, of
    barriers modulo half a turn), velocity (m/s), attribute (share of wrong ones).
    ``NDS = (5 mAP + sum of 1 - min(1, error)) / 10``.

    Args:
        truth: objects; those without points must be left out before. Beyond the range of their class they are not
            looked at.
        found: detections; only the best 500 of a sample count.
        class_names: of the labels.

    Returns:
        ``mAP``, ``NDS``, ``mATE`` ... ``mAAE``, and ``CLASS/AP``, ``CLASS/ATE`` ... Where nobody gave attributes, mAAE
        is 1 and the score is called ``NDS_at_least``.

    Raises:
        ValueError: an unknown class.
    """
    unknown = [name for name in class_names if name not in MOST_RANGE]
    if unknown:
        raise ValueError(f"class_names: found {unknown[0]!r}, expected some of {', '.join(MOST_RANGE)}")
    ranges = np.array([MOST_RANGE[name] for name in class_names])
    truth, found = _within(truth, ranges), _within(_best_of_each_sample(found, MOST_BOXES), ranges)
    figures: dict[str, float] = {}
    for label, name in enumerate(class_names):
        own = found.select(found.labels == label)
        own = own.select(np.argsort(-own.scores, kind="stable"))
        one = _Class(truth.select(truth.labels == label), own)
        precisions = []
        for distance in DISTANCES:
            partner = one.match(distance)
            precision, scores = one.precision(partner)
            above = np.maximum(precision[_FIRST_BIN:] - _LEAST_PRECISION, 0)
            precisions.append(float(above.mean()) / (1 - _LEAST_PRECISION))
            if distance == ERROR_DISTANCE:
                errors = one.errors(partner, np.pi if name == "barrier" else 2 * np.pi)
                hit_scores = own.scores[partner >= 0]
                for kind in ERRORS:
                    if kind not in _UNDEFINED.get(name, ()):
                        figures[f"{name}/{kind}"] = _mean_error(errors[kind], hit_scores, scores)
        figures[f"{name}/AP"] = float(np.mean(precisions))
    return _summary(figures, class_names, truth.attributes is not None and found.attributes is not None) | figures


def _summary(figures: Mapping[str, float], class_names: Sequence[str], with_attributes: bool) -> dict[str, float]:
    summary = {"mAP": float(np.mean([figures[f"{name}/AP"] for name in class_names]))}
    score = 5 * summary["mAP"]
    for kind in ERRORS:
        values = [figures[f"{name}/{kind}"] for name in class_names if f"{name}/{kind}" in figures]
        summary[f"m{kind}"] = float(np.mean(values)) if values else 1.0
        score += 1 - min(1.0, summary[f"m{kind}"])
    summary["NDS" if with_attributes else "NDS_at_least"] = score / 10
    return summary


class NuScenesNDS(Metric):
    """`nuscenes_figures` of detections in LiDAR frames.

    Detections get the attributes of `zoo.data.nuscenes_results.default_attributes`. Where no frame holds the objects'
    attributes (OpenPCDet's infos), their error counts as 1 and the score is a lower bound, ``NDS_at_least``.

    Unlike the development kit's, ranges are measured from the LiDAR, not from the middle of the car, and cycles in
    racks count.

    Args:
        class_names: of the detections' labels, in nuScenes' words.
    """

    full_state_update = False
    higher_is_better = True
    truth: list[Tensor]
    found: list[Tensor]
    truth_counts: list[Tensor]
    found_counts: list[Tensor]

    def __init__(self, *, class_names: Sequence[str]) -> None:
        super().__init__()
        self.class_names = list(class_names)
        unknown = [name for name in self.class_names if name not in MOST_RANGE]
        if unknown:
            raise ValueError(f"class_names: found {unknown[0]!r}, expected some of {', '.join(MOST_RANGE)}")
        for name in ("truth", "found", "truth_counts", "found_counts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, found: Sequence[Detections], frames: Sequence[DetectionFrame]) -> None:
        """Add samples; objects without points are left out."""
        if not frames:
            enter_nothing(self.truth, self.truth_counts, 12, self.device)
            enter_nothing(self.found, self.found_counts, 12, self.device)
        for detections, frame in zip(found, frames, strict=True):
            known = np.isin(np.array(frame.names, dtype=str), self.class_names) & (frame.num_points > 0)
            labels = [self.class_names.index(name) for name, kept in zip(frame.names, known, strict=True) if kept]
            boxes = torch.from_numpy(np.asarray(frame.boxes, dtype=np.float64)[known])
            doing = itertools.compress(frame.attributes or ("",) * len(known), known)
            given = Detections(boxes, torch.zeros(len(labels)), torch.tensor(labels, dtype=torch.int64))
            self._enter(self.truth, self.truth_counts, given, list(doing))
            names = [self.class_names[label] for label in detections.labels.tolist()]
            velocities = detections.boxes[:, 7:].detach().cpu().double().numpy()
            velocities = velocities if velocities.shape[1] else np.zeros((len(names), 2))
            self._enter(self.found, self.found_counts, detections, default_attributes(names, velocities))

    def _enter(self, rows: list[Tensor], counts: list[Tensor], some: Detections, attributes: list[str]) -> None:
        """Rows of label, score, number of the attribute, and nine numbers of a box."""
        boxes = some.boxes.detach().double().to(self.device)
        boxes = torch.nn.functional.pad(boxes, (0, 9 - boxes.shape[1]), value=float("nan"))
        numbers = torch.tensor([_NUMBER.get(name, -1) for name in attributes])
        head = torch.stack([some.labels.to(boxes), some.scores.detach().to(boxes), numbers.to(boxes)], 1)
        rows.append(torch.cat([head, boxes], 1))
        counts.append(torch.tensor([len(boxes)], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Figures by name."""
        truth = _table(split_rows(self.truth, self.truth_counts, 12))
        found = _table(split_rows(self.found, self.found_counts, 12))
        if truth.attributes is not None and (truth.attributes < 0).all():
            truth = replace(truth, attributes=None)
        figures = nuscenes_figures(truth, found, self.class_names)
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in figures.items()}


def _table(samples: list[Tensor]) -> BoxTable:
    values = torch.cat(samples).numpy() if samples else np.zeros((0, 12))
    numbers = np.repeat(np.arange(len(samples)), [len(rows) for rows in samples])
    labels, attributes = values[:, 0].astype(np.int64), values[:, 2].astype(np.int64)
    return BoxTable(numbers.astype(np.int64), labels, values[:, 3:], values[:, 1], attributes)
