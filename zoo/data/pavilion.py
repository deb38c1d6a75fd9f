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
from torch import Tensor

from zoo.data.analytic_solids import Box, Cylinder, Solid, Sphere, Torus, Vector, cast, is_blocked
from zoo.data.cameras import Cameras
from zoo.data.procedural_textures import (
    bricks,
    checker,
    encode_srgb,
    marble,
    noise,
    plain,
    polar_tiles,
    srgb,
    stripes,
)

AABB = (-1.25, -1.25, -1.0, 1.25, 1.25, 1.5)

_SUN = torch.nn.functional.normalize(torch.tensor([0.55, -0.45, 0.85]), dim=0)
_SUN_SPREAD = 0.05  # radius of the sun's disc at distance 1
_SUN_COLOUR = (1.05, 0.98, 0.85)
_SKY_COLOUR = (0.42, 0.47, 0.56)
_GROUND_COLOUR = (0.20, 0.18, 0.16)
_CHUNK = 1 << 17

Rotation = tuple[Vector, Vector, Vector]


def _turn_z(degrees: float) -> Rotation:
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
            rotation=_turn_z(28),
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
            rotation=_turn_z(turn),
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
            rotation=_turn_z(turn),
            radius=0.09,
            half_height=0.11,
            texture=stripes((srgb("7d4fa0"), yellow), 2, 0.06),
        ),
    ]


def build_scene(seed: int = 0) -> list[Solid]:
    """The solids of the pavilion; the seed changes textures and the placing of the toys."""
    return [*_pavilion(seed), *_ornaments(seed), *_toys(seed)]


def _sun_directions(samples: int) -> Tensor:
    """Directions ``(samples^2, 3)`` to points of the sun's disc, one for each subpixel, in a sunflower pattern."""
    count = samples * samples
    k = torch.arange(count, dtype=torch.float32)
    radius, angle = ((k + 0.5) / count).sqrt() * _SUN_SPREAD, k * math.pi * (3 - math.sqrt(5))
    x = torch.nn.functional.normalize(torch.linalg.cross(_SUN, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    y = torch.linalg.cross(_SUN, x)
    disc = (radius * angle.cos())[:, None] * x + (radius * angle.sin())[:, None] * y
    return torch.nn.functional.normalize(_SUN + disc, dim=-1)


def shade(solids: Sequence[Solid], origins: Tensor, directions: Tensor, sun: Tensor) -> tuple[Tensor, Tensor]:
    """Colours in sRGB ``(M, 3)`` and hits ``(M,)`` bool of rays.

    Light is a sky that fades to the ground with the normal, the sun with shadow rays, and a Blinn-Phong highlight.

    Args:
        solids: the scene.
        origins: ``(M, 3)``.
        directions: ``(M, 3)``, unit length.
        sun: ``(M, 3)`` unit directions towards the sun.
    """
    distance, which = cast(solids, origins, directions)
    hits = (which >= 0).nonzero()[:, 0]
    points = origins[hits] + distance[hits, None] * directions[hits]
    view, sun, which_hit = directions[hits], sun[hits], which[hits]
    albedo, normals, gloss = torch.zeros_like(points), torch.zeros_like(points), torch.zeros(len(points))
    for number, solid in enumerate(solids):
        rows = (which_hit == number).nonzero()[:, 0]
        if len(rows) == 0:
            continue
        rotation = points.new_tensor(solid.rotation)
        local = (points[rows] - points.new_tensor(solid.centre)) @ rotation
        albedo[rows] = solid.texture(local)
        normals[rows] = solid.normals(local) @ rotation.T
        gloss[rows] = solid.gloss
    facing = (normals * sun).sum(-1)
    lit = (facing > 0).nonzero()[:, 0]
    blocked = is_blocked(solids, points[lit] + 2e-3 * normals[lit], sun[lit])
    sunlight = torch.zeros_like(facing)
    sunlight[lit] = facing[lit] * ~blocked
    sky = 0.5 + 0.5 * normals[:, 2:]
    ambient = points.new_tensor(_SKY_COLOUR) * sky + points.new_tensor(_GROUND_COLOUR) * (1 - sky)
    middle = torch.nn.functional.normalize(sun - view, dim=-1)
    highlight = gloss * (sunlight > 0) * (normals * middle).sum(-1).clamp_min(0) ** 40
    light = ambient + points.new_tensor(_SUN_COLOUR) * sunlight.unsqueeze(-1)
    colours = torch.zeros_like(origins)
    colours[hits] = encode_srgb(albedo * light + 0.6 * highlight.unsqueeze(-1))
    return colours, which >= 0


def render_scene(solids: Sequence[Solid], cameras: Cameras, index: int, samples: int = 3) -> np.ndarray:
    """One picture with straight alpha, ``samples x samples`` rays for each pixel.

    Colours are averaged as stored (sRGB), which is the space in which radiance fields composite them.

    Returns:
        ``(H, W, 4)`` uint8.
    """
    grid = (torch.arange(samples, dtype=torch.float32) + 0.5) / samples - 0.5
    offsets = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1).reshape(-1, 2)
    suns = _sun_directions(samples)
    height, width = cameras.height, cameras.width
    pixels = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1)
    pixels = pixels.reshape(-1, 1, 2) + offsets  # (H * W, S, 2)
    rows_per_chunk = max(1, _CHUNK // len(offsets))
    pieces = []
    for chunk in pixels.split(rows_per_chunk):
        flat = chunk.reshape(-1, 2)
        rays = cameras.rays(torch.full((len(flat),), index), flat)
        colours, hit = shade(solids, rays.origins, rays.directions, suns.repeat(len(chunk), 1))
        hit = hit.reshape(len(chunk), -1, 1).float()
        covered = hit.sum(1)  # (P, 1)
        colour = (colours.reshape(len(chunk), -1, 3) * hit).sum(1) / covered.clamp_min(1)
        pieces.append(torch.cat((colour, covered / len(offsets)), dim=-1))
    image = torch.cat(pieces).reshape(height, width, 4)
    return (image * 255).round().to(torch.uint8).numpy()
