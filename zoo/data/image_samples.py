"""Pictures with their class, one by one and as a batch of normalised tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.image_files import read_image
from zoo.data.split_data import OnBadSample, SplitSource

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImageBatch",
    "ImageSample",
    "ImageSource",
    "PictureFiles",
    "denormalize",
    "normalize",
    "read_rgb",
    "stack",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImageSample:
    """One picture.

    Attributes:
        name: for people, unique within the split.
        pixels: uint8 ``(H, W, 3)``, sRGB.
        label: number of its class, or None.
    """

    name: str
    pixels: NDArray[np.uint8]
    label: int | None = None


@dataclass
class ImageBatch:
    """B pictures of one size.

    Attributes:
        image: ``(B, 3, H, W)`` float32, ImageNet's mean subtracted and divided by its deviation.
        names: B names.
        label: ``(B,)`` int64, or None without classes.
        target: ``(B, K)`` shares of the classes where pictures or labels were mixed or smoothed, else None.
    """

    image: Tensor
    names: list[str]
    label: Tensor | None = None
    target: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Number of pictures B."""
        return len(self.names)

    def first(self, count: int) -> ImageBatch:
        """The first so many pictures."""
        label, target = (None if part is None else part[:count] for part in (self.label, self.target))
        return ImageBatch(self.image[:count], self.names[:count], label, target)


def normalize(pixels: Tensor) -> Tensor:
    """``(..., 3, H, W)`` in [0, 1] to zero mean and unit variance over ImageNet."""
    mean, std = pixels.new_tensor(IMAGENET_MEAN), pixels.new_tensor(IMAGENET_STD)
    return (pixels - mean[:, None, None]) / std[:, None, None]


def denormalize(image: Tensor) -> Tensor:
    """The inverse of `normalize`, clamped to [0, 1]."""
    mean, std = image.new_tensor(IMAGENET_MEAN), image.new_tensor(IMAGENET_STD)
    return (image * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


def read_rgb(path: Path | str) -> NDArray[np.uint8]:
    """A picture as uint8 ``(H, W, 3)``: grey, palette and CMYK are converted to RGB, transparency is dropped.

    Raises:
        SampleError: no picture, cut short, or of more than 8 bits a channel; names the path.
    """
    return np.ascontiguousarray(read_image(path)[..., :3])


class PictureFiles(FrameFiles[ImageSample]):
    """Picture files with their classes.

    Args:
        root: names are relative to it.
        files: paths.
        labels: of each file, or None.
        on_bad_sample: see `FrameFiles`.
        keep: decoded pictures stay in memory, for sets that fit.
    """

    def __init__(
        self,
        root: Path,
        files: list[Path],
        labels: list[int] | None,
        *,
        on_bad_sample: OnBadSample = "error",
        keep: bool = False,
    ) -> None:
        super().__init__(on_bad_sample)
        if not files:
            raise SampleError(root, "holds no picture (.jpg, .jpeg, .png, .webp, .bmp, .ppm)")
        self.root, self.files, self.labels, self.keep = root, files, labels, keep
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> ImageSample:
        """Decode one picture."""
        pixels = self._kept.get(number)
        if pixels is None:
            pixels = read_rgb(self.files[number])
            if self.keep:
                self._kept[number] = pixels
        label = None if self.labels is None else self.labels[number]
        return ImageSample(self.files[number].relative_to(self.root).as_posix(), pixels, label)


class ImageSource(SplitSource[ImageSample]):
    """A set of pictures on disk."""

    def ensure(self) -> None:
        """Make what is missing and can be made.

        Raises:
            SampleError: the folder is missing and nothing can make it.
        """
        if not self.root.is_dir():
            raise SampleError(self.root, "no such folder; set data.source.root")


def stack(samples: list[Tensor], names: list[str], labels: list[int | None]) -> ImageBatch:
    """A batch of tensors ``(3, H, W)`` that are normalised already.

    Raises:
        SampleError: pictures of different sizes; names one.
    """
    for name, sample in zip(names, samples, strict=True):
        if sample.shape != samples[0].shape:
            raise SampleError(
                name,
                f"is {tuple(sample.shape)} behind the transforms, others of its batch {tuple(samples[0].shape)}; let "
                "the transforms end with a crop or a resize to a fixed size",
            )
    numbers = [label for label in labels if label is not None]
    label = torch.tensor(numbers) if len(numbers) == len(labels) else None
    return ImageBatch(torch.stack(samples), names, label)
