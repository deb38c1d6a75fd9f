"""Ray-box tests and grid marching in plain torch: all rays advance together, one cell or sample in each step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor


class Crossings(NamedTuple):
    """Where each of N lines enters and leaves each of M boxes, both ``(N, M)``, and whether it does."""

    enter: Tensor
    leave: Tensor
    hit: Tensor


def cross_boxes(rays_o: Tensor, rays_d: Tensor, aabbs: Tensor) -> Crossings:
    """Slab test of all rays against all boxes; touching counts, boxes behind the origin and NaN do not."""
    origin, direction = rays_o[:, None, :], rays_d[:, None, :]
    first = (aabbs[None, :, :3] - origin) / direction
    second = (aabbs[None, :, 3:] - origin) / direction
    parallel = (direction == 0).expand_as(first)
    inside = (aabbs[None, :, :3] <= origin) & (origin <= aabbs[None, :, 3:])
    low = torch.where(parallel, -torch.inf, torch.minimum(first, second))
    high = torch.where(parallel, torch.inf, torch.maximum(first, second))
    enter, leave = low.amax(-1), high.amin(-1)
    hit = (enter <= leave) & (leave > 0) & (inside | ~parallel).all(-1)
    return Crossings(enter, leave, hit)


def ray_aabb_intersect(
    rays_o: Tensor, rays_d: Tensor, aabbs: Tensor, near_plane: float, far_plane: float, miss_value: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Entry and exit ``(N, M)`` clipped by the planes, ``miss_value`` where missed, and the hits."""
    enter, leave, hit = cross_boxes(rays_o, rays_d, aabbs)
    t_mins = torch.where(hit, enter.clamp_min(near_plane), miss_value)
    t_maxs = torch.where(hit, leave.clamp_max(far_plane), miss_value)
    return t_mins, t_maxs, hit


