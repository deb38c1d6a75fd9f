"""Generated scenes in the layout of the SpaRe benchmark: objects on a platform in a black box, seen by a DTU-like rig.

The folder holds what the benchmark's archives hold after unpacking, and what it keeps to itself::

    Track1_split_test.json  Track2_split_test.json       3 and 9 input views, 10 test views for each scene
    synth_calibration/pos_001.txt ...                    projection matrices for 1600 x 1200 pixels, millimetres
    synth_test_3views/<scene>/cam_001_3_0000.png         input views of Track 1; synth_test_9views of Track 2
    truth/<scene>/cam_014_3_0000.png                     test views
    masks/<scene>/013.png                                object masks of all views of the splits, by 0-based number
"""

from __future__ import annotations

import json
import math
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.analytic_render import render_view
from zoo.data.cameras import Cameras, look_at
from zoo.data.formats.spare import SIZE, SpareScene
from zoo.data.generated_folder import GeneratedFolder, check_generated
from zoo.data.projection_matrix import compose_projection
from zoo.data.spare_objects import LIGHTING, OBJECTS, PLATFORM, build_object
from zoo.data.synthetic_scene import one_thread_each

__all__ = ["SpareSettings", "check_spare_scenes", "generate_spare_scenes", "rig_poses"]

LAYOUT = "SpaRe"
MILLIMETRES = 95.0  # of one unit of the objects, which are about 2 units wide
NUM_VIEWS = 64
DISTANCE = 650.0  # of the cameras from the object
INTRINSICS = (2892.33, 2883.18, 823.2, 619.07)  # fx, fy, cx, cy of DTU's cameras
TARGET = (0.0, 0.0, 0.45)  # in units
LABEL = "Synthetic"


@dataclass(frozen=True)
class SpareSettings:
    """What to generate.

    Attributes:
        width: of the pictures in pixels; the calibration is always that of 1600 x 1200.
        height: likewise, in the same proportion.
        samples: rays for each pixel are ``samples x samples``.
        seed: of textures, proportions and the choice of views.
        num_scenes: scenes, at most one for each object.
        num_test: test views of a scene.

    Raises:
        ValueError: where a number is out of range or the proportion another one.
    """

    width: int = 1600
    height: int = 1200
    samples: int = 2
    seed: int = 0
    num_scenes: int = len(OBJECTS)
    num_test: int = 10

    def __post_init__(self) -> None:
        if self.width < 4 or self.width * SIZE[1] != self.height * SIZE[0]:
            raise ValueError(f"width, height: {self.width}, {self.height}, expected 1600 : 1200, e.g. 400 and 300")
        if self.samples < 1 or self.seed < 0 or not 1 <= self.num_scenes <= len(OBJECTS):
            raise ValueError(
                f"samples, seed, num_scenes: {self.samples}, {self.seed}, {self.num_scenes}, expected at least 1, "
                f"at least 0, and 1 to {len(OBJECTS)}"
            )
        if not 1 <= self.num_test <= 10:
            raise ValueError(f"num_test: {self.num_test}, expected 1 to 10")


