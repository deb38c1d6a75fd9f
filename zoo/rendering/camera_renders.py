"""Pictures of a scene at many cameras, as files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.scene_frame import apply_similarity
from zoo.metrics.image import psnr
from zoo.rendering.field_renderer import RenderedImage
from zoo.rendering.images import color_depth, write_film, write_png
from zoo.rendering.trajectories import read_camera_path

__all__ = ["cameras_of_path", "render_cameras", "resize_cameras"]

log = logging.getLogger(__name__)


def resize_cameras(cameras: Cameras, scale: float) -> Cameras:
    """The cameras of pictures ``scale`` times as large; sizes are rounded to whole pixels.

    Raises:
        ValueError: Nothing would be left.
    """
    width, height = round(cameras.width * scale), round(cameras.height * scale)
    if min(width, height) < 1:
        raise ValueError(f"scale: found {scale}, which leaves {width} x {height} pixels")
    factors = cameras.intrinsics.new_tensor([width / cameras.width, height / cameras.height]).repeat(2)
    return replace(cameras, intrinsics=cameras.intrinsics * factors, width=width, height=height)


def cameras_of_path(path: Path | str, views: Cameras, world_to_scene: Tensor) -> Cameras:
    """The cameras of a path file, brought from the world of the capture into the field's scene.

    Args:
        path: JSON, see `zoo.rendering.trajectories.read_camera_path`.
        views: Give picture size and intrinsics where the file has none.
        world_to_scene: Similarity ``(4, 4)``.
    """
    cameras = read_camera_path(path, views)
    poses = apply_similarity(world_to_scene.double(), cameras.camera_to_world.double())
    return replace(cameras, camera_to_world=poses.to(cameras.camera_to_world))


def render_cameras(
    render: Callable[[Cameras], RenderedImage],
    cameras: Cameras,
    folder: Path,
    *,
    truth: Sequence[Tensor] | None = None,
    pictures: bool = True,
    depth: bool = True,
    film: str | None = None,
    fps: float = 24.0,
) -> list[float]:
    """Render every camera into ``folder``: ``000_rgb.png``, ``000_depth.png``, and ``film.gif`` or ``film.mp4``.

    Args:
        render: What one camera sees.
        cameras: The cameras.
        folder: Where files go.
        truth: Photographs ``(H, W, 3)`` to compare with.
        pictures: Whether to write pictures.
        depth: Whether to write false-colour depth.
        film: ``gif``, ``mp4`` or None.
        fps: Pictures of the film for each second.

    Returns:
        The PSNR of each view against the photographs ``truth`` ``(H, W, 3)``; empty without them.
    """
    frames, scores = [], []
    for index in range(len(cameras)):
        seen = render(cameras[[index]])
        if pictures:
            write_png(folder / f"{index:03d}_rgb.png", seen.rgb)
        if depth:
            write_png(folder / f"{index:03d}_depth.png", color_depth(seen.depth, seen.opacity))
        if film is not None:
            frames.append(seen.rgb)
        if truth is not None:
            scores.append(float(psnr(seen.rgb, truth[index])))
        log.info("view %d/%d%s", index + 1, len(cameras), f": {scores[-1]:.2f} dB" if scores else "")
    if film is not None and frames:
        write_film(folder / f"film.{film}", frames, fps=fps)
    return scores
