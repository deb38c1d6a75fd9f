"""Generated pictures: ten families of patterned figures before cluttered, textured grounds, as an image folder.

Colours, textures and places are random in every picture, so that a class is told by its outline alone; the proportions
of the outlines come from intervals that train and test do not share.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data.generated_folder import GeneratedFolder
from zoo.data.lidar_objects import ShapeDraw

__all__ = ["FAMILIES", "LAYOUT", "PictureSettings", "draw_picture", "generate_pictures"]

logger = logging.getLogger(__name__)

LAYOUT = "pictures"
Array = NDArray[np.float64]
PictureSplit = Literal["train", "test"]
_OVERSAMPLING = 2  # pixels on each side of one that is kept


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """What to generate.

    Attributes:
        num_train: pictures of each class to train on.
        num_test: pictures of each class to measure on; they share neither seeds nor proportions with the others.
        size: of a side in pixels.
        clutter: blobs before and behind the figure.
        seed: of everything.
    """

    num_train: int = 200
    num_test: int = 40
    size: int = 64
    clutter: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_test) < 1 or self.size < 8 or min(self.clutter, self.seed) < 0:
            raise ValueError(
                f"num_train={self.num_train}, num_test={self.num_test}, size={self.size}, clutter={self.clutter}, "
                f"seed={self.seed}: expected at least 1, 1, 8, 0 and 0"
            )


def _polygon(x: Array, y: Array, sides: int) -> Array:
    """Signed distance, negative inside, to a regular polygon of inner radius 1."""
    angle = np.arctan2(y, x)
    sector = 2 * np.pi / sides
    return np.hypot(x, y) * np.cos((angle + sector / 2) % sector - sector / 2) - 1


def _star(x: Array, y: Array, points: int, depth: float) -> Array:
    wave = np.abs((np.arctan2(y, x) * points / (2 * np.pi)) % 1.0 - 0.5) * 2  # 0 in a notch, 1 at a tip
    return np.hypot(x, y) - (1 - depth * (1 - wave))


def _capsule(x: Array, y: Array, half: float, radius: float) -> Array:
    return np.hypot(x - np.clip(x, -half, half), y) - radius


def _cross(x: Array, y: Array, width: float) -> Array:
    upright = np.maximum(np.abs(x) - width, np.abs(y) - 1)
    return np.minimum(upright, np.maximum(np.abs(y) - width, np.abs(x) - 1))


FAMILIES: dict[str, Callable[[Array, Array, ShapeDraw], Array]] = {
    "disc": lambda x, y, draw: np.hypot(x, y / draw(0.75, 1.0)) - 1,
    "ring": lambda x, y, draw: np.abs(np.hypot(x, y) - 0.75) - draw(0.12, 0.28),
    "triangle": lambda x, y, draw: _polygon(x * draw(1.4, 1.9), y * 1.6, 3),
    "rectangle": lambda x, y, draw: np.maximum(np.abs(x) - 0.95, np.abs(y) - draw(0.45, 0.95)),
    "star": lambda x, y, draw: _star(x, y, 5, draw(0.45, 0.65)),
    "flower": lambda x, y, draw: np.hypot(x, y) - 0.75 - draw(0.15, 0.25) * np.cos(8 * np.arctan2(y, x)),
    "cross": lambda x, y, draw: _cross(x, y, draw(0.18, 0.38)),
    "crescent": lambda x, y, draw: np.maximum(np.hypot(x, y) - 1, draw(0.75, 0.95) - np.hypot(x - draw(0.35, 0.6), y)),
    "bar": lambda x, y, draw: _capsule(x, y, 0.85, draw(0.12, 0.3)),
    "pair": lambda x, y, draw: np.minimum(
        np.hypot(x - 0.6, y) - draw(0.28, 0.45), np.hypot(x + 0.6, y) - draw(0.28, 0.45)
    ),
}


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Bilinearly interpolated random numbers ``(size, size)`` in [0, 1)."""
    lattice = rng.random((cells + 1, cells + 1))
    place = np.linspace(0, cells, size, endpoint=False)
    low, share = place.astype(int), place % 1.0
    share = share * share * (3 - 2 * share)
    rows = lattice[low] * (1 - share)[:, None] + lattice[low + 1] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, low + 1] * share


