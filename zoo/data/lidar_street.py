"""A random street: uneven ground with road, pavements and verges, houses, plants, posts and road users.

The street runs along the world's x axis on a gentle curve; traffic keeps to the right. Road users stand on the ground
and never overlap; scenes of different splits share no shape parameter and no seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from zoo.data import lidar_objects as things
from zoo.data.boxes import bev_overlap
from zoo.data.lidar_objects import SPLITS, SceneObject, ShapeDraw, Split
from zoo.data.lidar_primitives import Array, Material, Primitive

ROAD, PARKING, SIDEWALK, OTHER_GROUND, LANE_MARKING, TERRAIN = 40, 44, 48, 49, 60, 72

GROUND_MATERIALS = {
    ROAD: Material(0.22, (0.33, 0.33, 0.35)),
    PARKING: Material(0.27, (0.4, 0.39, 0.4)),
    SIDEWALK: Material(0.36, (0.55, 0.53, 0.5)),
    OTHER_GROUND: Material(0.31, (0.5, 0.45, 0.42)),
    LANE_MARKING: Material(0.8, (0.85, 0.85, 0.83)),
    TERRAIN: Material(0.42, (0.32, 0.42, 0.2)),
}


@dataclass(frozen=True)
class Terrain:
    """Height field and surface classes of a street.

    Widths in metres; the rows of ``waves`` and ``grass`` are (amplitude, kx, ky, phase).
    """

    road_half_width: float
    parking_width: float
    sidewalk_width: float
    curb: float
    curvature: float  # 1/m
    crossings: Array  # x of the middles of crossing streets
    driveways: Array  # x of the middles of paved drives
    waves: Array  # (W, 4)
    grass: Array  # (G, 4)
    crossing_half_width: float = 4.0

    def centre(self, x: Array) -> Array:
        """The y of the middle of the road."""
        return 0.5 * self.curvature * np.square(x)

    def height(self, x: Array, y: Array) -> Array:
        """Ground height: long waves, a kerb, and short waves on the grass."""
        aside = np.abs(y - self.centre(x)) - self._paved()
        along = self._beside_crossing(x)
        pavement = np.clip(np.minimum(aside, along) / 0.06 + 0.5, 0.0, 1.0)
        verge = np.clip(np.minimum(aside - self.sidewalk_width, along - self.sidewalk_width), 0.0, 1.0)
        return _sum_waves(self.waves, x, y) + self.curb * pavement + verge * _sum_waves(self.grass, x, y)

    def surface(self, x: Array, y: Array) -> NDArray[np.int64]:
        """Raw SemanticKITTI id of the ground at (x, y)."""
        offset = y - self.centre(x)
        aside, along = np.abs(offset) - self._paved(), self._beside_crossing(x)
        kind = np.full(np.shape(x), TERRAIN, dtype=np.int64)
        drive = (np.abs(x[..., None] - self.driveways) < 1.8).any(axis=-1)
        kind[drive] = OTHER_GROUND
        kind[np.minimum(aside, along) < self.sidewalk_width] = SIDEWALK
        kind[aside < 0] = PARKING
        kind[(np.abs(offset) < self.road_half_width) | (along < 0)] = ROAD
        dash = (np.abs(offset) < 0.07) & (np.mod(x, 6.0) < 3.0)
        edge = np.abs(np.abs(offset) - self.road_half_width + 0.15) < 0.06
        kind[(dash | edge) & (along > 0)] = LANE_MARKING
        return kind

    def _paved(self) -> float:
        return self.road_half_width + self.parking_width

    def _beside_crossing(self, x: Array) -> Array:
        if not len(self.crossings):
            return np.full(np.shape(x), np.inf)
        return np.abs(x[..., None] - self.crossings).min(axis=-1) - self.crossing_half_width


def _sum_waves(waves: Array, x: Array, y: Array) -> Array:
    total = np.zeros(np.shape(x))
    for amplitude, along, across, phase in waves:
        total += amplitude * np.sin(along * x + across * y + phase)
    return total


@dataclass(frozen=True)
class Scene:
    """A street with everything on it, in world coordinates."""

    terrain: Terrain
    objects: tuple[SceneObject, ...]

    def at(self, time: float) -> Scene:
        """The scene after ``time`` seconds: moving things have gone along the street, everything else stands."""
        return replace(self, objects=tuple(self._advanced(item, time) for item in self.objects))

    def solids(self) -> list[list[Primitive]]:
        """World solids of each object."""
        return [item.world_solids() for item in self.objects]

    def _advanced(self, item: SceneObject, time: float) -> SceneObject:
        if item.speed == 0.0 or time == 0.0:
            return item
        x, y = item.position[:2]
        offset = y - self.terrain.centre(x)
        step = item.speed * time
        x, y = x + step * np.cos(item.yaw), y + step * np.sin(item.yaw)
        if abs(np.sin(item.yaw)) < 0.5:  # it follows the road, not its tangent
            y = self.terrain.centre(x) + offset
        return replace(item, position=np.array([x, y, float(self.terrain.height(x, y))]))


@dataclass
class _Builder:
    """Puts things down where nothing stands yet."""

    terrain: Terrain
    draw: ShapeDraw
    objects: list[SceneObject] = field(default_factory=list)
    footprints: list[Array] = field(default_factory=list)

    def put(
        self, item: SceneObject, x: float, offset: float, yaw: float, speed: float = 0.0, gap: float = 0.25
    ) -> bool:
        """Place the thing ``offset`` metres left of the road's middle, unless something is in the way."""
        x_, y = np.asarray(x), np.asarray(self.terrain.centre(np.asarray(x)) + offset)
        heading = yaw + float(np.arctan(self.terrain.curvature * x))
        placed = item.placed(float(x_), float(y), float(self.terrain.height(x_, y)), heading, speed)
        footprint = placed.box()
        grown = footprint + np.array([0, 0, 0, gap, gap, 0, 0])
        if self.footprints and bev_overlap(grown[None], np.stack(self.footprints)).any():
            return False
        self.footprints.append(footprint)
        self.objects.append(replace(placed, instance=len(self.objects) + 1))
        return True


