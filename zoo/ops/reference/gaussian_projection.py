"""Projection of 3D Gaussians to the picture in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp

BOX_SIGMAS = 3.33  # where a Gaussian of opacity 1 has fallen to 1/255
CIRCLE_SIGMAS = 3.0
MAX_RADIUS = 1 << 24

SplatSettings = tuple[int, int, bool, bool, float, float]


def rotations(quats: Tensor) -> Tensor:
    """Rotation matrices ``(N, 3, 3)`` of quaternions ``(N, 4)`` w, x, y, z of any length but zero."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def _jacobian(local: Tensor, intrinsics: Tensor, settings: SplatSettings) -> Tensor:
    """Derivative ``(P, 2, 3)`` of the picture's coordinates, with the ratios x/z and y/z held near the view."""
    width, height, ortho, fov_clamp, _, _ = settings
    fx, fy, cx, cy = intrinsics.unbind(-1)
    x, y, z = local.unbind(-1)
    nothing = torch.zeros_like(z)
    if ortho:
        rows = (fx, nothing, nothing), (nothing, fy, nothing)
    else:
        ratios = []
        for offset, focal, center, size in ((x, fx, cx, width), (y, fy, cy, height)):
            tangent = 0.5 * size / focal
            low = 1.3 * tangent if fov_clamp else center / focal + 0.3 * tangent
            high = 1.3 * tangent if fov_clamp else (size - center) / focal + 0.3 * tangent
            ratios.append((offset / z).maximum(-low).minimum(high))
        rows = (fx / z, nothing, -fx * ratios[0] / z), (nothing, fy / z, -fy * ratios[1] / z)
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def splat_pairs(
    means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, intrinsics: Tensor, settings: SplatSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Means, depths, conics, compensations and covariances in the picture of P pairs of a Gaussian and a camera."""
    ortho, blur, min_compensation = settings[2], settings[4], settings[5]
    rotation = viewmats[:, :3, :3]
    local = (rotation @ means[..., None]).squeeze(-1) + viewmats[:, :3, 3]
    x, y, z = local.unbind(-1)
    half = _jacobian(local, intrinsics, settings) @ (rotation @ (rotations(quats) * scales[:, None, :]))
    covariance = half @ half.transpose(-1, -2)
    xx, xy, yy = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    xx_blurred, yy_blurred = xx + blur, yy + blur
    after = xx_blurred * yy_blurred - xy * xy
    ratio = (xx * yy - xy * xy) / after
    above = ratio > min_compensation**2
    compensations = torch.where(above, torch.where(above, ratio, 1).sqrt(), min_compensation)
    conics = torch.stack((yy_blurred / after, -xy / after, xx_blurred / after), dim=-1)
    fx, fy, cx, cy = intrinsics.unbind(-1)
    divisor = torch.ones_like(z) if ortho else z
    means2d = torch.stack((fx * x / divisor + cx, fy * y / divisor + cy), dim=-1)
    return means2d, z, conics, compensations, torch.stack((xx, xy, yy), dim=-1)


def _radii(covariances: Tensor, opacities: Tensor | None, blur: float, circle: bool) -> Tensor:
    """Half sizes ``(P, 2)`` of the box that holds the Gaussian's visible part, as floating numbers."""
    xx, xy, yy = covariances.unbind(-1)
    xx, yy = xx + blur, yy + blur
    if circle:
        middle = 0.5 * (xx + yy)
        largest = middle + (middle * middle - (xx * yy - xy * xy)).clamp_min(0.1).sqrt()
        radius = torch.ceil(CIRCLE_SIGMAS * largest.sqrt())
        return torch.stack((radius, radius), dim=-1)
    reach = torch.full_like(xx, BOX_SIGMAS)
    if opacities is not None:
        reach = reach.minimum((2 * (255 * opacities).log().clamp_min(0)).sqrt())
        reach = torch.where(opacities >= 1 / 255, reach, 0)
    return torch.ceil(reach[..., None] * torch.stack((xx, yy), dim=-1).sqrt())


def project_gaussians(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor | None, viewmats: Tensor, intrinsics: Tensor,
    width: int, height: int, ortho: bool, fov_clamp: bool, circle: bool, antialiased: bool,
    blur: float, min_compensation: float, near_plane: float, far_plane: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """means2d, depths, conics, compensations, covariances, radii int32 ``(C, N, 2)``; zeros where culled."""
    num_cameras, count = len(viewmats), len(means)
    pairs = [value.repeat(num_cameras, 1) for value in (means, quats, scales)]
    cameras = [value.repeat_interleave(count, dim=0) for value in (viewmats, intrinsics)]
    values = splat_pairs(*pairs, *cameras, settings=(width, height, ortho, fov_clamp, blur, min_compensation))
    means2d, depths, conics, compensations, covariances = values
    if opacities is not None:
        opacities = opacities.repeat(num_cameras) * (compensations if antialiased else 1)
    radii = _radii(covariances, opacities, blur, circle)
    xx, xy, yy = covariances.unbind(-1)
    size = means2d.new_tensor([width, height])
    visible = (depths >= near_plane) & (depths <= far_plane) & ((xx + blur) * (yy + blur) - xy * xy > 0)
    visible &= ((means2d + radii > 0) & (means2d - radii < size) & (radii > 0) & (radii < MAX_RADIUS)).all(-1)
    visible &= torch.isfinite(conics).all(-1)
    kept = [torch.where(visible[:, None] if value.dim() == 2 else visible, value, 0) for value in values]
    kept.append(torch.where(visible[:, None], radii, 0).to(torch.int32))
    shaped = [value.reshape(num_cameras, count, *value.shape[1:]).contiguous() for value in kept]
    return shaped[0], shaped[1], shaped[2], shaped[3], shaped[4], shaped[5]


def project_gaussians_backward(
    grad_means2d: Tensor, grad_depths: Tensor, grad_conics: Tensor, grad_compensations: Tensor,
    grad_covariances: Tensor, means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor, intrinsics: Tensor,
    radii: Tensor, width: int, height: int, ortho: bool, fov_clamp: bool, blur: float, min_compensation: float,
    needs_viewmats: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of means, quats, scales and view matrices; the last is zero unless it is needed."""
    cameras, rows = torch.nonzero(radii[..., 0] > 0, as_tuple=True)  # culled Gaussians enter no division
    grads = [g[cameras, rows] for g in (grad_means2d, grad_depths, grad_conics, grad_compensations, grad_covariances)]
    settings = (width, height, ortho, fov_clamp, blur, min_compensation)

    def forward(means: Tensor, quats: Tensor, scales: Tensor, viewmats: Tensor) -> tuple[Tensor, ...]:
        pairs = means[rows], quats[rows], scales[rows], viewmats[cameras]
        return splat_pairs(*pairs, intrinsics[cameras], settings)

    results = vjp(forward, [means, quats, scales, viewmats], grads)
    grad_viewmats = results[3] if needs_viewmats else torch.zeros_like(viewmats)
    return results[0].contiguous(), results[1].contiguous(), results[2].contiguous(), grad_viewmats.contiguous()
