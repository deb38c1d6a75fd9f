"""A canonical frame for reconstructions whose origin, orientation and unit mean nothing (structure from motion)."""

from __future__ import annotations

import torch
from torch import Tensor

CAMERA_DISTANCE = 4.0


def rotation_between(source: Tensor, target: Tensor) -> Tensor:
    """The smallest rotation ``(3, 3)`` that turns one direction ``(3,)`` into another."""
    a, b = torch.nn.functional.normalize(source, dim=0), torch.nn.functional.normalize(target, dim=0)
    axis, cosine = torch.linalg.cross(a, b), torch.dot(a, b)
    if float(cosine) < -1 + 1e-9:
        # half a turn about any axis across `a`
        across = torch.linalg.cross(a, torch.eye(3, dtype=a.dtype)[int(a.abs().argmin())])
        across = torch.nn.functional.normalize(across, dim=0)
        return 2 * torch.outer(across, across) - torch.eye(3, dtype=a.dtype)
    zero = torch.zeros_like(cosine)
    skew = torch.stack((zero, -axis[2], axis[1], axis[2], zero, -axis[0], -axis[1], axis[0], zero)).reshape(3, 3)
    return torch.eye(3, dtype=a.dtype) + skew + skew @ skew / (1 + cosine)


def nearest_point_to_axes(camera_to_world: Tensor) -> Tensor:
    """The point ``(3,)`` nearest to all viewing axes in the least-squares sense.

    It solves ``sum_i (I - d_i d_i^T) (x - o_i) = 0``; where all axes are parallel, the solution nearest to the origin.
    """
    origins, axes = camera_to_world[:, :3, 3], camera_to_world[:, :3, 2]
    across = torch.eye(3, dtype=axes.dtype) - axes[:, :, None] * axes[:, None, :]  # (N, 3, 3)
    right = (across @ origins[:, :, None]).sum(0)
    return torch.linalg.lstsq(across.sum(0), right, driver="gelsd").solution[:, 0]


def canonical_frame(camera_to_world: Tensor) -> Tensor:
    """The similarity ``(4, 4)`` into the frame that instant-ngp's ``colmap2nerf`` script chooses.

    The mean up direction of the cameras becomes +z, the point that they look at the origin, and their mean distance
    from it 4. (The script finds the point from pairs of axes, here all axes are solved for at once.)

    Args:
        camera_to_world: ``(N, 4, 4)`` float64, OpenCV axes.

    Returns:
        ``M`` with ``x_new = M x_old``: three rows of ``s R | s t``. Apply it to poses with `apply_similarity`.
    """
    # the script exchanges x and y and negates z, a rotation by half a turn about x = y
    exchange = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]], dtype=camera_to_world.dtype)
    up = exchange @ (-camera_to_world[:, :3, 1]).sum(0)
    rotation = exchange
    if float(up.norm()) > 1e-6:
        rotation = rotation_between(up, up.new_tensor([0.0, 0.0, 1.0])) @ exchange
    centre = nearest_point_to_axes(camera_to_world)
    distance = float((camera_to_world[:, :3, 3] - centre).norm(dim=-1).mean())
    scale = CAMERA_DISTANCE / distance if distance > 1e-9 else 1.0
    similarity = torch.eye(4, dtype=camera_to_world.dtype)
    similarity[:3, :3] = scale * rotation
    similarity[:3, 3] = -scale * (rotation @ centre)
    return similarity


def apply_similarity(similarity: Tensor, camera_to_world: Tensor) -> Tensor:
    """Poses ``(..., 4, 4)`` in the frame of a similarity; their rotations stay orthonormal."""
    moved = similarity @ camera_to_world
    scale = torch.linalg.det(similarity[:3, :3]) ** (1 / 3)
    moved[..., :3, :3] = moved[..., :3, :3] / scale
    return moved
