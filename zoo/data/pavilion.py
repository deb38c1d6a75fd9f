"""A small scene made by formulas: a garden pavilion, its solids and its light.

Round stone steps carry eight thin columns, a ring and a dome of thin ribs with a mast and a flag; inside stand a brick
pedestal with a marble ball and some toys. Sunlight casts soft shadows, surfaces have textures and highlights, and most
of the solids' volume is hidden, which is what a pruned field can save.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from zoo.data.analytic_render import Lighting, render_view
from zoo.data.analytic_solids import Box, Cylinder, Solid, Sphere, Torus, Vector
from zoo.data.cameras import Cameras
from zoo.data.procedural_textures import (
    bricks,
    checker,
    marble,
    noise,
    plain,
    polar_tiles,
    srgb,
    stripes,
)

AABB = (-1.25, -1.25, -1.0, 1.25, 1.25, 1.5)

LIGHTING = Lighting(
    direction=(0.55, -0.45, 0.85),
    spread=0.05,
    colour=(1.05, 0.98, 0.85),
    sky=(0.42, 0.47, 0.56),
    ground=(0.20, 0.18, 0.16),
)

Rotation = tuple[Vector, Vector, Vector]


def turn_z(degrees: float) -> Rotation:
    """The rotation about z."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0)


def _frame_of_axis(axis: Vector) -> Rotation:
    """A rotation whose third column is the axis."""
    z = np.array(axis) / np.linalg.norm(axis)
    x = np.cross(z, [1.0, 0.0, 0.0] if abs(z[0]) < 0.9 else [0.0, 1.0, 0.0])
    x /= np.linalg.norm(x)
    rows = np.stack((x, np.cross(z, x), z), axis=1).tolist()
    return tuple(rows[0]), tuple(rows[1]), tuple(rows[2])


def _pavilion(seed: int) -> list[Solid]:
    stone, shade = srgb("e6dac3"), srgb("a8947a")
    solids: list[Solid] = [
        Cylinder(centre=(0, 0, -0.84), radius=1.1, half_height=0.06, texture=noise(shade, stone, 5, seed)),
        Cylinder(
            centre=(0, 0, -0.72),
            radius=0.95,
            half_height=0.06,
            texture=polar_tiles(srgb("d8b58a"), srgb("8f5f4a"), 0.2, 20, 0.35, seed + 11),
        ),
        Torus(centre=(0, 0, 0.24), radius=0.72, thickness=0.04, texture=plain(srgb("f1e7d3")), gloss=0.2),
    ]
    for k in range(8):
        angle = math.pi / 4 * k + 0.2
        x, y = 0.72 * math.cos(angle), 0.72 * math.sin(angle)
        texture = stripes((srgb("f1e7d3"), srgb("3f7f8c")), 2, 0.15)
        solids.append(Cylinder(centre=(x, y, -0.21), radius=0.026, half_height=0.45, texture=texture, gloss=0.3))
        solids.append(Sphere(centre=(x, y, -0.64), radius=0.05, texture=plain(srgb("c9a227")), gloss=0.6))
    for k in range(4):
        angle = math.pi / 4 * k + 0.2
        c, s = math.cos(angle), math.sin(angle)
        solids.append(
            Torus(
                centre=(0, 0, 0.24),
                rotation=((c, 0.0, s), (s, 0.0, -c), (0.0, 1.0, 0.0)),  # y of the arc points up
                arc=True,
                radius=0.72,
                thickness=0.017,
                texture=plain(srgb("2f6f7d")),
                gloss=0.4,
            )
        )
    return solids


def _ornaments(seed: int) -> list[Solid]:
    red, gold, cream = srgb("b8382f"), srgb("d9a441"), srgb("f4ead2")
    return [
        Sphere(centre=(0, 0, 0.99), radius=0.075, texture=plain(gold), gloss=0.8),
        Cylinder(centre=(0, 0, 1.2), radius=0.013, half_height=0.2, texture=plain(srgb("6b4a2f"))),
        Box(
            centre=(0.145, 0.0, 1.31),
            half=(0.14, 0.006, 0.085),
            texture=stripes((red, cream), 0, 0.0934),
        ),
        Box(
            centre=(0, 0, -0.51),
            half=(0.2, 0.2, 0.15),
            rotation=turn_z(28),
            texture=bricks(srgb("b5583c"), srgb("d9cbb5"), 0.16, 0.075, 0.016, seed + 3),
        ),
        Sphere(
            centre=(0, 0, -0.12),
            radius=0.24,
            texture=marble(srgb("f2efe6"), srgb("1f4e79"), 2.6, seed + 5),
            gloss=0.9,
        ),
    ]


def _toys(seed: int) -> list[Solid]:
    """Small things beside the pedestal; the seed places them."""
    rng = np.random.default_rng((seed, 7))
    turn = float(rng.uniform(-20, 20))
    blue, yellow, green = srgb("2b5fb0"), srgb("f0c03a"), srgb("4f9a4a")
    return [
        Box(
            centre=(0.42, -0.3, -0.56),
            half=(0.1, 0.1, 0.1),
            rotation=turn_z(turn),
            texture=checker(blue, srgb("f4ead2"), 0.1),
        ),
        Sphere(
            centre=(-0.36, -0.36, -0.55),
            radius=0.11,
            texture=stripes((srgb("c8402f"), srgb("f4ead2"), yellow), 0, 0.07),
            gloss=0.7,
        ),
        Torus(
            centre=(-0.38, 0.3, -0.53),
            rotation=_frame_of_axis((0.5, -0.3, 0.9)),
            radius=0.13,
            thickness=0.045,
            texture=noise(green, yellow, 9, seed + 23),
            gloss=0.5,
        ),
        Cylinder(
            centre=(0.32, 0.38, -0.55),
            rotation=turn_z(turn),
            radius=0.09,
            half_height=0.11,
            texture=stripes((srgb("7d4fa0"), yellow), 2, 0.06),
        ),
    ]


def build_scene(seed: int = 0) -> list[Solid]:
    """The solids of the pavilion; the seed changes textures and the placing of the toys."""
    return [*_pavilion(seed), *_ornaments(seed), *_toys(seed)]


def render_scene(solids: Sequence[Solid], cameras: Cameras, index: int, samples: int = 3) -> np.ndarray:
    """One picture with straight alpha, ``samples x samples`` rays for each pixel.

    Returns:
        ``(H, W, 4)`` uint8.
    """
    image = render_view(solids, cameras, index, LIGHTING, samples).rgba
    return (image * 255).round().to(torch.uint8).numpy()