@dataclass(frozen=True)
class StreetSpec:
    """How full a street is. Densities are things per 10 m of street, both sides together, on average."""

    half_length: float = 90.0
    parked_cars: float = 1.1
    moving_cars: float = 0.45
    vans_and_trucks: float = 0.14
    pedestrians: float = 0.9
    cyclists: float = 0.45
    bicycles: float = 0.25
    motorcycles: float = 0.12
    trees: float = 1.3
    bushes: float = 1.4
    poles: float = 0.7
    signs: float = 0.35
    fences: float = 0.5
    clear_radius: float = 4.5  # nothing stands on the ego vehicle


def scene_rng(seed: int, split: Split, *purpose: int) -> np.random.Generator:
    """The random stream of one scene: different splits never share one."""
    if split not in SPLITS:
        raise ValueError(f"split: found {split!r}, expected one of {SPLITS}")
    if seed < 0:
        raise ValueError(f"seed: found {seed}, expected an integer >= 0")
    return np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), *purpose]))


def build_street(
    seed: int, split: Split = "train", spec: StreetSpec | None = None, x_range: tuple[float, float] | None = None
) -> Scene:
    """A random street.

    Args:
        seed: number of the scene within its split.
        split: decides shape parameters and the random stream.
        spec: densities.
        x_range: stretch of the street that is furnished, by default ``half_length`` to both sides of x = 0.

    Returns:
        The scene; object numbers (``instance``) start at 1.
    """
    spec = spec or StreetSpec()
    low, high = x_range or (-spec.half_length, spec.half_length)
    rng = scene_rng(seed, split, 0)
    draw = ShapeDraw(rng, split)
    builder = _Builder(_terrain(draw, low, high), draw)
    if x_range is None:
        builder.footprints.append(
            np.array([0.0, lane_offset(builder.terrain), 0.0, 2 * spec.clear_radius, 2.2, 2.0, 0.0])
        )
    _houses(builder, low, high)
    _traffic(builder, spec, low, high)
    _parked(builder, spec, low, high)
    _people(builder, spec, low, high)
    _plants_and_posts(builder, spec, low, high)
    return Scene(builder.terrain, tuple(builder.objects))


def lane_offset(terrain: Terrain) -> float:
    """Lateral position of the right lane's middle, where the ego vehicle drives."""
    return -terrain.road_half_width / 2


