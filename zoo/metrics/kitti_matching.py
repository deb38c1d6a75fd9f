"""How KITTI matches detections with objects, and the precision that follows, as its development kit counts.

For a class and a difficulty every object is wanted, ignored (a similar class, or too hard) or another class's; every
detection counts, is ignored (its image box is too low, whatever its class) or is another class's. A first pass gives
each object its best-scored detection and collects the scores of the hits, of which 41 become thresholds at even steps
of recall. A second pass counts hits, misses and false alarms at each threshold; there an object takes the detection
that it overlaps most, an ignored one only if there is no other. All thresholds are walked through at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.data.formats.kitti import KittiLabels
from zoo.ops import boxes_iou_3d, boxes_iou_bev

__all__ = ["DIFFICULTIES", "KINDS", "KittiEvaluation", "PrecisionCurve"]

Kind = Literal["image", "bev", "3d"]
KINDS: tuple[Kind, ...] = ("image", "bev", "3d")
DIFFICULTIES = ("easy", "moderate", "hard")
NUM_RECALLS = 41

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

_LEAST_HEIGHT = (40.0, 25.0, 25.0)
_MOST_OCCLUDED = (0, 1, 2)
_MOST_TRUNCATED = (0.15, 0.3, 0.5)
_SIMILAR = {"Car": "Van", "Pedestrian": "Person_sitting"}


@dataclass(frozen=True)
class PrecisionCurve:
    """At the 41 recalls 0, 1/40 ... 1, zero beyond the highest recall that was reached.

    Attributes:
        precision: ``(41,)``, made to fall.
        similarity: ``(41,)`` of orientation, made to fall; its mean is AOS. Zero unless asked for.
    """

    precision: Floats
    similarity: Floats

    @staticmethod
    def average(curve: Floats) -> tuple[float, float]:
        """Percent over 11 recalls (0, 0.1 ... 1) and over 40 (1/40 ... 1)."""
        return 100 * float(curve[::4].mean()), 100 * float(curve[1:].mean())


@dataclass(frozen=True)
class _Frame:
    truth: KittiLabels
    found: KittiLabels
    scores: Floats

    @cached_property
    def names(self) -> NDArray[np.str_]:
        return np.array(self.truth.names, dtype=str)

    @cached_property
    def found_names(self) -> NDArray[np.str_]:
        return np.array(self.found.names, dtype=str)

    @cached_property
    def real(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.names != "DontCare")

    @cached_property
    def overlaps(self) -> dict[Kind, Floats]:
        """Intersection over union of detections and real objects, ``(K, G)``."""
        boxes, others = (torch.from_numpy(_camera_boxes(labels)) for labels in (self.found, self.truth))
        chosen = others[torch.from_numpy(self.real)]
        return {
            "image": _image_overlap(self.found.bbox, self.truth.bbox[self.real]),
            "bev": boxes_iou_bev(boxes, chosen).numpy(),
            "3d": boxes_iou_3d(boxes, chosen).numpy(),
        }

    @cached_property
    def dont_care(self) -> Floats:
        """Share of each detection's image box that the worst region covers which nobody labelled, ``(K,)``."""
        regions = self.truth.bbox[self.names == "DontCare"]
        if not len(regions):
            return np.zeros(len(self.scores))
        return _image_overlap(self.found.bbox, regions, of_first=True).max(axis=1)


def _camera_boxes(labels: KittiLabels) -> Floats:
    """Boxes over the camera's ground plane: x, z, height; rotation_y turns the other way round."""
    height, width, length = labels.dimensions.T
    x, y, z = labels.location.T
    return np.stack([x, z, height / 2 - y, length, width, height, -labels.rotation_y], axis=1).astype(np.float64)


def _image_overlap(first: Floats, second: Floats, *, of_first: bool = False) -> Floats:
    """Shared area of rectangles over the union's, or over the first one's, ``(K, G)``."""
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    size = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = size.clip(min=0).prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    whole = np.broadcast_to(area_a, shared.shape) if of_first else area_a + area_b - shared
    return np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)


@dataclass(frozen=True)
class _Task:
    """One frame's objects and detections that matter to a class and difficulty."""

    overlap: Floats  # (K, G)
    scores: Floats  # (K,)
    skipped: Flags  # (K,) detections that count neither way
    ignored: Flags  # (G,) objects that need not be found
    turns: Floats  # (K, G) difference of alpha
    covered: Flags  # (K,) a region without labels excuses the detection

    def hits(self, least: float) -> list[float]:
        """Scores of the matches when every detection may be taken, the best-scored one first."""
        free = np.ones(len(self.scores), dtype=bool)
        hits = []
        for column, ignored in enumerate(self.ignored):
            candidates = free & (self.overlap[:, column] > least)
            if not candidates.any():
                continue
            best = int(np.where(candidates, self.scores, -np.inf).argmax())
            free[best] = False
            if not ignored and not self.skipped[best]:
                hits.append(float(self.scores[best]))
        return hits

    def count(self, thresholds: Floats, least: float) -> Floats:
        """Hits, false alarms, misses and similarity of orientation at each threshold, ``(T, 4)``."""
        totals = np.zeros((len(thresholds), 4))
        free = self.scores[None] >= thresholds[:, None]  # (T, K)
        counted = free.copy()
        rows = np.arange(len(thresholds))
        for column, ignored in enumerate(self.ignored):
            overlap = self.overlap[:, column]
            near = overlap > least
            if not near.any():
                totals[:, 2] += not ignored
                continue
            # a counting detection by its overlap, else the first ignored one
            rank = np.where(self.skipped, -1.0 - np.arange(len(overlap)) / len(overlap), overlap)
            ranks = np.where(free & near, rank, -np.inf)
            best = ranks.argmax(axis=1)
            matched = ranks[rows, best] > -np.inf
            free[rows[matched], best[matched]] = False
            if ignored:
                continue
            totals[:, 2] += ~matched
            hit = matched & ~self.skipped[best]
            totals[:, 0] += hit
            totals[:, 3] += np.where(hit, (1 + np.cos(self.turns[best, column])) / 2, 0)
        totals[:, 1] = (counted & free & ~self.skipped & ~self.covered).sum(axis=1)
        return totals


