"""Generated solids and rooms in the layouts of Occupancy Networks and Synthetic Rooms."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data import generated_folder
from zoo.data.formats.occupancy import BOUNDARY_FOLDER, write_boundary, write_cloud, write_points
from zoo.data.generated_folder import GeneratedFolder
from zoo.data.implicit_solids import (
    Field,
    block,
    cylinder,
    difference,
    ring,
    sample_field_surface,
    sphere,
    union,
)
from zoo.data.occupancy_boundary import boundary_flags

__all__ = ["CLASSES", "ROOM_CLASSES", "SolidSettings", "check_generated", "generate_solids", "make_room", "make_solid"]

logger = logging.getLogger(__name__)

CLASSES = ("blocks", "bored", "rings", "mixed")
ROOM_CLASSES = ("rooms_04", "rooms_05")
_PADDED = 1.1  # side of the cube in which positions are labelled


@dataclass(frozen=True, kw_only=True)
class SolidSettings:
    """What to generate.

    Attributes:
        kind: ``"solids"`` in the ShapeNet layout, ``"rooms"`` in the Synthetic Rooms layout.
        num_train: Shapes of each class to train on.
        num_val: To choose by.
        num_test: To measure on; no two splits share a seed.
        num_points: Labelled positions in a file.
        num_surface: Surface points in a file of training and validation.
        num_test_surface: Surface points in a test file: meshes are measured against them.
        num_files: Files of each kind for a room.
        boundary: Whether to write boundary flags, which the second stage needs.
        seed: Of everything.
    """

    kind: Literal["solids", "rooms"] = "solids"
    num_train: int = 200
    num_val: int = 10
    num_test: int = 20
    num_points: int = 20000
    num_surface: int = 20000
    num_test_surface: int = 100_000
    num_files: int = 1
    boundary: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.num_train, self.num_val, self.num_test, self.num_points, self.num_surface)
        counts += (self.num_test_surface, self.num_files)
        if min(counts) < 1 or self.seed < 0:
            raise ValueError(
                f"found counts {counts} and seed {self.seed}, expected at least 1 each, and a seed from 0 on"
            )
        if self.kind not in ("solids", "rooms") or (self.kind == "solids") != (self.num_files == 1):
            raise ValueError(
                f"kind={self.kind!r}, num_files={self.num_files}: expected 'solids' with 1 or 'rooms' with several"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Folders of the set."""
        return CLASSES if self.kind == "solids" else ROOM_CLASSES


def _turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random rotation."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else q * [1, 1, -1]


def _primitive(rng: np.random.Generator, size: float, spread: float) -> Field:
    centre = rng.uniform(-spread, spread, 3)
    kind = rng.integers(4)
    if kind == 0:
        return sphere(centre, size * rng.uniform(0.7, 1.0))
    if kind == 1:
        return block(centre, size * rng.uniform(0.4, 1.0, 3), _turn(rng))
    if kind == 2:
        return cylinder(centre, size * rng.uniform(0.4, 0.8), size * rng.uniform(0.5, 1.2), _turn(rng))
    return ring(centre, size * rng.uniform(0.7, 1.0), size * rng.uniform(0.2, 0.35), _turn(rng))


def make_solid(name: str, rng: np.random.Generator) -> Field:
    """A solid of a class, somewhere within the cube [-1, 1].

    Raises:
        ValueError: No such class.
    """
    if name == "blocks":
        return union(
            [
                block(rng.uniform(-0.35, 0.35, 3), rng.uniform(0.1, 0.45, 3), _turn(rng))
                for _ in range(rng.integers(2, 5))
            ]
        )
    if name == "bored":
        body = _primitive(rng, rng.uniform(0.4, 0.6), 0.05)
        bores = [
            cylinder(rng.uniform(-0.2, 0.2, 3), rng.uniform(0.08, 0.2), 2.0, _turn(rng))
            for _ in range(rng.integers(1, 4))
        ]
        return union([difference(body, union(bores)), block([0.0, 0.0, -0.5], [0.3, 0.3, rng.uniform(0.05, 0.12)])])
    if name == "rings":
        return union(
            [
                ring(rng.uniform(-0.25, 0.25, 3), rng.uniform(0.25, 0.5), rng.uniform(0.06, 0.14), _turn(rng))
                for _ in range(rng.integers(1, 4))
            ]
        )
    if name == "mixed":
        solid = union([_primitive(rng, rng.uniform(0.2, 0.45), 0.35) for _ in range(rng.integers(2, 5))])
        hole = sphere(rng.uniform(-0.5, 0.5, 3), rng.uniform(0.15, 0.3))
        return union([difference(solid, hole), sphere([0.0, 0.0, 0.0], 0.12)])
    raise ValueError(f"name: found {name!r}, expected one of {', '.join(CLASSES)}")


def _furniture(rng: np.random.Generator, x: float, z: float, size: float, floor: float) -> Field:
    """A table, a seat, a lamp or a chest on the floor; y is up."""
    kind = rng.integers(4)
    if kind == 3:
        return block([x, floor + size * 0.4, z], [size * 0.4, size * 0.4, size * 0.3])
    if kind == 2:
        foot = cylinder([x, floor + 0.01, z], size * 0.3, 0.012, _UPRIGHT)
        rod = cylinder([x, floor + size * 0.6, z], 0.012, size * 0.6, _UPRIGHT)
        return union([foot, rod, sphere([x, floor + size * 1.2, z], size * 0.22)])
    height, thick = size * (0.6 if kind == 0 else 0.4), 0.012
    parts = [block([x, floor + height, z], [size * 0.5, thick, size * 0.4])]
    for sx in (-1, 1):
        parts += [
            block([x + sx * size * 0.42, floor + height / 2, z + sz * size * 0.32], [0.014, height / 2, 0.014])
            for sz in (-1, 1)
        ]
    if kind == 1:
        parts.append(block([x, floor + height * 1.8, z - size * 0.38], [size * 0.5, height * 0.8, thick]))
    return union(parts)


_UPRIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # a cylinder's axis to y


def make_room(num_objects: int, rng: np.random.Generator) -> Field:
    """A floor at y = -0.5, some walls, and furniture that does not overlap, within the cube [-0.5, 0.5]."""
    depth, floor = rng.uniform(0.6, 1.0), -0.49
    parts = [block([0, -0.495, 0], [0.5, 0.005, depth / 2])]
    height = rng.uniform(0.2, 0.4)
    walls = (([0.495, 0], [0.005, depth / 2]), ([-0.495, 0], [0.005, depth / 2]))
    walls += (([0, depth / 2 - 0.005], [0.5, 0.005]), ([0, 0.005 - depth / 2], [0.5, 0.005]))
    for (x, z), (dx, dz) in walls:
        if rng.random() < 0.5:
            parts.append(block([x, floor + height / 2, z], [dx, height / 2, dz]))
    placed: list[tuple[float, float, float]] = []
    for _ in range(1000):
        if len(placed) == num_objects:
            break
        size = rng.uniform(0.15, 0.25)
        x, z = rng.uniform(-0.36, 0.36), rng.uniform(-1, 1) * (depth / 2 - 0.14)
        if all(max(abs(x - a), abs(z - b)) > 0.55 * (size + other) for a, b, other in placed):
            placed.append((x, z, size))
            parts.append(_furniture(rng, x, z, size, floor))
    return union(parts)


def _write_solid(folder: Path, name: str, rng: np.random.Generator, num_surface: int, settings: SolidSettings) -> None:
    field = make_solid(name, rng)
    surface, normals = sample_field_surface(field, [-1.2] * 3, [1.2] * 3, num_surface, rng)
    low, high = surface.min(axis=0), surface.max(axis=0)
    loc, scale = (low + high) / 2, float((high - low).max())
    points = rng.uniform(-_PADDED / 2, _PADDED / 2, (settings.num_points, 3))
    write_cloud(folder / "pointcloud.npz", (surface - loc) / scale, normals, loc=loc, scale=scale)
    write_points(folder / "points.npz", points, field(points * scale + loc) < 0, loc=loc, scale=scale)
    if settings.boundary:
        _write_flags(folder / "points.npz", folder / BOUNDARY_FOLDER / "boundary_points.npz", points, field, loc, scale)


def _write_flags(
    source: Path, path: Path, points: NDArray[np.float64], field: Field, loc: NDArray[np.float64], scale: float
) -> None:
    write_boundary(path, source, boundary_flags(points.astype(np.float16), field(points * scale + loc) < 0))


def _write_room(
    folder: Path, num_objects: int, rng: np.random.Generator, num_surface: int, settings: SolidSettings
) -> None:
    field = make_room(num_objects, rng)
    for number in range(settings.num_files):
        surface, normals = sample_field_surface(field, [-0.52] * 3, [0.52] * 3, num_surface, rng)
        points = rng.uniform(-_PADDED / 2, _PADDED / 2, (settings.num_points, 3))
        write_cloud(folder / "pointcloud" / f"pointcloud_{number:02d}.npz", surface, normals)
        path = folder / "points_iou" / f"points_iou_{number:02d}.npz"
        write_points(path, points, field(points) < 0, z_scale=0)
        if settings.boundary:
            flags = path.parent / BOUNDARY_FOLDER / f"boundary_points_{number:02d}.npz"
            _write_flags(path, flags, points, field, np.zeros(3), 1.0)


def generate_solids(root: Path | str, settings: SolidSettings, *, overwrite: bool = False) -> None:
    """Write lists and shapes; the folder appears when it is complete.

    Raises:
        FileExistsError: The folder exists and may not be replaced.
    """
    counts = {"train": settings.num_train, "val": settings.num_val, "test": settings.num_test}
    total = sum(counts.values()) * len(settings.classes)
    logger.info("generating %d shapes into %s", total, root)
    with GeneratedFolder(Path(root), f"occupancy {settings.kind}", settings, overwrite) as output:
        for place, name in enumerate(settings.classes):
            serial = 0
            for which, (split, count) in enumerate(counts.items()):
                num_surface = settings.num_test_surface if split == "test" else settings.num_surface
                names = []
                for number in range(count):
                    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, place, which, number]))
                    names.append(f"{serial:08d}")
                    folder = output / name / names[-1]
                    if settings.kind == "solids":
                        _write_solid(folder, name, rng, num_surface, settings)
                    else:
                        _write_room(folder, int(name[-2:]), rng, num_surface, settings)
                    serial += 1
                (output / name / f"{split}.lst").write_text("\n".join(names) + "\n")


def check_generated(root: Path | str, settings: SolidSettings) -> None:
    """Make sure that a folder holds what these settings would generate.

    Raises:
        SampleError: It does not.
    """
    generated_folder.check_generated(root, f"occupancy {settings.kind}", settings)
