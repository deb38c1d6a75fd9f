"""Pictures of detections: from above, in perspective, and over the photograph.

Ground truth is green, detections are orange; the heading is a line from the middle of a box through its front. Lines
and points are drawn at twice the size and averaged down, so that they are smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from zoo.data.boxes import box_corners
from zoo.data.detection_frames import CameraView
from zoo.data.image_files import read_image

__all__ = ["BoxSet", "bev_picture", "perspective_picture", "photo_picture"]

TRUTH, FOUND = (60, 200, 90), (255, 140, 20)
_BACKGROUND = (17, 20, 28)
_SCALE = 2  # of drawing over result
# bottom face, top face, uprights; the corners are those of box_corners
_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]

Floats = NDArray[np.floating[Any]]
Projection = Callable[[Floats], tuple[Floats, Floats]]  # places (N, 3) to pixels (N, 2) and depths (N,)


@dataclass(frozen=True)
class BoxSet:
    """Boxes of one colour.

    Attributes:
        boxes: ``(N, 7)`` or more columns.
        color: red, green, blue in 0..255.
        texts: written beside each box; empty: nothing.
    """

    boxes: Floats
    color: tuple[int, int, int]
    texts: Sequence[str] = field(default=())

    @staticmethod
    def truth(boxes: ArrayLike, texts: Sequence[str] = ()) -> BoxSet:
        """Labelled boxes."""
        return BoxSet(np.asarray(boxes, dtype=np.float64)[:, :7], TRUTH, texts)

    @staticmethod
    def found(boxes: ArrayLike, texts: Sequence[str] = ()) -> BoxSet:
        """Detections."""
        return BoxSet(np.asarray(boxes, dtype=np.float64)[:, :7], FOUND, texts)


def bev_picture(
    points: ArrayLike, sets: Sequence[BoxSet], *, view_range: Sequence[float], width: int = 900
) -> NDArray[np.uint8]:
    """The scene from above: x to the right, y upwards, points coloured by height.

    Args:
        points: ``(P, 3+)``.
        sets: boxes, later ones on top.
        view_range: xmin, ymin, xmax, ymax in metres.
        width: of the picture in pixels.

    Returns:
        ``(H, W, 3)``.
    """
    x0, y0, x1, y1 = view_range
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"view_range: found {list(view_range)}, expected xmin < xmax and ymin < ymax")
    scale = width / (x1 - x0)
    canvas = _Canvas(width, max(1, round((y1 - y0) * scale)))

    def project(places: Floats) -> tuple[Floats, Floats]:
        pixels = np.stack([(places[:, 0] - x0) * scale, (y1 - places[:, 1]) * scale], axis=1)
        return pixels, np.ones(len(places))

    _draw_rings(canvas, project, max(abs(x0), abs(x1), abs(y0), abs(y1)))
    places = np.asarray(points, dtype=np.float64)[:, :3]
    canvas.points(project(places)[0], _height_colors(places[:, 2]), radius=1)
    for boxes in sets:
        canvas.boxes(boxes, project, footprint=True)
    return canvas.finish()


def perspective_picture(
    points: ArrayLike,
    sets: Sequence[BoxSet],
    *,
    size: tuple[int, int] = (900, 480),
    eye: Sequence[float] = (-14.0, 0.0, 11.0),
    target: Sequence[float] = (20.0, 0.0, -2.0),
    focal: float = 0.85,
) -> NDArray[np.uint8]:
    """The scene as seen from behind and above the sensor.

    Args:
        points: ``(P, 3+)``.
        sets: boxes, later ones on top.
        size: (width, height) in pixels.
        eye: where the viewer stands, metres.
        target: what is in the middle of the picture.
        focal: length as a share of the width.
    """
    width, height = size
    canvas = _Canvas(width, height)
    position = np.asarray(eye, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - position
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])  # right, down, forward

    def project(places: Floats) -> tuple[Floats, Floats]:
        seen = (places - position) @ axes.T
        depth = seen[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = seen[:, :2] / depth[:, None] * focal * width + (width / 2, height / 2)
        return pixels, depth

    places = np.asarray(points, dtype=np.float64)[:, :3]
    pixels, depth = project(places)
    ahead = depth > 0.5
    order = np.flatnonzero(ahead)[np.argsort(-depth[ahead], kind="stable")]
    canvas.points(pixels[order], _height_colors(places[order, 2]), radius=1)
    for boxes in sets:
        canvas.boxes(boxes, project)
    return canvas.finish()


def photo_picture(
    view: CameraView, sets: Sequence[BoxSet], points: ArrayLike | None = None, max_depth: float = 60.0
) -> NDArray[np.uint8]:
    """The photograph with boxes, and with the points coloured by distance if there are any.

    Raises:
        SampleError: the photograph cannot be read.
    """
    photo = read_image(view.path)[..., :3]
    canvas = _Canvas(photo.shape[1], photo.shape[0], photo)
    project = view.calibration.lidar_to_image
    if points is not None:
        places = np.asarray(points, dtype=np.float64)[:, :3]
        pixels, depth = project(places)
        ahead = depth > 0.5
        canvas.points(pixels[ahead], _ramp(1.0 - depth[ahead] / max_depth), radius=1)
    for boxes in sets:
        canvas.boxes(boxes, project)
    return canvas.finish()


class _Canvas:
    """A picture at twice its size."""

    def __init__(self, width: int, height: int, photo: NDArray[np.uint8] | None = None) -> None:
        self.size = (width, height)
        large = (width * _SCALE, height * _SCALE)
        self.image = Image.new("RGB", large, _BACKGROUND) if photo is None else Image.fromarray(photo).resize(large)

    def points(self, pixels: Floats, colors: NDArray[np.uint8], radius: int) -> None:
        """Small squares, later ones on top."""
        pixels, finite = pixels * _SCALE, np.isfinite(pixels).all(axis=1)
        inside = finite & (np.abs(np.nan_to_num(pixels)) < 1e6).all(axis=1)
        cells, colors = pixels[inside].astype(np.int64), colors[inside]
        content = np.array(self.image)
        height, width = content.shape[:2]
        for row in range(-radius, radius):
            for column in range(-radius, radius):
                u, v = cells[:, 0] + column, cells[:, 1] + row
                shown = (u >= 0) & (u < width) & (v >= 0) & (v < height)
                content[v[shown], u[shown]] = colors[shown]
        self.image = Image.fromarray(content)

    def boxes(self, boxes: BoxSet, project: Projection, footprint: bool = False) -> None:
        """Edges, headings and texts; from above only the footprint."""
        draw = ImageDraw.Draw(self.image)
        corners = box_corners(boxes.boxes)
        edges = _EDGES[:4] if footprint else _EDGES
        for row, box in enumerate(corners):
            front = box[[0, 1]].mean(axis=0)
            heading = np.stack([box[:4].mean(axis=0), front + 0.4 * (front - box[:4].mean(axis=0))])
            for start, end in [(box[a], box[b]) for a, b in edges] + [(heading[0], heading[1])]:
                self._segment(draw, start, end, project, boxes.color)
            if boxes.texts and boxes.texts[row]:
                self._text(draw, box[4:].mean(axis=0), boxes.texts[row], project, boxes.color)

    def _segment(
        self,
        draw: ImageDraw.ImageDraw,
        start: Floats,
        end: Floats,
        project: Projection,
        color: tuple[int, int, int],
    ) -> None:
        """A line in pieces: what lies behind the viewer is left out, and pieces that are far off the picture."""
        share = np.linspace(0.0, 1.0, 9)[:, None]
        pixels, depth = project(start + share * (end - start))
        pixels = pixels * _SCALE
        for piece in range(len(share) - 1):
            ends = pixels[piece : piece + 2]
            if (depth[piece : piece + 2] > 0.3).all() and (np.abs(ends) < 4 * max(self.image.size)).all():
                draw.line([*map(tuple, ends.tolist())], fill=color, width=2 * _SCALE - 1)

    def _text(
        self,
        draw: ImageDraw.ImageDraw,
        place: Floats,
        text: str,
        project: Projection,
        color: tuple[int, int, int],
    ) -> None:
        pixel, depth = project(place[None])
        if depth[0] > 0.3 and np.isfinite(pixel).all():
            u, v = (pixel[0] * _SCALE).tolist()
            font = ImageFont.load_default(13 * _SCALE)
            draw.text((u, v - 4 * _SCALE), text, fill=color, font=font, anchor="mb", stroke_width=2, stroke_fill=0)

    def finish(self) -> NDArray[np.uint8]:
        """The picture in its size."""
        return np.asarray(self.image.resize(self.size, Image.Resampling.BOX))


def _draw_rings(canvas: _Canvas, project: Projection, reach: float) -> None:
    """Circles around the sensor, every 20 metres."""
    draw = ImageDraw.Draw(canvas.image)
    for radius in np.arange(20.0, 1.5 * reach, 20.0):
        angle = np.linspace(0.0, 2 * np.pi, 181)
        places = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros_like(angle)], axis=1)
        draw.line([*map(tuple, (project(places)[0] * _SCALE).tolist())], fill=(48, 54, 68), width=_SCALE)


def _height_colors(height: Floats, low: float = -2.2, high: float = 1.2) -> NDArray[np.uint8]:
    return _ramp((height - low) / (high - low))


def _ramp(share: Floats) -> NDArray[np.uint8]:
    """From blue over cyan and white to red: ``(N, 3)``."""
    stops = np.array([(60, 90, 190), (60, 170, 215), (215, 225, 230), (240, 120, 110)], dtype=np.float64)
    place = np.clip(share, 0.0, 1.0) * (len(stops) - 1)
    colors = [np.interp(place, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
    return np.stack(colors, axis=1).astype(np.uint8)
