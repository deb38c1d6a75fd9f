"""Colours as functions of position, in linear light."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.data.analytic_solids import Texture

Colour = tuple[float, float, float]


def srgb(code: str) -> Colour:
    """Linear-light colour of a hexadecimal sRGB code such as ``"d9a441"``."""
    values = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return linear[0], linear[1], linear[2]


def encode_srgb(linear: Tensor) -> Tensor:
    """Linear light to sRGB values, both in [0, 1]."""
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp_min(1e-8) ** (1 / 2.4) - 0.055)


def _mix(a: Colour, b: Colour, weight: Tensor) -> Tensor:
    first, second = weight.new_tensor(a), weight.new_tensor(b)
    return first + (second - first) * weight.unsqueeze(-1)


def _lattice_value(cell: Tensor, seed: int) -> Tensor:
    """A value in [0, 1) for each integer lattice point ``(M, 3)``."""
    h = cell[:, 0] * 73856093 ^ cell[:, 1] * 19349663 ^ cell[:, 2] * 83492791 ^ seed * 2654435761
    h = (h ^ (h >> 13)) * 1274126177 & 0x7FFFFFFF
    h = (h ^ (h >> 16)) * 668265263 & 0x7FFFFFFF
    return (h ^ (h >> 15)).float() / float(0x80000000)


def value_noise(points: Tensor, seed: int) -> Tensor:
    """Smoothly interpolated random values ``(M,)`` in [0, 1) with one lattice point for each unit of length."""
    floor = points.floor()
    cell, fraction = floor.to(torch.int64), points - floor
    fade = fraction * fraction * (3 - 2 * fraction)
    total = torch.zeros(len(points))
    for corner in range(8):
        bits = torch.tensor([corner & 1, corner >> 1 & 1, corner >> 2 & 1])
        weight = torch.where(bits.bool(), fade, 1 - fade).prod(-1)
        total += weight * _lattice_value(cell + bits, seed)
    return total


def fractal_noise(points: Tensor, seed: int, octaves: int = 3) -> Tensor:
    """Sum of octaves of `value_noise`, each half as strong and twice as fine, scaled to [0, 1)."""
    total, weight = torch.zeros(len(points)), 0.0
    for octave in range(octaves):
        total += value_noise(points * 2.0**octave, seed + octave) * 0.5**octave
        weight += 0.5**octave
    return total / weight


def plain(colour: Colour) -> Texture:
    """One colour."""
    return lambda points: points.new_tensor(colour).expand(len(points), 3)


def noise(a: Colour, b: Colour, frequency: float, seed: int) -> Texture:
    """Clouds of two colours."""
    return lambda points: _mix(a, b, fractal_noise(points * frequency, seed))


def marble(a: Colour, b: Colour, frequency: float, seed: int) -> Texture:
    """Veins: stripes along a slanted axis, bent by noise."""

    def colour(points: Tensor) -> Tensor:
        phase = (points @ points.new_tensor([0.6, 0.3, 0.75])) * frequency
        turbulence = fractal_noise(points * frequency * 0.8, seed)
        return _mix(a, b, (0.5 + 0.5 * torch.sin(2 * math.pi * (phase + 1.5 * turbulence))) ** 2)

    return colour


def checker(a: Colour, b: Colour, size: float) -> Texture:
    """Cubes of two colours with edges of length ``size``, offset so that no face lies in a boundary."""

    def colour(points: Tensor) -> Tensor:
        cell = torch.floor(points / size + 0.4137).sum(-1)
        return _mix(a, b, torch.remainder(cell, 2))

    return colour


def polar_tiles(a: Colour, b: Colour, rings: float, sectors: int, grain: float, seed: int) -> Texture:
    """Round paving about the z axis: rings of width ``rings`` cut into ``sectors``, with a grain of noise."""

    def colour(points: Tensor) -> Tensor:
        angle = torch.atan2(points[:, 1], points[:, 0]) / (2 * math.pi)
        ring = torch.floor(points[:, :2].norm(dim=-1) / rings)
        cell = ring + torch.floor(angle * sectors + 0.5 * torch.remainder(ring, 2))
        return _mix(a, b, torch.remainder(cell, 2)) * (1 - grain * fractal_noise(points * 9, seed)).unsqueeze(-1)

    return colour


def stripes(colours: tuple[Colour, ...], axis: int, width: float) -> Texture:
    """Bands across one axis, repeating."""

    def colour(points: Tensor) -> Tensor:
        band = torch.remainder(torch.floor(points[:, axis] / width + 0.5), len(colours)).to(torch.int64)
        return points.new_tensor(colours)[band]

    return colour


def bricks(brick: Colour, mortar: Colour, length: float, height: float, joint: float, seed: int) -> Texture:
    """Courses along z, alternately offset, each brick with its own shade."""

    def colour(points: Tensor) -> Tensor:
        level = points[:, 2] / height + 0.37  # keeps the joints off the faces of a block
        course = torch.floor(level)
        along = (points[:, 0] + points[:, 1]) / length + 0.5 * torch.remainder(course, 2)
        cell = torch.stack((torch.floor(along), course, torch.zeros_like(course)), dim=-1).to(torch.int64)
        shade = 0.7 + 0.5 * _lattice_value(cell, seed)
        beside = torch.minimum(along - torch.floor(along), torch.ceil(along) - along) * length
        above = (level - course) * height
        is_joint = (beside < joint / 2) | (above < joint)
        return torch.where(
            is_joint.unsqueeze(-1), points.new_tensor(mortar), points.new_tensor(brick) * shade.unsqueeze(-1)
        )

    return colour
