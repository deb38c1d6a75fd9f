"""Camera paths: orbits, spirals, smooth curves through key views, and paths read from files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.cameras import Cameras, look_at, opengl_to_opencv, pose_problem, quaternion_from_rotation
from zoo.data.cameras import rotation_from_quaternion as to_rotation
from zoo.data.formats.json_files import read_json
from zoo.data.scene_frame import nearest_point_to_axes

__all__ = ["interpolate_poses", "orbit", "orbit_about", "read_camera_path", "spiral", "with_poses"]

_LARGEST_SIDE = 1 << 16  # pixels


def with_poses(cameras: Cameras, camera_to_world: Tensor) -> Cameras:
    """Undistorted cameras at new poses with image size and median intrinsics of given ones.

    Args:
        cameras: at least one.
        camera_to_world: ``(N, 4, 4)``, OpenCV axes.
    """
    intrinsics = cameras.intrinsics.median(dim=0).values.expand(len(camera_to_world), 4)
    poses = camera_to_world.to(cameras.camera_to_world)
    return replace(cameras, camera_to_world=poses, intrinsics=intrinsics, distortion=None, model="pinhole")


def orbit(
    centre: Sequence[float],
    radius: float,
    *,
    num_frames: int,
    elevation: float = 30.0,
    up: Sequence[float] = (0.0, 0.0, 1.0),
    start: float = 0.0,
) -> Tensor:
    """Poses on a circle that look at its inside.

    Args:
        centre: the point looked at.
        radius: distance of the cameras from it.
        num_frames: N, evenly spread over one turn; the last frame stands one step before the first.
        elevation: angle above the plane across ``up`` in degrees, short of 90.
        up: the axis.
        start: angle of the first frame in degrees.

    Returns:
        ``(N, 4, 4)`` float32, OpenCV axes.

    Example:
        >>> orbit((0, 0, 0), 2.0, num_frames=4, elevation=0.0)[0, :3, 3].abs().max()
        tensor(2.)
    """
    if not abs(elevation) < 90 or radius <= 0 or num_frames < 1:
        raise ValueError(
            f"elevation={elevation}, radius={radius}, num_frames={num_frames}: expected between -90 and 90, > 0, >= 1"
        )
    axis = torch.nn.functional.normalize(torch.tensor(list(up), dtype=torch.float64), dim=0)
    first, second = _across(axis)
    angle = math.radians(start) + 2 * math.pi * torch.arange(num_frames, dtype=torch.float64) / num_frames
    flat = torch.cos(angle)[:, None] * first + torch.sin(angle)[:, None] * second
    tilt = math.radians(elevation)
    middle = torch.tensor(list(centre), dtype=torch.float64).expand(num_frames, 3)
    return look_at(middle + radius * (math.cos(tilt) * flat + math.sin(tilt) * axis), middle, axis).float()


def _across(axis: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors that make a right-handed frame with an axis."""
    helper = torch.eye(3, dtype=axis.dtype)[int(axis.abs().argmin())]
    first = torch.nn.functional.normalize(helper - torch.dot(helper, axis) * axis, dim=0)
    return first, torch.linalg.cross(axis, first)


def orbit_about(cameras: Cameras, num_frames: int) -> Tensor:
    """The orbit that a set of views suggests: about the point they look at, at their mean distance, height and up.

    Args:
        cameras: the views.
        num_frames: N.

    Returns:
        ``(N, 4, 4)`` float32, OpenCV axes.
    """
    poses = cameras.camera_to_world.double().cpu()
    centre = nearest_point_to_axes(poses)
    axis = torch.nn.functional.normalize(-poses[:, :3, 1].sum(0), dim=0)
    offset = poses[:, :3, 3] - centre
    radius = float(offset.norm(dim=-1).mean())
    sine = float((offset @ axis / offset.norm(dim=-1).clamp_min(1e-9)).mean().clamp(-0.95, 0.95))
    elevation = math.degrees(math.asin(sine))
    return orbit(centre.tolist(), radius, num_frames=num_frames, elevation=elevation, up=axis.tolist())


def spiral(cameras: Cameras, num_frames: int, *, turns: float = 2.0, amplitude: float = 0.3) -> Tensor:
    """A spiral about the mean view, for captures from one side (LLFF's path).

    The camera circles in the plane of the mean view, moves to and fro along its axis, and keeps looking at the point
    that the views look at.

    Args:
        cameras: the views.
        num_frames: N.
        turns: number of circles.
        amplitude: size of the movement as a share of the spread of the views along each axis of the mean view.

    Returns:
        ``(N, 4, 4)`` float32, OpenCV axes.
    """
    poses = cameras.camera_to_world.double().cpu()
    focus = nearest_point_to_axes(poses)
    up = torch.nn.functional.normalize(-poses[:, :3, 1].sum(0), dim=0)
    mean = look_at(poses[:, :3, 3].mean(0), focus, up)
    axes, position = mean[:3, :3], mean[:3, 3]
    spread = ((poses[:, :3, 3] - position) @ axes).abs().quantile(0.9, dim=0)  # (3,) right, down, forward
    phase = 2 * math.pi * turns * torch.arange(num_frames, dtype=torch.float64) / max(num_frames, 1)
    local = torch.stack((torch.cos(phase), torch.sin(phase), torch.sin(phase / 2)), dim=-1) * spread * amplitude
    return look_at(position + local @ axes.T, focus.expand(num_frames, 3), up).float()


