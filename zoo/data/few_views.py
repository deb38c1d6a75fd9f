"""Few views of a capture to train on, and the others that can be judged from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy.optimize import nnls
from torch import Tensor

from zoo.data.scene_frame import nearest_point_to_axes

__all__ = ["lies_between", "spread_views"]


def spread_views(count: int, views: int | Sequence[int]) -> list[int]:
    """Positions of the chosen views among ``count``: so many spread evenly from the first to the last, or those named.

    Raises:
        ValueError: Fewer than 2, more than there are, or a position that is not there or named twice.

    Example:
        >>> spread_views(10, 4)
        [0, 3, 6, 9]
    """
    if isinstance(views, int):
        if not 2 <= views <= count:
            raise ValueError(f"views: found {views}, expected 2 to {count}, the views that there are")
        return torch.linspace(0, count - 1, views, dtype=torch.float64).round().long().tolist()
    chosen = list(views)
    if len(chosen) < 2 or len(set(chosen)) != len(chosen) or not all(0 <= view < count for view in chosen):
        raise ValueError(f"views: found {chosen}, expected at least 2 different positions of 0 to {count - 1}")
    return sorted(chosen)


def lies_between(camera_to_world: Tensor, training: Sequence[int], tolerance: float = 0.02) -> Tensor:
    """Which views ``(N,)`` bool look at the scene from a direction between those of the training views.

    Directions run from the point that the cameras look at to the cameras. One lies between others where it is a sum of
    them with weights that are not negative, which is the convex hull as it is seen from there: cameras around an
    object stand on a bent surface, where no one lies inside of the hull of the others.

    Args:
        camera_to_world: ``(N, 4, 4)``, OpenCV axes.
        training: Positions of the training views.
        tolerance: Length of a unit direction that may be left over.
    """
    poses = camera_to_world.double()
    directions = torch.nn.functional.normalize(poses[:, :3, 3] - nearest_point_to_axes(poses), dim=-1)
    known = directions[list(training)].T.numpy()
    rest = [nnls(known, direction.numpy())[1] for direction in directions]
    return torch.tensor(rest) <= tolerance