def rig_poses() -> Tensor:
    """Camera-to-world ``(64, 4, 4)`` float64 in millimetres: rows of a cap on one side of the object, as DTU's arm."""
    azimuth = torch.linspace(-52, 52, 8, dtype=torch.float64).deg2rad()
    elevation = torch.linspace(14, 62, 8, dtype=torch.float64).deg2rad()
    e, a = torch.meshgrid(elevation, azimuth, indexing="ij")
    a = a * torch.where(torch.arange(8) % 2 == 0, 1, -1)[:, None] - math.pi / 2  # to and fro, row by row
    offset = torch.stack((e.cos() * a.cos(), e.cos() * a.sin(), e.sin()), -1).reshape(-1, 3)
    target = torch.tensor(TARGET, dtype=torch.float64).expand(NUM_VIEWS, 3) * MILLIMETRES
    return look_at(target + DISTANCE * offset, target, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


def _choose_views(settings: SpareSettings, number: int) -> tuple[SpareScene, SpareScene]:
    """Track 1 and Track 2 of a scene: inputs spread over the rig, tests among the rest; the two share test views."""
    rng = np.random.default_rng((settings.seed, 1000 + number))
    corner = (0, 2, 5)  # rows and columns of a 3 x 3 pattern with a little play
    rows, columns = (np.array(corner) + rng.integers(0, 3, 3) for _ in range(2))
    grid = [int(8 * r + (c if r % 2 == 0 else 7 - c)) for r in rows for c in columns]
    nine = sorted(set(grid))
    three = sorted([grid[0], grid[5], grid[7]])
    rest = np.array([view for view in range(NUM_VIEWS) if view not in nine])
    tests = tuple(sorted(int(view) for view in rng.choice(rest, settings.num_test, replace=False)))
    name = list(OBJECTS)[number]
    return SpareScene(name, tuple(three), tests, LABEL), SpareScene(name, tuple(nine), tests, LABEL)


def _cameras(settings: SpareSettings) -> Cameras:
    """The rig in units of the objects and pixels of the pictures."""
    poses = rig_poses()
    poses[:, :3, 3] /= MILLIMETRES
    intrinsics = torch.tensor(INTRINSICS) * (settings.width / SIZE[0])
    return Cameras(poses.float(), intrinsics.expand(NUM_VIEWS, 4), settings.width, settings.height)


def generate_spare_scenes(root: Path | str, settings: SpareSettings | None = None, *, overwrite: bool = False) -> Path:
    """Render the scenes into ``root``, all or nothing.

    Raises:
        FileExistsError: ``root`` exists and may not be replaced.
    """
    root, settings = Path(root), settings or SpareSettings()
    root.parent.mkdir(parents=True, exist_ok=True)
    with GeneratedFolder(root, LAYOUT, settings, overwrite) as folder:
        tracks = [_choose_views(settings, number) for number in range(settings.num_scenes)]
        for track in (0, 1):
            split = {scenes[track].name: scenes[track].as_json() for scenes in tracks}
            (folder / f"Track{track + 1}_split_test.json").write_text(json.dumps(split, indent=4))
        _write_calibration(folder / "synth_calibration")
        with one_thread_each() as pool:
            jobs = [job for scenes in tracks for job in _write_scene(folder, settings, *scenes, pool.submit)]
            for job in jobs:
                job.result()
    return root


def _write_calibration(folder: Path) -> None:
    folder.mkdir()
    fx, fy, cx, cy = INTRINSICS
    matrix = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    for view, projection in enumerate(compose_projection(matrix, rig_poses())):
        lines = [" ".join(f"{value:.9f}" for value in row) for row in projection.tolist()]
        (folder / f"pos_{view + 1:03d}.txt").write_text("\n".join(lines) + "\n")


def _write_scene(folder: Path, settings: SpareSettings, few: SpareScene, many: SpareScene, submit) -> list[Future]:  # noqa: ANN001
    """Jobs that render the views which either track names."""
    objects = build_object(few.name, settings.seed)
    solids, cameras = [*objects, PLATFORM], _cameras(settings)
    places: dict[int, list[str]] = {}
    for kind, views in (
        ("synth_test_3views", few.input_views),
        ("synth_test_9views", many.input_views),
        ("truth", sorted({*few.test_views, *many.test_views})),
    ):
        (folder / kind / few.name).mkdir(parents=True)
        for view in views:
            places.setdefault(view, []).append(kind)
    (folder / "masks" / few.name).mkdir(parents=True)

    def make(view: int) -> None:
        found = render_view(solids, cameras, view, LIGHTING, settings.samples, len(objects))
        pixels = (found.rgba[..., :3] * found.rgba[..., 3:] * 255).round().to(torch.uint8).numpy()  # on black
        for kind in places[view]:
            Image.fromarray(pixels).save(folder / kind / few.name / few.picture_name(view))
        mask = ((found.objects > 0.5) * 255).to(torch.uint8).numpy()
        Image.fromarray(mask).save(folder / "masks" / few.name / f"{view:03d}.png")

    return [submit(make, view) for view in sorted(places)]


def check_spare_scenes(root: Path | str, settings: SpareSettings) -> None:
    """Make sure that a generated folder is the one that these settings would make.

    Raises:
        SampleError: it was made by another version or with other settings.
    """
    check_generated(root, LAYOUT, settings)
