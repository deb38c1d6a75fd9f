"""A spinning multi-beam LiDAR and a colour camera that look at a :class:`~zoo.data.lidar_street.Scene`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.data.lidar_primitives import Array, Material, Primitive, yaw_rotation
from zoo.data.lidar_rays import GROUND, NOTHING, Hits, RayFan, cast, hit_normals
from zoo.data.lidar_street import GROUND_MATERIALS, Scene

OUTLIER = 1  # SemanticKITTI id of a return from nothing


@dataclass(frozen=True)
class LidarSensor:
    """A spinning sensor. The defaults are those of a 64-beam unit with 0.18 degree steps: about 120k returns a turn.

    Attributes:
        beams: number of beams; the upper half of them covers the upper ``upper_share`` of the field of view.
        fov_up: elevation of the highest beam in degrees.
        fov_down: elevation of the lowest beam in degrees.
        upper_share: share of the field of view that the upper half of the beams covers.
        azimuth_steps: firings in a turn.
        height: of the sensor above the ground in metres.
        max_range: in metres.
        range_noise: standard deviation of the range in metres.
        drop_rate: share of returns that are lost at random; weak returns are lost more often.
        outlier_rate: share of rays that return from a random place.
    """

    beams: int = 64
    fov_up: float = 2.0
    fov_down: float = -24.8
    upper_share: float = 0.39
    azimuth_steps: int = 2000
    height: float = 1.73
    max_range: float = 110.0
    range_noise: float = 0.015
    drop_rate: float = 0.04
    outlier_rate: float = 0.0005

    def __post_init__(self) -> None:
        if self.beams < 2 or self.azimuth_steps < 8:
            raise ValueError(
                f"beams, azimuth_steps: found {self.beams}, {self.azimuth_steps}, expected at least 2 and 8"
            )
        if not -89.0 < self.fov_down < self.fov_up < 89.0:
            raise ValueError(
                f"fov_down, fov_up: found {self.fov_down}, {self.fov_up}, expected -89 < fov_down < fov_up < 89"
            )
        if not 0.0 <= self.drop_rate < 1.0:
            raise ValueError(f"drop_rate: found {self.drop_rate}, expected a share in [0, 1)")

    def elevations(self) -> Array:
        """Elevation angles (beams,) in radians, highest first."""
        upper = self.beams // 2
        middle = self.fov_up - self.upper_share * (self.fov_up - self.fov_down)
        high = np.linspace(self.fov_up, middle, upper, endpoint=False)
        return np.deg2rad(np.concatenate([high, np.linspace(middle, self.fov_down, self.beams - upper)]))

    def fan(self, origin: Array, heading: float, phase: float) -> RayFan:
        """The rays of one turn that starts at ``heading + phase``."""
        azimuths = heading + phase + np.arange(self.azimuth_steps) * (2 * np.pi / self.azimuth_steps)
        slopes = np.tile(np.tan(self.elevations())[:, None], (1, self.azimuth_steps))
        return RayFan(origin, azimuths, slopes, closed=True)


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera with KITTI's left colour camera's numbers, in pixels; it looks along the vehicle's x axis.

    ``stride`` casts one ray for every ``stride`` pixels in both directions.
    """

    width: int = 1242
    height: int = 375
    focal: float = 721.5377
    center_u: float = 609.5593
    center_v: float = 172.854
    forward: float = 0.27  # of the camera in front of the LiDAR, metres
    below: float = 0.08
    stride: int = 2

    def matrix(self) -> Array:
        """P2 (3, 4)."""
        return np.array([[self.focal, 0, self.center_u, 0], [0, self.focal, self.center_v, 0], [0, 0, 1, 0]])

    def velo_to_cam(self) -> Array:
        """Tr (3, 4): LiDAR (forward, left, up) to camera (right, down, forward)."""
        return np.array([[0, -1, 0, 0], [0, 0, -1, -self.below], [1, 0, 0, -self.forward]], dtype=np.float64)

    def pixel_grid(self) -> tuple[Array, Array]:
        """Centres of the ray cells: u (C,) from right to left (azimuth rises to the left), v (R,) downwards."""
        u = np.arange(self.width // self.stride) * self.stride + (self.stride - 1) / 2
        v = np.arange(self.height // self.stride) * self.stride + (self.stride - 1) / 2
        return u[::-1], v

    def fan(self, origin: Array, heading: float) -> RayFan:
        """The rays of the picture."""
        u, v = self.pixel_grid()
        right, down = (u - self.center_u) / self.focal, (v - self.center_v) / self.focal
        slopes = -down[:, None] / np.sqrt(1.0 + right**2)
        return RayFan(origin, heading - np.arctan(right), slopes, closed=False)


@dataclass(frozen=True)
class Pose:
    """Where the LiDAR stands in the world: position (3,) and heading (radians); it does not pitch or roll."""

    position: Array
    heading: float

    def to_local(self, points: Array) -> Array:
        """World points (N, 3) in the LiDAR frame."""
        return (points - self.position) @ yaw_rotation(self.heading)

    def boxes_to_local(self, boxes: Array) -> Array:
        """World boxes (N, 7) in the LiDAR frame."""
        local = np.array(boxes, dtype=np.float64).reshape(-1, 7)
        local[:, :3] = self.to_local(local[:, :3])
        local[:, 6] = np.mod(local[:, 6] - self.heading + np.pi, 2 * np.pi) - np.pi
        return local

    def matrix(self) -> Array:
        """LiDAR-to-world transform (4, 4)."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = yaw_rotation(self.heading), self.position
        return matrix


@dataclass(frozen=True)
class Sweep:
    """One turn of the sensor, points in firing order (beam by beam).

    Attributes:
        points: ``(N, 4)`` x, y, z in the LiDAR frame and intensity in 0..1.
        semantic: ``(N,)`` raw SemanticKITTI ids.
        instance: ``(N,)`` object numbers, 0 for stuff.
        ring: ``(N,)`` beam numbers, 0 is the highest.
    """

    points: NDArray[np.float32]
    semantic: NDArray[np.uint16]
    instance: NDArray[np.uint16]
    ring: NDArray[np.uint8]


def scan(scene: Scene, pose: Pose, sensor: LidarSensor, rng: np.random.Generator) -> Sweep:
    """One turn of the sensor over a scene.

    A ray comes back with the probability ``return_rate (1 - drop_rate)``, less for weak signals; its intensity is
    ``reflectivity (0.25 + 0.75 cos a)`` with the angle of incidence ``a``, faded a little with range, plus noise.
    """
    objects = scene.solids()
    solids = [solid for group in objects for solid in group]
    fan = sensor.fan(pose.position, pose.heading, float(rng.uniform(0, 2 * np.pi / sensor.azimuth_steps)))
    hits = cast(fan, objects, scene.terrain, rng, sensor.max_range)
    directions = fan.directions()
    ring, column = np.nonzero(hits.solid != NOTHING)
    ray, distance, found = directions[ring, column], hits.distance[ring, column], hits.solid[ring, column]
    places = pose.position + ray * distance[:, None]
    kept = Hits(distance[None], found[None], hits.seen, hits.whole, hits.bounds)
    normals = hit_normals(kept, solids, scene.terrain, places[None])[0]
    semantic, instance = _labels(scene, solids, found, places)
    reflectivity, return_rate = _optics(solids, found, semantic)
    cosine = np.abs((ray * normals).sum(axis=1))
    signal = reflectivity * (0.25 + 0.75 * cosine)
    intensity = np.clip(signal * np.exp(-distance / 250.0) + rng.normal(0.0, 0.03, len(signal)), 0.0, 0.99)
    weak = np.exp(-12.0 * signal * (1.0 - 0.7 * distance / sensor.max_range)) * np.clip(distance / 15.0, 0.0, 1.0)
    returned = rng.random(len(signal)) < return_rate * (1.0 - sensor.drop_rate) * (1.0 - 0.5 * weak)
    outlier = rng.random(len(signal)) < sensor.outlier_rate
    distance = np.where(outlier, distance * rng.uniform(0.1, 0.95, len(distance)), distance)
    distance = np.maximum(distance + rng.normal(0.0, sensor.range_noise, len(distance)), 0.5)
    semantic[outlier], instance[outlier] = OUTLIER, 0
    local = pose.to_local(pose.position + ray * distance[:, None])
    points = np.concatenate([local, np.round(intensity, 2)[:, None]], axis=1)[returned]
    return Sweep(
        points.astype(np.float32),
        semantic[returned].astype(np.uint16),
        instance[returned].astype(np.uint16),
        ring[returned].astype(np.uint8),
    )


def _labels(
    scene: Scene, solids: list[Primitive], found: NDArray[np.int64], places: Array
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Semantic and instance ids of hits; only movable things are instances."""
    semantics = np.array([solid.semantic for solid in solids] + [0], dtype=np.int64)
    owners = [item.instance if item.kind or item.semantic < 40 else 0 for item in scene.objects for _ in item.solids]
    semantic = semantics[np.maximum(found, GROUND)]
    instance = np.array([*owners, 0], dtype=np.int64)[np.maximum(found, GROUND)]
    ground = found == GROUND
    semantic[ground] = scene.terrain.surface(places[ground, 0], places[ground, 1])
    return semantic, instance


def _optics(solids: list[Primitive], found: NDArray[np.int64], semantic: NDArray[np.int64]) -> tuple[Array, Array]:
    """Reflectivity and return rate of hits."""
    table = np.array([[s.material.reflectivity, s.material.return_rate] for s in solids] + [[0.0, 1.0]])
    reflectivity, return_rate = table[found].T.copy()
    for kind, material in GROUND_MATERIALS.items():
        reflectivity[(found == GROUND) & (semantic == kind)] = material.reflectivity
    return reflectivity, return_rate


@dataclass(frozen=True)
class Picture:
    """What the camera sees.

    Attributes:
        image: ``(height, width, 3)`` uint8.
        boxes: ``(objects, 4)`` left, top, right, bottom in pixels around the part of each whole object that falls on
            the image; NaN where none does.
        visible: ``(objects,)`` share of an object's rays inside the image that meet it first.
        seen: ``(objects,)`` number of pixels in which the object is seen.
        truncated: ``(objects,)`` share of an object's own rays that leave the image.
    """

    image: NDArray[np.uint8]
    boxes: Array
    visible: Array
    seen: NDArray[np.int64]
    truncated: Array

    def select(self, rows: list[int]) -> Picture:
        """The picture with the measures of some objects only."""
        return Picture(self.image, self.boxes[rows], self.visible[rows], self.seen[rows], self.truncated[rows])


def photograph(scene: Scene, pose: Pose, camera: Camera, rng: np.random.Generator, max_range: float = 150.0) -> Picture:
    """Render the scene and measure each object's visibility by casting the camera's rays."""
    objects = scene.solids()
    solids = [solid for group in objects for solid in group]
    origin = pose.position + yaw_rotation(pose.heading) @ np.array([camera.forward, 0.0, -camera.below])
    fan = camera.fan(origin, pose.heading)
    hits = cast(fan, objects, scene.terrain, rng, max_range)
    image = _render(scene, solids, fan, hits)
    half = (camera.stride - 1) / 2
    u, v = camera.pixel_grid()
    first, last, left, right = hits.bounds.T
    nothing = hits.whole == 0
    boxes = np.stack([u[right] - half, v[first] - half, u[left] + half, v[last] + half], axis=1)
    boxes[nothing] = np.nan
    visible = np.where(nothing, 0.0, hits.seen / np.maximum(hits.whole, 1))
    truncated = np.array(
        [1.0 if gone else _truncation(group, fan, rng) for group, gone in zip(objects, nothing, strict=True)]
    )
    return Picture(_enlarge(image, camera), boxes, visible, hits.seen * camera.stride**2, truncated)


def _truncation(solids: list[Primitive], picture: RayFan, rng: np.random.Generator, cells: int = 40) -> float:
    """Share of the rays from the camera to an object, spread evenly over the angles it spans, that miss the image."""
    corners = np.concatenate([solid.corners() for solid in solids]) - picture.origin
    middle = np.arctan2(*corners.mean(axis=0)[1::-1])
    spread = np.angle(np.exp(1j * (np.arctan2(corners[:, 1], corners[:, 0]) - middle)))
    if spread.max() - spread.min() >= np.pi:
        return 1.0
    slopes = corners[:, 2] / np.maximum(np.hypot(corners[:, 0], corners[:, 1]), 0.1)
    azimuths = middle + np.linspace(spread.min(), spread.max(), cells)
    rows = np.repeat(np.linspace(slopes.max(), slopes.min(), cells)[:, None], cells, axis=1)
    fan = RayFan(picture.origin, azimuths, rows, closed=False)
    met = np.isfinite(cast(fan, [solids], None, rng).distance)
    ahead = np.angle(np.exp(1j * (azimuths - picture.azimuths[len(picture.azimuths) // 2])))
    place = picture.azimuths[len(picture.azimuths) // 2] + ahead
    column = np.clip(np.searchsorted(picture.azimuths, place), 0, len(picture.azimuths) - 1)
    inside = (place >= picture.azimuths[0]) & (place <= picture.azimuths[-1])
    inside_rows = (rows <= picture.slopes[0, column]) & (rows >= picture.slopes[-1, column])
    total = np.count_nonzero(met)
    return 1.0 - np.count_nonzero(met & inside & inside_rows) / total if total else 0.0


def _render(scene: Scene, solids: list[Primitive], fan: RayFan, hits: Hits) -> NDArray[np.uint8]:
    """Lambert shading under one sun, haze with distance, sky above; rows x columns x 3, left to right."""
    directions = fan.directions()
    distance = np.where(np.isfinite(hits.distance), hits.distance, 0.0)
    places = fan.origin + directions * distance[..., None]
    normals = hit_normals(hits, solids, scene.terrain, places)
    colors = np.array([solid.material.color for solid in solids] + [(0.62, 0.74, 0.88), (0.0, 0.0, 0.0)])
    found = np.where(hits.solid == NOTHING, len(solids), hits.solid)
    color = colors[found]
    ground = hits.solid == GROUND
    kinds = scene.terrain.surface(places[..., 0][ground], places[..., 1][ground])
    color[ground] = _ground_colors(GROUND_MATERIALS, kinds)
    sun = np.array([0.4, 0.5, 0.77])
    light = 0.45 + 0.55 * np.clip(normals @ (sun / np.linalg.norm(sun)), 0.0, 1.0)
    light[hits.solid == NOTHING] = 1.0
    haze = 1.0 - np.exp(-distance / 180.0)
    shaded = color * light[..., None] * (1 - haze[..., None]) + np.array([0.62, 0.74, 0.88]) * haze[..., None]
    return (np.clip(shaded[:, ::-1], 0.0, 1.0) * 255).astype(np.uint8)


def _ground_colors(materials: dict[int, Material], kinds: NDArray[np.int64]) -> Array:
    table = np.zeros((max(materials) + 1, 3))
    for kind, material in materials.items():
        table[kind] = material.color
    return table[kinds]


def _enlarge(image: NDArray[np.uint8], camera: Camera) -> NDArray[np.uint8]:
    """Repeat every ray cell ``stride`` times and fill the last pixels with the edge."""
    large = image.repeat(camera.stride, axis=0).repeat(camera.stride, axis=1)
    rest = ((0, camera.height - large.shape[0]), (0, camera.width - large.shape[1]), (0, 0))
    return np.pad(large, rest, mode="edge")
