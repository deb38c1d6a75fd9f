"""A data set whose samples are frames in files, each checked when it is read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Generic, Literal, TypeVar

from torch.utils.data import Dataset

from zoo.data.bad_samples import BadSamples, SampleError

Frame = TypeVar("Frame")


class FrameFiles(Dataset[Frame], Generic[Frame]):
    """Frames by number.

    A frame that cannot be read raises `SampleError`, or, with ``on_bad_sample="skip"``, is counted once in
    ``bad_samples`` (of this process) and the next readable frame stands in for it: the length and the frames that the
    other numbers give do not change.
    """

    def __init__(self, on_bad_sample: Literal["error", "skip"] = "error") -> None:
        self.bad_samples = BadSamples(on_bad_sample)
        self._bad: set[int] = set()

    @abstractmethod
    def __len__(self) -> int:
        """Number of frames listed."""

    @abstractmethod
    def read(self, number: int) -> Frame:
        """Read one frame; raises `SampleError` where its files are missing, damaged or inconsistent."""

    def __getitem__(self, index: int) -> Frame:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: found {index}, expected one of {len(self)} frames")
        for step in range(len(self)):
            number = (index + step) % len(self)
            if number in self._bad:
                continue
            try:
                return self.read(number)
            except SampleError as error:
                self.bad_samples.handle(error)
                self._bad.add(number)
        raise self.bad_samples.skipped[-1]  # none is readable

    def __iter__(self) -> Iterator[Frame]:
        return (self[number] for number in range(len(self)))

    def check(self) -> list[SampleError]:
        """Read every frame and return what is wrong with the bad ones."""
        problems = []
        for number in range(len(self)):
            try:
                self.read(number)
            except SampleError as error:
                problems.append(error)
        return problems
