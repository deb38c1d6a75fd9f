"""What the Blender and instant-ngp layouts share: JSON files with a list of frames and OpenGL poses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.cameras import opengl_to_opencv
from zoo.data.formats.json_files import read_json
from zoo.data.image_files import image_size
from zoo.data.posed_images import View

_LARGEST = 1e30  # what is beyond it is no camera, and its square no number
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_transforms(path: Path) -> dict[str, Any]:
    """The content of a ``transforms*.json``.

    Raises:
        SampleError: if the file is missing, no JSON, or lacks the list ``frames``.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise SampleError(path, "expected a JSON object with a list `frames` (instant-ngp or Blender layout)")
    return content


def read_pose(frame: dict[str, Any], path: Path, name: str) -> Tensor:
    """``transform_matrix`` of a frame as OpenCV camera-to-world ``(4, 4)`` float64, not yet checked for its values.

    Raises:
        SampleError: if it is missing or no 4 x 4 (or 3 x 4) matrix of numbers.
    """
    rows = frame.get("transform_matrix")
    try:
        pose = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        pose = torch.empty(0)
    if tuple(pose.shape) == (3, 4):
        pose = torch.cat((pose, torch.tensor([[0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)))
    if tuple(pose.shape) != (4, 4):
        raise SampleError(path, f"frame {name}: transform_matrix is not a 4 x 4 matrix of numbers")
    return opengl_to_opencv(pose)


def read_number(settings: dict[str, Any], key: str, path: Path) -> float | None:
    """A finite number of a JSON object, None where the key is absent.

    Raises:
        SampleError: if the value is anything else.
    """
    value = settings.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise SampleError(path, f"{key} is {value!r:.60}, expected a finite number")
    return float(value)


def _positive(settings: dict[str, Any], key: str, path: Path, most: float = _LARGEST) -> float | None:
    value = read_number(settings, key, path)
    if value is not None and not 0 < value < most:
        raise SampleError(path, f"{key} is {value:g}, expected a number above 0 and below {most:.4g}")
    return value


def _read_lens(settings: dict[str, Any], path: Path) -> tuple[str, tuple[float, ...]]:
    values = {key: read_number(settings, key, path) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2")}
    if settings.get("is_fisheye") or settings.get("camera_model") == "OPENCV_FISHEYE":  # nerfstudio writes the latter
        return "opencv_fisheye", (values["k1"], values["k2"], values["k3"], values["k4"])
    if values["k4"]:
        raise SampleError(path, f"k4 = {values['k4']} without is_fisheye: no lens model with this parameter is known")
    polynomial = (values["k1"], values["k2"], values["p1"], values["p2"])
    if values["k3"]:
        return "full_opencv", (*polynomial, values["k3"], 0.0, 0.0, 0.0)
    return ("opencv", polynomial) if any(polynomial) else ("pinhole", ())


def read_view(frame: dict[str, Any], content: dict[str, Any], path: Path, image: Path, name: str) -> View:
    """One frame with its intrinsics; keys of the frame win over those of the file, focal lengths over angles.

    Raises:
        SampleError: if the frame lacks a pose or focal length, or a value is no number, or the picture's size is needed
            and cannot be read.
    """
    settings = {**{key: value for key, value in content.items() if key != "frames"}, **frame}
    pose = read_pose(frame, path, name)
    width, height = _positive(settings, "w", path), _positive(settings, "h", path)
    if width is None or height is None:
        width, height = map(float, image_size(image))
    angle_x, angle_y = (_positive(settings, f"camera_angle_{axis}", path, math.pi) for axis in "xy")
    fx, fy = _positive(settings, "fl_x", path), _positive(settings, "fl_y", path)
    if fx is None and angle_x is not None:
        fx = 0.5 * width / math.tan(0.5 * angle_x)
    if fy is None and angle_y is not None and settings.get("fl_x") is None:
        fy = 0.5 * height / math.tan(0.5 * angle_y)
    fx = fx if fx is not None else fy
    if fx is None:
        raise SampleError(path, f"frame {name}: neither fl_x nor camera_angle_x is given")
    cx, cy = read_number(settings, "cx", path), read_number(settings, "cy", path)
    model, distortion = _read_lens(settings, path)
    return View(
        path=image,
        name=name,
        source=path,
        camera_to_world=pose,
        intrinsics=(
            fx,
            fy if fy is not None else fx,
            cx if cx is not None else width / 2,
            cy if cy is not None else height / 2,
        ),
        width=width,
        height=height,
        model=model,
        distortion=distortion,
    )