def _texture(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """Two random colours mixed by clouds, stripes, checks or a gradient: ``(size, size, 3)``."""
    first, second = rng.uniform(0.05, 0.95, (2, 3))
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(3, 9)
    along = (x * np.cos(angle) + y * np.sin(angle)) * frequency
    across = (y * np.cos(angle) - x * np.sin(angle)) * frequency
    size = len(x)
    kind = rng.integers(4)
    if kind == 0:
        weight = 0.6 * _smooth_noise(rng, size, 4) + 0.4 * _smooth_noise(rng, size, 11)
    elif kind == 1:
        weight = 0.5 + 0.5 * np.sin(np.pi * along)
    elif kind == 2:
        weight = (np.floor(along) + np.floor(across)) % 2
    else:
        weight = np.clip(0.5 + along / (2 * frequency), 0, 1)
    return first + (second - first) * weight[..., None]


def draw_picture(name: str, split: PictureSplit, number: int, settings: PictureSettings) -> NDArray[np.uint8]:
    """Picture ``number`` of a class, uint8 ``(size, size, 3)``: a function of its arguments.

    Raises:
        ValueError: no such class.
    """
    if name not in FAMILIES:
        raise ValueError(f"name: found {name!r}, expected one of {', '.join(FAMILIES)}")
    key = [settings.seed, ("train", "test").index(split), list(FAMILIES).index(name), number]
    rng = np.random.default_rng(np.random.SeedSequence(key))
    fine = settings.size * _OVERSAMPLING
    line = (np.arange(fine) + 0.5) / fine * 2 - 1
    x, y = np.meshgrid(line, line)
    canvas = _texture(rng, x, y)
    before = rng.integers(0, settings.clutter // 3 + 1)  # few blobs lie before the figure
    for turn in range(settings.clutter + 1):
        if turn == settings.clutter - before:
            size, angle = rng.uniform(0.4, 0.7), rng.uniform(0, 2 * np.pi)
            left, top = rng.uniform(-0.3, 0.3, 2)
            u = ((x - left) * np.cos(angle) + (y - top) * np.sin(angle)) / size
            v = ((y - top) * np.cos(angle) - (x - left) * np.sin(angle)) / size
            inside = FAMILIES[name](u, v, ShapeDraw(rng, split)) < 0
        else:
            left, top = rng.uniform(-1, 1, 2)
            inside = np.hypot(x - left, (y - top) * rng.uniform(0.5, 2)) < rng.uniform(0.05, 0.2)
        canvas = np.where(inside[..., None], _texture(rng, x, y), canvas)
    canvas = canvas * rng.uniform(0.7, 1.1) + rng.normal(0, 0.02, canvas.shape)
    blocks = canvas.reshape(settings.size, _OVERSAMPLING, settings.size, _OVERSAMPLING, 3).mean(axis=(1, 3))
    return np.round(blocks.clip(0, 1) * 255).astype(np.uint8)


def generate_pictures(
    root: Path | str,
    settings: PictureSettings | None = None,
    *,
    overwrite: bool = False,
    layout: str = LAYOUT,
    class_folders: Sequence[str] = tuple(FAMILIES),
    test_folder: str = "test",
    suffix: str = ".png",
) -> None:
    """Write ``{train,test}/<class>/NNNN.png``. The folder appears when it is complete.

    Args:
        root: of the set.
        settings: what to generate.
        overwrite: replace a set that was generated before.
        layout: name of the layout, for the description.
        class_folders: names of the families' folders.
        test_folder: name of the test split's folder.
        suffix: of the files.

    Raises:
        FileExistsError: the folder exists and may not be replaced.
    """
    settings = settings or PictureSettings()
    counts: dict[PictureSplit, int] = {"train": settings.num_train, "test": settings.num_test}
    total = sum(counts.values()) * len(FAMILIES)
    logger.info("generating %d pictures into %s", total, root)
    with GeneratedFolder(Path(root), layout, settings, overwrite) as output:
        for split, count in counts.items():
            for name, folder_name in zip(FAMILIES, class_folders, strict=True):
                folder = output / (test_folder if split == "test" else split) / folder_name
                folder.mkdir(parents=True)
                for number in range(count):
                    picture = Image.fromarray(draw_picture(name, split, number, settings))
                    picture.save(folder / f"{number:04d}{suffix}")
