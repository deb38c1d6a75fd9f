"""What a detection run shows in its report: frames from above, in perspective and over the photograph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.metrics.detection import match_greedily
from zoo.ops import boxes_iou_3d
from zoo.rendering.detection_pictures import BoxSet, bev_picture, perspective_picture, photo_picture
from zoo.rendering.report import Picture, ReportSection, Table

__all__ = ["DetectionGallery"]


class DetectionGallery:
    """Collects test frames with what was found in them.

    Args:
        max_frames: So many frames are shown (the first ones); nothing of the others is kept.
        min_score: Detections below it are not drawn.
        view_range: xmin, ymin, xmax, ymax of the pictures from above, in metres.
    """

    def __init__(
        self,
        *,
        max_frames: int = 4,
        min_score: float = 0.3,
        view_range: Sequence[float] = (0.0, -40.0, 70.4, 40.0),
    ) -> None:
        if max_frames < 0:
            raise ValueError(f"max_frames: found {max_frames}, expected 0 or more")
        self.max_frames, self.min_score, self.view_range = max_frames, min_score, tuple(view_range)
        self._frames: list[tuple[DetectionFrame, Detections]] = []

    def clear(self) -> None:
        """Forget the frames."""
        self._frames.clear()

    def add(self, frame: DetectionFrame, found: Detections) -> None:
        """Add a frame while there is room."""
        if len(self._frames) < self.max_frames:
            self._frames.append((frame, found.to("cpu")))

    def sections(self, class_names: Sequence[str]) -> Sequence[ReportSection]:
        """One section for each frame."""
        return [self._section(frame, found, class_names) for frame, found in self._frames]

    def _section(self, frame: DetectionFrame, found: Detections, class_names: Sequence[str]) -> ReportSection:
        wanted = np.array([name in class_names for name in frame.names], dtype=bool)
        truth = frame.select(wanted)
        shown = found.scores >= self.min_score
        boxes, scores, labels = found.boxes[shown], found.scores[shown].tolist(), found.labels[shown].tolist()
        texts = [f"{class_names[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        sets = [BoxSet.truth(truth.boxes), BoxSet.found(boxes.numpy(), texts)]
        pictures = [
            Picture(bev_picture(frame.points, sets, view_range=self.view_range), "From above; rings every 20 m"),
            Picture(perspective_picture(frame.points, sets), "From behind and above the sensor"),
        ]
        if frame.view is not None:
            pictures.append(Picture(photo_picture(frame.view, sets), "Over the photograph"))
        text = f"Labels green, detections with a score of at least {self.min_score:g} orange."
        return ReportSection(f"Frame {frame.frame_id}", text, tables=[self._table(truth, found)], pictures=pictures)

    def _table(self, truth: DetectionFrame, found: Detections) -> Table:
        """The labelled objects and the detection that overlaps each best."""
        order = torch.argsort(found.scores, descending=True, stable=True)
        boxes = torch.as_tensor(truth.boxes, dtype=torch.float32)[:, :7]
        overlap = boxes_iou_3d(found.boxes[order, :7].float(), boxes)
        partner = match_greedily(overlap, 0.1).tolist()
        rows = []
        for row, name in enumerate(truth.names):
            best = partner.index(row) if row in partner else None
            score = None if best is None else float(found.scores[order[best]])
            iou = None if best is None else float(overlap[best, row])
            distance = float(np.hypot(truth.boxes[row, 0], truth.boxes[row, 1]))
            rows.append((name, int(truth.num_points[row]), round(distance, 1), score, iou))
        return Table(("labelled", "points", "distance (m)", "score", "3D IoU"), rows)
