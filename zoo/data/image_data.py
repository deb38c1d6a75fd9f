"""Pictures of any source as a Lightning data module, for pre-training and classification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.bad_samples import DataReport, SampleError
from zoo.data.epoch_batches import epoch_batch, repeated_batch
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.image_mixing import Mixing
from zoo.data.image_samples import ImageBatch, ImageSample, ImageSource, normalize, stack
from zoo.data.posed_images import step_generator
from zoo.data.split_data import EVALUATION_STREAM, OnBadSample, Split, SplitData
from zoo.data.step_loader import StepLoader

__all__ = ["ImageData", "Transforms", "transform_picture"]

Transforms = Mapping[str, Callable[[Any], Any] | None]
_MIX_STREAM = 1 << 30


def transform_picture(
    sample: ImageSample, transforms: Transforms, tensor_transforms: Transforms, generator: torch.Generator
) -> Tensor:
    """The normalised picture ``(3, H, W)`` behind the transforms, a function of the sample and the generator.

    Torch's own random state, which torchvision's transforms read, is that of the generator meanwhile and is put back.

    Args:
        sample: the picture.
        transforms: on Pillow images, in their order.
        tensor_transforms: on normalised tensors, in their order.
        generator: of all random choices.

    Raises:
        SampleError: a transform cannot work on the picture; names both.
    """
    value: Any = Image.fromarray(sample.pixels)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.initial_seed())  # CUDA's generators stay what they are
        for group in (transforms, tensor_transforms):
            for name, transform in group.items():
                try:
                    value = value if transform is None else transform(value)
                except (ValueError, RuntimeError, TypeError) as error:
                    raise SampleError(sample.name, f"the transform {name!r} failed: {error}") from error
            if group is transforms:
                pixels = torch.from_numpy(np.array(value.convert("RGB"))).permute(2, 0, 1)
                value = normalize(pixels.float() / 255)
    return value


class _TrainBatches:
    """The batch of a step: a function of (seed, step, rank) and the files."""

    def __init__(self, data: ImageData, samples: FrameFiles[ImageSample], rank: int, world_size: int) -> None:
        self.data, self.samples = data, samples
        self.rank, self.world_size = rank, world_size

    def __call__(self, step: int) -> ImageBatch:
        data, size = self.data, self.data.batch_size
        count, whole = len(self.samples), size * self.world_size
        if data.repeats > 1:
            indices = repeated_batch(
                step,
                num_samples=count,
                batch_size=whole,
                repeats=data.repeats,
                seed=data.seed,
                world_size=self.world_size,
                rank=self.rank,
            )
        else:
            indices = epoch_batch(
                step,
                num_samples=count,
                batch_size=whole,
                seed=data.seed,
                world_size=self.world_size,
                rank=self.rank,
            )
        first = (step * self.world_size + self.rank) * size
        chosen = [self.samples[index] for index in indices]
        tensors = [
            transform_picture(
                sample, data.train_transforms, data.tensor_transforms, step_generator(data.seed, first + number)
            )
            for number, sample in enumerate(chosen)
        ]
        batch = stack(tensors, [sample.name for sample in chosen], [sample.label for sample in chosen])
        if data.mixing is None:
            return batch
        return data.mixing(batch, np.random.default_rng((data.seed, _MIX_STREAM, step, self.rank)))


class _EvaluationPictures(Dataset[tuple[ImageSample, Tensor]]):
    def __init__(self, data: ImageData, samples: FrameFiles[ImageSample]) -> None:
        self.data, self.samples = data, samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[ImageSample, Tensor]:
        sample = self.samples[index]
        generator = step_generator(self.data.seed + EVALUATION_STREAM, index)
        return sample, transform_picture(sample, self.data.eval_transforms, {}, generator)


def _collate(pairs: Sequence[tuple[ImageSample, Tensor]]) -> ImageBatch:
    return stack([t for _, t in pairs], [s.name for s, _ in pairs], [s.label for s, _ in pairs])


class ImageData(SplitData[ImageSample]):
    """Batches of pictures of one size.

    Training batches are functions of (seed, step): a resumed run sees the same ones, with any number of workers.

    Args:
        source: the data set.
        train_transforms: by name, in their order, on Pillow images: torchvision's, or functions of your own. They end
            with a fixed size.
        tensor_transforms: likewise on normalised tensors ``(3, H, W)``, in training only.
        eval_transforms: as ``train_transforms``, for val and test.
        mixing: MixUp, CutMix and label smoothing of training batches.
        repeats: of each picture in a batch, augmented differently each time.
        batch_size: training pictures of a step on each device.
        eval_batch_size: pictures of a val or test batch.
        seed: of order and augmentation.
        max_steps: number of training steps.
        num_workers: worker processes of the loaders.
        on_bad_sample: ``"error"``, or ``"skip"`` to count pictures that cannot be read and take the next instead.

    Raises:
        ValueError: on arguments out of range.
    """

    def __init__(
        self,
        *,
        source: ImageSource,
        train_transforms: Transforms,
        eval_transforms: Transforms,
        tensor_transforms: Transforms | None = None,
        mixing: Mixing | None = None,
        repeats: int = 1,
        batch_size: int = 64,
        eval_batch_size: int = 64,
        seed: int = 0,
        max_steps: int = 1000,
        num_workers: int = 0,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        super().__init__(
            source=source,
            sample_noun="pictures",
            seed=seed,
            max_steps=max_steps,
            num_workers=num_workers,
            on_bad_sample=on_bad_sample,
        )
        if min(batch_size, eval_batch_size, repeats) < 1:
            raise ValueError(
                f"batch_size={batch_size}, eval_batch_size={eval_batch_size}, repeats={repeats}: "
                "expected at least 1 each"
            )
        self.mixing, self.repeats = mixing, repeats
        self.train_transforms, self.eval_transforms = dict(train_transforms), dict(eval_transforms)
        self.tensor_transforms = dict(tensor_transforms or {})
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size

    def check_data(self) -> DataReport:
        """Decode every picture of every split, going on past bad ones.

        Raises:
            SampleError: where nothing can be made of the data set at all.
        """
        lines, problems = [], []
        for name in dict.fromkeys(self.source.splits.values()):
            samples, sizes, classes = self.source.open_split(name, "skip"), Counter[str](), Counter[int]()
            for number in range(len(samples)):
                try:
                    sample = samples.read(number)
                except SampleError as error:
                    problems.append(str(error))
                    continue
                height, width = sample.pixels.shape[:2]
                sizes[f"{width} x {height}"] += 1
                if sample.label is not None:
                    classes[sample.label] += 1
            common = ", ".join(f"{count} of {size}" for size, count in sizes.most_common(3))
            counted = f"{len(classes)} classes" if classes else "no classes"
            lines.append(f"{name}: {sum(sizes.values())} of {len(samples)} pictures, {counted}; {common}")
        return DataReport(tuple(lines), tuple(dict.fromkeys(problems)))

    def train_dataloader(self) -> StepLoader:
        """`ImageBatch`es of the steps that are left."""
        return self.steps_left(_TrainBatches(self, self.samples("train"), *self.place()))

    def evaluation_loader(self, split: Split) -> DataLoader[Any]:
        """`ImageBatch`es of a whole split in its order, as in evaluation."""
        pictures = _EvaluationPictures(self, self.samples(split))
        return DataLoader(pictures, batch_size=self.eval_batch_size, num_workers=self.num_workers, collate_fn=_collate)

    def _measured_pictures(self, split: Split) -> DataLoader[Any]:
        pictures = _EvaluationPictures(self, self.samples(split))
        return self.measured(pictures, batch_size=self.eval_batch_size, collate_fn=_collate)

    def val_dataloader(self) -> DataLoader[Any]:
        """The val pictures in their order."""
        return self._measured_pictures("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The test pictures in their order."""
        return self._measured_pictures("test")
