"""Solids with closed-form or distance-guided ray intersection, and the casting of rays against a set of them.

Everything is float32 torch on the CPU: origins and directions are ``(M, 3)``, distances ``(M,)``, infinite for a miss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Vector = tuple[float, float, float]
Texture = Callable[[Tensor], Tensor]  # points (M, 3) in the solid's frame -> colours (M, 3) in [0, 1], linear light

_MISS = math.inf
_START = 1e-4  # hits nearer than this are the surface that the ray leaves


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A solid in its own frame: ``x_world = rotation @ x + centre``.

    Attributes:
        centre: position of the frame.
        rotation: rows of the 3 x 3 rotation.
        texture: colour by point in the solid's frame.
        gloss: strength of the highlight.
    """

    centre: Vector
    rotation: tuple[Vector, Vector, Vector] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    texture: Texture
    gloss: float = 0.0

    @property
    def bound(self) -> float:
        """Radius of a sphere about the centre that holds the solid."""
        raise NotImplementedError

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Distance to the surface along rays in the solid's frame."""
        raise NotImplementedError

    def normals(self, points: Tensor) -> Tensor:
        """Outward unit normals at points of the surface in the solid's frame."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Sphere(Solid):
    """A ball."""

    radius: float

    @property
    def bound(self) -> float:
        """Radius of the ball."""
        return self.radius

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """The nearer root of ``|o + t d|^2 = r^2`` in front of the origin."""
        b = (origins * directions).sum(-1)
        root = b * b - (origins * origins).sum(-1) + self.radius**2
        half = root.clamp_min(0).sqrt()
        near, far = -b - half, -b + half
        t = torch.where(near > _START, near, far)
        return torch.where((root > 0) & (t > _START), t, _MISS)

    def normals(self, points: Tensor) -> Tensor:
        """The direction from the centre."""
        return torch.nn.functional.normalize(points, dim=-1)


@dataclass(frozen=True, kw_only=True)
class Box(Solid):
    """A block with half edge lengths ``half``."""

    half: Vector

    @property
    def bound(self) -> float:
        """Half the space diagonal."""
        return math.hypot(*self.half)

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Slab test."""
        half = origins.new_tensor(self.half)
        inverse = 1 / torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
        first, second = (-half - origins) * inverse, (half - origins) * inverse
        near = torch.minimum(first, second).amax(-1)
        far = torch.maximum(first, second).amin(-1)
        t = torch.where(near > _START, near, far)
        return torch.where((near <= far) & (t > _START), t, _MISS)

    def normals(self, points: Tensor) -> Tensor:
        """The axis of the face that lies nearest."""
        scaled = points / points.new_tensor(self.half)
        axis = scaled.abs().argmax(-1, keepdim=True)
        return torch.zeros_like(points).scatter_(-1, axis, scaled.gather(-1, axis).sign())