class KittiEvaluation:
    """Frames with objects and detections, ready to be counted.

    Args:
        truth: labels of each frame, with DontCare.
        found: detections of each frame, with scores.

    Raises:
        ValueError: Other numbers of frames, or detections without scores.
    """

    def __init__(self, truth: Sequence[KittiLabels], found: Sequence[KittiLabels]) -> None:
        if len(truth) != len(found):
            raise ValueError(f"found: found {len(found)} frames, expected {len(truth)}, as truth has")
        self.frames = []
        for number, (labels, detections) in enumerate(zip(truth, found, strict=True)):
            if detections.score is None:
                raise ValueError(f"found: frame {number} has no scores")
            self.frames.append(_Frame(labels, detections, detections.score))

    def curve(
        self, class_name: str, difficulty: int, kind: Kind, least: float, *, orientation: bool = False
    ) -> PrecisionCurve:
        """Precision of a class at 41 recalls.

        Args:
            class_name: Car, Pedestrian, Cyclist or another type.
            difficulty: 0 easy, 1 moderate, 2 hard.
            kind: what overlaps: image boxes, footprints or volumes.
            least: a match overlaps by more than this.
            orientation: also follow the similarity of the observation angle.
        """
        tasks = [task for frame in self.frames if (task := _task(frame, class_name, difficulty, kind, least))]
        wanted = sum(int((~task.ignored).sum()) for task in tasks)
        scores = [score for task in tasks for score in task.hits(least)]
        thresholds = recall_thresholds(scores, wanted)
        totals = np.zeros((len(thresholds), 4))
        for task in tasks:
            totals += task.count(thresholds, least)
        precision, similarity = np.zeros(NUM_RECALLS), np.zeros(NUM_RECALLS)
        alarms = totals[:, 0] + totals[:, 1]
        filled = len(thresholds)
        precision[:filled] = np.divide(totals[:, 0], alarms, out=np.zeros(filled), where=alarms > 0)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        if orientation:
            similarity[:filled] = np.divide(totals[:, 3], alarms, out=np.zeros(filled), where=alarms > 0)
            similarity = np.maximum.accumulate(similarity[::-1])[::-1]
        return PrecisionCurve(precision, similarity)


def _task(frame: _Frame, class_name: str, difficulty: int, kind: Kind, least: float) -> _Task | None:
    real = frame.real
    names, truth = frame.names[real], frame.truth
    own = names == class_name
    height = truth.bbox[real, 3] - truth.bbox[real, 1]
    hard = (
        (truth.occluded[real] > _MOST_OCCLUDED[difficulty])
        | (truth.truncated[real] > _MOST_TRUNCATED[difficulty])
        | (height <= _LEAST_HEIGHT[difficulty])
    )
    objects = own | (names == _SIMILAR.get(class_name, ""))
    low = np.abs(frame.found.bbox[:, 3] - frame.found.bbox[:, 1]) < _LEAST_HEIGHT[difficulty]
    detections = low | (frame.found_names == class_name)
    if not objects.any() and not detections.any():
        return None
    turns = frame.truth.alpha[real][objects][None] - frame.found.alpha[detections][:, None]
    covered = frame.dont_care[detections] > least if kind == "image" else np.zeros(detections.sum(), dtype=bool)
    return _Task(
        frame.overlaps[kind][detections][:, objects],
        frame.scores[detections],
        low[detections],
        (~own | hard)[objects],
        turns,
        covered,
    )


def recall_thresholds(scores: Sequence[float], wanted: int, steps: int = NUM_RECALLS - 1) -> Floats:
    """Scores at which the recall comes nearest to 0, 1/40, 2/40 ...; at most 41 of them, falling.

    Args:
        scores: of all matches.
        wanted: number of objects.
        steps: number of steps of recall.
    """
    ordered = sorted(scores, reverse=True)
    thresholds: list[float] = []
    recall = 0.0
    for place, score in enumerate(ordered):
        here, last = (place + 1) / wanted, place == len(ordered) - 1
        after = here if last else (place + 2) / wanted
        if not last and after - recall < recall - here:
            continue
        thresholds.append(score)
        recall += 1 / steps
    return np.array(thresholds)