def _terrain(draw: ShapeDraw, low: float, high: float) -> Terrain:
    rng = draw.rng
    crossings = rng.uniform(low, high, rng.poisson((high - low) / 120))
    crossings = crossings[np.abs(crossings) > 14.0]
    return Terrain(
        road_half_width=draw(3.2, 5.0),
        parking_width=draw(2.1, 2.6) if rng.random() < 0.75 else 0.3,
        sidewalk_width=draw(1.6, 3.4),
        curb=draw(0.08, 0.16),
        curvature=float(rng.normal(0.0, 0.0012)),
        crossings=crossings,
        driveways=rng.uniform(low, high, rng.poisson((high - low) / 25)),
        waves=_random_waves(rng, [0.25, 0.12, 0.05, 0.02], [70.0, 45.0, 25.0, 14.0]),
        grass=_random_waves(rng, [0.05, 0.03, 0.02, 0.012], [4.0, 2.2, 1.3, 0.8]),
    )


def _random_waves(rng: np.random.Generator, amplitudes: list[float], lengths: list[float]) -> Array:
    """Waves of given amplitudes and lengths (metres) in random directions: rows (amplitude, kx, ky, phase)."""
    turn, phase = rng.uniform(0, 2 * np.pi, (2, len(lengths)))
    number = 2 * np.pi / np.asarray(lengths)
    return np.stack([np.asarray(amplitudes), number * np.cos(turn), number * np.sin(turn), phase], axis=1)


def _count(builder: _Builder, density: float, low: float, high: float) -> int:
    return int(builder.draw.rng.poisson(density * (high - low) / 10))


def _side(builder: _Builder) -> float:
    return 1.0 if builder.draw.rng.random() < 0.5 else -1.0


def _houses(builder: _Builder, low: float, high: float) -> None:
    terrain, draw = builder.terrain, builder.draw
    edge = terrain.road_half_width + terrain.parking_width + terrain.sidewalk_width
    for side in (-1.0, 1.0):
        setback, x = draw(0.3, 9.0), low
        while x < high:
            length, depth = draw(7.0, 22.0), draw(7.0, 13.0)
            middle = x + length / 2
            blocked = len(terrain.crossings) and np.abs(terrain.crossings - middle).min() < length / 2 + 6.0
            if not blocked and draw.rng.random() < 0.85:
                builder.put(
                    things.building(draw, length, depth), middle, side * (edge + setback + depth / 2), 0.0, gap=0.0
                )
            x += length + draw(0.5, 8.0)


def _traffic(builder: _Builder, spec: StreetSpec, low: float, high: float) -> None:
    """Moving vehicles, cyclists at the kerb, and cross traffic at crossings."""
    draw, rng = builder.draw, builder.draw.rng
    half = builder.terrain.road_half_width
    makers = [things.car] * 6 + [things.van, things.motorcyclist, things.bus]
    for _ in range(_count(builder, spec.moving_cars, low, high)):
        side = _side(builder)
        maker = makers[int(rng.integers(len(makers)))]
        place = side * half / 2 + rng.normal(0, 0.15)
        speed = float(rng.uniform(2.0, 12.0)) if rng.random() < 0.8 else 0.0
        builder.put(
            maker(draw), rng.uniform(low, high), place, _with_traffic(side) + rng.normal(0, 0.03), speed, gap=2.5
        )
    for _ in range(_count(builder, spec.cyclists, low, high)):
        side = _side(builder)
        place = side * (half - draw(0.3, 0.9)) if rng.random() < 0.7 else side * (_pavement(builder))
        yaw = _with_traffic(side) + rng.normal(0, 0.12)
        builder.put(things.cyclist(draw), rng.uniform(low, high), place, yaw, float(rng.uniform(2, 6)), gap=0.4)
    for crossing in builder.terrain.crossings:
        for _ in range(int(rng.integers(0, 4))):
            side = _side(builder)
            place = rng.choice([-1.0, 1.0]) * rng.uniform(half + 5.0, 30.0)
            builder.put(things.car(draw), crossing + side * 1.9, place, side * np.pi / 2 + rng.normal(0, 0.05), gap=1.0)


def _with_traffic(side: float) -> float:
    """Heading of right-hand traffic on the left (+1) or right (-1) half of the road."""
    return np.pi if side > 0 else 0.0


def _pavement(builder: _Builder) -> float:
    """A random distance from the road's middle on the pavement."""
    terrain = builder.terrain
    return terrain.road_half_width + terrain.parking_width + builder.draw.rng.uniform(0.4, terrain.sidewalk_width - 0.3)


