"""Street furniture and road users as unions of analytic solids, with random proportions.

Every builder returns an :class:`SceneObject` in its own frame: x along the heading, z up, origin at the middle of the
bottom of its box. Proportions come from a :class:`ShapeDraw`, whose train, val and test values never coincide. Semantic
numbers are the raw SemanticKITTI ids.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from zoo.data.lidar_primitives import Array, Material, Primitive, box, ellipsoid, frustum, rod

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_TENTHS: dict[Split, tuple[int, ...]] = {"train": (0, 1, 3, 4, 6, 7, 9), "val": (2, 8), "test": (5,)}

CAR, BICYCLE, MOTORCYCLE, TRUCK, BUS = 10, 11, 15, 18, 13
PERSON, BICYCLIST, MOTORCYCLIST = 30, 31, 32
BUILDING, FENCE, VEGETATION, TRUNK, POLE, SIGN = 50, 51, 70, 71, 80, 81
MOVING = {CAR: 252, BICYCLIST: 253, PERSON: 254, MOTORCYCLIST: 255, BUS: 257, TRUCK: 258}

GLASS = Material(0.08, (0.15, 0.19, 0.22), return_rate=0.45)
RUBBER = Material(0.06, (0.07, 0.07, 0.08), return_rate=0.9)
STEEL = Material(0.55, (0.55, 0.56, 0.58))
BARK = Material(0.32, (0.36, 0.28, 0.2))
SKIN = Material(0.45, (0.8, 0.6, 0.5))
PLATE = Material(0.95, (0.85, 0.2, 0.15))


@dataclass(frozen=True)
class ShapeDraw:
    """Random numbers for shapes. Each interval is cut in ten; train takes seven of the tenths, val two, test one.

    The splits thus cover the same range but share no value: a network cannot pass by remembering proportions.
    """

    rng: np.random.Generator
    split: Split

    def __call__(self, low: float, high: float) -> float:
        """A value in [low, high) from the tenths of this split."""
        tenth = self.rng.choice(_TENTHS[self.split])
        return float(low + (high - low) * (tenth + self.rng.random()) / 10)

    def color(self, low: float = 0.1, high: float = 0.9) -> tuple[float, float, float]:
        """A random, mostly grey colour: appearance is not kept apart between splits."""
        grey, tint = self.rng.uniform(low, high), self.rng.normal(0.0, 0.12, 3)
        red, green, blue = np.clip(grey + tint, 0.03, 0.97)
        return float(red), float(green), float(blue)


@dataclass(frozen=True)
class SceneObject:
    """A thing in the scene.

    ``size`` is (dx, dy, dz) of its box, ``kind`` its KITTI type ("" for what KITTI does not label), ``position`` (3,)
    is the middle of the bottom of the box, ``speed`` (m/s) moves it along its heading.
    """

    kind: str
    semantic: int
    solids: tuple[Primitive, ...]
    size: Array  # (3,)
    position: Array = field(default_factory=lambda: np.zeros(3))
    yaw: float = 0.0
    speed: float = 0.0
    instance: int = 0

    def placed(self, x: float, y: float, z: float, yaw: float, speed: float = 0.0) -> SceneObject:
        """The same thing elsewhere."""
        return replace(self, position=np.array([x, y, z]), yaw=yaw, speed=speed)

    def box(self) -> Array:
        """``(x, y, z, dx, dy, dz, yaw)`` with z at the centre."""
        return np.array([*self.position[:2], self.position[2] + self.size[2] / 2, *self.size, self.yaw])

    def world_solids(self) -> list[Primitive]:
        """The solids in the world; those of a moving thing carry SemanticKITTI's id of the moving class."""
        solids = [solid.moved(self.position, self.yaw) for solid in self.solids]
        if self.speed == 0.0:
            return solids
        return [replace(solid, semantic=MOVING.get(solid.semantic, solid.semantic)) for solid in solids]


def assemble(kind: str, semantic: int, solids: list[Primitive]) -> SceneObject:
    """Centre the solids' bound on the origin, standing on z = 0; the bound is the object's size."""
    low = np.min([solid.center - solid.extent() for solid in solids], axis=0)
    high = np.max([solid.center + solid.extent() for solid in solids], axis=0)
    shift = -np.array([*(low[:2] + high[:2]) / 2, low[2]])
    return SceneObject(kind, semantic, tuple(solid.moved(shift, 0.0) for solid in solids), high - low)


