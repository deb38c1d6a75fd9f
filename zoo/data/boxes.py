"""Seven-number boxes and the way between KITTI's LiDAR and camera frames.

A box is ``(x, y, z, dx, dy, dz, yaw)``: centre, edge lengths along its own axes, and the angle from the x axis to its
heading, counter-clockwise seen from above. LiDAR axes: x forward, y left, z up. KITTI's rectified camera axes: x right,
y down, z forward; its labels hold the middle of the bottom face, ``h w l`` and ``rotation_y`` about the y axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating[Any]]

# the corners in the order of the field: bottom face from (+x, +y) clockwise seen from above, then the top face
_CORNERS = np.array(
    [[1, 1, -1], [1, -1, -1], [-1, -1, -1], [-1, 1, -1], [1, 1, 1], [1, -1, 1], [-1, -1, 1], [-1, 1, 1]],
    dtype=np.float64,
)


def check_boxes(boxes: ArrayLike, name: str = "boxes") -> Array:
    """The boxes as float64 ``(N, 7)``.

    Raises:
        ValueError: another shape, or an edge length below zero.
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 7:
        raise ValueError(f"{name}: found shape {array.shape}, expected (N, 7): x, y, z, dx, dy, dz, yaw")
    if (array[:, 3:6] < 0).any():
        row = int(np.flatnonzero((array[:, 3:6] < 0).any(axis=1))[0])
        raise ValueError(f"{name}: row {row} has edge lengths {array[row, 3:6]}, expected none below 0")
    return array


def box_corners(boxes: ArrayLike) -> Array:
    """Corners ``(N, 8, 3)``: (+,+,-), (+,-,-), (-,-,-), (-,+,-) and the same four at +z, in the box's own axes.

    Example:
        >>> box_corners([[1.0, 2.0, 0.0, 4.0, 2.0, 1.0, 0.0]])[0, 0]
        array([ 3. ,  3. , -0.5])
    """
    array = check_boxes(boxes)
    local = _CORNERS[None] * (array[:, None, 3:6] / 2)
    return _turn(local, array[:, 6]) + array[:, None, :3]


def bev_corners(boxes: ArrayLike) -> Array:
    """Corners ``(N, 4, 2)`` of the footprints, clockwise seen from above."""
    return box_corners(boxes)[:, :4, :2]


def _turn(points: Array, yaw: Array) -> Array:
    """Points (N, M, 3) turned by their box's yaw (N,) about z."""
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x, y = points[..., 0] * cos - points[..., 1] * sin, points[..., 0] * sin + points[..., 1] * cos
    return np.stack([x, y, points[..., 2]], axis=-1)


def points_in_boxes(points: ArrayLike, boxes: ArrayLike) -> NDArray[np.bool_]:
    """Which points ``(P, 3+)`` lie in which boxes ``(N, 7)``; faces included. Returns ``(N, P)``."""
    array = check_boxes(boxes)
    places = np.asarray(points, dtype=np.float64)
    inside = np.zeros((len(array), len(places)), dtype=bool)
    for row, (x, y, z, dx, dy, dz, yaw) in enumerate(array):
        reach = np.hypot(dx, dy) / 2
        near = np.flatnonzero((np.abs(places[:, 0] - x) <= reach) & (np.abs(places[:, 1] - y) <= reach))
        shifted = places[near, :2] - (x, y)
        along = shifted @ (np.cos(yaw), np.sin(yaw))
        across = shifted @ (-np.sin(yaw), np.cos(yaw))
        level = np.abs(places[near, 2] - z) <= dz / 2
        inside[row, near] = level & (np.abs(along) <= dx / 2) & (np.abs(across) <= dy / 2)
    return inside


def bev_overlap(first: ArrayLike, second: ArrayLike) -> NDArray[np.bool_]:
    """Whether footprints share area, by the axes of both rectangles: ``(N, M)``; touching is no overlap."""
    a, b = check_boxes(first, "first"), check_boxes(second, "second")
    corners_a, corners_b = bev_corners(a), bev_corners(b)
    separated = np.zeros((len(a), len(b)), dtype=bool)
    for turned in (0.0, np.pi / 2):
        axes_a = np.stack([np.cos(a[:, 6] + turned), np.sin(a[:, 6] + turned)], axis=1)
        axes_b = np.stack([np.cos(b[:, 6] + turned), np.sin(b[:, 6] + turned)], axis=1)
        own = np.einsum("nkc,nc->nk", corners_a, axes_a)
        other = np.einsum("mkc,nc->nmk", corners_b, axes_a)
        separated |= (other.min(-1) >= own.max(-1)[:, None]) | (other.max(-1) <= own.min(-1)[:, None])
        own = np.einsum("mkc,mc->mk", corners_b, axes_b)
        other = np.einsum("nkc,mc->nmk", corners_a, axes_b)
        separated |= (other.min(-1) >= own.max(-1)[None]) | (other.max(-1) <= own.min(-1)[None])
    return ~separated


def wrap_angle(angle: ArrayLike) -> Array:
    """Angles in [-pi, pi)."""
    return np.mod(np.asarray(angle, dtype=np.float64) + np.pi, 2 * np.pi) - np.pi


