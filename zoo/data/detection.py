"""What detectors are fed with and what they return: batches of point clouds with boxes, and scored boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DetectionBatch", "DetectionSample", "Detections", "collate_detection"]


class Detections(NamedTuple):
    """Boxes that a detector found in one sample.

    Attributes:
        boxes: ``(K, 7)`` or ``(K, 9)``: x, y, z, dx, dy, dz, yaw and, with 9, velocities vx, vy.
        scores: ``(K,)``.
        labels: ``(K,)`` int64, 0 is the first class.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> Detections:
        """The same on another device."""
        return Detections(self.boxes.to(device), self.scores.to(device), self.labels.to(device))


@dataclass
class DetectionSample:
    """One point cloud with its boxes.

    Attributes:
        points: ``(P, 3 + F)`` float32: x, y, z, then features such as intensity and time.
        boxes: ``(M, 7)`` or ``(M, 9)`` float32: x, y, z of the centre, dx, dy, dz, yaw, and velocities with 9; LiDAR
            frame, metres, radians.
        labels: ``(M,)`` int64, 0 is the first class.
        frame_id: its name.

    Raises:
        ValueError: if shapes do not fit together.
    """

    points: Tensor
    boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 7))
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    frame_id: str = ""

    def __post_init__(self) -> None:
        name = f"sample {self.frame_id!r}"
        if self.points.ndim != 2 or self.points.shape[1] < 3:
            raise ValueError(f"points: {name} has shape {tuple(self.points.shape)}, expected (P, 3 + F)")
        if self.boxes.ndim != 2 or self.boxes.shape[1] not in (7, 9):
            raise ValueError(f"boxes: {name} has shape {tuple(self.boxes.shape)}, expected (M, 7) or (M, 9)")
        if self.labels.shape != self.boxes.shape[:1]:
            raise ValueError(
                f"labels: {name} has shape {tuple(self.labels.shape)}, expected ({len(self.boxes)},), one for each box"
            )


@dataclass
class DetectionBatch:
    """Samples side by side.

    Attributes:
        points: ``(P, 3 + F)`` float32, the points of all samples one after the other.
        point_batch: ``(P,)`` int64, the sample of each point, never falling.
        boxes: for each sample ``(M, 7)`` or ``(M, 9)``, as in `DetectionSample`.
        labels: for each sample ``(M,)`` int64.
        frame_ids: of the samples.
    """

    points: Tensor
    point_batch: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    frame_ids: list[str]

    @property
    def batch_size(self) -> int:
        """Number of samples, those without points counted."""
        return len(self.boxes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> DetectionBatch:
        """The same on another device."""
        return DetectionBatch(
            self.points.to(device, non_blocking=non_blocking),
            self.point_batch.to(device, non_blocking=non_blocking),
            [boxes.to(device, non_blocking=non_blocking) for boxes in self.boxes],
            [labels.to(device, non_blocking=non_blocking) for labels in self.labels],
            list(self.frame_ids),
        )

    def pin_memory(self) -> DetectionBatch:
        """The same in page-locked memory; loaders with ``pin_memory=True`` call it."""
        return DetectionBatch(
            self.points.pin_memory(),
            self.point_batch.pin_memory(),
            [boxes.pin_memory() for boxes in self.boxes],
            [labels.pin_memory() for labels in self.labels],
            list(self.frame_ids),
        )

    def sample(self, index: int) -> DetectionSample:
        """One of the samples."""
        rows = self.point_batch == index
        return DetectionSample(self.points[rows], self.boxes[index], self.labels[index], self.frame_ids[index])


def collate_detection(samples: Sequence[DetectionSample]) -> DetectionBatch:
    """The batch of some samples; a sample without points or boxes keeps its place.

    Raises:
        ValueError: no samples, or samples whose points or boxes have different numbers of columns.

    Example:
        >>> batch = collate_detection([DetectionSample(torch.zeros(2, 4)), DetectionSample(torch.ones(1, 4))])
        >>> batch.point_batch.tolist(), batch.batch_size
        ([0, 0, 1], 2)
    """
    if not samples:
        raise ValueError("samples: found none, expected at least one")
    for part in ("points", "boxes"):
        widths = {getattr(sample, part).shape[1]: sample.frame_id for sample in samples}
        if len(widths) > 1:
            found = ", ".join(f"{width} in {name!r}" for width, name in widths.items())
            raise ValueError(f"{part}: found {found} columns, expected the same number in every sample")
    counts = torch.tensor([len(sample.points) for sample in samples])
    return DetectionBatch(
        torch.cat([sample.points.float() for sample in samples]),
        torch.repeat_interleave(torch.arange(len(samples)), counts),
        [sample.boxes.float() for sample in samples],
        [sample.labels.long() for sample in samples],
        [sample.frame_id for sample in samples],
    )
