"""Generated shapes of everyday things in the layout of ModelNet's resampled clouds."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data import generated_folder
from zoo.data.formats.modelnet import sample_surface, write_lists, write_resampled
from zoo.data.generated_folder import GeneratedFolder
from zoo.data.lidar_objects import ShapeDraw
from zoo.data.shape_families import FAMILIES, make_shape
from zoo.data.shape_meshes import hidden_points, rotation

__all__ = ["ShapeSettings", "check_generated", "generate_shapes", "shape_points"]

logger = logging.getLogger(__name__)

ShapeSplit = Literal["train", "test"]
_LAYOUT = "modelnet"
_OVERSAMPLING = 6  # points drawn for each kept one where a part of them will be hidden


@dataclass(frozen=True, kw_only=True)
class ShapeSettings:
    """What to generate.

    Attributes:
        num_train: shapes of each class to train on.
        num_test: shapes of each class to measure on; they share neither seeds nor shape parameters with the others.
        num_points: of each cloud.
        partial: share of the shapes that are seen from one side only.
        tilt: largest lean from upright in degrees; about the vertical, shapes are turned at random.
        stretch: largest relative change of the size along each axis.
        noise: standard deviation of the positions, relative to the largest distance from the middle.
        seed: of everything.
    """

    num_train: int = 100
    num_test: int = 25
    num_points: int = 1024
    partial: float = 0.5
    tilt: float = 10.0
    stretch: float = 0.2
    noise: float = 0.005
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_test, self.num_points) < 1 or not 0 <= self.partial <= 1:
            raise ValueError(
                f"num_train={self.num_train}, num_test={self.num_test}, num_points={self.num_points}, partial="
                f"{self.partial}: expected at least 1, 1, 1 and a share in [0, 1]"
            )
        if not 0 <= self.stretch < 1 or self.noise < 0 or self.seed < 0:
            raise ValueError(
                f"stretch={self.stretch}, noise={self.noise}, seed={self.seed}: expected [0, 1), >= 0 and >= 0"
            )


def shape_points(name: str, split: ShapeSplit, number: int, settings: ShapeSettings) -> NDArray[np.float32]:
    """Points and normals ``(num_points, 6)`` of shape ``number`` of a class: a function of its arguments.

    Raises:
        ValueError: no such class.
    """
    key = [settings.seed, ("train", "test").index(split), list(FAMILIES).index(name) if name in FAMILIES else 0, number]
    rng = np.random.default_rng(np.random.SeedSequence(key))
    mesh = make_shape(name, ShapeDraw(rng, split))
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    scale = rng.uniform(1 - settings.stretch, 1 + settings.stretch, 3)
    turn = rotation(0, rng.uniform(-1, 1) * settings.tilt) @ rotation(1, rng.uniform(-1, 1) * settings.tilt)
    turn = turn @ rotation(2, rng.uniform(0, 360.0))
    vertices = (mesh.vertices - (low + high) / 2) * scale @ turn.T
    vertices /= np.linalg.norm(vertices, axis=1).max()
    partial = rng.random() < settings.partial
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(-5.0, 50.0))
    count = settings.num_points * (_OVERSAMPLING if partial else 1)
    cloud = sample_surface(vertices, mesh.triangles, count, rng)
    if partial:
        view = np.array([np.cos(azimuth), np.sin(azimuth), np.tan(elevation)])
        cloud = cloud[~hidden_points(cloud[:, :3].astype(np.float64), view)]
    cloud = cloud[rng.permutation(len(cloud))[: settings.num_points]]
    cloud[:, :3] += rng.normal(0.0, settings.noise, (len(cloud), 3)).astype(np.float32)
    return cloud


def generate_shapes(
    root: Path | str, settings: ShapeSettings | None = None, *, list_name: str = "modelnet40", overwrite: bool = False
) -> None:
    """Write ``<class>/<class>_NNNN.txt`` and the lists of ``list_name``. The folder appears when it is complete.

    Raises:
        FileExistsError: the folder exists and may not be replaced.
    """
    settings = settings or ShapeSettings()
    counts: dict[ShapeSplit, int] = {"train": settings.num_train, "test": settings.num_test}
    total = sum(counts.values()) * len(FAMILIES)
    logger.info("generating %d shapes into %s (about %d s)", total, root, max(1, total // 40))
    with GeneratedFolder(Path(root), _LAYOUT, settings, overwrite) as output:
        names: dict[str, list[str]] = {split: [] for split in counts}
        for family in FAMILIES:
            (output / family).mkdir()
            serial = 0
            for split, count in counts.items():
                for number in range(count):
                    serial += 1
                    name = f"{family}_{serial:04d}"
                    write_resampled(output / family / f"{name}.txt", shape_points(family, split, number, settings))
                    names[split].append(name)
        write_lists(output, list_name, list(FAMILIES), names)


def check_generated(root: Path | str, settings: ShapeSettings | None) -> None:
    """Make sure that a folder holds what these settings would generate.

    Raises:
        SampleError: it does not.
    """
    generated_folder.check_generated(root, _LAYOUT, settings or ShapeSettings())
