"""Camera paths: rigid, looking at the right point, smooth, and read from files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zoo.data.cameras import Cameras, opengl_to_opencv, pose_problem
from zoo.rendering.trajectories import interpolate_poses, orbit, orbit_about, read_camera_path, spiral, with_poses

INTRINSICS = torch.tensor([[50.0, 50.0, 32.0, 24.0]])


def cameras_at(poses: torch.Tensor) -> Cameras:
    return Cameras(poses.float(), INTRINSICS.expand(len(poses), 4), 64, 48)


def assert_rigid(poses: torch.Tensor) -> None:
    assert poses.dtype == torch.float32
    assert [problem for pose in poses if (problem := pose_problem(pose, 1e-5))] == []


def assert_looks_at(poses: torch.Tensor, point: list[float]) -> None:
    uv, depth = cameras_at(poses).project(torch.tensor([point]))
    assert (depth > 0).all()
    assert torch.allclose(uv[:, 0], INTRINSICS[0, 2:].expand(len(poses), 2), atol=1e-3)


@pytest.mark.parametrize("up", [(0, 0, 1), (0, 1, 0), (0.3, -0.5, 0.8)])
def test_orbit(up: tuple) -> None:
    poses = orbit((1, 2, 3), 2.0, num_frames=12, elevation=20, up=up)
    assert_rigid(poses)
    assert_looks_at(poses, [1, 2, 3])
    offset = poses[:, :3, 3] - torch.tensor([1.0, 2, 3])
    axis = torch.nn.functional.normalize(torch.tensor([float(x) for x in up]), dim=0)
    assert torch.allclose(offset.norm(dim=-1), torch.full((12,), 2.0), atol=1e-5)
    assert torch.allclose(offset @ axis, torch.full((12,), 2 * 0.34202), atol=1e-4)
    steps = (poses.roll(-1, 0) - poses)[:, :3, 3].norm(dim=-1)
    assert torch.allclose(steps, steps[:1].expand(12), atol=1e-5)


def test_the_orbit_of_an_orbit_is_itself() -> None:
    poses = orbit((0.5, 0.5, 0.2), 1.3, num_frames=8, elevation=35)
    again = orbit_about(cameras_at(poses), 8)
    assert torch.allclose(again, poses, atol=1e-4)


def test_spiral_looks_at_the_focus_and_stays_near() -> None:
    poses = orbit((0, 0, 0), 3.0, num_frames=30, elevation=10)[:6]
    path = spiral(cameras_at(poses), 40)
    assert_rigid(path)
    assert_looks_at(path, [0, 0, 0])
    assert float(torch.cdist(path[:, :3, 3], poses[:, :3, 3]).min(dim=1).values.max()) < 1
    assert torch.allclose(path[0, :3, 3], path[20, :3, 3] - (path[20] - path[0])[:3, 3])
    assert float((path[1:, :3, 3] - path[:-1, :3, 3]).norm(dim=-1).max()) < 0.3


@pytest.mark.parametrize("closed", [False, True])
def test_interpolation_passes_the_keys(closed: bool) -> None:
    keys = orbit((0, 0, 0), 2.0, num_frames=5, elevation=30)
    path = interpolate_poses(keys, 41 if not closed else 50, closed=closed)
    assert_rigid(path)
    for number, key in enumerate(keys):
        assert torch.allclose(path[number * 10], key, atol=1e-5)
    assert float((path[1:] - path[:-1]).abs().max()) < 0.3
    assert torch.allclose(path[25, :3, :3].det(), torch.tensor(1.0))


def test_interpolation_of_one_key_and_bad_counts() -> None:
    keys = orbit((0, 0, 0), 2.0, num_frames=1)
    assert torch.allclose(interpolate_poses(keys, 3), keys.expand(3, 4, 4), atol=1e-6)
    with pytest.raises(ValueError, match="at least 1"):
        interpolate_poses(keys[:0], 3)
    for arguments in ({"elevation": 90.0}, {"num_frames": 0}):
        with pytest.raises(ValueError, match="expected"):
            orbit((0, 0, 0), 1.0, **{"num_frames": 2, **arguments})
    with pytest.raises(ValueError, match="radius"):
        orbit((0, 0, 0), 0.0, num_frames=2)


def test_new_poses_keep_size_and_drop_the_lens() -> None:
    lens = Cameras(torch.eye(4)[None], INTRINSICS, 64, 48, torch.ones(1, 4) * 0.01, "opencv")
    moved = with_poses(lens, orbit((0, 0, 0), 1.0, num_frames=3))
    assert (len(moved), moved.width, moved.model, moved.distortion) == (3, 64, "pinhole", None)


def test_path_files(tmp_path: Path) -> None:
    poses = orbit((0, 0, 0), 2.0, num_frames=3)
    opengl = opengl_to_opencv(poses)
    default = cameras_at(poses[:1])
    own = tmp_path / "path.json"
    own.write_text(json.dumps({"frames": [{"transform_matrix": pose.tolist()} for pose in opengl]}))
    read = read_camera_path(own, default)
    assert torch.allclose(read.camera_to_world, poses, atol=1e-6)
    assert torch.equal(read.intrinsics, INTRINSICS.expand(3, 4))
    own.write_text(json.dumps({"w": 20, "h": 10, "fl_x": 30, "frames": [{"transform_matrix": opengl[0].tolist()}]}))
    read = read_camera_path(own, default)
    assert (read.width, read.height, read.intrinsics[0].tolist()) == (20, 10, [30, 30, 10, 5])
    studio = {
        "render_width": 100,
        "render_height": 50,
        "camera_path": [{"camera_to_world": pose.flatten().tolist(), "fov": 90.0} for pose in opengl],
    }
    own.write_text(json.dumps(studio))
    read = read_camera_path(own, default)
    assert torch.allclose(read.camera_to_world, poses, atol=1e-6)
    assert read.intrinsics[0].tolist() == pytest.approx([25, 25, 50, 25])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no camera path"),
        ('{"frames": []}', "empty"),
        ('{"frames": [{"transform_matrix": [[1, 2]]}]}', "no camera path"),
        ('{"frames": [{"pose": 1}]}', "no camera path"),
        ('{"frames": [{"transform_matrix": [[1,0,0,0],[0,2,0,0],[0,0,1,0],[0,0,0,1]]}]}', "frame 0: it is not rigid"),
    ],
)
def test_bad_path_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "path.json"
    default = cameras_at(torch.eye(4)[None])
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_camera_path(path, default)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(ValueError, match="cannot be read"):
        read_camera_path(tmp_path / "none.json", default)
