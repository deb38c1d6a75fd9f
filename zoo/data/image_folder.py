"""Folders of pictures: ``split/class/picture``, ``class/picture`` or pictures alone; generated ones among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from zoo.data import generated_folder
from zoo.data.bad_samples import SampleError
from zoo.data.image_samples import ImageSource, PictureFiles
from zoo.data.split_data import OnBadSample, Split
from zoo.data.synthetic_pictures import LAYOUT, PictureSettings, generate_pictures

__all__ = ["SUFFIXES", "ImageFolder", "list_pictures"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm"}


def list_pictures(folder: Path) -> list[Path]:
    """All pictures below a folder, sorted; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


class ImageFolder(ImageSource):
    """Pictures in the layout of torchvision's ImageFolder, or without classes.

    Args:
        root: folder of the data set.
        splits: folders below ``root`` for train, val and test; ``.`` is ``root`` itself.
        class_names: the class folders in the order of the labels; None: those of the train split, sorted.
        labelled: False: every picture below the split's folder, without a class.
        keep_in_memory: decoded pictures stay in memory; for sets that fit.
        generate: make a synthetic set if ``root`` does not exist.
        generator: what to generate then; None: its defaults.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        splits: Mapping[Split, str] | None = None,
        class_names: list[str] | None = None,
        labelled: bool = True,
        keep_in_memory: bool = False,
        generate: bool = False,
        generator: PictureSettings | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.splits = dict(splits or {"train": "train", "val": "test", "test": "test"})
        self.labelled, self.keep_in_memory = labelled, keep_in_memory
        self.generate, self.generator = generate, generator
        self._class_names = None if class_names is None else tuple(class_names)

    @property
    def class_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The class folders of the train split, or those that were given."""
        if self._class_names is None:
            self._class_names = self._folders(self.splits["train"]) if self.labelled else ()
        return self._class_names

    def ensure(self) -> None:
        """Generate the synthetic set where that is asked for."""
        if self.generate:
            settings = self.generator or PictureSettings()
            if not self.root.exists():
                generate_pictures(self.root, settings)
            generated_folder.check_generated(self.root, LAYOUT, settings)
        super().ensure()

    def generate_files(self, overwrite: bool) -> None:
        """Make the synthetic set in ``root``.

        Raises:
            FileExistsError: ``root`` exists and may not be replaced.
            ValueError: no generator is configured.
        """
        if self.generator is None:
            raise ValueError("data.source.generator: found null, expected the settings of what to generate")
        generate_pictures(self.root, self.generator, overwrite=overwrite)

    def _folder(self, split: str) -> Path:
        folder = self.root / split
        if not folder.is_dir():
            raise SampleError(folder, "no such folder; set data.source.root, or data.source.splits to folders below it")
        return folder

    def _folders(self, split: str) -> tuple[str, ...]:
        names = (path.name for path in self._folder(split).iterdir() if path.is_dir() and path.name[0] not in "._")
        return tuple(sorted(names))

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> PictureFiles:
        """The pictures of a split, class by class.

        Raises:
            SampleError: no such folder, no picture, or a class folder that is not among the classes.
        """
        folder = self._folder(name)
        if not self.labelled:
            return PictureFiles(
                self.root, list_pictures(folder), None, on_bad_sample=on_bad_sample, keep=self.keep_in_memory
            )
        unknown = sorted(set(self._folders(name)) - set(self.class_names))
        if unknown or not self.class_names:
            raise SampleError(
                folder, f"has the class folders {unknown}, expected some of {list(self.class_names)}; labelled=false?"
            )
        files, labels = list[Path](), list[int]()
        for label, class_name in enumerate(self.class_names):
            found = list_pictures(folder / class_name) if (folder / class_name).is_dir() else []
            files += found
            labels += [label] * len(found)
        return PictureFiles(self.root, files, labels, on_bad_sample=on_bad_sample, keep=self.keep_in_memory)