def _wheels(x: tuple[float, ...], half_width: float, radius: float, semantic: int) -> list[Primitive]:
    width = 0.22
    return [
        rod((at, side * (half_width - width), radius), (at, side * half_width, radius), radius, semantic, RUBBER)
        for at in x
        for side in (-1, 1)
    ]


def car(draw: ShapeDraw) -> SceneObject:
    """A saloon, hatchback, estate or off-roader: tapered body, glazed cabin, roof, four wheels."""
    length, width = draw(3.3, 4.9), draw(1.5, 1.9)
    height = draw(1.35, 1.85)
    belt = height * draw(0.52, 0.62)
    nose, tail = length / 2, -length / 2
    half = width / 2
    bonnet, boot = draw(0.18, 0.32) * length, draw(0.0, 0.22) * length
    clearance = draw(0.15, 0.28)
    paint = Material(float(draw.rng.uniform(0.08, 0.7)), draw.color(), return_rate=float(draw.rng.uniform(0.8, 1.0)))
    front, rear = nose - bonnet, tail + boot
    slant = draw(0.25, 0.6)
    body = [
        frustum(
            (tail, nose, -half, half), (tail + 0.06, nose - 0.08, -half, half), (clearance, belt * 0.75), CAR, paint
        ),
        frustum(
            (tail + 0.06, nose - 0.08, -half, half),
            (tail + 0.15, nose - 0.35, -half * 0.94, half * 0.94),
            (belt * 0.75, belt),
            CAR,
            paint,
        ),
        frustum(
            (rear, front, -half * 0.92, half * 0.92),
            (rear + slant * 0.6, front - slant, -half * 0.76, half * 0.76),
            (belt, height - 0.08),
            CAR,
            GLASS,
        ),
        frustum(
            (rear + slant * 0.55, front - slant * 0.95, -half * 0.78, half * 0.78),
            (rear + slant * 0.8, front - slant * 1.3, -half * 0.7, half * 0.7),
            (height - 0.1, height),
            CAR,
            paint,
        ),
    ]
    radius = draw(0.28, 0.36)
    return assemble("Car", CAR, body + _wheels((nose - 0.2 * length, tail + 0.2 * length), half, radius, CAR))


def van(draw: ShapeDraw) -> SceneObject:
    """A delivery van: high box, short sloping nose."""
    length, width, height = draw(4.6, 6.2), draw(1.8, 2.1), draw(1.9, 2.7)
    nose, tail, half = length / 2, -length / 2, width / 2
    bonnet = draw(0.5, 1.1)
    paint = Material(float(draw.rng.uniform(0.2, 0.7)), draw.color(0.3, 0.95))
    slant = draw(0.3, 0.8)
    body = [
        frustum((tail, nose, -half, half), (tail, nose - 0.15, -half, half), (0.25, height * 0.5), CAR, paint),
        frustum(
            (nose - bonnet - 0.9, nose - bonnet + 0.1, -half * 0.97, half * 0.97),
            (nose - bonnet - 0.9, nose - bonnet - slant, -half * 0.9, half * 0.9),
            (height * 0.5, height * 0.95),
            CAR,
            GLASS,
        ),
        frustum(
            (tail, nose - bonnet - 0.7, -half, half),
            (tail, nose - bonnet - slant, -half * 0.93, half * 0.93),
            (height * 0.5, height),
            CAR,
            paint,
        ),
    ]
    return assemble("Van", CAR, body + _wheels((nose - 0.17 * length, tail + 0.2 * length), half, 0.34, CAR))


