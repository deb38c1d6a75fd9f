"""ImageNet-1k as it is unpacked from its archives, from Kaggle, or sorted into class folders."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from zoo.data.bad_samples import SampleError
from zoo.data.image_folder import list_pictures
from zoo.data.image_samples import ImageSource, PictureFiles
from zoo.data.split_data import OnBadSample, Split
from zoo.data.synthetic_pictures import FAMILIES, PictureSettings, generate_pictures

__all__ = ["ImageNet"]

_KAGGLE = Path("ILSVRC") / "Data" / "CLS-LOC"
_SOLUTION = "LOC_val_solution.csv"


class ImageNet(ImageSource):
    """``train/<wnid>/*.JPEG`` and ``val/<wnid>/*.JPEG``, or Kaggle's layout with a flat ``val``.

    Labels are the positions of the sorted WordNet ids, as in published checkpoints. A flat ``val`` folder needs
    ``LOC_val_solution.csv`` in ``root``, which gives the id of each picture.

    Args:
        root: folder with ``train`` and ``val``, or with ``ILSVRC/Data/CLS-LOC``.
        splits: train and val of the data set; the test split has no public labels, so that test is val.
        generator: what ``action=generate`` writes into ``root``, in this layout; None: its defaults.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        splits: Mapping[Split, Literal["train", "val"]] | None = None,
        generator: PictureSettings | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.splits = dict(splits or {"train": "train", "val": "val", "test": "val"})
        self.generator = generator
        self._class_names: tuple[str, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """WordNet ids, sorted."""
        if self._class_names is None:
            folder = self._folder("train")
            self._class_names = tuple(sorted(path.name for path in folder.iterdir() if _is_wnid(path.name)))
            if not self._class_names:
                raise SampleError(folder, "holds no folder of a class, expected names such as n01440764")
        return self._class_names

    def generate_files(self, overwrite: bool) -> None:
        """Write ten classes of generated pictures in this layout, under made-up WordNet ids.

        Raises:
            FileExistsError: ``root`` exists and may not be replaced.
        """
        generate_pictures(
            self.root,
            self.generator,
            overwrite=overwrite,
            layout="imagenet",
            class_folders=[f"n{number:08d}" for number in range(len(FAMILIES))],
            test_folder="val",
            suffix=".JPEG",
        )

    def _folder(self, split: str) -> Path:
        base = self.root / _KAGGLE if (self.root / _KAGGLE).is_dir() else self.root
        if not (base / split).is_dir():
            raise SampleError(base / split, "no such folder; set data.source.root to the folder of ImageNet-1k")
        return base / split

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> PictureFiles:
        """The pictures of ``train`` or ``val``.

        Raises:
            SampleError: a folder or the list of val labels is missing, or a picture has no known class.
        """
        folder = self._folder(name)
        number = {wnid: label for label, wnid in enumerate(self.class_names)}
        files = list_pictures(folder)
        flat = any(path.parent == folder for path in files)
        known = self._solution() if flat else {}
        labels = []
        for path in files:
            wnid = known.get(path.stem) if path.parent == folder else path.relative_to(folder).parts[0]
            if wnid not in number:
                raise SampleError(path, f"has the class {wnid}, expected one of the {len(number)} folders of train")
            labels.append(number[wnid])
        return PictureFiles(folder, files, labels, on_bad_sample=on_bad_sample)

    def _solution(self) -> dict[str, str]:
        path = self.root / _SOLUTION
        if not path.is_file():
            raise SampleError(path, "no such file; val is not sorted into class folders, and this list has its labels")
        with path.open(newline="") as file:
            rows = [row for row in csv.reader(file) if len(row) == 2 and row[0] != "ImageId"]
        return {name: prediction.split()[0] for name, prediction in rows if prediction.strip()}


def _is_wnid(name: str) -> bool:
    return name.startswith("n") and name[1:].isdigit()