def interpolate_poses(camera_to_world: Tensor, num_frames: int, *, closed: bool = False) -> Tensor:
    """A smooth path through key poses: Catmull-Rom curves for positions, spherical interpolation for rotations.

    Args:
        camera_to_world: ``(K, 4, 4)``, K at least 1.
        num_frames: N, the first at the first key; the last at the last key, or one step before the first where closed.
        closed: whether the path returns to the first key.

    Returns:
        ``(N, 4, 4)`` float32.
    """
    keys = len(camera_to_world)
    if keys == 0 or num_frames < 1:
        raise ValueError(
            f"camera_to_world, num_frames: {keys} keys and {num_frames} frames, expected at least 1 of each"
        )
    poses = camera_to_world.double()
    spans = keys if closed else max(keys - 1, 1)
    steps = torch.arange(num_frames, dtype=torch.float64)
    time = steps * spans / (num_frames if closed else max(num_frames - 1, 1))
    span = time.floor().clamp(max=spans - 1).long()
    fraction = (time - span)[:, None]

    def key(offset: int) -> Tensor:
        index = span + offset
        return index % keys if closed else index.clamp(0, keys - 1)

    p0, p1, p2, p3 = (poses[key(offset), :3, 3] for offset in (-1, 0, 1, 2))
    curve = 2 * p1 + (p2 - p0) * fraction + (2 * p0 - 5 * p1 + 4 * p2 - p3) * fraction**2
    curve = 0.5 * (curve + (3 * p1 - p0 - 3 * p2 + p3) * fraction**3)
    quaternions = quaternion_from_rotation(poses[:, :3, :3])
    result = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
    result[:, :3, :3] = to_rotation(_slerp(quaternions[key(0)], quaternions[key(1)], fraction))
    result[:, :3, 3] = curve
    return result.float()


def _slerp(a: Tensor, b: Tensor, fraction: Tensor) -> Tensor:
    cosine = (a * b).sum(-1, keepdim=True)
    b = torch.where(cosine < 0, -b, b)  # the shorter way round
    angle = torch.arccos(cosine.abs().clamp(max=1))
    sine = torch.sin(angle)
    near = sine < 1e-6
    safe = torch.where(near, torch.ones_like(sine), sine)
    weight_a = torch.where(near, 1 - fraction, torch.sin((1 - fraction) * angle) / safe)
    weight_b = torch.where(near, fraction, torch.sin(fraction * angle) / safe)
    return weight_a * a + weight_b * b


def read_camera_path(path: Path | str, default: Cameras) -> Cameras:
    """Cameras of a path file: ``frames`` with ``transform_matrix`` (instant-ngp), or nerfstudio's ``camera_path``.

    Poses are camera-to-world in OpenGL axes, in the world of the file's capture: bring them into a trained scene with
    `zoo.data.scene_frame.apply_similarity` and the data module's ``world_to_scene``.

    Args:
        path: JSON file.
        default: image size and intrinsics where the file states none.

    Raises:
        ValueError: if the file is missing, no JSON, of neither kind, or holds a bad pose; the message names the file.
    """
    path = Path(path)
    content = read_json(path)
    try:
        entries = content["frames"] if "frames" in content else content["camera_path"]
        matrices = [entry.get("transform_matrix", entry.get("camera_to_world")) for entry in entries]
        poses = torch.tensor(matrices, dtype=torch.float64).reshape(-1, 4, 4)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{path}: is no camera path: expected JSON with `frames` of `transform_matrix` or a `camera_path`"
        ) from error
    if len(poses) == 0:
        raise ValueError(f"{path}: the camera path is empty")
    for number, pose in enumerate(poses):
        problem = pose_problem(pose)
        if problem is not None:
            raise ValueError(f"{path}: frame {number}: {problem}")
    cameras = with_poses(default, opengl_to_opencv(poses))
    try:
        return _path_intrinsics(cameras, content, entries)
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path}: image size, focal length or angle of view is no usable number ({error})") from error


def _path_intrinsics(cameras: Cameras, content: dict[str, Any], entries: list[dict[str, Any]]) -> Cameras:
    width = int(content.get("w", content.get("render_width", cameras.width)))
    height = int(content.get("h", content.get("render_height", cameras.height)))
    scale = height / cameras.height
    rows = []
    for entry, row in zip(entries, cameras.intrinsics.tolist(), strict=True):
        focal = (row[0] * scale, row[1] * scale)
        if "fov" in entry:  # nerfstudio: vertical, degrees
            focal = (0.5 * height / math.tan(math.radians(entry["fov"]) / 2),) * 2
        elif "fl_x" in content:
            focal = (float(content["fl_x"]), float(content.get("fl_y", content["fl_x"])))
        elif "camera_angle_x" in content:
            focal = (0.5 * width / math.tan(0.5 * content["camera_angle_x"]),) * 2
        same_size = (width, height) == (cameras.width, cameras.height)
        cx, cy = (row[2], row[3]) if same_size else (width / 2, height / 2)
        rows.append([*focal, float(content.get("cx", cx)), float(content.get("cy", cy))])
    intrinsics = torch.tensor(rows, dtype=torch.float32)
    usable = bool(torch.isfinite(intrinsics).all()) and bool((intrinsics[:, :2] > 0).all())
    if not usable or not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        raise ValueError(f"found {width} x {height} pixels and fx, fy, cx, cy {rows[0]}")
    return replace(cameras, intrinsics=intrinsics, width=width, height=height)
