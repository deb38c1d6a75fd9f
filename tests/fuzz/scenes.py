"""Readers of pictures, cameras and the files of captures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.fuzz.harness import Case, Reader
from tests.unit.data.scenes import picture, write_blender, write_colmap, write_ngp, write_picture
from zoo.data.bad_samples import BadSamples, SampleError
from zoo.data.cameras import Cameras
from zoo.data.formats.blender import read_blender
from zoo.data.formats.colmap_scene import read_colmap
from zoo.data.formats.instant_ngp import read_instant_ngp
from zoo.data.formats.spare import SpareScene, read_projection, read_split
from zoo.data.image_files import image_size, read_image
from zoo.data.scene_index import SceneIndex
from zoo.data.spare_data import read_depth
from zoo.data.spare_scene import unpack_archives
from zoo.data.spare_submission import SpareSubmission, check_submission, write_submission
from zoo.data.synthetic_scene import read_scene_description
from zoo.rendering.trajectories import read_camera_path

SCENES = {"scene1": SpareScene("scene1", (0,), (1, 2), "Synth")}
CAMERAS = Cameras(torch.eye(4)[None], torch.tensor([[10.0, 10.0, 4.0, 4.0]]), width=8, height=8)


def _index(index: SceneIndex) -> None:
    """Poses are checked with the pictures."""
    for views in index.splits.values():
        for view in views:
            assert np.isfinite(view.intrinsics).all()
            assert view.intrinsics[0] > 0
            assert view.intrinsics[1] > 0
            assert view.width > 0
            assert view.height > 0
    assert np.isfinite(index.aabb).all()


def _image(path: Path) -> None:
    read_image(path)
    image_size(path)


def _write_image(path: Path, mode: str) -> None:
    Image.fromarray(picture(0, 4)).convert(mode).save(path)


def _write_split(root: Path) -> None:
    scenes = {"scan1": SpareScene("scan1", (0, 1, 2), (3, 4), "DTU"), **SCENES}
    (root / "split.json").write_text(json.dumps({name: scene.as_json() for name, scene in scenes.items()}))


def _write_archive(root: Path) -> None:
    for view in (1, 2):
        write_picture(root / "renders" / "scene1" / SCENES["scene1"].picture_name(view), picture(view))
    (root / "in").mkdir()
    write_submission(root / "in" / "a.zip", SCENES, root / "renders", size=(12, 8))


def _submission(root: Path) -> None:
    problems = check_submission(root / "in" / "a.zip", SCENES, size=(12, 8))
    archive = SpareSubmission(root / "in" / "a.zip")
    for view in (1, 2):
        found = archive.picture(SCENES["scene1"], view)
        assert problems or tuple(found.shape) == (8, 12, 3)


def _write_path(root: Path) -> None:
    frame = {"transform_matrix": np.eye(4).tolist()}
    (root / "path.json").write_text(json.dumps({"frames": [frame, frame], "w": 8, "h": 6, "fl_x": 9.0}))


def _write_nerfstudio_path(root: Path) -> None:
    frame = {"camera_to_world": np.eye(4).ravel().tolist(), "fov": 50.0}
    content = {"camera_path": [frame, frame], "render_width": 8, "render_height": 6}
    (root / "path.json").write_text(json.dumps(content))


def _path(root: Path) -> None:
    cameras = read_camera_path(root / "path.json", CAMERAS)
    assert bool(torch.isfinite(cameras.intrinsics).all())
    assert cameras.width > 0
    assert cameras.height > 0


def _described(root: Path) -> None:
    content = {"schema": 1, "aabb": [-1, -1, -1, 1, 1, 1], "settings": {"seed": 0}}
    (root / "scene.json").write_text(json.dumps(content))


def _colmap(root: Path) -> None:
    _index(read_colmap(root, BadSamples("error")))


def _colmap_cases(suffix: str, kind: str) -> tuple[Case, ...]:
    def write(root: Path) -> Any:
        return write_colmap(root, 4, binary=suffix == "bin")

    files = ("cameras", "images", "points3D")
    return tuple(Case(f"colmap-{name}-{suffix}", f"sparse/0/{name}.{suffix}", kind, write, _colmap) for name in files)


PICTURES = (
    Reader(
        "image",
        tuple(
            Case(
                f"image-{suffix}-{mode}",
                f"a.{suffix}",
                "bytes",
                lambda root, suffix=suffix, mode=mode: _write_image(root / f"a.{suffix}", mode),
                lambda root, suffix=suffix: _image(root / f"a.{suffix}"),
            )
            for suffix, mode in (("png", "RGBA"), ("jpg", "RGB"), ("webp", "RGB"), ("bmp", "RGB"), ("tif", "L"))
        ),
    ),
    Reader("colmap-bin", _colmap_cases("bin", "bytes")),
    Reader("colmap-txt", _colmap_cases("txt", "text")),
    Reader(
        "transforms",
        (
            Case(
                "instant-ngp",
                "transforms.json",
                "json",
                lambda root: write_ngp(root, 3, k1=0.1),
                lambda root: _index(read_instant_ngp(root, BadSamples("error"))),
            ),
            Case(
                "blender",
                "transforms_train.json",
                "json",
                write_blender,
                lambda root: _index(read_blender(root, BadSamples("error"))),
            ),
            Case(
                "scene-description",
                "scene.json",
                "json",
                _described,
                lambda root: read_scene_description(root),
            ),
        ),
    ),
    Reader("split-json", (Case("split", "split.json", "json", _write_split, lambda r: read_split(r / "split.json")),)),
    Reader(
        "calibration",
        (
            Case(
                "pos",
                "pos_001.txt",
                "text",
                lambda root: (root / "pos_001.txt").write_text("2892.3 7.9 823.2 -14.3\n0 2883.2 619 -8\n0 0.1 1 3\n"),
                lambda root: read_projection(root / "pos_001.txt"),
            ),
            Case(
                "depth-npy",
                "000.npy",
                "npy",
                lambda root: np.save(root / "000.npy", np.ones((4, 6), dtype=np.float32)),
                lambda root: read_depth(root / "000.npy", (4, 6)),
            ),
        ),
    ),
    Reader(
        "zip",
        (
            Case("submission", "in/a.zip", "bytes", _write_archive, _submission),
            Case(
                "archive",
                "in/a.zip",
                "bytes",
                _write_archive,
                lambda root: unpack_archives(root / "in", overwrite=True),
            ),
        ),
    ),
    Reader(
        "camera-path",
        (
            Case("camera-path", "path.json", "json", _write_path, _path, (SampleError, ValueError)),
            Case(
                "camera-path-nerfstudio", "path.json", "json", _write_nerfstudio_path, _path, (SampleError, ValueError)
            ),
        ),
    ),
)