@dataclass(frozen=True)
class Calibration:
    """KITTI's calibration of one frame.

    ``rect = R0 Tr (x, y, z, 1)`` takes LiDAR points to the rectified camera frame, and ``(u w, v w, w) = P2 (rect, 1)``
    to pixels of the left colour camera.

    Attributes:
        p2: projection ``(3, 4)``.
        r0_rect: rectifying rotation ``(3, 3)``.
        velo_to_cam: rigid transform ``(3, 4)``.
    """

    p2: Array
    r0_rect: Array
    velo_to_cam: Array

    def __post_init__(self) -> None:
        for name, shape in (("p2", (3, 4)), ("r0_rect", (3, 3)), ("velo_to_cam", (3, 4))):
            value = np.asarray(getattr(self, name), dtype=np.float64)
            if value.shape != shape:
                raise ValueError(f"{name}: found shape {value.shape}, expected {shape}")
            object.__setattr__(self, name, value)

    def _lidar_to_rect_matrix(self) -> Array:
        matrix = np.eye(4)
        matrix[:3] = self.r0_rect @ self.velo_to_cam
        return matrix

    def lidar_to_rect(self, points: ArrayLike) -> Array:
        """LiDAR points ``(N, 3)`` in the rectified camera frame."""
        matrix = self._lidar_to_rect_matrix()
        return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def rect_to_lidar(self, points: ArrayLike) -> Array:
        """Rectified camera points ``(N, 3)`` in the LiDAR frame."""
        matrix = np.linalg.inv(self._lidar_to_rect_matrix())
        return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]

    def rect_to_image(self, points: ArrayLike) -> tuple[Array, Array]:
        """Pixels ``(N, 2)`` (divided by the third camera coordinate) and depths ``(N,)`` of rectified points."""
        places = np.asarray(points, dtype=np.float64)
        image = places @ self.p2[:, :3].T + self.p2[:, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            pixels = image[:, :2] / places[:, 2:3]
        return pixels, image[:, 2] - self.p2[2, 3]

    def lidar_to_image(self, points: ArrayLike) -> tuple[Array, Array]:
        """Pixels ``(N, 2)`` and depths ``(N,)`` of LiDAR points."""
        return self.rect_to_image(self.lidar_to_rect(points))

    def in_view(self, points: ArrayLike, image_shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Which LiDAR points fall on the image of ``(height, width)`` pixels."""
        pixels, depth = self.lidar_to_image(np.asarray(points, dtype=np.float64)[:, :3])
        height, width = image_shape
        with np.errstate(invalid="ignore"):
            u, v = pixels[:, 0], pixels[:, 1]
            return (u >= 0) & (u < width) & (v >= 0) & (v < height) & (depth >= 0)


def camera_to_lidar_boxes(
    location: ArrayLike, dimensions: ArrayLike, rotation_y: ArrayLike, calibration: Calibration
) -> Array:
    """LiDAR boxes ``(N, 7)`` of KITTI labels.

    Args:
        location: middle of the bottom face ``(N, 3)`` in the rectified camera frame.
        dimensions: ``(N, 3)`` as h, w, l.
        rotation_y: ``(N,)``; the LiDAR yaw is ``-(rotation_y + pi / 2)``.
        calibration: of the frame.
    """
    sizes = np.asarray(dimensions, dtype=np.float64).reshape(-1, 3)
    center = calibration.rect_to_lidar(np.asarray(location, dtype=np.float64).reshape(-1, 3))
    center[:, 2] += sizes[:, 0] / 2
    yaw = wrap_angle(-(np.asarray(rotation_y, dtype=np.float64).reshape(-1) + np.pi / 2))
    return np.concatenate([center, sizes[:, [2, 1, 0]], yaw[:, None]], axis=1)


def lidar_to_camera_boxes(boxes: ArrayLike, calibration: Calibration) -> tuple[Array, Array, Array]:
    """The inverse of `camera_to_lidar_boxes`: location, dimensions h, w, l (both ``(N, 3)``), rotation_y ``(N,)``."""
    array = check_boxes(boxes)
    bottom = array[:, :3].copy()
    bottom[:, 2] -= array[:, 5] / 2
    rotation = wrap_angle(-array[:, 6] - np.pi / 2)
    return calibration.lidar_to_rect(bottom), array[:, [5, 4, 3]], rotation


def observation_angle(boxes: ArrayLike) -> Array:
    """KITTI's alpha ``(N,)`` of LiDAR boxes: rotation_y less the bearing, ``-atan2(-y, x) + rotation_y``."""
    array = check_boxes(boxes)
    return wrap_angle(-np.arctan2(-array[:, 1], array[:, 0]) - array[:, 6] - np.pi / 2)


def project_boxes(boxes: ArrayLike, calibration: Calibration, image_shape: tuple[int, int]) -> Array:
    """Image rectangles ``(N, 4)`` (left, top, right, bottom) around the eight projected corners, cut to the image."""
    corners = box_corners(boxes)
    pixels, _ = calibration.lidar_to_image(corners.reshape(-1, 3))
    pixels = pixels.reshape(len(corners), 8, 2)
    height, width = image_shape
    rectangle = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    return np.clip(rectangle, 0.0, np.array([width, height, width, height]) - 1.0)
