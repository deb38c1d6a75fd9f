"""SemanticKITTI, and generated streets in its layout, as clouds for segmentors; result files for its benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo.data.formats.frame_files import FrameFiles
from zoo.data.formats.semantic_kitti import CLASSES, SemanticKitti, to_raw_ids, to_train_ids, write_point_labels
from zoo.data.generated_folder import DESCRIPTION, check_generated
from zoo.data.lidar_writer import SemanticKittiSettings, write_semantic_kitti
from zoo.data.point_clouds import PointSource
from zoo.data.point_samples import IGNORE, PointSample, check_sample
from zoo.data.split_data import OnBadSample, Split
from zoo.files import atomic_path

__all__ = ["SemanticKittiPoints", "SubmissionWriter", "Sweeps"]


class Sweeps(FrameFiles[PointSample]):
    """Sweeps of `SemanticKitti` with the feature ``strength`` and the labels of training."""

    def __init__(self, frames: SemanticKitti, on_bad_sample: OnBadSample = "error") -> None:
        super().__init__(on_bad_sample)
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, number: int) -> PointSample:
        """One sweep; its name is ``<sequence>/<frame>``."""
        frame = self.frames.read(number)
        points = torch.from_numpy(frame.points)
        segment = None if frame.semantic is None else torch.from_numpy(to_train_ids(frame.semantic, ignore=IGNORE))
        name = f"{frame.sequence}/{frame.frame_id}"
        sample = PointSample(name, points[:, :3].contiguous(), {"strength": points[:, 3:].contiguous()}, segment)
        path = self.frames.root / "sequences" / frame.sequence / "velodyne" / f"{frame.frame_id}.bin"
        return check_sample(sample, path)


class SemanticKittiPoints(PointSource):
    """The sweeps of the benchmark's splits: 00-07, 09, 10 to train, 08 for val, 11-21 without labels.

    Args:
        root: folder that holds ``sequences``.
        splits: which of ``train``, ``val`` and ``test`` are used; measured is on val, the test sequences being
            without labels (``{test: test}`` makes result files for them).
        sequences: instead of those of the benchmark, by split.
        generate: make synthetic streets if ``root`` does not exist.
        generator: what to generate then; None: its defaults.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        splits: Mapping[Split, Literal["train", "val", "test"]] | None = None,
        sequences: Mapping[str, Sequence[str]] | None = None,
        generate: bool = False,
        generator: SemanticKittiSettings | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.class_names = CLASSES
        self.splits = {"train": "train", "val": "val", "test": "val", **(splits or {})}
        self.sequences = dict(sequences or {})
        self.generate, self.generator = generate, generator

    def ensure(self) -> None:
        """Generate streets where that is asked for and ``root`` does not exist."""
        if self.generate and not self.root.exists():
            write_semantic_kitti(self.root, self.generator)
        if self.generator is not None and (self.root / DESCRIPTION).is_file():
            check_generated(self.root, "semantic_kitti", self.generator)

    def generate_files(self, overwrite: bool) -> None:
        """Make synthetic streets in ``root``.

        Raises:
            FileExistsError: ``root`` exists and may not be replaced.
            ValueError: no generator is configured.
        """
        if self.generator is None:
            raise ValueError("data.source.generator: found null, expected the settings of what to generate")
        write_semantic_kitti(self.root, self.generator, overwrite=overwrite)

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> Sweeps:
        """The sweeps of ``train``, ``val`` or ``test``."""
        if name not in ("train", "val", "test"):
            raise ValueError(f"splits: found {name!r}, expected 'train', 'val' or 'test'")
        chosen = self.sequences.get(name)
        frames = SemanticKitti(self.root, name, sequences=chosen) if chosen else SemanticKitti(self.root, name)
        return Sweeps(frames, on_bad_sample)


class SubmissionWriter:
    """Writes ``sequences/<sequence>/predictions/<frame>.label`` with raw ids, as the benchmark takes them.

    Args:
        folder: where ``sequences`` goes.
    """

    def __init__(self, *, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()

    def __call__(self, name: str, classes: Tensor) -> Path:
        """Write the classes ``(N,)``, 0 to 18, of the sweep ``<sequence>/<frame>`` and return the file.

        Raises:
            ValueError: a name of another form, or a class out of range.
        """
        sequence, found, frame = name.partition("/")
        if not found or not sequence or not frame:
            raise ValueError(f"name: found {name!r}, expected '<sequence>/<frame>'")
        path = self.folder / "sequences" / sequence / "predictions" / f"{frame}.label"
        with atomic_path(path) as temporary:
            write_point_labels(temporary, to_raw_ids(classes.cpu().numpy()))
        return path
