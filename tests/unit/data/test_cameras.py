"""Camera conventions and lens models: inverses of one another, equal to closed forms and to pycolmap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.scenes import poses
from zoo.data.cameras import (
    Cameras,
    invert_pose,
    look_at,
    opengl_to_ngp,
    opengl_to_opencv,
    pose_from_colmap,
    pose_problem,
    pose_to_colmap,
    quaternion_from_rotation,
    rotation_from_quaternion,
)
from zoo.data.formats.colmap import CAMERA_MODELS, ColmapCamera, lens_of
from zoo.data.lens import LENSES, generalise, undistort

LENS_PARAMS = {
    "skewed": [0.02],
    "pinhole": [],
    "opencv": [0.06, -0.08, -0.001, 0.0002],
    "full_opencv": [0.05, -0.02, 0.001, -0.002, 0.003, 0.01, -0.004, 0.002],
    "fov": [0.7],
    "opencv_fisheye": [0.02, -0.01, 0.003, -0.001],
    "thin_prism_fisheye": [0.02, -0.01, 0.001, -0.002, 0.003, -0.001, 0.0007, -0.0004],
}


def make_cameras(model: str = "pinhole", count: int = 3) -> Cameras:
    params = LENS_PARAMS[model]
    distortion = torch.tensor([params] * count) if params else None
    intrinsics = torch.tensor([[50.0, 48.0, 31.0, 25.0]]).repeat(count, 1)
    intrinsics[:, 0] += torch.arange(count)
    return Cameras(poses(count).float(), intrinsics, 64, 48, distortion, model)


def some_pixels(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(n, (count,), generator=generator) for n in (64, 48)], dim=-1)


def test_every_lens_is_covered() -> None:
    assert LENS_PARAMS.keys() == LENSES.keys()


@pytest.mark.parametrize("model", LENSES)
def test_projecting_a_point_on_a_ray_gives_its_pixel(model: str) -> None:
    cameras, pixels = make_cameras(model), some_pixels(200)
    index = torch.arange(200) % 3
    rays = cameras.rays(index, pixels)
    assert torch.allclose(rays.directions.norm(dim=-1), torch.ones(200), atol=1e-6)
    uv, depth = cameras.project(rays.origins + 2.5 * rays.directions)
    own = uv[index, torch.arange(200)]
    assert torch.allclose(own, pixels + 0.5, atol=1e-3)
    assert (depth[index, torch.arange(200)] > 0).all()


@pytest.mark.parametrize("model", LENSES)
def test_looked_up_rays_equal_computed_ones(model: str) -> None:
    cameras, pixels = make_cameras(model), some_pixels(50)
    index = torch.arange(50) % 3
    table, computed = cameras.pixel_rays(index, pixels), cameras.rays(index, pixels)
    assert torch.equal(table.origins, computed.origins)
    assert torch.allclose(table.directions, computed.directions, atol=1e-6)
    whole = cameras.image_rays(1)
    assert len(whole) == 64 * 48
    at = cameras.rays(torch.tensor([1]), torch.tensor([[5, 2]]))
    assert torch.allclose(whole.directions[2 * 64 + 5], at.directions[0], atol=1e-6)


def test_fisheye_sees_behind_the_image_plane() -> None:
    lens = Cameras(
        torch.eye(4)[None], torch.tensor([[20.0, 20.0, 32.0, 24.0]]), 64, 48, torch.zeros(1, 4), "opencv_fisheye"
    )
    angle = 1.8  # more than a right angle from the axis
    point = torch.tensor([[math.sin(angle), 0.0, math.cos(angle)]])
    uv, depth = lens.project(point)
    assert uv[0, 0].tolist() == pytest.approx([32 + 20 * angle, 24], abs=1e-4)
    assert float(depth) < 0
    ray = lens.rays(torch.tensor([0]), uv[0] - 0.5)
    assert torch.allclose(ray.directions, point, atol=1e-6)


def test_the_axis_of_a_fisheye_is_no_singularity() -> None:
    lens = make_cameras("opencv_fisheye", 1)
    on_axis = lens.camera_to_world[:, :3, 3] + 2 * lens.camera_to_world[:, :3, 2]
    uv, _ = lens.project(on_axis)
    assert torch.allclose(uv[0], lens.intrinsics[:, 2:], atol=1e-3)


@pytest.mark.parametrize("omega", [0.0, 1e-6, 5e-4, 0.9])
def test_fov_lens_is_smooth_towards_no_distortion(omega: float) -> None:
    uv = torch.tensor([[0.0, 0.0], [1e-6, 0.0], [0.3, -0.4]], dtype=torch.float64)
    found = LENSES["fov"].distort(uv, torch.tensor([[omega]], dtype=torch.float64))
    if omega >= 1e-4:
        radius = torch.tensor([1e-6, 0.5], dtype=torch.float64)
        expected = torch.atan(2 * radius * math.tan(omega / 2)) / omega
        assert torch.allclose(found[1:].norm(dim=-1), expected, rtol=1e-8)
    else:
        assert torch.allclose(found, uv, atol=1e-9)


@given(st.floats(-0.8, 0.8), st.floats(-0.6, 0.6))
def test_undistortion_inverts_distortion(u: float, v: float) -> None:
    uv = torch.tensor([[u, v]], dtype=torch.float64)
    for model, params in LENS_PARAMS.items():
        k = torch.tensor([params], dtype=torch.float64)
        assert torch.allclose(undistort(model, LENSES[model].distort(uv, k), k), uv, atol=1e-10), model


def test_a_wider_lens_acts_the_same() -> None:
    uv = torch.tensor([[0.3, -0.2], [0.0, 0.5]], dtype=torch.float64)
    for model, params in LENS_PARAMS.items():
        for target in LENSES:
            wider = generalise(model, params, target)
            if wider is not None:
                one, other = torch.tensor([params]).double(), torch.tensor([wider]).double()
                assert torch.allclose(LENSES[model].distort(uv, one), LENSES[target].distort(uv, other)), (
                    model,
                    target,
                )
    assert generalise("opencv", [0.0] * 4, "opencv_fisheye") is None


@pytest.mark.parametrize("model_id", CAMERA_MODELS)
def test_colmap_models_project_as_pycolmap_does(model_id: int) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    name, count = CAMERA_MODELS[model_id]
    focal = [50.0, 31.0, 25.0] if name.startswith(("SIMPLE", "RADIAL")) else [50.0, 48.0, 31.0, 25.0]
    values = [0.4] if name == "FOV" else [0.02, -0.01, 0.001, -0.002, 0.003, 0.002, 0.0007, -0.0004]
    params = (*focal, *values[: count - len(focal)])
    camera = pycolmap.Camera(model=name, width=64, height=48, params=list(params))
    points = np.random.default_rng(0).uniform([-0.5, -0.5, 1], [0.5, 0.5, 2], (40, 3))
    expected = np.array([camera.img_from_cam(point) for point in points]).reshape(-1, 2)
    intrinsics, lens, distortion = lens_of(ColmapCamera(name, 64, 48, params))
    ours = Cameras(
        torch.eye(4, dtype=torch.float64)[None],
        torch.tensor([intrinsics], dtype=torch.float64),
        64,
        48,
        torch.tensor([distortion], dtype=torch.float64) if distortion else None,
        lens,
    )
    uv, _ = ours.project(torch.from_numpy(points))
    assert np.abs(uv[0].numpy() - expected).max() < 1e-6


def test_axes_and_scales() -> None:
    pose = poses(4)
    assert torch.equal(opengl_to_opencv(opengl_to_opencv(pose)), pose)
    assert torch.allclose(invert_pose(pose) @ pose, torch.eye(4, dtype=torch.float64), atol=1e-12)
    quaternion, translation = pose_to_colmap(pose)
    assert torch.allclose(pose_from_colmap(quaternion, translation), pose, atol=1e-12)
    ngp = opengl_to_ngp(opengl_to_opencv(pose), scale=1.0, offset=(0.0, 0.0, 0.0))
    assert torch.allclose(ngp, pose[:, [1, 2, 0]])
    assert [problem for one in pose if (problem := pose_problem(one))] == []


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: sum(x * x for x in q) > 1e-3))
def test_quaternions_and_rotations_are_inverse(values: list[float]) -> None:
    quaternion = torch.nn.functional.normalize(torch.tensor(values, dtype=torch.float64), dim=0)
    again = quaternion_from_rotation(rotation_from_quaternion(quaternion))
    assert float(again[0]) >= 0
    assert torch.allclose(again * torch.sign((again * quaternion).sum()), quaternion, atol=1e-9)


def test_look_at_points_the_camera_and_keeps_it_upright() -> None:
    target = torch.tensor([0.5, 0.0, 0.2])
    pose = look_at(torch.tensor([3.0, 1.0, 2.0]), target, torch.tensor([0.0, 0.0, 1.0]))
    assert pose_problem(pose) is None
    camera = Cameras(pose[None], torch.tensor([[10.0, 10.0, 5.0, 5.0]]), 10, 10)
    uv, depth = camera.project(torch.stack((target, target + torch.tensor([0.0, 0.0, 0.1]))))
    assert uv[0, 0].tolist() == pytest.approx([5, 5], abs=1e-4)
    assert float(uv[0, 1, 1]) < 5  # higher points stand higher in the picture
    assert float(depth[0, 0]) > 0


def test_shrinking_keeps_the_rays() -> None:
    cameras = make_cameras("opencv")
    small = cameras.downscaled(4)
    assert (small.width, small.height) == (16, 12)
    ray = small.rays(torch.tensor([1]), torch.tensor([[3, 2]]))
    middle = cameras.rays(torch.tensor([1]), torch.tensor([[3 * 4 + 1.5, 2 * 4 + 1.5]]))
    assert torch.allclose(ray.directions, middle.directions, atol=1e-6)


def test_selection_and_emptiness() -> None:
    cameras = make_cameras("opencv", 5)
    assert len(cameras[1:3]) == 2
    assert torch.equal(cameras[torch.tensor([4])].intrinsics[0], cameras.intrinsics[4])
    empty = cameras.rays(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64))
    assert empty.directions.shape == (0, 3)
    assert cameras.project(torch.zeros(0, 3))[0].shape == (5, 0, 2)
    assert cameras.to("cpu").model == "opencv"


def test_wrong_arguments_are_named() -> None:
    eye, intrinsics = torch.eye(4)[None], torch.ones(1, 4)
    with pytest.raises(ValueError, match="camera_to_world"):
        Cameras(torch.eye(4), intrinsics, 4, 4)
    with pytest.raises(ValueError, match="intrinsics"):
        Cameras(eye, torch.ones(1, 3), 4, 4)
    with pytest.raises(ValueError, match="distortion"):
        Cameras(eye, intrinsics, 4, 4, torch.zeros(1, 3), "opencv")
    with pytest.raises(ValueError, match="unknown lens"):
        Cameras(eye, intrinsics, 4, 4, None, "mirror")
    with pytest.raises(ValueError, match="width"):
        Cameras(eye, intrinsics, 0, 4)
    with pytest.raises(ValueError, match="factor"):
        Cameras(eye, intrinsics, 4, 4).downscaled(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pose: pose.__setitem__((0, 3), math.nan), "NaN"),
        (lambda pose: pose[:3, :3].mul_(1.1), "not rigid"),
        (lambda pose: pose[:3, 0].neg_(), "mirrors"),
        (lambda pose: pose.__setitem__((3, 0), 1.0), "last row"),
    ],
)
def test_bad_poses_are_told_apart(change, message: str) -> None:
    pose = poses(1)[0].clone()
    change(pose)
    assert message in (pose_problem(pose) or "")
