"""Rays against boxes, and rays through nested occupancy grids.

Rays are ``origin + t direction``. Directions may have any length; ``t``, planes and steps are in units of that length.
Marching is not differentiable.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.backend import active_backend
from zoo.ops.dispatch import define_op
from zoo.ops.reference import rays as reference

MAX_LEVELS = 8
MAX_TOTAL_SAMPLES = 2**31 - 1


class RaySamples(NamedTuple):
    """Samples along rays in nerfacc's packed layout: all of ray 0, then all of ray 1, and so on.

    Attributes:
        t_starts: Beginning of each interval, ``(N,)``.
        t_ends: End of each interval, ``(N,)``.
        ray_indices: Ray of each sample, ascending, ``(N,)`` int64.
        packed_info: First sample and number of samples of each ray, ``(n_rays, 2)`` int64.
        terminations: Where the march of each ray stopped, ``(n_rays,)``: a limit of samples leaves it inside the grid,
            and marching on from there takes the samples that follow.
    """

    t_starts: Tensor
    t_ends: Tensor
    ray_indices: Tensor
    packed_info: Tensor
    terminations: Tensor


def _march_rays(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
    max_samples: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Count, allocate, fill: the same for native kernels and the reference."""
    walk = (rays_o, rays_d, binaries, aabbs, near_planes, far_planes, step_size, cone_angle, max_samples)
    counts = _march_count(*walk)
    ends = counts.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    if not 0 <= total <= MAX_TOTAL_SAMPLES:
        raise ValueError(
            f"march_rays: {len(counts)} rays would take {total} samples, expected at most {MAX_TOTAL_SAMPLES}; "
            f"step_size={step_size} is small against the grid: enlarge it, march fewer rays, or set max_samples_per_ray"
        )
    packed_info = torch.stack([ends - counts, counts], dim=-1)
    t_starts, t_ends, ray_indices, terminations = _march_fill(*walk, packed_info, total)
    return t_starts, t_ends, ray_indices, packed_info, terminations