def truck(draw: ShapeDraw) -> SceneObject:
    """A lorry: cab and cargo box."""
    length, width, height = draw(7.0, 11.0), draw(2.3, 2.6), draw(2.9, 3.7)
    nose, tail, half = length / 2, -length / 2, width / 2
    cab = draw(1.6, 2.2)
    paint, cargo = Material(0.4, draw.color()), Material(float(draw.rng.uniform(0.3, 0.8)), draw.color(0.5, 0.95))
    body = [
        box(((nose - cab / 2), 0, 0.95), (cab, width * 0.95, 1.1), TRUCK, paint),
        frustum(
            (nose - cab, nose, -half * 0.95, half * 0.95),
            (nose - cab, nose - 0.25, -half * 0.93, half * 0.93),
            (1.5, height * draw(0.75, 0.9)),
            TRUCK,
            GLASS,
        ),
        box(
            ((tail + nose - cab - 0.3) / 2, 0, (height + 1.0) / 2),
            (length - cab - 0.3, width, height - 1.0),
            TRUCK,
            cargo,
        ),
        box((-cab / 2, 0, 0.8), (length - cab, 0.9, 0.4), TRUCK, STEEL),
    ]
    return assemble("Truck", TRUCK, body + _wheels((nose - 1.0, tail + 1.2, tail + 2.4), half, 0.48, TRUCK))


def bus(draw: ShapeDraw) -> SceneObject:
    """A city bus: painted lower half, glazed upper half."""
    length, width, height = draw(9.0, 12.5), draw(2.4, 2.6), draw(2.9, 3.3)
    paint = Material(0.5, draw.color(0.3, 0.9))
    body = [
        box((0, 0, 0.3 + height * 0.2), (length, width, height * 0.4), BUS, paint),
        box((0, 0, 0.3 + height * 0.52), (length, width * 0.99, height * 0.3), BUS, GLASS),
        box((0, 0, 0.15 + height * 0.83), (length, width, height * 0.3 - 0.1), BUS, paint),
    ]
    return assemble("Misc", BUS, body + _wheels((length * 0.3, -length * 0.25), width / 2, 0.48, BUS))


def _rider(
    draw: ShapeDraw, hip: tuple[float, float], foot: tuple[float, float], lean: float, semantic: int
) -> list[Primitive]:
    """A person: ``hip`` and ``foot`` are (x, z), ``lean`` the forward tilt of the trunk."""
    scale = draw(0.9, 1.08)
    shoulder = draw(0.36, 0.5)
    cloth = Material(float(draw.rng.uniform(0.1, 0.6)), draw.color())
    trousers = Material(float(draw.rng.uniform(0.08, 0.4)), draw.color(0.05, 0.5))
    trunk, swing = 0.58 * scale, draw(-0.2, 0.2)
    top = (hip[0] + trunk * np.sin(lean), hip[1] + trunk * np.cos(lean))
    middle = ((hip[0] + top[0]) / 2, 0.0, (hip[1] + top[1]) / 2)
    parts = [
        ellipsoid(middle, (0.15 + 0.12 * np.sin(lean), shoulder / 2, trunk * 0.58), semantic, cloth),
        ellipsoid((top[0] + 0.03, 0.0, top[1] + 0.17 * scale), (0.1, 0.085, 0.13 * scale), semantic, SKIN),
    ]
    for side in (-1, 1):
        step = side * swing
        y = side * 0.1
        parts.append(rod((foot[0] + step, y, foot[1]), (hip[0], y, hip[1]), 0.075, semantic, trousers))
        hand = (top[0] + 0.35 * np.sin(lean) - step, side * (shoulder / 2 + 0.04), top[1] - 0.5 * np.cos(lean))
        parts.append(rod(hand, (top[0], side * shoulder / 2, top[1] - 0.08), 0.05, semantic, cloth))
    return parts


def pedestrian(draw: ShapeDraw) -> SceneObject:
    """A standing or walking person: trunk, head, arms, legs."""
    hip = draw(0.78, 0.98)
    return assemble("Pedestrian", PERSON, _rider(draw, (0.0, hip), (0.0, 0.0), 0.03, PERSON))


