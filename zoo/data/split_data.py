"""Data sets on disk that are divided into splits, and what every Lightning data module of such a set does."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Literal, TypeVar

from zoo.data.formats.frame_files import FrameFiles
from zoo.data.step_loader import StepData

__all__ = ["EVALUATION_STREAM", "OnBadSample", "Split", "SplitData", "SplitSource"]

logger = logging.getLogger(__name__)

OnBadSample = Literal["error", "skip"]
Split = Literal["train", "val", "test"]
Sample = TypeVar("Sample")
EVALUATION_STREAM = 1 << 31  # added to the seed: evaluation never shares random numbers with training


class SplitSource(ABC, Generic[Sample]):
    """A data set on disk.

    Attributes:
        root: its folder.
        class_names: in the order of the labels; empty without classes.
        splits: which of its splits train, val and test stand for.
    """

    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[Split, str]

    @abstractmethod
    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> FrameFiles[Sample]:
        """The samples of one of the data set's own splits."""

    @abstractmethod
    def ensure(self) -> None:
        """Make what is missing and can be made: a generated set, prepared files.

        Raises:
            SampleError: the data set is missing and nothing can make it.
        """

    def generate_files(self, overwrite: bool) -> None:
        """Make the synthetic set.

        Raises:
            ValueError: the data set cannot be generated.
        """
        raise ValueError(f"action: {type(self).__name__} has no generator")


class SplitData(StepData, Generic[Sample]):
    """Opens the splits of a source when they are first used, and counts what is left out.

    Args:
        source: the data set.
        sample_noun: what its samples are called, in the plural, in messages.
        seed: of order and augmentation.
        max_steps: number of training steps.
        num_workers: worker processes of the loaders.
        on_bad_sample: ``"error"``, or ``"skip"`` to count samples that cannot be used and take the next instead.

    Raises:
        ValueError: on arguments out of range.
    """

    def __init__(
        self,
        *,
        source: SplitSource[Sample],
        sample_noun: str,
        seed: int,
        max_steps: int,
        num_workers: int,
        on_bad_sample: OnBadSample,
    ) -> None:
        super().__init__()
        if max_steps < 1 or num_workers < 0:
            raise ValueError(
                f"max_steps={max_steps}, num_workers={num_workers}: expected at least 1 step, and no negative number"
            )
        if on_bad_sample not in ("error", "skip"):
            raise ValueError(f"on_bad_sample: {on_bad_sample!r}, expected 'error' or 'skip'")
        self.source, self.sample_noun = source, sample_noun
        self.seed, self.max_steps, self.num_workers = seed, max_steps, num_workers
        self.on_bad_sample: OnBadSample = on_bad_sample
        self._splits: dict[Split, FrameFiles[Sample]] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the labels; empty without classes."""
        return self.source.class_names

    def prepare_data(self) -> None:
        """Make what is missing and can be made: a generated set, prepared files."""
        self.source.ensure()

    def generate_data(self, overwrite: bool = False) -> None:
        """Make the synthetic set.

        Raises:
            FileExistsError: it exists and may not be replaced.
            ValueError: the source has no generator.
        """
        self.source.generate_files(overwrite)

    def setup(self, stage: str | None = None) -> None:
        """Nothing: splits are opened when they are first used."""

    def samples(self, split: Split) -> FrameFiles[Sample]:
        """The samples to train, watch or measure on, as they are on disk; uses of one split share them."""
        if split not in self._splits:
            name = self.source.splits[split]
            shared = [samples for other, samples in self._splits.items() if self.source.splits[other] == name]
            if not shared:
                shared = [self.source.open_split(name, self.on_bad_sample)]
                logger.info("%s: %s has %d %s", self.source.root, name, len(shared[0]), self.sample_noun)
            self._splits[split] = shared[0]
        return self._splits[split]

    @property
    def num_skipped(self) -> int:
        """How many samples this process left out so far."""
        opened = {id(samples): samples for samples in self._splits.values()}
        return sum(len(samples.bad_samples) for samples in opened.values())
