"""ModelNet, and generated shapes in its layout, as prepared clouds for classifiers."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.bad_samples import BadSamples, SampleError
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.formats.modelnet import (
    ShapeFile,
    find_layout,
    list_shapes,
    read_class_names,
    read_off,
    read_resampled,
    sample_surface,
)
from zoo.data.formats.numpy_files import read_npz
from zoo.data.point_clouds import PointSource
from zoo.data.point_samples import PointSample, check_sample
from zoo.data.split_data import OnBadSample, Split
from zoo.data.synthetic_shapes import ShapeSettings, check_generated, generate_shapes
from zoo.files import atomic_path
from zoo.ops import furthest_point_sample

__all__ = ["ModelNet", "PreparedShapes"]

logger = logging.getLogger(__name__)

SCHEMA = 1
_ARRAYS = ("points", "offsets", "categories", "names", "skipped")
_SURFACE_POINTS = 10_000  # drawn from a mesh before the subset is chosen, as many as a resampled cloud has
_REBUILD = "rebuild it with tools/prepare_data.py action=prepare, after deleting it"


class PreparedShapes(FrameFiles[PointSample]):
    """The clouds of one prepared file.

    Args:
        path: the npz file that `ModelNet` writes.
        expected: the description that it has to carry.
        on_bad_sample: ``"error"`` also refuses a file from which bad shapes were left out.

    Raises:
        SampleError: missing, damaged or stale file.
    """

    def __init__(self, path: Path, expected: Mapping[str, Any], on_bad_sample: OnBadSample = "error") -> None:
        super().__init__(on_bad_sample)
        self.path = path
        try:
            file = read_npz(path, ("description", *_ARRAYS))
            found = dict(json.loads(str(file["description"])))
        except (ValueError, TypeError, RecursionError) as error:
            problem = error.problem if isinstance(error, SampleError) else error
            raise SampleError(path, f"not a readable prepared file ({problem}); {_REBUILD}") from error
        points, offsets, categories, names, skipped = (file[name] for name in _ARRAYS)
        fits = points.ndim == 2 and points.dtype == np.float32 and offsets.ndim == categories.ndim == names.ndim == 1
        if not fits or skipped.ndim != 1 or not len(offsets) - 1 == len(names) == len(categories):
            raise SampleError(path, f"its arrays do not fit together; {_REBUILD}")
        if not (offsets.dtype.kind == categories.dtype.kind == "i" and names.dtype.kind == "U"):
            raise SampleError(path, f"its arrays are not of the kinds that were written; {_REBUILD}")
        for key, value in expected.items():
            if found.get(key) != value:
                raise SampleError(path, f"was prepared with {key} {found.get(key)}, expected {value}; {_REBUILD}")
        self.points: Tensor = torch.from_numpy(points)
        self.offsets: list[int] = offsets.tolist()
        self.categories: list[int] = categories.tolist()
        self.names: list[str] = names.tolist()
        for line in skipped.tolist():
            source, _, problem = line.partition(": ")
            self.bad_samples.handle(SampleError(source, problem))

    def __len__(self) -> int:
        return len(self.names)

    def read(self, number: int) -> PointSample:
        """One cloud with the feature ``normal``."""
        rows = self.points[self.offsets[number] : self.offsets[number + 1]]
        sample = PointSample(self.names[number], rows[:, :3], {"normal": rows[:, 3:]}, category=self.categories[number])
        return check_sample(sample, f"{self.path} ({sample.name})")


class ModelNet(PointSource):
    """ModelNet10 or 40 in either published layout, or shapes generated in the layout of the resampled clouds.

    The first use of a split chooses ``num_points`` points of each shape by furthest point sampling and keeps them in
    ``<list_name>_<split>_<num_points>.npz``.

    Args:
        root: folder of the data set.
        list_name: ``modelnet40`` or ``modelnet10``: which lists of the resampled layout are read.
        num_points: kept of each shape; shapes with fewer keep all.
        class_names: instead of the folder's own.
        prepared: folder of the prepared files; None: ``root``.
        splits: train and test of the data set; it has no val split, so that val is the test split as upstream.
        generate: make the synthetic set if ``root`` does not exist.
        generator: what to generate then; None: its defaults.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        list_name: str = "modelnet40",
        num_points: int = 8192,
        class_names: list[str] | None = None,
        prepared: str | Path | None = None,
        splits: Mapping[Split, Literal["train", "test"]] | None = None,
        generate: bool = False,
        generator: ShapeSettings | None = None,
    ) -> None:
        if num_points < 1:
            raise ValueError(f"num_points: found {num_points}, expected at least 1")
        self.root = Path(root).expanduser()
        self.list_name, self.num_points = list_name, num_points
        self.prepared = self.root if prepared is None else Path(prepared).expanduser()
        self.splits = dict(splits or {"train": "train", "val": "test", "test": "test"})
        self.generate, self.generator = generate, generator
        self._class_names = None if class_names is None else tuple(class_names)

    @property
    def class_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The folder's classes, or those that were given."""
        if self._class_names is None:
            self._class_names = read_class_names(self.root, self.list_name)
        return self._class_names

    def ensure(self) -> None:
        """Generate the synthetic set where that is asked for, and prepare the splits."""
        if self.generate:
            if not self.root.exists():
                generate_shapes(self.root, self.generator, list_name=self.list_name)
            check_generated(self.root, self.generator)
        for name in dict.fromkeys(self.splits.values()):
            if not self.prepared_file(name).exists():
                self._prepare(name)

    def generate_files(self, overwrite: bool) -> None:
        """Make the synthetic set in ``root``.

        Raises:
            FileExistsError: ``root`` exists and may not be replaced.
            ValueError: no generator is configured.
        """
        if self.generator is None:
            raise ValueError("data.source.generator: found null, expected the settings of what to generate")
        generate_shapes(self.root, self.generator, list_name=self.list_name, overwrite=overwrite)

    def prepared_file(self, name: str) -> Path:
        """Where the clouds of a split are kept."""
        return self.prepared / f"{self.list_name}_{name}_{self.num_points}.npz"

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> PreparedShapes:
        """The prepared clouds of ``train`` or ``test``, preparing them where that was not done."""
        if not self.prepared_file(name).exists():
            self._prepare(name)
        return PreparedShapes(self.prepared_file(name), self._description(name), on_bad_sample)

    def _description(self, name: str) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "split": name,
            "num_points": self.num_points,
            "class_names": list(self.class_names),
        }

    def _prepare(self, name: str) -> None:
        """Bad shapes are left out and noted in the file; whether that is an error is asked when it is opened."""
        files = list_shapes(self.root, self.list_name, name, self.class_names)
        layout = find_layout(self.root, self.list_name)
        bad, kept = BadSamples("skip"), list[_Prepared]()
        logger.info("%s: choosing %d points of %d %s shapes, once", self.root, self.num_points, len(files), name)
        for file in files:
            try:
                kept.append(_Prepared(file, _choose(file, layout, self.num_points)))
            except SampleError as error:
                bad.skip(error)
        if not kept:
            raise bad.skipped[0]
        with atomic_path(self.prepared_file(name)) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                description=np.array(json.dumps(self._description(name))),
                points=np.concatenate([shape.points for shape in kept]),
                offsets=np.cumsum([0, *(len(shape.points) for shape in kept)]),
                categories=np.array([shape.file.category for shape in kept]),
                names=np.array([shape.file.name for shape in kept]),
                skipped=np.array([str(error) for error in bad.skipped], dtype=np.str_),
            )


@dataclass(frozen=True)
class _Prepared:
    file: ShapeFile
    points: np.ndarray


def _choose(file: ShapeFile, layout: str, num_points: int) -> np.ndarray:
    """Points and normals ``(num_points, 6)`` of one shape."""
    if layout == "off":
        vertices, triangles = read_off(file.path)
        try:
            rng = np.random.default_rng(zlib.crc32(file.name.encode()))
            points = sample_surface(vertices, triangles, max(_SURFACE_POINTS, num_points), rng)
        except ValueError as error:
            raise SampleError(file.path, str(error)) from error
    else:
        points = read_resampled(file.path)
    if len(points) <= num_points:
        return points
    return points[furthest_point_sample(torch.from_numpy(points[:, :3].copy()), num_points).numpy()]