def _bike(draw: ShapeDraw, semantic: int, tyre: float = 0.02) -> list[Primitive]:
    """Two wheels and a frame."""
    base, radius = draw(0.95, 1.15), draw(0.31, 0.36)
    paint = Material(0.35, draw.color())
    rear, front = -base / 2, base / 2
    wheels = [
        rod((at, -tyre, radius), (at, tyre, radius), radius, semantic, replace(RUBBER, opacity=0.45))
        for at in (rear, front)
    ]
    seat, bar = (rear + 0.25, 0.0, 0.88), (front - 0.15, 0.0, 0.92)
    frame = [
        rod((rear, 0, radius), seat, 0.025, semantic, paint),
        rod(seat, bar, 0.025, semantic, paint),
        rod((front, 0, radius), bar, 0.025, semantic, paint),
        rod((bar[0], -0.26, 1.0), (bar[0], 0.26, 1.0), 0.02, semantic, STEEL),
        ellipsoid((seat[0], 0, 0.95), (0.13, 0.08, 0.05), semantic, RUBBER),
    ]
    return wheels + frame


def cyclist(draw: ShapeDraw) -> SceneObject:
    """A bicycle with its rider."""
    return assemble(
        "Cyclist",
        BICYCLIST,
        _bike(draw, BICYCLIST) + _rider(draw, (-0.25, 0.98), (0.05, 0.3), draw(0.2, 0.6), BICYCLIST),
    )


def bicycle(draw: ShapeDraw) -> SceneObject:
    """A parked bicycle."""
    return assemble("", BICYCLE, _bike(draw, BICYCLE))


def _motorbike(draw: ShapeDraw, semantic: int) -> list[Primitive]:
    paint = Material(0.4, draw.color())
    tank = ellipsoid((0.1, 0, 0.75), (draw(0.5, 0.65), 0.17, 0.22), semantic, paint)
    engine = box((0.0, 0, 0.45), (0.6, 0.28, 0.4), semantic, STEEL)
    return [*_bike(draw, semantic, tyre=0.07), tank, engine]


def motorcycle(draw: ShapeDraw) -> SceneObject:
    """A parked motorcycle."""
    return assemble("", MOTORCYCLE, _motorbike(draw, MOTORCYCLE))


def motorcyclist(draw: ShapeDraw) -> SceneObject:
    """A motorcycle with its rider; KITTI labels it a cyclist's cousin, Misc."""
    parts = _motorbike(draw, MOTORCYCLIST) + _rider(draw, (-0.25, 0.9), (0.05, 0.35), draw(0.15, 0.4), MOTORCYCLIST)
    return assemble("Misc", MOTORCYCLIST, parts)


def tree(draw: ShapeDraw) -> SceneObject:
    """A trunk under a porous crown of several ellipsoids."""
    height, radius = draw(4.0, 10.0), draw(1.2, 3.0)
    clear = height * draw(0.25, 0.45)
    leaves = Material(float(draw.rng.uniform(0.25, 0.5)), _green(draw), opacity=0.55, roughness=0.8)
    parts = [rod((0, 0, -0.3), (0, 0, clear + 0.5), draw(0.1, 0.28), TRUNK, BARK)]
    for _ in range(int(draw.rng.integers(4, 8))):
        turn, reach = draw.rng.uniform(0, 2 * np.pi), draw.rng.uniform(0, 0.6) * radius
        size = draw.rng.uniform(0.45, 0.75, 3) * radius
        level = draw.rng.uniform(clear + size[2] * 0.7, max(clear + size[2] * 0.8, height - size[2]))
        at = (float(reach * np.cos(turn)), float(reach * np.sin(turn)), float(level))
        parts.append(ellipsoid(at, (float(size[0]), float(size[1]), float(size[2])), VEGETATION, leaves))
    return SceneObject("", TRUNK, tuple(parts), np.array([2 * radius, 2 * radius, height]))


def bush(draw: ShapeDraw) -> SceneObject:
    """A low clump of leaves."""
    leaves = Material(float(draw.rng.uniform(0.25, 0.5)), _green(draw), opacity=0.7, roughness=0.4)
    width, height = draw(0.6, 1.8), draw(0.5, 1.8)
    parts = [
        ellipsoid(
            (float(draw.rng.normal(0, width * 0.3)), float(draw.rng.normal(0, width * 0.3)), height * 0.35),
            (width * 0.6, width * 0.6, height * 0.6),
            VEGETATION,
            leaves,
        )
        for _ in range(3)
    ]
    return SceneObject("", VEGETATION, tuple(parts), np.array([2 * width, 2 * width, height]))


