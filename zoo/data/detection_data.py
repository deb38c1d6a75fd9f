"""Labelled LiDAR frames of any source as a Lightning data module for detectors."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, Dataset

from zoo.data.bad_samples import DataReport
from zoo.data.detection import DetectionBatch, DetectionSample, collate_detection
from zoo.data.detection_frames import (
    DetectionFrame,
    DetectionFrames,
    DetectionSource,
    EvaluationBatch,
    LabelledCloud,
)
from zoo.data.detection_transforms import PreparedTransform, Transform, apply_transforms
from zoo.data.split_data import OnBadSample, Split
from zoo.data.step_loader import EvenShare, StepData, StepLoader, shuffled_indices

__all__ = ["DetectionData", "Fade"]

logger = logging.getLogger(__name__)

_REDRAWS = 10  # a training sample that augmentation left without points or boxes is replaced so many times


@dataclass(frozen=True, kw_only=True)
class Fade:
    """Augmentation that is left out at the end of training, so that it ends on frames as they are.

    Attributes:
        names: of the transforms.
        last_steps: the last so many steps go without them.
    """

    names: Sequence[str] = ("gt_sampling",)
    last_steps: int = 0


class _TrainBatches:
    """The batch of a step: a function of (seed, step, rank) and the files."""

    def __init__(
        self, data: DetectionData, frames: DetectionFrames, rank: int, world_size: int, accumulated: int
    ) -> None:
        self.data, self.frames = data, frames
        self.rank, self.world_size, self.accumulated = rank, world_size, accumulated

    def __call__(self, step: int) -> DetectionBatch:
        size = self.data.batch_size
        first = (step * self.world_size + self.rank) * size
        indices = shuffled_indices(len(self.frames), first, size, self.data.seed)
        return collate_detection([self._sample(step, first + place, index) for place, index in enumerate(indices)])

    def _sample(self, step: int, draw: int, index: int) -> DetectionSample:
        """The augmented frame; one without points or boxes is replaced by the frame that another draw gives."""
        cloud, frame = None, None
        for redraw in range(_REDRAWS):
            if redraw:
                index = shuffled_indices(len(self.frames), draw, 1, self.data.seed + redraw)[0]
            frame = self.frames[index]
            fading = step // self.accumulated >= self.data.max_steps - self.data.fade.last_steps
            cloud = self.data.augmented(frame, step, (draw, redraw), fading=fading)
            if len(cloud.points) and len(cloud.boxes):
                break
        assert cloud is not None
        assert frame is not None
        return cloud.sample(frame.frame_id)


EvaluationPair = tuple[DetectionSample, DetectionFrame | None]


class _EvaluationSamples(Dataset[EvaluationPair]):
    """Samples with their frames; numbers beyond the last give a sample without its frame, which nothing measures."""

    def __init__(self, data: DetectionData, frames: DetectionFrames) -> None:
        self.data, self.frames = data, frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> EvaluationPair:
        frame = self.frames[index % len(self.frames)]
        return self.data.evaluated(frame).sample(frame.frame_id), frame if index < len(self.frames) else None


def _collate_frames(pairs: Sequence[EvaluationPair]) -> EvaluationBatch:
    frames = [frame for _, frame in pairs if frame is not None]
    return EvaluationBatch(collate_detection([sample for sample, _ in pairs]), frames)


class DetectionData(StepData):
    """Batches of labelled point clouds.

    Training batches are functions of (seed, step): a resumed run sees the same ones, with any number of workers. The
    frames are shuffled anew in each pass. Frames that augmentation leaves without a point or a box are replaced;
    frames of the val and test loaders never are, whatever the range mask leaves of them.

    Args:
        source: the data set.
        class_names: what is detected, in the order of the labels; other classes of the data set are ignored.
        train_transforms: by name, in their order (see `zoo.data.detection_transforms`).
        eval_transforms: likewise for val and test, normally the range mask alone.
        point_dim: columns of the points; missing ones become 0, superfluous ones are cut. None: as the data set has.
        box_dim: 7, or 9 with velocities; likewise.
        point_range: what part of the world is looked at: x, y, z of the low corner, then of the high one. Range masks
            and models refer to it.
        batch_size: training samples of a step on each device.
        eval_batch_size: samples of a val or test batch.
        fade: augmentation that ends before training does.
        seed: of order and augmentation.
        max_steps: number of training steps.
        num_workers: worker processes of the loaders.
        on_bad_sample: ``"error"``, or ``"skip"`` to count frames that cannot be read and take the next instead.

    Raises:
        ValueError: on arguments out of range, or a class that the data set does not have.
    """

    def __init__(
        self,
        *,
        source: DetectionSource,
        class_names: Sequence[str],
        train_transforms: Mapping[str, Transform | None] | None = None,
        eval_transforms: Mapping[str, Transform | None] | None = None,
        point_dim: int | None = None,
        box_dim: int | None = None,
        point_range: Sequence[float] | None = None,
        batch_size: int = 2,
        eval_batch_size: int = 1,
        fade: Fade | None = None,
        seed: int = 0,
        max_steps: int = 1000,
        num_workers: int = 0,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        super().__init__()
        unknown = [name for name in class_names if name not in source.class_names]
        if unknown or not class_names or len(set(class_names)) < len(class_names):
            raise ValueError(
                f"class_names: found {list(class_names)}, expected different classes of the data set: "
                f"{', '.join(source.class_names)}"
            )
        if min(batch_size, eval_batch_size, max_steps) < 1 or num_workers < 0:
            raise ValueError(
                f"batch_size={batch_size}, eval_batch_size={eval_batch_size}, max_steps={max_steps}, "
                f"num_workers={num_workers}: expected at least 1, 1, 1 and 0"
            )
        if box_dim not in (None, 7, 9) or (point_dim is not None and point_dim < 3):
            raise ValueError(f"point_dim, box_dim: found {point_dim}, {box_dim}; expected at least 3, and 7 or 9")
        self.source, self.class_names = source, tuple(class_names)
        self.train_transforms, self.eval_transforms = dict(train_transforms or {}), dict(eval_transforms or {})
        self.point_dim, self.box_dim = point_dim, box_dim
        self.point_range = None if point_range is None else tuple(point_range)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.fade = fade or Fade()
        missing = [name for name in self.fade.names if self.fade.last_steps and name not in self.train_transforms]
        if missing:
            raise ValueError(f"fade.names: no transform {missing[0]!r}, expected some of {list(self.train_transforms)}")
        self.seed, self.max_steps, self.num_workers = seed, max_steps, num_workers
        self.on_bad_sample: OnBadSample = on_bad_sample
        self._splits: dict[str, DetectionFrames] = {}

    def prepare_data(self) -> None:
        """Make what is missing: generated scenes, and what transforms need from the training split."""
        self.source.ensure()
        self._prepare_transforms(overwrite=False)

    def _prepare_transforms(self, overwrite: bool) -> None:
        for transform in self.train_transforms.values():
            if isinstance(transform, PreparedTransform):
                transform.prepare(self.source, overwrite=overwrite)

    def prepare_files(self, overwrite: bool = False) -> None:
        """What ``tools/prepare_data.py action=prepare`` does: everything that training needs beside the raw files.

        Args:
            overwrite: make anew what is there.
        """
        self.source.ensure()
        self.source.prepare_files(overwrite=overwrite)
        self._prepare_transforms(overwrite=overwrite)

    def generate_data(self, overwrite: bool = False) -> None:
        """Make the synthetic set.

        Raises:
            FileExistsError: it exists and may not be replaced.
            ValueError: the source has no generator.
        """
        self.source.generate_files(overwrite)

    def check_data(self) -> DataReport:
        """Read every frame of every split.

        Raises:
            SampleError: nothing can be made of the data set at all.
        """
        lines, problems = [], []
        for key, name in self.source.splits.items():
            frames = self.source.open_split(name)
            counts, points, readable = Counter[str](), 0, 0
            for number in range(len(frames)):
                try:
                    frame = frames.read(number)
                except ValueError as error:
                    problems.append(str(error))
                    continue
                readable += 1
                points += len(frame.points)
                counts.update(frame.names)
            objects = ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) or "no boxes"
            mean = points // max(readable, 1)
            lines.append(f"{key} ({name}): {readable} of {len(frames)} frames, {mean} points each; {objects}")
        return DataReport(tuple(lines), tuple(dict.fromkeys(problems)))

    def setup(self, stage: str | None = None) -> None:
        """Tell transforms where their files are (in every process); splits are opened when they are first used."""
        self._prepare_transforms(overwrite=False)

    def frames(self, split: Split) -> DetectionFrames:
        """The frames to train, watch or measure on."""
        if split not in self._splits:
            frames = self.source.open_split(self.source.splits[split], self.on_bad_sample)
            logger.info("%s: %s has %d frames", self.source.root, self.source.splits[split], len(frames))
            self._splits[split] = frames
        return self._splits[split]

    def cloud(self, frame: DetectionFrame) -> LabelledCloud:
        """The frame with its wanted classes and columns, nothing moved."""
        return LabelledCloud.of(frame, self.class_names, point_dim=self.point_dim, box_dim=self.box_dim)

    def augmented(
        self, frame: DetectionFrame, step: int, draw: tuple[int, int] = (0, 0), *, fading: bool = False
    ) -> LabelledCloud:
        """The frame as training sees it.

        Args:
            frame: as it was read.
            step: batches before this one.
            draw: number of the sample in the run, and how often it was drawn anew.
            fading: whether the transforms that end before training does are left out.
        """
        without = self.fade.names if fading else ()
        return apply_transforms(self.train_transforms, self.cloud(frame), (self.seed, step, *draw), without)

    def evaluated(self, frame: DetectionFrame) -> LabelledCloud:
        """The frame as val and test see it."""
        return apply_transforms(self.eval_transforms, self.cloud(frame), (self.seed,))

    def train_dataloader(self) -> StepLoader:
        """Batches of the steps that are left."""
        return self.steps_left(_TrainBatches(self, self.frames("train"), *self.place(), self.batches_of_step()))

    def _evaluation_loader(self, split: Split) -> DataLoader[Any]:
        samples = _EvaluationSamples(self, self.frames(split))
        rank, world_size = self.place()
        return DataLoader(
            samples,
            batch_size=self.eval_batch_size,
            sampler=EvenShare(len(samples), rank, world_size) if world_size > 1 else None,
            num_workers=self.num_workers,
            collate_fn=_collate_frames,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """`EvaluationBatch`es of the val frames in their order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """`EvaluationBatch`es of the test frames in their order."""
        return self._evaluation_loader("test")