def _fake_march_rays(rays_o: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    n_rays = rays_o.shape[0]
    return (
        rays_o.new_empty(total),
        rays_o.new_empty(total),
        rays_o.new_empty(total, dtype=torch.int64),
        rays_o.new_empty(n_rays, 2, dtype=torch.int64),
        rays_o.new_empty(n_rays),
    )


def _fake_march_fill(rays_o: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = rest[-1]
    return (
        rays_o.new_empty(total),
        rays_o.new_empty(total),
        rays_o.new_empty(total, dtype=torch.int64),
        rays_o.new_empty(rays_o.shape[0]),
    )


def _fake_intersect(rays_o: Tensor, rays_d: Tensor, aabbs: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    shape = (rays_o.shape[0], aabbs.shape[0])
    return rays_o.new_empty(shape), rays_o.new_empty(shape), rays_o.new_empty(shape, dtype=torch.bool)


_WALK = (
    "Tensor rays_o, Tensor rays_d, Tensor binaries, Tensor aabbs, Tensor near_planes, Tensor far_planes, "
    "float step_size, float cone_angle, int max_samples"
)

_ray_aabb_intersect = define_op(
    "ray_aabb_intersect(Tensor rays_o, Tensor rays_d, Tensor aabbs, float near_plane, float far_plane, "
    "float miss_value) -> (Tensor, Tensor, Tensor)",
    reference=reference.ray_aabb_intersect,
    fake=_fake_intersect,
    autocast="float32",
)
_march_count = define_op(
    f"march_count({_WALK}) -> Tensor",
    reference=reference.march_count,
    fake=lambda rays_o, *_: rays_o.new_empty(rays_o.shape[0], dtype=torch.int64),
    autocast="float32",
)
_march_fill = define_op(
    f"march_fill({_WALK}, Tensor packed_info, SymInt total) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.march_fill,
    fake=_fake_march_fill,
    autocast="float32",
)
_march_rays_op = define_op(
    f"march_rays({_WALK}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=_march_rays,
    fake=_fake_march_rays,
    autocast="float32",
)


def _check_rays(rays_o: Tensor, rays_d: Tensor) -> None:
    checks.check_shape("rays_o", rays_o, ("n_rays", 3))
    checks.check_shape("rays_d", rays_d, (rays_o.shape[0], 3))
    checks.check_dtype("rays_o", rays_o, checks.FLOATING)
    checks.check_same_dtype("rays_d", rays_d, "rays_o", rays_o)
    checks.check_same_device("rays_d", rays_d, "rays_o", rays_o)
    if checks.checks_values():
        checks.check_finite("rays_o", rays_o)
        checks.check_finite("rays_d", rays_d)


def _check_aabbs(aabbs: Tensor, rays_o: Tensor, count: int | str) -> Tensor:
    checks.check_shape("aabbs", aabbs, (count, 6))
    checks.check_dtype("aabbs", aabbs, checks.FLOATING)
    checks.check_same_device("aabbs", aabbs, "rays_o", rays_o)
    if checks.checks_values() and bool((aabbs[:, :3] >= aabbs[:, 3:]).any()):
        raise ValueError(f"aabbs: found {aabbs.tolist()}, expected min < max on every axis of every box")
    return aabbs.to(rays_o.dtype)


@torch.no_grad()
def ray_aabb_intersect(
    rays_o: Tensor,
    rays_d: Tensor,
    aabbs: Tensor,
    near_plane: float = -math.inf,
    far_plane: float = math.inf,
    miss_value: float = math.inf,
) -> tuple[Tensor, Tensor, Tensor]:
    """Intersect rays with axis-aligned boxes.

    A ray hits a box where its three slabs overlap (touching counts) at some t > 0. The entry is negative where the
    origin lies inside. The planes clip entry and exit, ``max(entry, near_plane)`` and ``min(exit, far_plane)``, and
    leave the hit as it is, so a clipped entry may lie behind its exit. A ray parallel to a slab is inside it everywhere
    or nowhere.

    Args:
        rays_o: Origins, ``(n_rays, 3)``.
        rays_d: Directions of any length, ``(n_rays, 3)``.
        aabbs: Boxes ``(m, 6)`` as min x, y, z, max x, y, z.
        near_plane: Least entry.
        far_plane: Greatest exit.
        miss_value: What entry and exit hold where a box is missed.

    Returns:
        Entries and exits ``(n_rays, m)`` and hits ``(n_rays, m)`` bool.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> origins, directions = torch.tensor([[-2.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> ray_aabb_intersect(origins, directions, torch.tensor([[-1.0, -1, -1, 1, 1, 1]]))
        (tensor([[1.]]), tensor([[3.]]), tensor([[True]]))
    """
    _check_rays(rays_o, rays_d)
    aabbs = _check_aabbs(aabbs, rays_o, "m")
    return _ray_aabb_intersect(rays_o, rays_d, aabbs, float(near_plane), float(far_plane), float(miss_value))


def _planes(name: str, planes: Tensor | float, rays_o: Tensor) -> Tensor:
    """One plane for each ray."""
    if not isinstance(planes, Tensor):
        return rays_o.new_full((rays_o.shape[0],), float(planes))
    if planes.dim() == 2 and planes.shape[1] == 1:
        raise ValueError(
            f"{name}: found shape {tuple(planes.shape)}, expected ({rays_o.shape[0]},); drop the last axis with "
            f"{name}.squeeze(-1)"
        )
    checks.check_shape(name, planes, (rays_o.shape[0],))
    checks.check_dtype(name, planes, checks.FLOATING)
    checks.check_same_device(name, planes, "rays_o", rays_o)
    return planes.to(rays_o.dtype)


@torch.no_grad()
def march_rays(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    *,
    near_planes: Tensor | float = 0.0,
    far_planes: Tensor | float = 1e10,
    step_size: float = 1e-3,
    cone_angle: float = 0.0,
    max_samples_per_ray: int | None = None,
    jitter: Tensor | None = None,
) -> RaySamples:
    """Take the samples of each ray that lie in occupied cells of nested grids.

    Level 0 is the innermost box, each further level contains the one before; the innermost box around a point decides.
    Cell ``floor((p - min) / (max - min) * resolution)``. Three modes:

    - constant step (``cone_angle`` 0): intervals ``[near + k step, near + (k + 1) step]``, taken where the midpoint
      lies in an occupied cell, before the far plane;
    - cone (``cone_angle`` > 0): steps ``max(t cone_angle, step_size)``, taken in an occupied cell while the midpoint
      lies in front of its exit; while an empty cell is crossed, or the way to the box, the step keeps the width it
      began with;
    - cells (``step_size`` <= 0): one interval for each occupied cell, from entry to exit.

    Args:
        rays_o: Origins, ``(n_rays, 3)``.
        rays_d: Directions, ``(n_rays, 3)``; unit length makes t, planes and steps world lengths.
        binaries: Occupied cells, ``(levels, rx, ry, rz)`` bool, at most 8 levels.
        aabbs: Boxes of the levels, ``(levels, 6)`` as min x, y, z, max x, y, z, innermost first.
        near_planes: Where marching begins, a number or ``(n_rays,)``.
        far_planes: Where it ends, a number or ``(n_rays,)``.
        step_size: Length of a step in t; 0 or less asks for whole cells.
        cone_angle: Growth of the step with distance.
        max_samples_per_ray: Samples after which a ray stops; None for no limit.
        jitter: Shift of each ray's near plane in steps, ``(n_rays,)`` in [0, 1), for stratified sampling.

    Returns:
        The samples. A ray without samples has count 0.

    Raises:
        ValueError: Wrong shape, dtype, device or option, or more than 2^31 - 1 samples.

    Example:
        >>> binaries = torch.tensor([False, True]).view(1, 2, 1, 1)
        >>> samples = march_rays(
        ...     torch.tensor([[-2.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]), binaries,
        ...     torch.tensor([[-1.0, -1, -1, 1, 1, 1]]), step_size=0.5,
        ... )
        >>> samples.t_starts, samples.packed_info
        (tensor([2.0000, 2.5000]), tensor([[0, 2]]))
    """
    _check_rays(rays_o, rays_d)
    checks.check_shape("binaries", binaries, ("levels", "rx", "ry", "rz"))
    checks.check_dtype("binaries", binaries, torch.bool)
    checks.check_same_device("binaries", binaries, "rays_o", rays_o)
    if not 1 <= binaries.shape[0] <= MAX_LEVELS or 0 in binaries.shape:
        raise ValueError(
            f"binaries: found shape {tuple(binaries.shape)}, expected 1 to {MAX_LEVELS} levels of at least one cell"
        )
    aabbs = _check_aabbs(aabbs, rays_o, binaries.shape[0])
    near_planes, far_planes = _planes("near_planes", near_planes, rays_o), _planes("far_planes", far_planes, rays_o)
    if not math.isfinite(step_size):
        raise ValueError(f"step_size: found {step_size}, expected a finite number")
    if not 0 <= cone_angle < math.inf:
        raise ValueError(f"cone_angle: found {cone_angle}, expected a finite number, 0 or more")
    if max_samples_per_ray is not None and max_samples_per_ray < 1:
        raise ValueError(f"max_samples_per_ray: found {max_samples_per_ray}, expected 1 or more, or None for no limit")
    if jitter is not None:
        near_planes = near_planes + _planes("jitter", jitter, rays_o) * max(step_size, 0.0)
    limit = -1 if max_samples_per_ray is None else int(max_samples_per_ray)
    walk = (rays_o, rays_d, binaries, aabbs, near_planes, far_planes, float(step_size), float(cone_angle), limit)
    if active_backend() == "nerfacc":
        from zoo.ops.vendor import nerfacc

        return RaySamples(*nerfacc.march_rays(*walk))
    return RaySamples(*_march_rays_op(*walk))
