"""Several sets of pictures as one without classes, for pre-training."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from zoo.data.formats.frame_files import FrameFiles
from zoo.data.image_samples import ImageSample, ImageSource
from zoo.data.split_data import OnBadSample, Split

__all__ = ["JoinedPictures"]


class _Joined(FrameFiles[ImageSample]):
    def __init__(self, parts: Mapping[str, FrameFiles[ImageSample]], on_bad_sample: OnBadSample) -> None:
        super().__init__(on_bad_sample)
        self.parts = dict(parts)
        self.ends = list(accumulate(len(part) for part in self.parts.values()))

    def __len__(self) -> int:
        return self.ends[-1]

    def read(self, number: int) -> ImageSample:
        place = bisect_right(self.ends, number)
        name = list(self.parts)[place]
        part = self.parts[name]
        sample = part.read(number - self.ends[place] + len(part))
        return replace(sample, name=f"{name}/{sample.name}", label=None)


class JoinedPictures(ImageSource):
    """The pictures of all sources, one source after the other.

    Args:
        sources: by name. Each split of the whole joins that split of every source.
    """

    def __init__(self, *, sources: Mapping[str, ImageSource]) -> None:
        if not sources:
            raise ValueError("sources: found none, expected at least one set of pictures")
        self.sources = dict(sources)
        self.root: Path = next(iter(self.sources.values())).root
        self.class_names: tuple[str, ...] = ()
        self.splits: Mapping[Split, str] = {"train": "train", "val": "val", "test": "test"}

    def ensure(self) -> None:
        """Make what is missing and can be made, of every source."""
        for source in self.sources.values():
            source.ensure()

    def generate_files(self, overwrite: bool) -> None:
        """Make every source's synthetic set."""
        for source in self.sources.values():
            source.generate_files(overwrite)

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> FrameFiles[ImageSample]:
        """The pictures that the sources have for ``train``, ``val`` or ``test``."""
        split: Split = "train" if name == "train" else "val" if name == "val" else "test"
        parts = {key: source.open_split(source.splits[split]) for key, source in self.sources.items()}
        return _Joined(parts, on_bad_sample)
