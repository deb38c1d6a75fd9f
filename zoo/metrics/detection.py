"""What a detection metric is to the task, and the share of well-seen objects that were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.ops import boxes_iou_3d

__all__ = ["DetectionMetric", "FoundObjects", "match_greedily"]


class DetectionMetric(Protocol):
    """A torchmetrics Metric that takes detections with the frames they were made in."""

    def update(self, found: Sequence[Detections], frames: Sequence[DetectionFrame]) -> None:
        """Add samples."""
        ...

    def compute(self) -> dict[str, Tensor]:
        """Flat names with their values."""
        ...

    def reset(self) -> None:
        """Forget the samples."""
        ...


def match_greedily(overlap: Tensor, threshold: float) -> Tensor:
    """Give each detection, in the order of the rows, the best free object that it overlaps enough.

    Args:
        overlap: ``(K, M)``, detections by falling score.
        threshold: least overlap of a match.

    Returns:
        ``(K,)`` int64: the object of each detection, -1 for none.

    Example:
        >>> match_greedily(torch.tensor([[0.8, 0.9], [0.1, 0.95]]), 0.7).tolist()
        [1, -1]
    """
    free = torch.ones(overlap.shape[1], dtype=torch.bool)
    partner = torch.full((len(overlap),), -1, dtype=torch.int64)
    if not overlap.shape[1]:
        return partner
    for row, values in enumerate(overlap.cpu()):
        best = int(torch.where(free, values, -1.0).argmax())
        if free[best] and values[best] >= threshold:
            partner[row], free[best] = best, False
    return partner


class FoundObjects(Metric):
    """Of the objects of a class that hold many points, how many were found, and how many detections found nothing.

    A detection counts from ``min_score`` on. Detections take objects greedily by falling score, of any number of
    points; one that gets none at ``iou`` is false. Values: ``recall`` (1 where there is no such object), ``objects``,
    ``missed``, ``false_positives``, and the ``mean_iou`` of what was found.

    Args:
        class_names: of the detections' labels.
        class_name: the class that is looked at.
        iou: least 3D intersection over union.
        min_points: objects with fewer points need not be found.
        min_score: detections below it do not count.
    """

    full_state_update = False
    found: Tensor
    objects: Tensor
    false_positives: Tensor
    overlap: Tensor

    def __init__(
        self,
        *,
        class_names: Sequence[str],
        class_name: str = "Car",
        iou: float = 0.7,
        min_points: int = 50,
        min_score: float = 0.3,
    ) -> None:
        super().__init__()
        if class_name not in class_names:
            raise ValueError(f"class_name: found {class_name!r}, expected one of {', '.join(class_names)}")
        self.class_name, self.label = class_name, list(class_names).index(class_name)
        self.iou, self.min_points, self.min_score = iou, min_points, min_score
        for name in ("found", "objects", "false_positives"):
            self.add_state(name, default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("overlap", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, found: Sequence[Detections], frames: Sequence[DetectionFrame]) -> None:
        """Add samples."""
        for detections, frame in zip(found, frames, strict=True):
            wanted = torch.tensor([name == self.class_name for name in frame.names], dtype=torch.bool)
            truth = torch.as_tensor(frame.boxes, dtype=torch.float32)[wanted, :7]
            seen = torch.as_tensor(frame.num_points)[wanted] >= self.min_points
            chosen = (detections.labels == self.label) & (detections.scores > self.min_score)
            order = torch.argsort(detections.scores[chosen], descending=True, stable=True)
            boxes = detections.boxes[chosen][order][:, :7].float().cpu()
            overlap = boxes_iou_3d(boxes, truth)
            partner = match_greedily(overlap, self.iou)
            matched = partner >= 0
            hit = partner[matched]
            self.found += int(seen[hit].sum())
            self.overlap += float(overlap[matched, hit][seen[hit]].double().sum())
            self.objects += int(seen.sum())
            self.false_positives += int((~matched).sum())

    def compute(self) -> dict[str, Tensor]:
        """The values over all samples."""
        objects = self.objects.float()
        return {
            "recall": torch.where(objects > 0, self.found / objects.clamp(min=1), 1.0),
            "objects": objects,
            "missed": objects - self.found,
            "false_positives": self.false_positives.float(),
            "mean_iou": (self.overlap / self.found.clamp(min=1)).float(),
        }
