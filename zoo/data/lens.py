"""Lens models: how the direction of a ray in the camera's frame becomes a point of the image plane, and back.

A lens maps a direction to *plane coordinates*, which the focal lengths and the principal point then scale to pixels.
Perspective lenses work on ``(x / z, y / z)``; fisheye lenses on ``theta * (x, y) / sqrt(x^2 + y^2)`` with ``theta`` the
angle to the optical axis, so that they also cover directions behind the image plane. A polynomial then distorts either.
Parameter orders are COLMAP's. A ``skewed`` lens is a calibration matrix
with a second entry: ``u' = u + (skew / fx) v``.

=====================  ==========================================  ===========
name                   parameters                                  plane
=====================  ==========================================  ===========
``pinhole``            none                                        perspective
``skewed``             skew / fx                                   perspective
``opencv``             k1 k2 p1 p2                                 perspective
``full_opencv``        k1 k2 p1 p2 k3 k4 k5 k6                     perspective
``fov``                omega                                       perspective
``opencv_fisheye``     k1 k2 k3 k4                                 fisheye
``thin_prism_fisheye`` k1 k2 p1 p2 k3 k4 sx1 sy1                   fisheye
=====================  ==========================================  ===========
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEWTON_STEPS = 20
NEWTON_TOLERANCE = 1e-12
_DIFFERENCE = 1e-7  # the residual is exact, so the slope need not be


def _opencv(uv: Tensor, k: Tensor) -> Tensor:
    u, v = uv.unbind(-1)
    k1, k2, p1, p2 = k.unbind(-1)
    r2 = u * u + v * v
    scale = 1 + r2 * (k1 + r2 * k2)
    return torch.stack(
        (
            u * scale + 2 * p1 * u * v + p2 * (r2 + 2 * u * u),
            v * scale + 2 * p2 * u * v + p1 * (r2 + 2 * v * v),
        ),
        dim=-1,
    )


def _full_opencv(uv: Tensor, k: Tensor) -> Tensor:
    u, v = uv.unbind(-1)
    k1, k2, p1, p2, k3, k4, k5, k6 = k.unbind(-1)
    r2 = u * u + v * v
    scale = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    return torch.stack(
        (
            u * scale + 2 * p1 * u * v + p2 * (r2 + 2 * u * u),
            v * scale + 2 * p2 * u * v + p1 * (r2 + 2 * v * v),
        ),
        dim=-1,
    )


def _fov(uv: Tensor, k: Tensor) -> Tensor:
    omega = k[..., 0]
    radius = uv.norm(dim=-1)
    tiny = 1e-4
    tangent = 2 * torch.tan(omega / 2)
    safe_radius = radius.clamp_min(tiny)
    safe_omega = torch.where(omega.abs() < tiny, torch.full_like(omega, tiny), omega)
    full = torch.atan(safe_radius * tangent) / (safe_radius * safe_omega)
    centre = (tangent - radius**2 * tangent**3 / 3) / safe_omega  # atan(a) = a - a^3 / 3 near the axis
    straight = 1 + omega**2 * (1 / 12 - radius**2 / 3)  # expansion of the whole factor in omega
    factor = torch.where(radius < tiny, centre, full)
    return uv * torch.where(omega.abs() < tiny, straight, factor).unsqueeze(-1)


def _opencv_fisheye(uv: Tensor, k: Tensor) -> Tensor:
    k1, k2, k3, k4 = k.unbind(-1)
    t2 = (uv * uv).sum(-1)
    return uv * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))).unsqueeze(-1)


def _thin_prism_fisheye(uv: Tensor, k: Tensor) -> Tensor:
    u, v = uv.unbind(-1)
    k1, k2, p1, p2, k3, k4, sx1, sy1 = k.unbind(-1)
    t2 = u * u + v * v
    scale = 1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))
    return torch.stack(
        (
            u * scale + 2 * p1 * u * v + p2 * (t2 + 2 * u * u) + sx1 * t2,
            v * scale + 2 * p2 * u * v + p1 * (t2 + 2 * v * v) + sy1 * t2,
        ),
        dim=-1,
    )


def _identity(uv: Tensor, k: Tensor) -> Tensor:
    return uv


def _skewed(uv: Tensor, k: Tensor) -> Tensor:
    u, v = uv.unbind(-1)
    return torch.stack((u + k[..., 0] * v, v), dim=-1)


@dataclass(frozen=True)
class Lens:
    """A lens model: number of parameters, kind of plane, distortion of plane coordinates."""

    num_params: int
    fisheye: bool
    distort: Callable[[Tensor, Tensor], Tensor]  # plane coordinates (..., 2), parameters (..., K) -> (..., 2)


LENSES: dict[str, Lens] = {
    "pinhole": Lens(0, False, _identity),
    "skewed": Lens(1, False, _skewed),
    "opencv": Lens(4, False, _opencv),
    "full_opencv": Lens(8, False, _full_opencv),
    "fov": Lens(1, False, _fov),
    "opencv_fisheye": Lens(4, True, _opencv_fisheye),
    "thin_prism_fisheye": Lens(8, True, _thin_prism_fisheye),
}

# lens -> the next more general one and where its parameters stand there
_GENERALISES: dict[str, tuple[str, tuple[int, ...]]] = {
    "pinhole": ("opencv", ()),  # a skewed one has no more general lens: an axis is not a polynomial of the radius
    "opencv": ("full_opencv", (0, 1, 2, 3)),
    "opencv_fisheye": ("thin_prism_fisheye", (0, 1, 4, 5)),
}


def generalise(model: str, params: list[float], target: str) -> list[float] | None:
    """The parameters of the lens ``target`` that acts as ``model`` with ``params``; None where there are none."""
    while model != target:
        if model not in _GENERALISES:
            return None
        model, places = _GENERALISES[model]
        wider = [0.0] * LENSES[model].num_params
        for place, value in zip(places, params, strict=True):
            wider[place] = value
        params = wider
    return params


def _plane_coordinates(points: Tensor, fisheye: bool) -> Tensor:
    xy, z = points[..., :2], points[..., 2:]
    if not fisheye:
        return xy / z
    radius = xy.norm(dim=-1, keepdim=True)
    theta = torch.atan2(radius, z)
    return xy * torch.where(radius > 0, theta / radius.clamp_min(torch.finfo(xy.dtype).tiny), 1 / z)


def project_to_plane(model: str, points: Tensor, params: Tensor) -> Tensor:
    """Distorted plane coordinates of points in the camera's frame (x right, y down, z forward).

    Args:
        model: name of the lens.
        points: ``(..., 3)``. Points behind a perspective camera give the mirrored coordinates of ``(x / z, y / z)``.
        params: ``(..., K)``, broadcast against ``points``.

    Returns:
        ``(..., 2)``; times the focal lengths plus the principal point they are pixels.
    """
    lens = LENSES[model]
    return lens.distort(_plane_coordinates(points, lens.fisheye), params)


def undistort(model: str, distorted: Tensor, params: Tensor) -> Tensor:
    """Plane coordinates ``(M, 2)`` whose distortion gives ``distorted``, by Newton's method in float64.

    Where the polynomial folds back (far outside the image it was fitted to) there is no unique answer: the nearest
    stationary iterate is returned.
    """
    lens = LENSES[model]
    if lens.num_params == 0 or distorted.numel() == 0:
        return distorted
    target, k = distorted.double(), params.double()
    uv = target.clone()
    shifts = torch.tensor([[0.0, 0.0], [_DIFFERENCE, 0.0], [0.0, _DIFFERENCE]], dtype=uv.dtype, device=uv.device)
    for _ in range(NEWTON_STEPS):
        value, right, below = lens.distort(uv + shifts[:, None], k).unbind(0)
        du, dv = (right - value) / _DIFFERENCE, (below - value) / _DIFFERENCE
        residual = target - value
        determinant = du[..., 0] * dv[..., 1] - dv[..., 0] * du[..., 1]
        determinant = torch.where(determinant.abs() < 1e-6, torch.full_like(determinant, math.inf), determinant)
        step = torch.stack(
            (
                dv[..., 1] * residual[..., 0] - dv[..., 0] * residual[..., 1],
                du[..., 0] * residual[..., 1] - du[..., 1] * residual[..., 0],
            ),
            dim=-1,
        ) / determinant.unsqueeze(-1)
        uv = uv + step
        if float(step.abs().max()) < NEWTON_TOLERANCE:
            break
    return uv.to(distorted.dtype)


def directions_from_plane(model: str, distorted: Tensor, params: Tensor) -> Tensor:
    """Unit directions ``(M, 3)`` in the camera's frame that a lens images at plane coordinates ``(M, 2)``."""
    lens = LENSES[model]
    uv = undistort(model, distorted, params)
    if not lens.fisheye:
        return torch.nn.functional.normalize(torch.cat((uv, torch.ones_like(uv[..., :1])), dim=-1), dim=-1)
    theta = uv.norm(dim=-1, keepdim=True)
    return torch.cat((uv * torch.special.sinc(theta / math.pi), torch.cos(theta)), dim=-1)
