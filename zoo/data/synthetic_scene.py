"""The generated scene on disk: views of the pavilion in the Blender layout, made in seconds, the same for each seed."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.cameras import Cameras, look_at, opengl_to_opencv
from zoo.data.formats.json_files import read_json
from zoo.data.pavilion import AABB, build_scene, render_scene
from zoo.data.scene_index import SPLITS

logger = logging.getLogger(__name__)

SCHEMA = 1
SCENE_FILE = "scene.json"
CAMERA_ANGLE_X = 0.6911112070083618
CAMERA_DISTANCE = (4.3, 4.7)
TARGET = (0.0, 0.0, 0.05)
REBUILD = "python tools/prepare_data.py data=synthetic_scene action=generate overwrite=true"


@dataclass(frozen=True)
class SceneSettings:
    """What to generate.

    Attributes:
        image_size: side of the square pictures in pixels.
        samples: rays for each pixel are ``samples x samples``.
        seed: of textures, toys and poses.
        num_train: pictures to train on.
        num_val: pictures to watch.
        num_test: pictures to measure on.

    Raises:
        ValueError: where a number is not positive.
    """

    image_size: int = 128
    samples: int = 3
    seed: int = 0
    num_train: int = 50
    num_val: int = 10
    num_test: int = 20

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < (0 if name == "seed" else 1):
                raise ValueError(f"{name}: {value}, expected at least {0 if name == 'seed' else 1}")

    def count(self, split: str) -> int:
        """Number of pictures of a split."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split]


def sample_poses(count: int, seed: int, split: str) -> Tensor:
    """Camera-to-world ``(count, 4, 4)`` float64, OpenCV axes: even over the upper dome, unlike in each split."""
    rng = np.random.default_rng((seed, 100 + SPLITS.index(split)))
    k = np.arange(count)
    azimuth = 2 * np.pi * (k * (math.sqrt(5) - 1) / 2 + rng.random()) + rng.normal(0, 0.05, count)
    height = (k + rng.random(count)) / max(count, 1)  # stratified sine of the elevation
    sine = np.sin(np.radians(4)) + height * (np.sin(np.radians(75)) - np.sin(np.radians(4)))
    distance = rng.uniform(*CAMERA_DISTANCE, count)
    cosine = np.sqrt(1 - sine**2)
    offset = distance[:, None] * np.stack((cosine * np.cos(azimuth), cosine * np.sin(azimuth), sine), axis=1)
    target = torch.tensor(TARGET, dtype=torch.float64).expand(count, 3)
    return look_at(target + torch.from_numpy(offset), target, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


def scene_cameras(poses: Tensor, image_size: int) -> Cameras:
    """Pinhole cameras with the field of view of the NeRF-Synthetic set."""
    focal = 0.5 * image_size / math.tan(0.5 * CAMERA_ANGLE_X)
    intrinsics = torch.tensor([focal, focal, image_size / 2, image_size / 2]).expand(len(poses), 4)
    return Cameras(poses.float(), intrinsics, image_size, image_size)


def generate_scene(root: Path | str, settings: SceneSettings | None = None, *, overwrite: bool = False) -> Path:
    """Render the pavilion into ``root`` in the Blender layout.

    Everything is written to a folder beside ``root`` that takes its place at the end, so that an interrupted run leaves
    nothing behind.

    Args:
        root: folder to make.
        settings: what to generate.
        overwrite: replace a scene that was generated before; other folders are never touched.

    Returns:
        ``root``.

    Raises:
        FileExistsError: if ``root`` exists and may not be replaced.
    """
    root, settings = Path(root), settings or SceneSettings()
    if root.exists() and any(root.iterdir()):
        if not overwrite:
            raise FileExistsError(f"{root}: exists already; overwrite=true replaces a generated scene")
        if not (root / SCENE_FILE).is_file():
            raise FileExistsError(f"{root}: holds no {SCENE_FILE}, so zoo did not make it and will not replace it")
    total = sum(settings.count(split) for split in SPLITS)
    logger.info("rendering %d pictures of the synthetic scene into %s (a few seconds)", total, root)
    root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".partial", dir=root.parent))
    try:
        _write_scene(work, settings)
        work.chmod(0o755)
        _take_place(work, root)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return root


def _take_place(work: Path, root: Path) -> None:
    former = None
    if root.exists():
        former = Path(tempfile.mkdtemp(prefix=f".{root.name}.", suffix=".former", dir=root.parent))
        root.rename(former)  # onto an empty folder
    os.replace(work, root)
    if former is not None:
        shutil.rmtree(former)


@contextmanager
def one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """A pool in which each worker computes alone: pictures in parallel beat threads inside small operations."""
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _write_scene(folder: Path, settings: SceneSettings) -> None:
    solids = build_scene(settings.seed)
    stop = threading.Event()

    def make(cameras: Cameras, number: int, path: Path) -> None:
        if not stop.is_set():
            Image.fromarray(render_scene(solids, cameras, number, settings.samples)).save(path, compress_level=6)

    with one_thread_each() as pool:
        jobs = []
        for split in SPLITS:
            poses = sample_poses(settings.count(split), settings.seed, split)
            cameras = scene_cameras(poses, settings.image_size)
            (folder / split).mkdir()
            jobs += [pool.submit(make, cameras, i, folder / split / f"r_{i:03d}.png") for i in range(len(poses))]
            (folder / f"transforms_{split}.json").write_text(json.dumps(_transforms(split, poses), indent=1))
        try:
            for job in jobs:
                job.result()
        finally:
            stop.set()
    description = {"schema": SCHEMA, "scene": "pavilion", "aabb": AABB, "settings": asdict(settings)}
    (folder / SCENE_FILE).write_text(json.dumps(description, indent=1))


def _transforms(split: str, poses: Tensor) -> dict[str, Any]:
    frames = [
        {"file_path": f"./{split}/r_{i:03d}", "transform_matrix": pose.tolist()}
        for i, pose in enumerate(opengl_to_opencv(poses))
    ]
    return {"camera_angle_x": CAMERA_ANGLE_X, "frames": frames}


def read_scene_description(root: Path) -> dict[str, Any] | None:
    """The content of a generated scene's ``scene.json``; None where there is none.

    Raises:
        SampleError: if it cannot be read or was written by another version.
    """
    path = root / SCENE_FILE
    if not path.is_file():
        return None
    try:
        description = read_json(path)
        schema, box = description["schema"], [float(value) for value in description["aabb"]]
        dict(description["settings"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        problem = error.problem if isinstance(error, SampleError) else error
        raise SampleError(path, f"is no description of a generated scene ({problem}); rebuild it: {REBUILD}") from error
    if schema != SCHEMA or len(box) != 6 or not np.isfinite(box).all():
        raise SampleError(path, f"schema {schema}, this version reads {SCHEMA}; rebuild it: {REBUILD}")
    return description
