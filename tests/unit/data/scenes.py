"""Small scenes on disk for the tests of the readers."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from zoo.data.cameras import look_at, opengl_to_opencv, pose_to_colmap

WIDTH, HEIGHT = 12, 8


def poses(count: int) -> torch.Tensor:
    """Cameras on a ring, float64, OpenCV axes."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / max(count, 1)
    position = torch.stack((3 * angle.cos(), 3 * angle.sin(), torch.full_like(angle, 1.5)), dim=-1)
    return look_at(position, torch.zeros_like(position), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))


def picture(seed: int, channels: int = 3, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_blender(root: Path, counts: tuple[int, int, int] = (3, 2, 2)) -> Path:
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        frames = []
        for i, pose in enumerate(opengl_to_opencv(poses(count))):
            write_picture(root / split / f"r_{i}.png", picture(i, 4))
            frames.append({"file_path": f"./{split}/r_{i}", "rotation": 0.1, "transform_matrix": pose.tolist()})
        write_json(root / f"transforms_{split}.json", {"camera_angle_x": 0.7, "frames": frames})
    return root


def write_ngp(root: Path, count: int = 9, **settings: Any) -> Path:
    frames = []
    for i, pose in enumerate(opengl_to_opencv(poses(count))):
        write_picture(root / "images" / f"{i:02d}.png", picture(i))
        frames.append({"file_path": f"images/{i:02d}.png", "transform_matrix": pose.tolist()})
    content = {"fl_x": 11.0, "fl_y": 10.5, "cx": 6.1, "cy": 3.9, "w": WIDTH, "h": HEIGHT, "aabb_scale": 4}
    write_json(root / "transforms.json", {**content, **settings, "frames": frames})
    return root


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def edit_json(path: Path, **changes: Any) -> dict[str, Any]:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))
    return content


def write_colmap(root: Path, count: int = 9, model: str = "OPENCV", binary: bool = False) -> Path:
    """A model with one camera and three points; image 0 has key points, the others none."""
    params = {"OPENCV": [11.0, 10.5, 6.1, 3.9, 0.02, -0.01, 0.001, 0.0], "FOV": [11.0, 10.5, 6.1, 3.9, 0.4]}[model]
    model_id = {"OPENCV": 4, "FOV": 7}[model]
    quaternions, translations = pose_to_colmap(poses(count))
    for i in range(count):
        write_picture(root / "images" / f"view {i}.png", picture(i))
    points = [(1, 0.1, 0.2, 0.3), (2, -0.4, 0.5, 0.0), (7, 0.3, -0.2, 0.1)]
    folder = root / "sparse" / "0"
    folder.mkdir(parents=True)
    if binary:
        camera = struct.pack("<iiQQ", 3, model_id, WIDTH, HEIGHT) + struct.pack(f"<{len(params)}d", *params)
        (folder / "cameras.bin").write_bytes(struct.pack("<Q", 1) + camera)
        images = struct.pack("<Q", count)
        for i in range(count):
            images += struct.pack("<I7dI", i + 1, *quaternions[i].tolist(), *translations[i].tolist(), 3)
            images += f"view {i}.png".encode() + b"\0"
            images += struct.pack("<Qddq", 1, 2.5, 3.5, -1) if i == 0 else struct.pack("<Q", 0)
        (folder / "images.bin").write_bytes(images)
        body = b"".join(struct.pack("<Q3d3BdQii", *point, 9, 8, 7, 0.5, 1, 1, 0) for point in points)
        (folder / "points3D.bin").write_bytes(struct.pack("<Q", len(points)) + body)
    else:
        numbers = " ".join(map(repr, params))
        (folder / "cameras.txt").write_text(f"# cameras\n3 {model} {WIDTH} {HEIGHT} {numbers}\n")
        lines = ["# images"]
        for i in range(count):
            values = " ".join(map(repr, [*quaternions[i].tolist(), *translations[i].tolist()]))
            lines += [f"{i + 1} {values} 3 view {i}.png", "2.5 3.5 -1" if i == 0 else ""]
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        (folder / "points3D.txt").write_text("".join(f"{i} {x} {y} {z} 9 8 7 0.5 1 0\n" for i, x, y, z in points))
    return root
