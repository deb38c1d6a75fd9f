"""Pictures of analytic solids: a sky, a lamp with soft shadows, textures and highlights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.data.analytic_solids import Solid, Vector, cast, is_blocked
from zoo.data.cameras import Cameras
from zoo.data.procedural_textures import encode_srgb

__all__ = ["Lighting", "RenderedView", "render_view"]

_CHUNK = 1 << 17


@dataclass(frozen=True, kw_only=True)
class Lighting:
    """A sky that fades to the ground, and a lamp far away.

    Attributes:
        direction: towards the lamp; need not have unit length.
        spread: radius of the lamp's disc at distance 1.
        colour: of the lamp, linear light.
        sky: light from above.
        ground: light from below.
    """

    direction: Vector
    spread: float
    colour: Vector
    sky: Vector
    ground: Vector


class RenderedView(NamedTuple):
    """A picture and what is in it."""

    rgba: Tensor  # (H, W, 4) in [0, 1], sRGB with straight alpha
    objects: Tensor  # (H, W) share of each pixel's rays that hit one of the first solids


def _lamp_directions(lighting: Lighting, samples: int) -> Tensor:
    """Directions ``(samples^2, 3)`` to points of the lamp's disc, one for each subpixel, in a sunflower pattern."""
    towards = torch.nn.functional.normalize(torch.tensor(lighting.direction), dim=0)
    count = samples * samples
    k = torch.arange(count, dtype=torch.float32)
    radius, angle = ((k + 0.5) / count).sqrt() * lighting.spread, k * math.pi * (3 - math.sqrt(5))
    x = torch.nn.functional.normalize(torch.linalg.cross(towards, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    y = torch.linalg.cross(towards, x)
    disc = (radius * angle.cos())[:, None] * x + (radius * angle.sin())[:, None] * y
    return torch.nn.functional.normalize(towards + disc, dim=-1)


def shade(
    solids: Sequence[Solid], origins: Tensor, directions: Tensor, sun: Tensor, lighting: Lighting
) -> tuple[Tensor, Tensor]:
    """Colours in sRGB ``(M, 3)`` and the solid ``(M,)`` that each ray hits, -1 for none.

    Light is a sky that fades to the ground with the normal, the lamp with shadow rays, and a Blinn-Phong highlight.

    Args:
        solids: the scene.
        origins: ``(M, 3)``.
        directions: ``(M, 3)``, unit length.
        sun: ``(M, 3)`` unit directions towards the lamp.
        lighting: colours of the light.
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
    ambient = points.new_tensor(lighting.sky) * sky + points.new_tensor(lighting.ground) * (1 - sky)
    middle = torch.nn.functional.normalize(sun - view, dim=-1)
    highlight = gloss * (sunlight > 0) * (normals * middle).sum(-1).clamp_min(0) ** 40
    light = ambient + points.new_tensor(lighting.colour) * sunlight.unsqueeze(-1)
    colours = torch.zeros_like(origins)
    colours[hits] = encode_srgb(albedo * light + 0.6 * highlight.unsqueeze(-1))
    return colours, which


def render_view(
    solids: Sequence[Solid], cameras: Cameras, index: int, lighting: Lighting, samples: int = 3, num_objects: int = 0
) -> RenderedView:
    """One picture, ``samples x samples`` rays for each pixel.

    Colours are averaged as stored (sRGB), which is the space in which radiance fields composite them.

    Args:
        solids: the scene.
        cameras: N cameras.
        index: of the camera.
        lighting: the light.
        samples: rays along each side of a pixel.
        num_objects: the first so many solids count as objects.
    """
    grid = (torch.arange(samples, dtype=torch.float32) + 0.5) / samples - 0.5
    offsets = torch.stack(torch.meshgrid(grid, grid, indexing="xy"), dim=-1).reshape(-1, 2)
    lamps = _lamp_directions(lighting, samples)
    height, width = cameras.height, cameras.width
    pixels = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), dim=-1)
    pixels = pixels.reshape(-1, 1, 2) + offsets  # (H * W, S, 2)
    rows_per_chunk = max(1, _CHUNK // len(offsets))
    pieces, objects = [], []
    for chunk in pixels.split(rows_per_chunk):
        flat = chunk.reshape(-1, 2)
        rays = cameras.rays(torch.full((len(flat),), index), flat)
        colours, which = shade(solids, rays.origins, rays.directions, lamps.repeat(len(chunk), 1), lighting)
        hit = (which >= 0).reshape(len(chunk), -1, 1).float()
        covered = hit.sum(1)  # (P, 1)
        colour = (colours.reshape(len(chunk), -1, 3) * hit).sum(1) / covered.clamp_min(1)
        pieces.append(torch.cat((colour, covered / len(offsets)), dim=-1))
        objects.append(((which >= 0) & (which < num_objects)).reshape(len(chunk), -1).float().mean(1))
    return RenderedView(torch.cat(pieces).reshape(height, width, 4), torch.cat(objects).reshape(height, width))
