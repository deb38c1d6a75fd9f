"""Objects for the generated SpaRe scenes: things put together from textured solids, on a white platform.

An object fills about a ball of radius 1 above the platform, whose top lies at z = 0. The seed changes textures and
proportions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from zoo.data.analytic_render import Lighting
from zoo.data.analytic_solids import Box, Cylinder, Solid, Sphere, Torus
from zoo.data.pavilion import turn_z
from zoo.data.procedural_textures import bricks, checker, marble, noise, plain, polar_tiles, srgb, stripes

__all__ = ["LIGHTING", "OBJECTS", "PLATFORM", "build_object"]

LIGHTING = Lighting(  # all lamps on: much light from above, soft shadows
    direction=(0.35, -0.5, 1.0),
    spread=0.12,
    colour=(0.62, 0.60, 0.56),
    sky=(0.50, 0.51, 0.53),
    ground=(0.22, 0.22, 0.22),
)
PLATFORM = Cylinder(
    centre=(0.0, 0.0, -0.06),
    radius=1.25,
    half_height=0.06,
    texture=noise(srgb("e6e4df"), srgb("f6f5f2"), 6, 5),
)
_RED, _BLUE, _GOLD, _CREAM, _GREEN = srgb("b8382f"), srgb("2b5fb0"), srgb("d9a441"), srgb("f4ead2"), srgb("4f9a4a")


def _house(seed: int, size: float) -> list[Solid]:
    wall = bricks(srgb("a9573f"), srgb("d8cfc0"), 0.16, 0.08, 0.012, seed)
    return [
        Box(centre=(0, 0, 0.35), half=(0.55 * size, 0.4, 0.35), texture=wall),
        Box(
            centre=(0, 0.18, 0.8),
            half=(0.6 * size, 0.33, 0.03),
            rotation=((1, 0, 0), (0, 0.82, 0.57), (0, -0.57, 0.82)),
            texture=stripes((srgb("5a3b2e"), srgb("7d4f3a"), srgb("41302a")), 0, 0.07),
        ),
        Box(
            centre=(0, -0.18, 0.8),
            half=(0.6 * size, 0.33, 0.03),
            rotation=((1, 0, 0), (0, 0.82, -0.57), (0, 0.57, 0.82)),
            texture=checker(srgb("6b4636"), srgb("8d5b42"), 0.09),
        ),
        Box(centre=(0.3, 0.2, 1.0), half=(0.08, 0.08, 0.22), texture=wall),
        Box(centre=(0.15, -0.4, 0.22), half=(0.11, 0.02, 0.22), texture=stripes((_BLUE, _CREAM), 2, 0.05)),
        Box(centre=(-0.28, -0.4, 0.42), half=(0.11, 0.02, 0.1), texture=checker(_CREAM, srgb("3a5a78"), 0.07)),
    ]


def _rocket(seed: int, size: float) -> list[Solid]:
    solids: list[Solid] = [
        Cylinder(
            centre=(0, 0, 0.62), radius=0.26, half_height=0.42 * size, texture=stripes((_RED, _CREAM, _BLUE), 2, 0.13)
        ),
        Sphere(centre=(0, 0, 0.62 + 0.42 * size), radius=0.26, texture=marble(_RED, _GOLD, 3.5, seed), gloss=0.5),
        Torus(centre=(0, 0, 0.2), radius=0.28, thickness=0.06, texture=checker(_GOLD, srgb("33302e"), 0.08)),
    ]
    for k in range(4):
        angle = math.pi / 2 * k + 0.4
        place, turn = (0.42 * math.cos(angle), 0.42 * math.sin(angle), 0.22), turn_z(math.degrees(angle))
        solids.append(
            Box(centre=place, half=(0.18, 0.03, 0.22), rotation=turn, texture=noise(_BLUE, _CREAM, 7, seed + k))
        )
    return solids


def _robot(seed: int, size: float) -> list[Solid]:
    metal = noise(srgb("7f8a94"), srgb("c9d1d6"), 8, seed)
    return [
        Box(centre=(0, 0, 0.6), half=(0.3 * size, 0.2, 0.28), texture=checker(srgb("37628a"), srgb("9cc1d9"), 0.11)),
        Box(centre=(0, 0, 1.04), half=(0.2, 0.17, 0.15), texture=metal, gloss=0.4),
        Sphere(centre=(0.08, -0.17, 1.07), radius=0.05, texture=plain(_GOLD)),
        Sphere(centre=(-0.08, -0.17, 1.07), radius=0.05, texture=plain(_RED)),
        Cylinder(centre=(0.15, 0, 0.16), radius=0.1, half_height=0.16, texture=stripes((_RED, _GOLD), 2, 0.06)),
        Cylinder(centre=(-0.15, 0, 0.16), radius=0.1, half_height=0.16, texture=stripes((_RED, _GOLD), 2, 0.06)),
        Torus(
            centre=(0.45 * size, 0, 0.62),
            radius=0.16,
            thickness=0.05,
            rotation=((1, 0, 0), (0, 0, -1), (0, 1, 0)),
            texture=marble(_GREEN, _CREAM, 4, seed + 3),
        ),
        Box(centre=(-0.42 * size, 0, 0.6), half=(0.07, 0.08, 0.25), texture=noise(_GREEN, _GOLD, 9, seed + 4)),
    ]


def _truck(seed: int, size: float) -> list[Solid]:
    solids: list[Solid] = [
        Box(centre=(0.2, 0, 0.5), half=(0.45 * size, 0.28, 0.25), texture=bricks(_GREEN, _CREAM, 0.2, 0.1, 0.02, seed)),
        Box(centre=(-0.5, 0, 0.42), half=(0.2, 0.26, 0.2), texture=noise(_RED, srgb("e0785a"), 6, seed + 1), gloss=0.4),
        Box(centre=(0, 0, 0.2), half=(0.72, 0.2, 0.05), texture=checker(srgb("3b3b3b"), srgb("8a8a8a"), 0.09)),
    ]
    wheels = [
        Cylinder(
            centre=(x, y, 0.14),
            radius=0.14,
            half_height=0.06,
            rotation=((1, 0, 0), (0, 0, -1), (0, 1, 0)),
            texture=polar_tiles(srgb("2e2e2e"), srgb("cfcfcf"), 0.05, 8, 0.2, seed + 2),
        )
        for x in (-0.48, 0.05, 0.45)
        for y in (-0.27, 0.27)
    ]
    return [*solids, *wheels]


def _rings(seed: int, size: float) -> list[Solid]:
    solids: list[Solid] = [
        Cylinder(centre=(0, 0, 0.5), radius=0.06, half_height=0.5, texture=stripes((_CREAM, srgb("8d5b42")), 2, 0.1))
    ]
    colours = (_RED, _GOLD, _GREEN, _BLUE)
    solids += [
        Torus(
            centre=(0.02 * k, 0, 0.13 + 0.23 * k),
            radius=(0.5 - 0.09 * k) * size,
            thickness=0.125,
            texture=marble(colours[k], _CREAM, 2.5, seed + k),
            gloss=0.3,
        )
        for k in range(4)
    ]
    solids.append(Sphere(centre=(0, 0, 1.1), radius=0.15, texture=checker(_RED, _CREAM, 0.1), gloss=0.4))
    return solids


def _castle(seed: int, size: float) -> list[Solid]:
    stone = bricks(srgb("9b958a"), srgb("5d5850"), 0.15, 0.09, 0.014, seed)
    solids: list[Solid] = [Box(centre=(0, 0, 0.3), half=(0.5, 0.5, 0.3), texture=stone)]
    for k in range(4):
        angle = math.pi / 2 * k + math.pi / 4
        x, y, height = 0.7 * math.cos(angle), 0.7 * math.sin(angle), (0.4 + 0.08 * k) * size
        solids.append(Cylinder(centre=(x, y, height), radius=0.17, half_height=height, texture=stone))
        cap = (x, y, 2 * height)
        solids.append(Sphere(centre=cap, radius=0.19, texture=stripes((_RED, _BLUE, _GOLD), k % 3, 0.08), gloss=0.2))
    solids.append(Box(centre=(0, 0, 0.75), half=(0.2, 0.2, 0.2), texture=noise(_GOLD, srgb("7a5a2a"), 7, seed + 9)))
    return solids


OBJECTS: dict[str, Callable[[int, float], list[Solid]]] = {
    "House": _house,
    "Rocket": _rocket,
    "Robot": _robot,
    "Truck": _truck,
    "Rings": _rings,
    "Castle": _castle,
}


def build_object(name: str, seed: int = 0) -> list[Solid]:
    """The solids of an object; the platform is not among them.

    Raises:
        ValueError: There is no object of that name.
    """
    if name not in OBJECTS:
        raise ValueError(f"name: found {name!r}, expected one of {sorted(OBJECTS)}")
    number = list(OBJECTS).index(name)
    size = float(np.random.default_rng((seed, number)).uniform(0.9, 1.1))
    return OBJECTS[name](seed * 97 + number, size)
