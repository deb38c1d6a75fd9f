"""Poses that nobody photographed, near those that were (RegNeRF's random poses)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.data.projection_matrix import average_pose
from zoo.data.scene_frame import nearest_point_to_axes

__all__ = ["unseen_poses"]


def unseen_poses(
    camera_to_world: Tensor, count: int, *, generator: torch.Generator, jitter: float = 0.125, reach: float = 1.0
) -> Tensor:
    """Random camera-to-world ``(count, 4, 4)`` float64 that look at what the given cameras look at.

    Positions are ``average pose * (r U(-1, 1)^3)`` with the radii ``r``, the largest distances of the cameras from the
    average pose along its axes. They look at the point nearest to all optical axes, moved by a normal ``jitter`` in
    units of the largest radius.

    Args:
        camera_to_world: ``(N, 4, 4)``, OpenCV axes.
        count: Number of poses.
        generator: Of the random numbers.
        jitter: Deviation of the target.
        reach: The radii are multiplied by it.

    Raises:
        ValueError: Fewer than two cameras.
    """
    if len(camera_to_world) < 2:
        raise ValueError(f"camera_to_world: found {len(camera_to_world)} cameras, expected at least 2 to move between")
    poses = camera_to_world.double()
    average = average_pose(poses)
    local = (poses[:, :3, 3] - average[:3, 3]) @ average[:3, :3]
    radii = local.abs().amax(0) * reach
    spread = 2 * torch.rand(count, 3, generator=generator, dtype=torch.float64) - 1
    positions = average[:3, 3] + (radii * spread) @ average[:3, :3].T
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64) * jitter * radii.max()
    forward = torch.nn.functional.normalize(nearest_point_to_axes(poses) + noise - positions, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(average[:3, 1].expand_as(forward), forward), dim=-1)
    result = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    result[:, :3, 0], result[:, :3, 2], result[:, :3, 3] = right, forward, positions
    result[:, :3, 1] = torch.linalg.cross(forward, right)
    return result
