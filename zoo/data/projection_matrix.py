"""Projection matrices as DTU and SpaRe store them, and the frame in which RegNeRF puts DTU's cameras."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["DecomposedProjection", "average_pose", "compose_projection", "decompose_projection", "regnerf_frame"]


class DecomposedProjection(NamedTuple):
    """``P ~ K R [I | -C]`` in OpenCV axes: ``x_camera = R (X - C)``."""

    intrinsics: Tensor  # (..., 3, 3) upper triangular, positive diagonal, last entry 1
    rotation: Tensor  # (..., 3, 3) world to camera, det +1
    center: Tensor  # (..., 3)

    @property
    def camera_to_world(self) -> Tensor:
        """Poses ``(..., 4, 4)``."""
        pose = torch.zeros((*self.center.shape[:-1], 4, 4), dtype=self.center.dtype)
        pose[..., :3, :3] = self.rotation.transpose(-1, -2)
        pose[..., :3, 3] = self.center
        pose[..., 3, 3] = 1
        return pose


def decompose_projection(projection: Tensor) -> DecomposedProjection:
    """Intrinsics, rotation and centre of projection matrices ``(..., 3, 4)`` of any scale and sign.

    An RQ decomposition of the left 3 x 3 block: the QR decomposition of its inverse, ``M^-1 = R^T K^-1``.

    Raises:
        ValueError: A matrix has another shape, is not finite, or its left block is singular (as of a parallel
            projection), so that there is no camera centre.
    """
    if projection.shape[-2:] != (3, 4):
        raise ValueError(f"projection: found shape {tuple(projection.shape)}, expected (..., 3, 4)")
    matrix = projection.double()
    if not bool(torch.isfinite(matrix).all()):
        raise ValueError("projection: holds NaN or infinite numbers, expected a 3 x 4 matrix of finite ones")
    left = matrix[..., :3]
    size = left.norm(dim=-1, keepdim=True).clamp_min(1e-300)
    if bool((torch.linalg.det(left / size).abs() < 1e-9).any()):  # rows of unit length: no scale enters
        raise ValueError(
            "projection: its left 3 x 3 block is singular, so it does not decompose into a camera; expected K [R | t]"
        )
    center = -torch.linalg.solve(left, matrix[..., 3:])[..., 0]
    left = left * torch.linalg.det(left).sign()[..., None, None]  # det K > 0, so that of R becomes +1
    orthogonal, upper = torch.linalg.qr(torch.linalg.inv(left))
    sign = torch.diagonal(upper, dim1=-2, dim2=-1).sign()
    rotation = (orthogonal * sign[..., None, :]).transpose(-1, -2)
    intrinsics = torch.linalg.inv(upper * sign[..., :, None])
    return DecomposedProjection(intrinsics / intrinsics[..., 2:, 2:], rotation, center)


def compose_projection(intrinsics: Tensor, camera_to_world: Tensor) -> Tensor:
    """Projection matrices ``K R [I | -C]`` ``(..., 3, 4)`` of intrinsics ``(..., 3, 3)`` and poses ``(..., 4, 4)``."""
    rotation = camera_to_world[..., :3, :3].transpose(-1, -2)
    shift = -rotation @ camera_to_world[..., :3, 3:]
    return intrinsics @ torch.cat((rotation, shift), dim=-1)


def average_pose(camera_to_world: Tensor) -> Tensor:
    """The mean pose ``(4, 4)`` of ``(N, 4, 4)``: mean position, z the mean z axis, x across it and the mean y axis."""
    forward = torch.nn.functional.normalize(camera_to_world[:, :3, 2].mean(0), dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(camera_to_world[:, :3, 1].mean(0), forward), dim=0)
    pose = torch.eye(4, dtype=camera_to_world.dtype)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, torch.linalg.cross(forward, right), forward
    pose[:3, 3] = camera_to_world[:, :3, 3].mean(0)
    return pose


def regnerf_frame(camera_to_world: Tensor) -> Tensor:
    """The similarity ``(4, 4)`` into RegNeRF's frame: the average pose at the origin, largest coordinate 1.

    Args:
        camera_to_world: ``(N, 4, 4)``, all cameras of the rig, not only the ones that are used.
    """
    similarity = torch.linalg.inv(average_pose(camera_to_world))
    scale = (similarity @ camera_to_world)[:, :3, 3].abs().max()
    similarity[:3] /= scale
    return similarity
