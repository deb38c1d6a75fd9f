"""Shapes as occupied voxels: npz files with ``{class}_{split}`` -> uint8 ``(n, R^3 / 8)``, packed bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.formats.numpy_files import read_npz
from zoo.data.point_clouds import PointSource
from zoo.data.point_samples import PointSample, check_sample
from zoo.data.split_data import OnBadSample, Split

__all__ = ["PackedVoxels", "VoxelShapes"]


class PackedVoxels(FrameFiles[PointSample]):
    """The shapes of one split; points are voxel centres, in voxels.

    Raises:
        SampleError: missing or damaged file, or a class without shapes.
    """

    def __init__(
        self, path: Path, split: str, class_names: tuple[str, ...], on_bad_sample: OnBadSample = "error"
    ) -> None:
        super().__init__(on_bad_sample)
        self.path, self.split, self.class_names = path, split, class_names
        self.packed: list[NDArray[np.uint8]] = []
        for name in class_names:
            values = _read(path, f"{name}_{split}")
            side = round((values.shape[-1] * 8) ** (1 / 3)) if values.ndim == 2 else 0
            if values.dtype != np.uint8 or values.ndim != 2 or side**3 != values.shape[1] * 8:
                raise SampleError(path, f"{name}_{split} is {values.dtype} {values.shape}, expected uint8 (n, R^3 / 8)")
            self.packed.append(values)
        self._places = [(label, row) for label, values in enumerate(self.packed) for row in range(len(values))]
        if not self._places:
            raise SampleError(path, f"holds no {split} shape")

    def __len__(self) -> int:
        return len(self._places)

    def read(self, number: int) -> PointSample:
        """The centres of the occupied voxels of one shape."""
        label, row = self._places[number]
        name = f"{self.class_names[label]}_{self.split}[{row}]"
        bits = np.unpackbits(self.packed[label][row])
        side = round(len(bits) ** (1 / 3))
        cells = np.stack(np.nonzero(bits.reshape(side, side, side)), axis=1)
        sample = PointSample(name, torch.from_numpy(cells).float() + 0.5, category=label)
        return check_sample(sample, f"{self.path} ({name})")


def _read(path: Path, key: str) -> NDArray[np.uint8]:
    if not path.is_file():
        raise SampleError(path, "no such file; set data.source.root")
    return read_npz(path, (key,))[key]


class VoxelShapes(PointSource):
    """A file of packed voxels.

    Args:
        root: folder of the file.
        file: its name.
        class_names: in the order of the labels.
        splits: train and test of the file; it has no val split, so that val is the test split.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        file: str = "chair_vs_monitor.npz",
        class_names: list[str] | tuple[str, ...] = ("chair", "monitor"),
        splits: Mapping[Split, Literal["train", "test"]] | None = None,
    ) -> None:
        self.root, self.file, self.class_names = Path(root).expanduser(), file, tuple(class_names)
        self.splits = dict(splits or {"train": "train", "val": "test", "test": "test"})

    def ensure(self) -> None:
        """Nothing is prepared; a missing file is named.

        Raises:
            SampleError: no such file.
        """
        if not (self.root / self.file).is_file():
            raise SampleError(self.root / self.file, "no such file; set data.source.root")

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> PackedVoxels:
        """The shapes of ``train`` or ``test``."""
        return PackedVoxels(self.root / self.file, name, self.class_names, on_bad_sample)