def hedge(draw: ShapeDraw, length: float) -> SceneObject:
    """A clipped hedge along x."""
    leaves = Material(float(draw.rng.uniform(0.25, 0.5)), _green(draw), opacity=0.8, roughness=0.25)
    width, height = draw(0.5, 1.0), draw(0.9, 2.0)
    return SceneObject(
        "",
        VEGETATION,
        (box((0, 0, height / 2), (length, width, height), VEGETATION, leaves),),
        np.array([length, width, height]),
    )


def fence(draw: ShapeDraw, length: float) -> SceneObject:
    """A fence along x: a porous panel between posts."""
    height = draw(0.9, 1.8)
    wood = Material(0.35, draw.color(0.3, 0.6), opacity=float(draw.rng.choice([0.5, 1.0])))
    posts = [
        rod((at, 0, -0.2), (at, 0, height), 0.05, FENCE, STEEL) for at in np.arange(-length / 2, length / 2 + 0.1, 2.5)
    ]
    panel = box((0, 0, height / 2 + 0.05), (length, 0.06, height - 0.1), FENCE, wood)
    return SceneObject("", FENCE, (panel, *posts), np.array([length, 0.2, height]))


def pole(draw: ShapeDraw) -> SceneObject:
    """A lamp post with an arm, or a bare post."""
    height, radius = draw(3.5, 8.0), draw(0.05, 0.14)
    parts = [rod((0, 0, -0.2), (0, 0, height), radius, POLE, STEEL)]
    if draw.rng.random() < 0.5:
        parts.append(rod((0, 0, height - 0.1), (draw(0.8, 1.8), 0, height + 0.1), 0.05, POLE, STEEL))
    return SceneObject("", POLE, tuple(parts), np.array([2 * radius, 2 * radius, height]))


def sign(draw: ShapeDraw) -> SceneObject:
    """A traffic sign: a retro-reflecting plate (facing x) on a thin post."""
    height, width = draw(2.1, 2.8), draw(0.5, 0.9)
    plate = replace(PLATE, color=draw.rng.choice([(0.85, 0.2, 0.15), (0.15, 0.3, 0.8), (0.9, 0.85, 0.2)]))
    post = rod((0, 0, -0.2), (0, 0, height), 0.035, POLE, STEEL)
    face = box((0.05, 0, height - width / 2), (0.03, width, width * draw(0.8, 1.2)), SIGN, plate)
    return SceneObject("", SIGN, (post, face), np.array([0.2, width, height]))


def building(draw: ShapeDraw, length: float, depth: float) -> SceneObject:
    """A house along x: walls with rows of low-reflecting windows, and a pitched or flat roof."""
    storeys = int(draw.rng.integers(1, 5))
    height = storeys * draw(2.7, 3.3) + 0.4
    wall = Material(float(draw.rng.uniform(0.25, 0.6)), draw.color(0.45, 0.9))
    roof = Material(0.3, (0.45, 0.25, 0.2))
    parts = [box((0, 0, height / 2 - 0.5), (length, depth, height + 1.0), BUILDING, wall)]
    if draw.rng.random() < 0.6:
        rise = draw(1.5, 3.0)
        foot, ridge = (-length / 2, length / 2, -depth / 2 - 0.3, depth / 2 + 0.3), (-length / 2, length / 2, -0.1, 0.1)
        parts.append(frustum(foot, ridge, (height, height + rise), BUILDING, roof))
    gap, width = draw(2.4, 3.6), draw(0.9, 1.5)
    for storey in range(storeys):
        for at in np.arange(-length / 2 + gap / 2, length / 2 - width / 2, gap):
            level = 1.5 + storey * (height / storeys)
            parts.append(box((float(at), 0, level), (width, depth + 0.06, 1.2), BUILDING, GLASS))
    return SceneObject("", BUILDING, tuple(parts), np.array([length, depth, height]))


def _green(draw: ShapeDraw) -> tuple[float, float, float]:
    shade = float(draw.rng.uniform(0.6, 1.2))
    return 0.22 * shade, 0.4 * shade, 0.14 * shade
