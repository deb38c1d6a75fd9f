"""Average precision of KITTI's object benchmark over 11 and 40 recalls: image, BEV, 3D, and with orientation (AOS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.data.detection_results import kitti_results
from zoo.data.formats.kitti import TYPES, KittiLabels
from zoo.metrics.gathered_rows import enter_nothing, split_rows
from zoo.metrics.kitti_matching import DIFFICULTIES, KINDS, KittiEvaluation, PrecisionCurve

__all__ = ["LOOSE", "STRICT", "KittiAP", "kitti_average_precision"]

_COLUMNS = 16  # of an object as a row of numbers

Overlaps = Mapping[str, Mapping[str, float]]

# least overlap by class, then kind
STRICT: Overlaps = {
    "Car": {"image": 0.7, "bev": 0.7, "3d": 0.7},
    "Pedestrian": {"image": 0.5, "bev": 0.5, "3d": 0.5},
    "Cyclist": {"image": 0.5, "bev": 0.5, "3d": 0.5},
}
LOOSE: Overlaps = {
    "Car": {"image": 0.7, "bev": 0.5, "3d": 0.5},
    "Pedestrian": {"image": 0.5, "bev": 0.25, "3d": 0.25},
    "Cyclist": {"image": 0.5, "bev": 0.25, "3d": 0.25},
}


def kitti_average_precision(
    truth: Sequence[KittiLabels], found: Sequence[KittiLabels], overlaps: Overlaps = STRICT
) -> dict[str, float]:
    """KITTI's figures in percent, ``CLASS_KIND/DIFFICULTY_R11`` and ``_R40``.

    Kinds are ``image``, ``bev``, ``3d`` and ``aos`` (orientation, matched in the image); difficulties ``easy``,
    ``moderate``, ``hard``.

    Args:
        truth: label files of the frames, DontCare included.
        found: detections of the frames, with scores.
        overlaps: the classes and the overlap that a match has to exceed; `STRICT` is the benchmark's.

    Raises:
        ValueError: Other numbers of frames, detections without scores, or an unknown class.

    Example:
        >>> import numpy as np
        >>> from zoo.data.formats.kitti import KittiLabels
        >>> def car(score=None):
        ...     place, zero = np.array([[2.0, 1.5, 12.0]]), np.zeros(1)
        ...     image = np.array([[600.0, 150.0, 700.0, 220.0]])
        ...     size = np.array([[1.5, 1.7, 4.0]])
        ...     return KittiLabels(("Car",), zero, np.zeros(1, np.int64), zero, image, size, place, zero, score)
        >>> figures = kitti_average_precision([car()] * 41, [car(np.ones(1))] * 41)
        >>> figures["Car_3d/moderate_R40"], figures["Car_aos/easy_R11"]  # 41 objects at least reach the last recall
        (100.0, 100.0)
    """
    unknown = [name for name in overlaps if name not in TYPES]
    if unknown:
        raise ValueError(f"overlaps: found class {unknown[0]!r}, expected some of {', '.join(TYPES)}")
    evaluation = KittiEvaluation(truth, found)
    figures: dict[str, float] = {}
    for name, least in overlaps.items():
        for kind in KINDS:
            for number, difficulty in enumerate(DIFFICULTIES):
                curve = evaluation.curve(name, number, kind, least[kind], orientation=kind == "image")
                _enter(figures, f"{name}_{kind}/{difficulty}", curve.precision)
                if kind == "image":
                    _enter(figures, f"{name}_aos/{difficulty}", curve.similarity)
    return figures


def _enter(figures: dict[str, float], name: str, values: np.ndarray) -> None:
    figures[f"{name}_R11"], figures[f"{name}_R40"] = PrecisionCurve.average(values)


class KittiAP(Metric):
    """`kitti_average_precision` of detections in LiDAR frames with KITTI's labels.

    Boxes are brought into the camera's frame and projected to image boxes by the frame's calibration; detections that
    are nowhere on the picture are left out.

    Args:
        class_names: of the detections' labels.
        rename: KITTI's type of a class that is called otherwise, ``{Vehicle: Car}``.
        loose: also report the figures at smaller overlaps, under ``loose/``.
    """

    full_state_update = False
    higher_is_better = True
    truth: list[Tensor]
    truth_counts: list[Tensor]
    found: list[Tensor]
    found_counts: list[Tensor]

    def __init__(
        self, *, class_names: Sequence[str], rename: Mapping[str, str] | None = None, loose: bool = False
    ) -> None:
        super().__init__()
        renamed = dict(rename or {})
        self.class_names = [renamed.get(name, name) for name in class_names]
        self.loose = loose
        unknown = [name for name in self.class_names if name not in TYPES]
        if unknown:
            raise ValueError(f"class_names: found {unknown[0]!r}, expected KITTI's {', '.join(TYPES)}; see rename")
        for name in ("truth", "truth_counts", "found", "found_counts"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, found: Sequence[Detections], frames: Sequence[DetectionFrame]) -> None:
        """Add samples.

        Raises:
            ValueError: a frame without KITTI's labels or calibration.
        """
        if not frames:
            enter_nothing(self.truth, self.truth_counts, _COLUMNS, self.device)
            enter_nothing(self.found, self.found_counts, _COLUMNS, self.device)
        for detections, frame in zip(found, frames, strict=True):
            if frame.labels is None or frame.view is None:
                raise ValueError(f"frames: {frame.frame_id!r} has no label file or calibration of KITTI's layout")
            self.add(
                frame.labels, kitti_results(detections, self.class_names, frame.view.calibration, frame.view.shape)
            )

    def add(self, truth: KittiLabels, found: KittiLabels) -> None:
        """Add one frame as label lines."""
        for labels, rows, counts in ((truth, self.truth, self.truth_counts), (found, self.found, self.found_counts)):
            rows.append(_to_rows(labels).to(self.device))
            counts.append(torch.tensor([len(labels)], device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Percent by name."""
        truth = _from_rows(split_rows(self.truth, self.truth_counts, _COLUMNS))
        found = _from_rows(split_rows(self.found, self.found_counts, _COLUMNS))
        chosen = [name for name in STRICT if name in self.class_names]
        figures = kitti_average_precision(truth, found, {name: STRICT[name] for name in chosen})
        if self.loose:
            loose = kitti_average_precision(truth, found, {name: LOOSE[name] for name in chosen})
            figures |= {f"loose/{name}": value for name, value in loose.items()}
        return {name: torch.tensor(value, dtype=torch.float32) for name, value in figures.items()}


def _to_rows(labels: KittiLabels) -> Tensor:
    """One line each: type, truncated, occluded, alpha, bbox, dimensions, location, rotation_y, score."""
    types = np.array([TYPES.index(name) for name in labels.names], dtype=np.float64)
    score = np.zeros(len(labels)) if labels.score is None else labels.score
    single = [types, labels.truncated, labels.occluded, labels.alpha]
    columns = [*(value[:, None] for value in single), labels.bbox, labels.dimensions, labels.location]
    columns += [labels.rotation_y[:, None], score[:, None]]
    return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float64))


def _from_rows(parts: list[Tensor]) -> list[KittiLabels]:
    frames = []
    for part in parts:
        values = part.numpy()
        frames.append(
            KittiLabels(
                tuple(TYPES[int(number)] for number in values[:, 0]),
                values[:, 1],
                values[:, 2].astype(np.int64),
                values[:, 3],
                values[:, 4:8],
                values[:, 8:11],
                values[:, 11:14],
                values[:, 14],
                values[:, 15],
            )
        )
    return frames
