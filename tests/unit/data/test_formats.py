"""The on-disk layouts, read back from small scenes and from real photographs."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.samples import sample_data
from tests.unit.data.scenes import HEIGHT, WIDTH, edit_json, picture, poses, write_blender, write_colmap, write_ngp
from zoo.data.bad_samples import BadSamples
from zoo.data.formats.colmap import find_model, read_colmap_model
from zoo.data.formats.instant_ngp import read_instant_ngp
from zoo.data.radiance_fields import RadianceFieldData, detect_format
from zoo.data.scene_frame import apply_similarity, canonical_frame, nearest_point_to_axes, rotation_between


def open_scene(root: Path, **arguments) -> RadianceFieldData:
    data = RadianceFieldData(root=root, **arguments)
    data.setup()
    return data


def test_blender(tmp_path: Path) -> None:
    data = open_scene(write_blender(tmp_path))
    assert [len(views) for views in (data.train, data.val, data.test)] == [3, 2, 2]
    assert torch.equal(data.train.images[1], torch.from_numpy(picture(1, 4)))
    assert data.train.names[0] == "train/r_0"
    assert torch.allclose(data.train.cameras.camera_to_world, poses(3).float(), atol=1e-6)
    focal = 0.5 * WIDTH / np.tan(0.35)
    assert data.train.cameras.intrinsics[0].tolist() == pytest.approx([focal, focal, WIDTH / 2, HEIGHT / 2])
    assert data.aabb.tolist() == [-1.5, -1.5, -1.5, 1.5, 1.5, 1.5]
    assert data.white_background


def test_blender_without_a_test_split_measures_on_val(tmp_path: Path) -> None:
    write_blender(tmp_path)
    (tmp_path / "transforms_test.json").unlink()
    data = open_scene(tmp_path)
    assert data.test is data.val


def test_instant_ngp(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ngp(tmp_path, 12, k1=0.05, k2=-0.01, p1=0.001, p2=-0.002)
    (tmp_path / "images" / "03.png").unlink()
    with caplog.at_level(logging.WARNING):
        data = open_scene(tmp_path)
    assert data.num_skipped == 1
    assert "03.png" in caplog.text
    assert data.test.names == ("images/00.png", "images/09.png")  # of the 11 that exist, number 0 and 8
    assert len(data.train) == 9
    assert data.test is data.val
    cameras = data.train.cameras
    assert cameras.model == "opencv"
    assert cameras.distortion is not None
    assert cameras.distortion[0].tolist() == pytest.approx([0.05, -0.01, 0.001, -0.002])
    assert cameras.intrinsics[0].tolist() == pytest.approx([11.0, 10.5, 6.1, 3.9])
    expected = poses(12)[1].float()
    assert torch.allclose(cameras.camera_to_world[0, :3, 3], expected[:3, 3] * 0.33 + 0.5, atol=1e-6)
    assert torch.allclose(cameras.camera_to_world[0, :3, :3], expected[:3, :3], atol=1e-6)
    assert torch.allclose(data.aabb, torch.tensor([-1.5, -1.5, -1.5, 2.5, 2.5, 2.5]))
    assert data.near == pytest.approx(0.1)
    assert not data.white_background


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({}, "pinhole"),
        ({"is_fisheye": True, "k1": 0.01}, "opencv_fisheye"),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.01}, "opencv_fisheye"),
        ({"k3": 0.01}, "full_opencv"),
        ({"p1": 0.01}, "opencv"),
    ],
)
def test_instant_ngp_lenses(tmp_path: Path, settings: dict, model: str) -> None:
    assert open_scene(write_ngp(tmp_path, 9, **settings)).train.cameras.model == model


def test_instant_ngp_angles_and_own_intrinsics_of_frames(tmp_path: Path) -> None:
    write_ngp(tmp_path, 9, fl_x=None, fl_y=None, cx=None, cy=None, camera_angle_x=0.7, camera_angle_y=0.5)
    content = edit_json(tmp_path / "transforms.json")
    content["frames"][1].update(fl_x=20.0, fl_y=21.0, k1=0.1)
    edit_json(tmp_path / "transforms.json", frames=content["frames"], scale=1.0, offset=[0, 0, 0])
    data = open_scene(tmp_path)
    assert data.train.cameras.model == "opencv"  # frame 1 is the first of the training split
    assert data.train.cameras.intrinsics[0, :2].tolist() == [20.0, 21.0]
    expected = [6 / np.tan(0.35), 4 / np.tan(0.25), 6, 4]
    assert data.train.cameras.intrinsics[1].tolist() == pytest.approx(expected)
    assert torch.allclose(data.train.cameras.camera_to_world[1], poses(9)[2].float(), atol=1e-6)


def test_pictures_at_another_scale_take_scaled_intrinsics(tmp_path: Path) -> None:
    write_ngp(tmp_path, 9, w=2 * WIDTH, h=2 * HEIGHT, fl_x=22.0, fl_y=21.0, cx=12.2, cy=7.8)
    data = open_scene(tmp_path, downscale=2)
    assert data.train.cameras.intrinsics[0].tolist() == pytest.approx([5.5, 5.25, 3.05, 1.95])
    assert data.train.images.shape == (7, 4, 6, 3)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("model", ["OPENCV", "FOV"])
def test_colmap(tmp_path: Path, binary: bool, model: str) -> None:
    write_colmap(tmp_path, 9, model, binary)
    parsed = read_colmap_model(tmp_path / "sparse" / "0")
    assert list(parsed.images) == list(range(1, 10))
    assert parsed.images[1].points2d.tolist() == [[2.5, 3.5]]
    assert parsed.images[2].point3d_ids.shape == (0,)
    assert parsed.images[2].name == "view 1.png"
    assert parsed.point_ids.tolist() == [1, 2, 7]
    assert parsed.points[1].tolist() == [-0.4, 0.5, 0.0]
    assert parsed.colors.tolist() == [[9, 8, 7]] * 3
    data = open_scene(tmp_path)
    assert data.test.names == ("view 0.png", "view 8.png")
    assert data.train.cameras.model == {"OPENCV": "opencv", "FOV": "fov"}[model]
    # the ring of cameras looks at the centre of the unit cube from the distance 4 * 0.33, upright
    positions = data.train.cameras.camera_to_world[:, :3, 3]
    assert torch.allclose((positions - 0.5).norm(dim=-1), torch.full((7,), 1.32), atol=1e-5)
    assert (data.train.cameras.camera_to_world[:, 2, 1] < 0).all()
    assert torch.allclose(data.aabb, torch.tensor([0.0, 0, 0, 1, 1, 1]))


def test_layouts_are_told_apart(tmp_path: Path) -> None:
    assert detect_format(write_blender(tmp_path / "a")) == "blender"
    assert detect_format(write_ngp(tmp_path / "b")) == "instant_ngp"
    assert detect_format(write_colmap(tmp_path / "c")) == "colmap"
    assert find_model(tmp_path) is None


def test_scale_offset_box_and_distances_can_be_set(tmp_path: Path) -> None:
    data = open_scene(
        write_blender(tmp_path), scene_scale=0.5, scene_offset=[1, 0, 0], aabb=[0, 0, 0, 1, 1, 1], near=0.2, far=9.0
    )
    assert torch.allclose(
        data.train.cameras.camera_to_world[:, :3, 3], poses(3)[:, :3, 3].float() * 0.5 + torch.tensor([1.0, 0, 0])
    )
    assert (data.aabb.tolist(), data.near, data.far) == ([0, 0, 0, 1, 1, 1], 0.2, 9.0)
    moved = open_scene(tmp_path, scene_scale=2.0, scene_offset=[1, 0, 0])
    assert moved.aabb.tolist() == [-2, -3, -3, 4, 3, 3]


def test_canonical_frame_is_upright_centred_and_scaled() -> None:
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = rotation_between(torch.tensor([0.0, 0, 1]).double(), torch.tensor([1.0, 2, -0.5]).double())
    turn[:3, 3] = torch.tensor([5.0, -3.0, 1.0])
    shaken = turn @ poses(7)
    assert torch.allclose(nearest_point_to_axes(shaken), turn[:3, 3], atol=1e-9)
    moved = apply_similarity(canonical_frame(shaken), shaken)
    assert torch.allclose(moved[:, :3, 3].norm(dim=-1), torch.full((7,), 4.0).double())
    assert torch.allclose(moved[:, :3, 1].mean(0)[:2], torch.zeros(2).double(), atol=1e-9)
    assert (moved[:, 2, 1] < 0).all()
    upside_down = rotation_between(torch.tensor([0.0, 0, 1]).double(), torch.tensor([0.0, 0, -1]).double())
    assert torch.allclose(upside_down @ torch.tensor([0.0, 0, 1]).double(), torch.tensor([0.0, 0, -1]).double())
    assert float(torch.linalg.det(upside_down)) == pytest.approx(1)


def test_the_fox() -> None:
    data = open_scene(sample_data("fox"), downscale=8)
    assert len(data.train) + len(data.test) == len(list((data.root / "images").iterdir()))
    assert data.train.images.shape[1:] == (120, 67, 3)
    assert data.train.cameras.model == "opencv"
    assert data.aabb.tolist() == [-1.5, -1.5, -1.5, 2.5, 2.5, 2.5]
    positions = data.train.cameras.camera_to_world[:, :3, 3]
    assert (positions > data.aabb[:3]).all()
    assert (positions < data.aabb[3:]).all()
    # every camera sees the point that all of them look at
    focus = nearest_point_to_axes(data.train.cameras.camera_to_world)
    uv, depth = data.train.cameras.project(focus[None])
    assert (depth > 0.3).all()
    assert (uv[:, 0] > 0).all()
    assert (uv[:, 0] < torch.tensor([67, 120])).all()


def test_frames_that_name_missing_pictures_are_counted(tmp_path: Path) -> None:
    write_ngp(tmp_path, 9)
    for i in range(3):
        (tmp_path / "images" / f"{i:02d}.png").unlink()
    bad = BadSamples()
    assert len(read_instant_ngp(tmp_path, bad).splits["all"]) == 6
    assert len(bad) == 3