@dataclass(frozen=True, kw_only=True)
class Cylinder(Solid):
    """A capped cylinder about its own z axis."""

    radius: float
    half_height: float

    @property
    def bound(self) -> float:
        """Half the diagonal of the profile."""
        return math.hypot(self.radius, self.half_height)

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Where the interval inside the infinite tube and the one between the caps overlap."""
        ox, oy, oz = origins.unbind(-1)
        dx, dy, dz = directions.unbind(-1)
        a = (dx * dx + dy * dy).clamp_min(1e-12)
        b = ox * dx + oy * dy
        root = b * b - a * (ox * ox + oy * oy - self.radius**2)
        half = root.clamp_min(0).sqrt()
        dz = torch.where(dz.abs() < 1e-9, torch.full_like(dz, 1e-9), dz)
        first, second = (-self.half_height - oz) / dz, (self.half_height - oz) / dz
        near = torch.maximum((-b - half) / a, torch.minimum(first, second))
        far = torch.minimum((-b + half) / a, torch.maximum(first, second))
        t = torch.where(near > _START, near, far)
        return torch.where((root > 0) & (near <= far) & (t > _START), t, _MISS)

    def normals(self, points: Tensor) -> Tensor:
        """Radial on the side, along z on the caps."""
        side = points[..., :2].norm(dim=-1) - self.radius
        cap = points[..., 2].abs() - self.half_height
        flat = torch.zeros_like(points)
        flat[..., 2] = points[..., 2].sign()
        radial = torch.cat((points[..., :2], torch.zeros_like(points[..., 2:])), dim=-1)
        return torch.where((cap > side).unsqueeze(-1), flat, torch.nn.functional.normalize(radial, dim=-1))


@dataclass(frozen=True, kw_only=True)
class Torus(Solid):
    """A ring about its own z axis; with ``arc`` only the half where y is positive, with round ends."""

    radius: float
    thickness: float
    arc: bool = False
    max_steps: int = 64

    @property
    def bound(self) -> float:
        """Outer radius."""
        return self.radius + self.thickness

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance ``|(|xy| - R, z)| - r``; below an arc, to the ball at its nearer end."""
        across = points[..., :2].norm(dim=-1) - self.radius
        if self.arc:
            end = torch.hypot(points[..., 0].abs() - self.radius, points[..., 1])
            across = torch.where(points[..., 1] > 0, across, end)
        return torch.hypot(across, points[..., 2]) - self.thickness

    def hit(self, origins: Tensor, directions: Tensor) -> Tensor:
        """Sphere tracing within the bounding sphere."""
        b = (origins * directions).sum(-1)
        half = (b * b - (origins * origins).sum(-1) + self.bound**2).clamp_min(0).sqrt()
        end = -b + half
        t = (-b - half).clamp_min(2e-3)  # a ray that leaves the ring itself begins clear of it
        result = torch.full_like(t, _MISS)
        active = (t < end).nonzero()[:, 0]
        for _ in range(self.max_steps):
            if len(active) == 0:
                break
            step = self.distance(origins[active] + t[active, None] * directions[active])
            arrived = step < 2e-4
            result[active[arrived]] = t[active[arrived]]
            t[active] = t[active] + step
            active = active[~arrived & (t[active] < end[active])]
        return result

    def normals(self, points: Tensor) -> Tensor:
        """From the nearest point of the ring's core."""
        core = torch.nn.functional.normalize(points[..., :2], dim=-1) * self.radius
        if self.arc:
            end = torch.zeros_like(core)
            end[..., 0] = points[..., 0].sign() * self.radius
            core = torch.where(points[..., 1:2] > 0, core, end)
        return torch.nn.functional.normalize(torch.cat((points[..., :2] - core, points[..., 2:]), dim=-1), dim=-1)


def to_frame(solid: Solid, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Rays in the solid's frame."""
    rotation = origins.new_tensor(solid.rotation)
    return (origins - origins.new_tensor(solid.centre)) @ rotation, directions @ rotation


def _candidates(solid: Solid, origins: Tensor, directions: Tensor) -> Tensor:
    """Rays that pass the bounding sphere of a solid."""
    offset = origins - origins.new_tensor(solid.centre)
    along = (offset * directions).sum(-1)
    squared = (offset * offset).sum(-1)
    reach = (solid.bound + 1e-3) ** 2
    return ((squared - along * along <= reach) & ((along < 0) | (squared <= reach))).nonzero()[:, 0]


def cast(solids: Sequence[Solid], origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """The first surface along each ray.

    Args:
        solids: the scene.
        origins: ``(M, 3)``.
        directions: ``(M, 3)``, unit length.

    Returns:
        distance ``(M,)``, infinite for a miss, and index of the solid ``(M,)`` int64, -1 for a miss.
    """
    distance = torch.full((len(origins),), _MISS)
    which = torch.full((len(origins),), -1, dtype=torch.int64)
    for number, solid in enumerate(solids):
        rays = _candidates(solid, origins, directions)
        if len(rays) == 0:
            continue
        t = solid.hit(*to_frame(solid, origins[rays], directions[rays]))
        nearer = t < distance[rays]
        distance[rays[nearer]] = t[nearer]
        which[rays[nearer]] = number
    return distance, which


def is_blocked(solids: Sequence[Solid], origins: Tensor, directions: Tensor) -> Tensor:
    """Whether anything lies along each ray: ``(M,)`` bool."""
    blocked = torch.zeros(len(origins), dtype=torch.bool)
    for solid in solids:
        rays = _candidates(solid, origins, directions)
        rays = rays[~blocked[rays]]
        if len(rays):
            t = solid.hit(*to_frame(solid, origins[rays], directions[rays]))
            blocked[rays] = torch.isfinite(t)
    return blocked
