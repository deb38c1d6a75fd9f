"""Synthetic LiDAR scenes: frames with labels, drives along a street, and voxel sets for benchmarks.

Everything is a pure function of ``(seed, split)``. `make_frame` gives one labelled frame of a fresh street,
`make_drive` a sequence of sweeps along one street, `lidar_voxels` the sparse grids that benchmarks use. The writers of
the KITTI and SemanticKITTI layouts stand in `zoo.data.lidar_writer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.lidar_objects import SceneObject, Split
from zoo.data.lidar_primitives import Array
from zoo.data.lidar_sensor import Camera, LidarSensor, Picture, Pose, Sweep, photograph, scan
from zoo.data.lidar_street import Scene, StreetSpec, build_street, lane_offset, scene_rng


@dataclass(frozen=True)
class LidarFrame:
    """One frame of a drive.

    Attributes:
        sweep: points with their classes and instances.
        objects: the road users of the scene, in the order of the following fields.
        boxes: ``(K, 7)`` in the LiDAR frame.
        num_points: ``(K,)`` returns from each object.
        pose: of the LiDAR in the world.
        time: seconds since the start of the drive.
        picture: what the camera sees, with one entry for each object, or None.
    """

    sweep: Sweep
    objects: tuple[SceneObject, ...]
    boxes: Array
    num_points: NDArray[np.int64]
    pose: Pose
    time: float
    picture: Picture | None


def make_frame(
    seed: int,
    split: Split = "train",
    *,
    sensor: LidarSensor | None = None,
    camera: Camera | None = None,
    spec: StreetSpec | None = None,
) -> LidarFrame:
    """One labelled frame in a fresh street; the vehicle stands near the middle of the right lane.

    Args:
        seed: number of the scene within its split.
        split: decides the random stream and the shape parameters.
        sensor: by default a 64-beam unit.
        camera: no picture is rendered without one.
        spec: densities of the street.
    """
    scene = build_street(seed, split, spec)
    rng = scene_rng(seed, split, 1)
    pose = _pose_on_lane(scene, 0.0, sensor or LidarSensor(), rng.normal(0, 0.2), rng.normal(0, 0.03))
    return _capture(scene, pose, 0.0, sensor or LidarSensor(), camera, rng)


def make_drive(
    seed: int,
    num_frames: int,
    split: Split = "train",
    *,
    step: float = 1.0,
    period: float = 0.1,
    sensor: LidarSensor | None = None,
    spec: StreetSpec | None = None,
) -> Iterator[LidarFrame]:
    """The frames of a drive along one street: ``step`` metres and ``period`` seconds from one to the next.

    Instance numbers stay with their objects over the whole drive.
    """
    if num_frames < 0 or step <= 0 or period <= 0:
        raise ValueError(f"num_frames, step, period: found {num_frames}, {step}, {period}; expected >= 0, > 0, > 0")
    spec = spec or StreetSpec()
    length = num_frames * step
    scene = build_street(seed, split, spec, x_range=(-spec.half_length, length + spec.half_length))
    scene = _clear_lane(scene, length, step / period)
    rng = scene_rng(seed, split, 1)
    used = sensor or LidarSensor()
    for index in range(num_frames):
        pose = _pose_on_lane(scene, index * step, used, 0.2 * np.sin(index * step / 9.0), 0.0)
        yield _capture(scene.at(index * period), pose, index * period, used, None, rng)


def _clear_lane(scene: Scene, length: float, speed: float) -> Scene:
    """Take out what the vehicle would hit: everything in its lane that it meets or overtakes."""
    lane, terrain = lane_offset(scene.terrain), scene.terrain
    duration = length / speed

    def free(item: SceneObject) -> bool:
        if not item.kind:
            return True
        for time in np.linspace(0.0, duration, 2 + int(duration / 0.5)):
            x, y = Scene(terrain, (item,)).at(float(time)).objects[0].position[:2]
            aside = abs(y - float(terrain.centre(np.asarray(x))) - lane)
            if abs(x - speed * time) < 4.0 + item.size[0] / 2 and aside < 1.4 + item.size[1] / 2:
                return False
        return True

    return Scene(terrain, tuple(item for item in scene.objects if free(item)))


def _pose_on_lane(scene: Scene, x: float, sensor: LidarSensor, aside: float, turn: float) -> Pose:
    terrain = scene.terrain
    y = float(terrain.centre(np.asarray(x))) + lane_offset(terrain) + aside
    ground = float(terrain.height(np.asarray(x), np.asarray(y)))
    return Pose(np.array([x, y, ground + sensor.height]), float(np.arctan(terrain.curvature * x) + turn))


def _capture(
    scene: Scene, pose: Pose, time: float, sensor: LidarSensor, camera: Camera | None, rng: np.random.Generator
) -> LidarFrame:
    sweep = scan(scene, pose, sensor, rng)
    picture = photograph(scene, pose, camera, rng) if camera is not None else None
    chosen = [index for index, item in enumerate(scene.objects) if item.kind]
    counts = np.bincount(sweep.instance, minlength=max((item.instance for item in scene.objects), default=0) + 1)
    objects = tuple(scene.objects[index] for index in chosen)
    boxes = np.stack([item.box() for item in objects]) if objects else np.zeros((0, 7))
    return LidarFrame(
        sweep,
        objects,
        pose.boxes_to_local(boxes),
        counts[[item.instance for item in objects]].astype(np.int64),
        pose,
        time,
        picture.select(chosen) if picture is not None else None,
    )


@dataclass(frozen=True)
class LidarVoxels:
    """Occupied voxels of a LiDAR scene.

    Attributes:
        coords: ``(N, 4)`` int32, unique rows (batch 0, z, y, x), in the order in which the sensor met them (unsorted).
        spatial_shape: extent of the grid along (z, y, x).
        batch_size: 1.
    """

    coords: Tensor
    spatial_shape: tuple[int, int, int]
    batch_size: int = 1


TILE_SHAPE = (67, 1504, 1504)
# beams, steps in a turn, edge of a voxel: chosen so that 60k voxels have 9 and 200k voxels 10.3 neighbours in 3^3
_SPARSE = (128, 4600, 0.1)
_DENSE = (280, 7000, 0.05)
_LARGEST_SPARSE, _LARGEST_DENSE = 75_000, 220_000


def lidar_voxels(num_voxels: int = 60_000, seed: int = 0) -> LidarVoxels:
    """Exactly ``num_voxels`` occupied voxels with the statistics of LiDAR scenes.

    Up to 75,000 voxels come from one sweep at 0.1 m in a 67 x 1504 x 1504 grid (about 9 active neighbours in 3^3, the
    voxel itself counted); up to 220,000 from one dense sweep at 0.05 m in a grid of the same shape (about 10.3). More
    come from several sweeps of the first kind, side by side in a larger grid: the density stays that of the 60k case.
    The voxels nearest to the sensor are kept.

    Args:
        num_voxels: number of voxels.
        seed: of the scene.

    Example:
        >>> lidar_voxels(1000).coords.shape
        torch.Size([1000, 4])
    """
    if num_voxels < 0:
        raise ValueError(f"num_voxels: found {num_voxels}, expected at least 0")
    if num_voxels == 0:
        return LidarVoxels(torch.zeros(0, 4, dtype=torch.int32), TILE_SHAPE)
    if num_voxels <= _LARGEST_DENSE:
        kind = _SPARSE if num_voxels <= _LARGEST_SPARSE else _DENSE
        return _as_voxels(_nearest(_sweep_voxels(seed, *kind), num_voxels), TILE_SHAPE)
    tiles = -(-num_voxels // 60_000)
    parts = []
    for index in range(tiles):
        share = num_voxels // tiles + (1 if index < num_voxels % tiles else 0)
        cells = _nearest(_sweep_voxels(seed * 1000 + index, *_SPARSE), share)
        parts.append(cells - np.array([0, *cells[:, 1:].min(axis=0)]))
    pitch = np.max([part[:, 1:].max(axis=0) for part in parts], axis=0) + 2
    across = int(np.ceil(np.sqrt(tiles * pitch[0] / pitch[1])))
    down = -(-tiles // across)
    corners = [np.array([0, *(pitch * divmod(index, across))]) for index in range(tiles)]
    moved = [part + corner for part, corner in zip(parts, corners, strict=True)]
    shape = (TILE_SHAPE[0], int(down * pitch[0]), int(across * pitch[1]))
    return _as_voxels(np.concatenate(moved), shape)


def _as_voxels(cells: NDArray[np.int64], shape: tuple[int, int, int]) -> LidarVoxels:
    coords = torch.zeros(len(cells), 4, dtype=torch.int32)
    coords[:, 1:] = torch.from_numpy(cells.astype(np.int32))
    return LidarVoxels(coords, shape)


def _sweep_voxels(seed: int, beams: int, steps: int, edge: float) -> NDArray[np.int64]:
    """Unique cells (M, 3) as z, y, x of one sweep, in order of first hit."""
    frame = make_frame(seed, "train", sensor=LidarSensor(beams=beams, azimuth_steps=steps))
    depth, rows, columns = TILE_SHAPE
    low = np.array([-columns * edge / 2, -rows * edge / 2, -2.7])
    cells = np.floor((frame.sweep.points[:, :3] - low) / edge).astype(np.int64)
    cells = cells[((cells >= 0) & (cells < [columns, rows, depth])).all(axis=1)]
    keys = (cells[:, 2] * rows + cells[:, 1]) * columns + cells[:, 0]
    first = np.sort(np.unique(keys, return_index=True)[1])
    return cells[first][:, ::-1]


def _nearest(cells: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The ``count`` cells nearest to the middle of the tile, in their order."""
    if len(cells) < count:
        raise ValueError(
            f"num_voxels: this scene has only {len(cells)} voxels, {count} were asked for; use another seed"
        )
    offset = cells[:, 1:] - np.array(TILE_SHAPE[1:]) / 2
    chosen = np.argsort((offset**2).sum(axis=1), kind="stable")[:count]
    return cells[np.sort(chosen)]
