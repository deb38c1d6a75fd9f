"""Point clouds of any source as a Lightning data module for classifiers and segmentors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from zoo.data.bad_samples import DataReport, SampleError
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.point_fragments import PointFragments
from zoo.data.point_samples import FragmentedCloud, PointBatch, PointSample, collate_points
from zoo.data.point_transforms import PointTransform, apply_transforms, sample_generator
from zoo.data.split_data import EVALUATION_STREAM, OnBadSample, Split, SplitData, SplitSource
from zoo.data.step_loader import StepLoader, shuffled_indices

__all__ = ["PointCloudData", "PointSource"]

_MIX_STREAM = 1 << 30


class PointSource(SplitSource[PointSample]):
    """A set of labelled clouds on disk."""


class _TrainBatches:
    """The batch of a step: a function of (seed, step, rank) and the files."""

    def __init__(self, data: PointCloudData, samples: FrameFiles[PointSample], rank: int, world_size: int) -> None:
        self.data, self.samples = data, samples
        self.rank, self.world_size = rank, world_size

    def __call__(self, step: int) -> PointBatch:
        data, size = self.data, self.data.batch_size
        first = (step * self.world_size + self.rank) * size
        indices = shuffled_indices(len(self.samples), first, size, data.seed)
        chosen = [
            apply_transforms(data.train_transforms, self.samples[index], sample_generator(data.seed, first + place))
            for place, index in enumerate(indices)
        ]
        draw = sample_generator(data.seed + _MIX_STREAM, step * self.world_size * size)  # one for all processes
        mixing = torch.rand(1, generator=draw).item() < data.mix_probability
        return collate_points(chosen, data.feature_names, mix=mixing)


class _Share(FrameFiles[PointSample]):
    """Samples at even distances."""

    def __init__(self, samples: FrameFiles[PointSample], share: float) -> None:
        super().__init__(samples.bad_samples.policy)
        self.samples, self.share, self.bad_samples = samples, share, samples.bad_samples

    def __len__(self) -> int:
        return max(1, round(len(self.samples) * self.share))

    def read(self, number: int) -> PointSample:
        return self.samples.read(number * len(self.samples) // len(self))


class _EvaluationSamples(Dataset[PointSample]):
    def __init__(self, data: PointCloudData, samples: FrameFiles[PointSample], transforms: Mapping[str, Any]) -> None:
        self.data, self.samples, self.transforms = data, samples, transforms

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> PointSample:
        generator = sample_generator(self.data.seed + EVALUATION_STREAM, index)
        return apply_transforms(self.transforms, self.samples[index], generator)


class PointCloudData(SplitData[PointSample]):
    """Batches of clouds on voxels.

    Training batches are functions of (seed, step): a resumed run sees the same ones, with any number of workers. The
    clouds are shuffled anew in each pass.

    Args:
        source: the data set.
        feature_names: what the network reads, in its order: ``coord`` and names of the source's features.
        train_transforms: by name, in their order (see `zoo.data.point_transforms`); they end with a `GridSample`.
        eval_transforms: likewise for val, and for test without fragments.
        test_transforms: before the fragments of a test.
        test_fragments: tests on all points, summing scores over fragments; None: on clouds as for val.
        batch_size: training clouds of a step on each device.
        eval_batch_size: clouds of a val or test batch.
        mix_probability: of Mix3D in a training batch.
        train_share: of the training clouds that are used, evenly over their order: of each class, where the source
            lists one class after the other.
        seed: of order and augmentation.
        max_steps: number of training steps.
        num_workers: worker processes of the loaders.
        on_bad_sample: ``"error"``, or ``"skip"`` to count clouds that cannot be used and take the next instead.

    Raises:
        ValueError: on arguments out of range.
    """

    def __init__(
        self,
        *,
        source: PointSource,
        feature_names: Sequence[str],
        train_transforms: Mapping[str, PointTransform | None],
        eval_transforms: Mapping[str, PointTransform | None],
        test_transforms: Mapping[str, PointTransform | None] | None = None,
        test_fragments: PointFragments | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 16,
        mix_probability: float = 0.0,
        train_share: float = 1.0,
        seed: int = 0,
        max_steps: int = 1000,
        num_workers: int = 0,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        super().__init__(
            source=source,
            sample_noun="clouds",
            seed=seed,
            max_steps=max_steps,
            num_workers=num_workers,
            on_bad_sample=on_bad_sample,
        )
        if min(batch_size, eval_batch_size) < 1 or not 0 <= mix_probability <= 1:
            raise ValueError(
                f"batch_size={batch_size}, eval_batch_size={eval_batch_size}, mix_probability={mix_probability}: "
                "expected at least 1 twice, and a share in [0, 1]"
            )
        if not 0 < train_share <= 1:
            raise ValueError(f"train_share: found {train_share}, expected above 0, at most 1")
        self.feature_names = tuple(feature_names)
        self.train_transforms, self.eval_transforms = dict(train_transforms), dict(eval_transforms)
        self.test_transforms, self.test_fragments = dict(test_transforms or {}), test_fragments
        self.batch_size, self.eval_batch_size, self.mix_probability = batch_size, eval_batch_size, mix_probability
        self.train_share = train_share

    def check_data(self) -> DataReport:
        """Read every cloud of every split, going on past bad ones.

        Raises:
            SampleError: where nothing can be made of the data set at all.
        """
        lines, problems = [], []
        for name in dict.fromkeys(self.source.splits.values()):
            samples = self.source.open_split(name, "skip")
            points, readable, classes = 0, 0, Counter[str]()
            problems += [str(error) for error in samples.bad_samples.skipped]
            for number in range(len(samples)):
                try:
                    sample = samples.read(number)
                except SampleError as error:
                    problems.append(str(error))
                    continue
                readable, points = readable + 1, points + len(sample)
                classes.update(self._classes_of(sample))
            counted = ", ".join(f"{count} {label}" for label, count in classes.most_common())
            mean = points // max(readable, 1)
            lines.append(f"{name}: {readable} of {len(samples)} clouds, {mean} points each; {counted or 'no labels'}")
        return DataReport(tuple(lines), tuple(dict.fromkeys(problems)))

    def _classes_of(self, sample: PointSample) -> dict[str, int]:
        if sample.category is not None:
            return {self.class_names[sample.category]: 1}
        if sample.segment is None:
            return {}
        counts = torch.bincount(sample.segment[sample.segment >= 0], minlength=len(self.class_names)).tolist()
        return {name: count for name, count in zip(self.class_names, counts, strict=True) if count}

    def train_dataloader(self) -> StepLoader:
        """`PointBatch`es of the steps that are left."""
        samples = self.samples("train")
        if self.train_share < 1:
            samples = _Share(samples, self.train_share)
        return self.steps_left(_TrainBatches(self, samples, *self.place()))

    def _evaluation_loader(self, split: Split) -> DataLoader[Any]:
        samples = _EvaluationSamples(self, self.samples(split), self.eval_transforms)
        return self.measured(samples, batch_size=self.eval_batch_size, collate_fn=self._collate)

    def _collate(self, samples: Sequence[PointSample]) -> PointBatch:
        return collate_points(samples, self.feature_names)

    def _fragment(self, samples: Sequence[PointSample]) -> FragmentedCloud:
        assert self.test_fragments is not None
        return self.test_fragments(samples[0], self.feature_names)

    def val_dataloader(self) -> DataLoader[Any]:
        """`PointBatch`es of the val clouds in their order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The test clouds in their order: `FragmentedCloud` if ``test_fragments``, else `PointBatch`."""
        if self.test_fragments is None:
            return self._evaluation_loader("test")
        samples = _EvaluationSamples(self, self.samples("test"), self.test_transforms)
        return self.measured(samples, batch_size=1, collate_fn=self._fragment)