@dataclass
class _Marcher:
    """The state of all rays on their way, and the samples that they have taken."""

    rays_o: Tensor  # (N, 3)
    rays_d: Tensor  # (N, 3)
    binaries: Tensor  # (L, rx, ry, rz) bool
    aabbs: Tensor  # (L, 6)
    near: Tensor  # (N,)
    far: Tensor  # (N,)
    step: float
    cone: float
    limit: int
    t: Tensor = field(init=False)  # (N,) where the next sample begins
    k: Tensor = field(init=False)  # (N,) the same as a number of lattice steps
    counts: Tensor = field(init=False)  # (N,)
    stuck: Tensor = field(init=False)  # (N,) the step is below the precision of t
    rays: list[Tensor] = field(default_factory=list)
    starts: list[Tensor] = field(default_factory=list)
    ends: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.t = self.near.clone()
        self.k = torch.zeros_like(self.near, dtype=torch.int64)
        self.counts = torch.zeros_like(self.k)
        self.stuck = ~torch.isfinite(self.near)

    def march(self) -> None:
        """Follow all rays into the boxes from the outermost, through the innermost one hit, and out again."""
        enter, leave, hit = cross_boxes(self.rays_o, self.rays_d, self.aabbs)
        levels = len(self.aabbs)
        for segment in range(1 - levels, levels):
            level = abs(segment)
            inner_hit = hit[:, level - 1] if level else torch.zeros_like(hit[:, 0])
            begin, end = enter[:, level], leave[:, level]
            valid = hit[:, level]
            if segment < 0:
                end = torch.where(inner_hit, enter[:, level - 1], end)
            if segment > 0:
                begin, valid = leave[:, level - 1], valid & inner_hit
            begin, end = torch.maximum(begin, self.near), torch.minimum(end, self.far)
            rays = torch.nonzero(valid & (begin < end) & self._open())[:, 0]
            self._skip(rays, begin[rays])
            self._cross_level(rays, begin[rays], end[rays], level)

    def _open(self) -> Tensor:
        return ~self.stuck if self.limit <= 0 else ~self.stuck & (self.counts < self.limit)

    def _cross_level(self, rays: Tensor, begin: Tensor, end: Tensor, level: int) -> None:
        """Cell after cell of one level between ``begin`` and ``end``."""
        o, d = self.rays_o[rays], self.rays_d[rays]
        low, high = self.aabbs[level].split(3)
        resolution = torch.tensor(self.binaries.shape[1:], device=rays.device)
        voxel = (high - low) / resolution
        inside = begin + 16 * torch.finfo(begin.dtype).eps * (1 + begin.abs())
        cell = ((o + d * inside[:, None] - low) / voxel).clamp(min=0).minimum(resolution - 1).long()
        forward = d > 0
        while len(rays):
            planes = (low + (cell + forward) * voxel - o) * (1 / d)
            planes = torch.where(d == 0, torch.inf, planes)
            nearest = planes.amin(-1)
            exits = torch.minimum(nearest, end)
            occupied = self.binaries[level][tuple(cell.T)]
            self._skip(rays[~occupied], exits[~occupied])
            finished = torch.ones_like(occupied)
            finished[occupied] = self._sample(rays[occupied], exits[occupied])
            axis = _nearest_axis(planes)
            moved = torch.where(forward, 1, -1).gather(-1, axis[:, None])
            cell = torch.where(finished[:, None], cell.scatter_add(-1, axis[:, None], moved), cell)
            ahead = (cell >= 0).all(-1) & (cell < resolution).all(-1) & (nearest < end)
            going = torch.where(finished, ahead, True) & self._open()[rays]
            rays, o, d, end, cell, forward = (x[going] for x in (rays, o, d, end, cell, forward))

    def _skip(self, rays: Tensor, exits: Tensor) -> None:
        """Advance without samples until the next midpoint lies at or behind ``exits``."""
        if self.step <= 0:
            self.t[rays] = exits
        elif self.cone > 0:
            t = self.t[rays]
            dt = self._width(t)
            self.t[rays] = t + torch.ceil((exits - t) / dt - 0.5).clamp_min(0) * dt
        else:
            self.k[rays] = self._lattice_ceil(rays, exits)
            self.t[rays] = self._lattice(rays, self.k[rays])

    def _sample(self, rays: Tensor, exits: Tensor) -> Tensor:
        """Take the samples of occupied cells; True where the cell is done with (cones take one sample at a time)."""
        if self.step > 0 and self.cone <= 0:
            self._sample_lattice(rays, exits)
            return torch.ones_like(rays, dtype=torch.bool)
        t = self.t[rays]
        if self.step <= 0:
            some = exits > t
            self._take(rays[some], t[some], exits[some])
            self.t[rays] = exits
            return torch.ones_like(some)
        dt = self._width(t)
        some = t + dt * 0.5 < exits
        self.stuck[rays[some & (t + dt == t)]] = True
        some &= t + dt != t
        self._take(rays[some], t[some], (t + dt)[some])
        self.t[rays] = torch.where(some, t + dt, t)
        return ~some

    def _sample_lattice(self, rays: Tensor, exits: Tensor) -> None:
        first = self.k[rays]
        number = self._lattice_ceil(rays, exits) - first
        if self.limit > 0:
            number = torch.minimum(number, self.limit - self.counts[rays])
        self.k[rays] = first + number
        self.t[rays] = self._lattice(rays, self.k[rays])
        rank = torch.arange(int(number.sum()), device=rays.device)
        rank = rank - torch.repeat_interleave(number.cumsum(0) - number, number)
        each, k = torch.repeat_interleave(rays, number), torch.repeat_interleave(first, number) + rank
        self._take(each, self._lattice(each, k), self._lattice(each, k + 1))

    def _lattice(self, rays: Tensor, k: Tensor) -> Tensor:
        return self.near[rays] + k.to(self.near.dtype) * self.step

    def _lattice_ceil(self, rays: Tensor, exits: Tensor) -> Tensor:
        inverse_step = 1 / torch.tensor(self.step, dtype=exits.dtype, device=exits.device)
        exact = torch.ceil((exits - self.near[rays]) * inverse_step - 0.5)
        return torch.maximum(exact.clamp(max=4e18).long(), self.k[rays])

    def _width(self, t: Tensor) -> Tensor:
        return (t * self.cone).clamp(min=self.step).clamp(max=1e10)

    def _take(self, rays: Tensor, starts: Tensor, ends: Tensor) -> None:
        self.rays.append(rays)
        self.starts.append(starts)
        self.ends.append(ends)
        self.counts += torch.bincount(rays, minlength=len(self.counts))


def _nearest_axis(planes: Tensor) -> Tensor:
    """Axis of the nearest plane ``(N,)``; where planes coincide, the later axis goes first."""
    x, y, z = planes.unbind(-1)
    return torch.where(x < y, torch.where(x < z, 0, 2), torch.where(y < z, 1, 2))


def _march(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
    max_samples: int,
) -> _Marcher:
    marcher = _Marcher(rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle, max_samples)
    marcher.march()
    return marcher


def march_count(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
    max_samples: int,
) -> Tensor:
    """Number of samples of each ray, ``(N,)`` int64."""
    return _march(rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle, max_samples).counts


def march_fill(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
    max_samples: int,
    packed_info: Tensor,
    total: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Starts, ends and ray of each of the ``total`` samples, and where the march of each ray ended."""
    marcher = _march(rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle, max_samples)
    if not marcher.rays:
        empty = rays_o.new_empty(0)
        return empty, empty.clone(), packed_info.new_empty(0), marcher.t
    ray_indices = torch.cat(marcher.rays)
    order = torch.argsort(ray_indices, stable=True)
    return torch.cat(marcher.starts)[order], torch.cat(marcher.ends)[order], ray_indices[order], marcher.t
