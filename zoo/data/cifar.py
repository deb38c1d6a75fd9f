"""CIFAR-10 and CIFAR-100 as published: Python pickles, or the binary version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.formats.restricted_pickle import read_plain_pickle
from zoo.data.generated_folder import GeneratedFolder
from zoo.data.image_samples import ImageSample, ImageSource
from zoo.data.split_data import OnBadSample, Split
from zoo.data.synthetic_pictures import FAMILIES, PictureSettings, draw_picture

__all__ = ["Cifar", "CifarPictures"]

_PIXELS = 3 * 32 * 32
_PICKLES = {
    10: {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]},
    100: {"train": ["train"], "test": ["test"]},
}
_NAMES = {10: ("batches.meta", "label_names"), 100: ("meta", "fine_label_names")}
_TEXTS = {10: "batches.meta.txt", 100: "fine_label_names.txt"}


class CifarPictures(FrameFiles[ImageSample]):
    """Pictures ``(N, 3, 32, 32)`` uint8 with their labels."""

    def __init__(self, name: str, pixels: NDArray[np.uint8], labels: list[int], on_bad_sample: OnBadSample) -> None:
        super().__init__(on_bad_sample)
        self.name, self.pixels, self.labels = name, pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int) -> ImageSample:
        """One picture."""
        pixels = np.ascontiguousarray(self.pixels[number].transpose(1, 2, 0))
        return ImageSample(f"{self.name}[{number}]", pixels, self.labels[number])


class Cifar(ImageSource):
    """The files of one of the archives, unpacked.

    Args:
        root: folder of ``data_batch_1`` ... (CIFAR-10, Python), ``train`` and ``test`` (CIFAR-100, Python), or of the
            same names with the suffix ``.bin``.
        num_classes: 10 or 100 (the fine labels).
        splits: train and test of the data set; it has no val split, so that val is the test split.
        generator: what ``action=generate`` writes into ``root``, 32 pixels wide; None: its defaults.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        num_classes: Literal[10, 100] = 10,
        splits: Mapping[Split, Literal["train", "test"]] | None = None,
        generator: PictureSettings | None = None,
    ) -> None:
        if num_classes not in (10, 100):
            raise ValueError(f"num_classes: found {num_classes}, expected 10 or 100")
        self.root, self.num_classes = Path(root).expanduser(), num_classes
        self.splits = dict(splits or {"train": "train", "val": "test", "test": "test"})
        self.generator = generator
        self._class_names: tuple[str, ...] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the archive lists them."""
        if self._class_names is None:
            name, key = _NAMES[self.num_classes]
            text = self.root / _TEXTS[self.num_classes]
            if (self.root / name).is_file():
                names = _entry(self.root / name, key)
            elif text.is_file():
                names = [line.strip() for line in text.read_text(errors="replace").splitlines() if line.strip()]
            else:
                raise SampleError(self.root / name, "no such file; set data.source.root to the unpacked archive")
            if not isinstance(names, list | tuple) or len(names) != self.num_classes:
                raise SampleError(self.root, f"lists the classes {names!r:.80}, expected {self.num_classes}")
            self._class_names = tuple(str(entry) for entry in names)
        return self._class_names

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> CifarPictures:
        """The pictures of ``train`` or ``test``.

        Raises:
            SampleError: a missing or damaged file.
        """
        parts = [self._part(part) for part in _PICKLES[self.num_classes][name]]
        labels = [label for _, numbers in parts for label in numbers]
        return CifarPictures(name, np.concatenate([pixels for pixels, _ in parts]), labels, on_bad_sample)

    def generate_files(self, overwrite: bool) -> None:
        """Write generated pictures in the binary layout of CIFAR-10.

        Raises:
            FileExistsError: ``root`` exists and may not be replaced.
            ValueError: for CIFAR-100, as there are ten families of pictures.
        """
        if self.num_classes != len(FAMILIES):
            raise ValueError(f"num_classes: found {self.num_classes}, expected {len(FAMILIES)} to generate")
        settings = replace(self.generator or PictureSettings(), size=32)
        with GeneratedFolder(self.root, "cifar", settings, overwrite) as output:
            (output / _TEXTS[10]).write_text("\n".join(FAMILIES) + "\n")
            counts: dict[Literal["train", "test"], int] = {"train": settings.num_train, "test": settings.num_test}
            for split, count in counts.items():
                rows = [
                    np.concatenate([[label], draw_picture(name, split, number, settings).transpose(2, 0, 1).ravel()])
                    for number in range(count)
                    for label, name in enumerate(FAMILIES)
                ]
                parts = np.array_split(np.array(rows, dtype=np.uint8), len(_PICKLES[10][split]))
                for name, part in zip(_PICKLES[10][split], parts, strict=True):
                    (output / f"{name}.bin").write_bytes(part.tobytes())

    def _part(self, name: str) -> tuple[NDArray[np.uint8], list[int]]:
        binary = self.root / f"{name}.bin"
        path = binary if binary.is_file() else self.root / name
        if binary.is_file():
            columns = (1 if self.num_classes == 10 else 2) + _PIXELS  # a coarse label stands before the fine one
            content = np.fromfile(binary, dtype=np.uint8)
            if len(content) == 0 or len(content) % columns:
                raise SampleError(binary, f"has {len(content)} bytes, expected a multiple of {columns}; cut short?")
            rows = content.reshape(-1, columns)
            pixels, labels = rows[:, -_PIXELS:], rows[:, -_PIXELS - 1].tolist()
        else:
            pixels, labels = _entry(path, "data"), _entry(path, "labels" if self.num_classes == 10 else "fine_labels")
            labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
            if not isinstance(labels, list) or not all(isinstance(label, int | np.integer) for label in labels):
                raise SampleError(path, f"has the labels {labels!r:.60}, expected a list of whole numbers")
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS):
            raise SampleError(path, f"holds pictures of another form than uint8 ({len(labels)}, {_PIXELS})")
        if labels and not 0 <= min(labels) <= max(labels) < self.num_classes:
            raise SampleError(
                path, f"has the labels {min(labels)} to {max(labels)}, expected 0 to {self.num_classes - 1}"
            )
        return pixels.reshape(-1, 3, 32, 32), [int(label) for label in labels]


def _entry(path: Path, key: str) -> Any:
    if not path.is_file():
        raise SampleError(path, "no such file; set data.source.root to the unpacked archive")
    content = read_plain_pickle(path)
    if not isinstance(content, dict) or key not in content:
        raise SampleError(path, f"has no entry {key!r}; is it CIFAR with another number of classes?")
    return content[key]
