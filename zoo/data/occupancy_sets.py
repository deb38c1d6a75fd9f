"""Shapes with labelled positions on disk: the ShapeNet layout of Occupancy Networks and the Synthetic Rooms layout.

``<class>/<split>.lst`` lists the shapes. With one file each: ``<class>/<shape>/points.npz`` and ``pointcloud.npz``;
with several: ``points_iou/points_iou_NN.npz`` and ``pointcloud/pointcloud_NN.npz``, of which one is drawn. Scans, as
ScanNet's, have ``pointcloud.npz`` alone: nobody knows what lies inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import BadSamples, DataReport, SampleError
from zoo.data.formats.occupancy import BOUNDARY_FOLDER, read_boundary, read_cloud, read_points, write_boundary
from zoo.data.mesh_occupancy import prepare_mesh, split_names
from zoo.data.occupancy_boundary import boundary_flags
from zoo.data.progress import track
from zoo.data.scannet import MESH_ENDING, prepare_scan
from zoo.data.split_data import Split
from zoo.data.synthetic_solids import SolidSettings, check_generated, generate_solids
from zoo.files import write_text

__all__ = ["OccupancySet", "Shape", "ShapeFiles"]


_MESH_FILES = (".obj", ".ply", ".off", ".stl", ".glb")


@dataclass(frozen=True)
class Shape:
    """One shape.

    Attributes:
        name: ``class/shape``.
        points: Labelled positions ``(N, 3)`` float32.
        occupancy: ``(N,)``, True inside.
        cloud: Points of the surface ``(M, 3)`` float32.
        normals: ``(M, 3)`` float32.
        is_half: Whether positions were stored in half precision.
        boundary: Which positions lie near the surface ``(N,)``, or None where not asked for.
    """

    name: str
    points: NDArray[np.float32]
    occupancy: NDArray[np.bool_]
    cloud: NDArray[np.float32]
    normals: NDArray[np.float32]
    is_half: bool
    boundary: NDArray[np.bool_] | None


@dataclass(frozen=True)
class ShapeFiles:
    """Where one shape lies."""

    name: str
    folder: Path
    num_files: int  # 1, or how many files of each kind there are
    labelled: bool = True  # whether there are positions that are known to lie inside or outside

    def points_file(self, number: int) -> Path:
        """Labelled positions."""
        if self.num_files == 1:
            return self.folder / "points.npz"
        return self.folder / "points_iou" / f"points_iou_{number:02d}.npz"

    def cloud_file(self, number: int) -> Path:
        """Surface points."""
        if self.num_files == 1:
            return self.folder / "pointcloud.npz"
        return self.folder / "pointcloud" / f"pointcloud_{number:02d}.npz"

    def boundary_file(self, number: int) -> Path:
        """Flags of the labelled positions."""
        name = "boundary_points.npz" if self.num_files == 1 else f"boundary_points_{number:02d}.npz"
        return self.points_file(number).parent / BOUNDARY_FOLDER / name

    def read(self, rng: np.random.Generator, *, boundary: bool = False) -> Shape:
        """The shape; of several files, ``rng`` draws the one of each kind.

        Raises:
            SampleError: A file is missing, damaged or inconsistent.
        """
        first, second = (int(rng.integers(self.num_files)) for _ in range(2))
        cloud, normals = read_cloud(self.cloud_file(second))
        if not self.labelled:
            return Shape(self.name, cloud[:0], np.zeros(0, dtype=np.bool_), cloud, normals, False, None)
        points, occupancy, is_half = read_points(self.points_file(first))
        flags = read_boundary(self.boundary_file(first), len(points)) if boundary else None
        return Shape(self.name, points, occupancy, cloud, normals, is_half, flags)


class OccupancySet:
    """A folder of classes.

    Args:
        root: The folder.
        classes: Its sub-folders that take part; None: all that have lists.
        num_files: Files of each kind for every shape; 1 for the ShapeNet layout, 10 for Synthetic Rooms.
        generate: Whether to make the set where it is missing.
        generator: What to make.
        meshes: Folder ``<class>/*.obj|ply|off|stl|glb`` of watertight meshes from which `prepare_meshes` makes the set.
        num_points: Labelled positions of each of them.
        num_surface: Surface points of each of them, or of each scan.
        labelled: Whether shapes have labelled positions; without, they can be tested on, not trained on.
        scans: Folder of ScanNet's scans ``<scene>/`` from which `prepare_meshes` makes the class ``scenes``, all of
            them for the test.

    Raises:
        ValueError: On arguments out of range.
    """

    def __init__(
        self,
        *,
        root: Path | str,
        classes: Sequence[str] | None = None,
        num_files: int = 1,
        generate: bool = False,
        generator: SolidSettings | None = None,
        meshes: Path | str | None = None,
        num_points: int = 100_000,
        num_surface: int = 100_000,
        labelled: bool = True,
        scans: Path | str | None = None,
    ) -> None:
        if num_files < 1:
            raise ValueError(f"num_files: found {num_files}, expected at least 1")
        if generate and generator is None:
            raise ValueError("generator: found None, expected settings beside generate=true")
        self.root, self.num_files = Path(root), num_files
        self.classes = None if classes is None else tuple(classes)
        self.generate, self.generator = generate, generator
        self.meshes = None if meshes is None else Path(meshes)
        self.num_points, self.num_surface = num_points, num_surface
        self.labelled, self.scans = labelled, None if scans is None else Path(scans)

    def ensure(self) -> None:
        """Make the generated set where it is missing, or see that it is the one asked for."""
        if not self.generate or self.generator is None:
            return
        if self.root.exists():
            check_generated(self.root, self.generator)
        else:
            generate_solids(self.root, self.generator)

    def generate_files(self, overwrite: bool) -> None:
        """Make the synthetic set.

        Raises:
            ValueError: The set has no generator.
        """
        if self.generator is None:
            raise ValueError(f"action: {self.root} has no generator; choose data=synthetic_solids or data=solid_rooms")
        generate_solids(self.root, self.generator, overwrite=overwrite)

    def shapes(self, split: Split) -> list[ShapeFiles]:
        """The shapes of a split, in the order of the lists.

        Raises:
            SampleError: A list is missing, or none is found.
        """
        classes = self.classes
        if classes is None:
            classes = tuple(sorted(path.parent.name for path in self.root.glob(f"*/{split}.lst")))
        found = []
        for name in classes:
            path = self.root / name / f"{split}.lst"
            if not path.is_file():
                raise SampleError(path, "no such list of shapes")
            found += [
                ShapeFiles(f"{name}/{line}", self.root / name / line, self.num_files, self.labelled)
                for line in path.read_text().split()
            ]
        if not found:
            raise SampleError(self.root, f"no shape is listed in */{split}.lst")
        return found

    def prepare_meshes(self, overwrite: bool = False) -> None:
        """Make shapes and lists from the folders of meshes and scans; one that cannot be used is named in the log.

        Raises:
            SampleError: There is no mesh or scan.
            ValueError: Fewer than three meshes of a class can be used.
        """
        if self.scans is not None:
            self._prepare_scans(self.scans, overwrite)
        if self.meshes is None:
            return
        files = sorted(path for path in self.meshes.glob("*/*") if path.suffix.lower() in _MESH_FILES)
        if not files:
            raise SampleError(self.meshes, f"found no <class>/<name> with one of the endings {', '.join(_MESH_FILES)}")
        bad, usable = BadSamples("skip"), dict[str, list[str]]()
        for path in track(files, "meshes", len(files)):
            folder = self.root / path.parent.name / path.stem
            try:
                if overwrite or not (folder / "points.npz").is_file():
                    prepare_mesh(path, folder, num_points=self.num_points, num_surface=self.num_surface)
            except SampleError as error:
                bad.handle(error)
                continue
            usable.setdefault(path.parent.name, []).append(path.stem)
        for name in dict.fromkeys(path.parent.name for path in files):
            for split, names in split_names(usable.get(name, [])).items():
                write_text(self.root / name / f"{split}.lst", "\n".join(names) + "\n")

    def _prepare_scans(self, scans: Path, overwrite: bool) -> None:
        folders = sorted(path.parent for path in scans.glob(f"*/*{MESH_ENDING}"))
        if not folders:
            raise SampleError(scans, f"found no <scene>/<scene>{MESH_ENDING}")
        bad, usable = BadSamples("skip"), []
        for folder in track(folders, "scans", len(folders)):
            target = self.root / "scenes" / folder.name
            try:
                if overwrite or not (target / "pointcloud.npz").is_file():
                    prepare_scan(folder, target, num_surface=self.num_surface)
            except SampleError as error:
                bad.handle(error)
                continue
            usable.append(folder.name)
        if not usable:
            raise SampleError(scans, f"none of {len(folders)} scans can be used")
        write_text(self.root / "scenes" / "test.lst", "\n".join(usable) + "\n")

    def prepare_boundaries(self, overwrite: bool = False) -> None:
        """Write the boundary flags of the train and val shapes where they are missing."""
        if not self.labelled:
            return
        splits: tuple[Split, ...] = ("train", "val")
        shapes = [shape for split in splits for shape in self.shapes(split)]
        for shape in track(shapes, "boundary flags", len(shapes)):
            for number in range(shape.num_files):
                if overwrite or not shape.boundary_file(number).is_file():
                    points, occupancy, _ = read_points(shape.points_file(number))
                    flags = boundary_flags(points, occupancy)
                    write_boundary(shape.boundary_file(number), shape.points_file(number), flags)

    def check(self) -> DataReport:
        """Read every file of every split, going on past bad ones."""
        lines, problems = [], []
        splits: tuple[Split, ...] = ("train", "val", "test") if self.labelled else ("test",)
        for split in splits:
            inside = total = 0
            shapes = self.shapes(split)
            for shape in shapes:
                for number in range(shape.num_files):
                    try:
                        read_cloud(shape.cloud_file(number))
                        if not self.labelled:
                            continue
                        points, occupancy, _ = read_points(shape.points_file(number))
                    except SampleError as error:
                        problems.append(str(error))
                        continue
                    inside, total = inside + int(occupancy.sum()), total + len(points)
            share = 100 * inside / max(total, 1)
            lines.append(f"{split}: {len(shapes)} shapes, {total} positions, {share:.1f} % of them inside")
        return DataReport(tuple(lines), tuple(problems))
