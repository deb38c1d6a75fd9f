"""Handlers of the golden cases about cameras and COLMAP files."""

from __future__ import annotations

import pytest
import torch

from tests.parity.cases import Case, assert_close
from zoo.data.cameras import (
    Cameras,
    invert_pose,
    opengl_to_ngp,
    opengl_to_opencv,
    pose_from_colmap,
    pose_to_colmap,
)
from zoo.data.formats.colmap import ColmapModel, lens_of, read_colmap_model

CAMERA_TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}  # "rtol 1e-5 atol 1e-5; qvec up to sign"


def up_to_sign(quaternion: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    return quaternion * torch.sign((quaternion * expected).sum(-1, keepdim=True))


def camera_conventions(case: Case) -> None:
    config = case.config
    opengl = case["input/c2w_opengl"]
    poses = opengl_to_opencv(opengl)
    assert_close(poses, case["output/c2w_opencv"], what="c2w_opencv", **CAMERA_TOLERANCE)
    assert_close(invert_pose(poses), case["output/w2c_opencv"], what="w2c_opencv", **CAMERA_TOLERANCE)

    quaternion, translation = pose_to_colmap(poses)
    assert_close(up_to_sign(quaternion, case["output/colmap_qvec"]), case["output/colmap_qvec"], **CAMERA_TOLERANCE)
    assert_close(translation, case["output/colmap_tvec"], what="colmap_tvec", **CAMERA_TOLERANCE)
    again = pose_from_colmap(case["output/colmap_qvec"], case["output/colmap_tvec"])
    assert_close(again, case["output/c2w_opencv"], what="pose_from_colmap", **CAMERA_TOLERANCE)

    ngp = opengl_to_ngp(opengl, config["ngp_scale"], tuple(config["ngp_offset"]))
    assert_close(ngp, case["output/ngp_xform"], what="ngp_xform", **CAMERA_TOLERANCE)

    intrinsics = torch.tensor([config["focal"], config["focal"], config["cx"], config["cy"]]).expand(len(poses), 4)
    cameras = Cameras(poses, intrinsics, width=config["W"], height=config["H"])
    num_cameras, num_pixels = case["input/pixels"].shape[:2]
    index = torch.arange(num_cameras).repeat_interleave(num_pixels)
    rays = cameras.rays(index, case["input/pixels"].reshape(-1, 2))
    directions = rays.directions.reshape(num_cameras, num_pixels, 3)
    assert_close(directions, case["output/rays_d"], what="rays_d", **CAMERA_TOLERANCE)
    origins = rays.origins.reshape(num_cameras, num_pixels, 3)[:, 0]
    assert_close(origins, case["output/rays_o"], what="rays_o", **CAMERA_TOLERANCE)
    uv, depth = cameras.project(case["input/points"])
    assert_close(depth, case["output/depth"], what="depth", **CAMERA_TOLERANCE)
    assert_close(uv, case["output/uv"], what="uv", **CAMERA_TOLERANCE)


def colmap_model(case: Case) -> None:
    folder = case.path.with_suffix("")
    formats = sorted(path for path in folder.iterdir() if path.is_dir())
    assert formats, f"{folder}: holds no model"
    for path in formats:
        check_colmap_model(case, read_colmap_model(path), path.name)


def check_colmap_model(case: Case, model: ColmapModel, what: str) -> None:
    expected_cameras = {entry["camera_id"]: entry for entry in case.config["cameras"]}
    assert model.cameras.keys() == expected_cameras.keys()
    for camera_id, camera in model.cameras.items():
        assert camera.model == expected_cameras[camera_id]["model"]
        assert list(camera.params) == pytest.approx(expected_cameras[camera_id]["params"], abs=1e-12)
        assert (camera.width, camera.height) == (case.config["width"], case.config["height"])

    assert sorted(model.images) == case.config["image_ids"]
    images = [model.images[image_id] for image_id in case.config["image_ids"]]
    assert [image.camera_id for image in images] == case["input/camera_ids"].tolist()
    quaternion = torch.stack([torch.from_numpy(image.quaternion) for image in images]).float()
    translation = torch.stack([torch.from_numpy(image.translation) for image in images]).float()
    expected_quaternion = case["output/qvec"]
    assert_close(up_to_sign(quaternion, expected_quaternion), expected_quaternion, atol=1e-6, what=f"{what} qvec")
    assert_close(translation, case["output/tvec"], atol=1e-6, what=f"{what} tvec")

    order = model.point_ids.argsort()
    assert model.point_ids[order].tolist() == case.config["point3D_ids"]
    points = torch.from_numpy(model.points[order])
    assert_close(points.float(), case["input/points_world"], atol=1e-6, what=f"{what} points")
    for row, image in enumerate(images):
        camera = model.cameras[image.camera_id]
        intrinsics, lens, distortion = lens_of(camera)
        pose = pose_from_colmap(torch.from_numpy(image.quaternion), torch.from_numpy(image.translation))
        view = Cameras(
            pose[None],
            torch.tensor([intrinsics], dtype=torch.float64),
            camera.width,
            camera.height,
            torch.tensor([distortion], dtype=torch.float64) if distortion else None,
            lens,
        )
        uv, depth = view.project(points)
        assert_close(uv[0], case["output/uv"][row], atol=1e-3, what=f"{what} uv of {camera.model}")
        local = points @ pose[:3, :3] - pose[:3, 3] @ pose[:3, :3]
        assert_close(local.float(), case["output/points_cam"][row], atol=1e-6, what=f"{what} points_cam")
        assert_close(depth[0].float(), case["output/points_cam"][row, :, 2], atol=1e-6, what=f"{what} depth")