def _parked(builder: _Builder, spec: StreetSpec, low: float, high: float) -> None:
    """Cars along the kerb, or nose in on drives; lorries; bicycles and motorcycles on the pavement."""
    draw, rng, terrain = builder.draw, builder.draw.rng, builder.terrain
    lane = terrain.road_half_width + terrain.parking_width / 2
    for _ in range(_count(builder, spec.parked_cars, low, high)):
        side = _side(builder)
        yaw = _with_traffic(side) + rng.normal(0, 0.04) + (np.pi if rng.random() < 0.15 else 0.0)
        if terrain.parking_width > 1 and rng.random() < 0.8:
            builder.put(things.car(draw), rng.uniform(low, high), side * (lane + rng.normal(0, 0.1)), yaw)
        else:
            place = side * (lane + terrain.sidewalk_width + rng.uniform(2.5, 9.0))
            builder.put(things.car(draw), rng.uniform(low, high), place, float(rng.uniform(-np.pi, np.pi)))
    for _ in range(_count(builder, spec.vans_and_trucks, low, high)):
        side = _side(builder)
        maker = things.van if rng.random() < 0.6 else things.truck
        builder.put(maker(draw), rng.uniform(low, high), side * lane, _with_traffic(side), gap=0.6)
    for density, maker in ((spec.bicycles, things.bicycle), (spec.motorcycles, things.motorcycle)):
        for _ in range(_count(builder, density, low, high)):
            yaw = float(rng.uniform(-np.pi, np.pi))
            builder.put(maker(draw), rng.uniform(low, high), _side(builder) * _pavement(builder), yaw)


def _people(builder: _Builder, spec: StreetSpec, low: float, high: float) -> None:
    """Walkers on pavements, some in pairs, a few on the road."""
    draw, rng = builder.draw, builder.draw.rng
    for _ in range(_count(builder, spec.pedestrians, low, high)):
        side, x = _side(builder), rng.uniform(low, high)
        on_road = rng.random() < 0.12
        place = rng.uniform(-1, 1) * builder.terrain.road_half_width if on_road else side * _pavement(builder)
        yaw = float(rng.choice([0.0, np.pi]) + rng.normal(0, 0.5)) + (np.pi / 2 if on_road else 0.0)
        speed = float(rng.uniform(0.5, 1.8)) if rng.random() < 0.7 else 0.0
        if builder.put(things.pedestrian(draw), x, place, yaw, speed, gap=0.3) and rng.random() < 0.25:
            builder.put(things.pedestrian(draw), x + rng.normal(0, 0.2), place + 0.75, yaw, speed, gap=0.05)


def _plants_and_posts(builder: _Builder, spec: StreetSpec, low: float, high: float) -> None:
    draw, rng, terrain = builder.draw, builder.draw.rng, builder.terrain
    kerb = terrain.road_half_width + terrain.parking_width
    edge = kerb + terrain.sidewalk_width

    def at_kerb() -> float:
        return kerb + rng.uniform(0.25, 0.5)

    def on_verge() -> float:
        return edge + rng.uniform(0.5, 14.0)

    def scatter(
        density: float, maker: Callable[[ShapeDraw], SceneObject], places: Sequence[Callable[[], float]]
    ) -> None:
        for _ in range(_count(builder, density, low, high)):
            side = _side(builder)
            place = places[int(rng.integers(len(places)))]()
            yaw = float(rng.uniform(-np.pi, np.pi))
            if maker is things.sign:
                yaw = (np.pi if side < 0 else 0.0) + rng.normal(0, 0.1)
            elif maker is things.pole:
                yaw = -side * np.pi / 2
            builder.put(maker(draw), rng.uniform(low, high), side * place, yaw, gap=0.1)

    scatter(spec.poles, things.pole, [at_kerb])
    scatter(spec.signs, things.sign, [at_kerb])
    scatter(spec.trees, things.tree, [at_kerb, on_verge, on_verge])
    scatter(spec.bushes, things.bush, [on_verge])
    for _ in range(_count(builder, spec.fences, low, high)):
        length = draw(4.0, 14.0)
        item = things.fence(draw, length) if rng.random() < 0.55 else things.hedge(draw, length)
        yaw = 0.0 if rng.random() < 0.75 else np.pi / 2
        builder.put(item, rng.uniform(low, high), _side(builder) * (edge + rng.uniform(0.15, 3.0)), yaw, gap=0.0)
