"""Which points lie in which rotated boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.box_iou import checked_boxes
from zoo.ops.dispatch import define_op
from zoo.ops.packed import widen
from zoo.ops.reference import points_in_boxes as reference

_points_in_boxes = define_op(
    "points_in_boxes(Tensor points, Tensor boxes) -> Tensor",
    reference=reference.points_in_boxes,
    fake=lambda points, boxes: points.new_empty(points.shape[0], dtype=torch.int64),
    autocast="float32",
)
_points_in_boxes_mask = define_op(
    "points_in_boxes_mask(Tensor points, Tensor boxes) -> Tensor",
    reference=reference.points_in_boxes_mask,
    fake=lambda points, boxes: points.new_empty((boxes.shape[0], points.shape[0]), dtype=torch.bool),
    autocast="float32",
)


def _checked(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    boxes = checked_boxes("boxes", boxes)
    checks.check_shape("points", points, ("P", "3 or more"))
    if points.shape[1] < 3:
        raise ValueError(f"points: found shape {tuple(points.shape)}, expected (P, 3 or more): x, y, z first")
    checks.check_dtype("points", points, checks.FLOATING_OR_HALF)
    places = widen(points[:, :3])
    checks.check_same_dtype("boxes", boxes, "points", places)
    checks.check_same_device("boxes", boxes, "points", points)
    return places.detach().contiguous(), boxes.detach().contiguous()


def points_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """The first box that holds each point; faces belong to a box.

    Args:
        points: ``(P, 3 + F)`` x, y, z and whatever follows.
        boxes: ``(B, 7)`` centre, edge lengths, yaw.

    Returns:
        ``(P,)`` int64 row of the box, -1 where none holds the point. Points and boxes with NaN hold and are held by
        none; a box without extent holds only points in its plane, line or centre.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 9.0, 1.0, 2.0, 0.0]])
        >>> points_in_boxes(torch.tensor([[1.0, 0.0, 0.0], [3.0, 0.5, 0.0], [3.0, 2.0, 0.0]]), boxes)
        tensor([ 0,  1, -1])
    """
    return _points_in_boxes(*_checked(points, boxes))


def points_in_boxes_mask(points: Tensor, boxes: Tensor) -> Tensor:
    """All boxes that hold each point: like `points_in_boxes`, as a table.

    Args:
        points: ``(P, 3 + F)``.
        boxes: ``(B, 7)``.

    Returns:
        ``(B, P)`` bool.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0], [1.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0]])
        >>> points_in_boxes_mask(torch.tensor([[0.5, 0.0, 0.0], [1.5, 0.0, 0.0]]), boxes)
        tensor([[ True, False],
                [ True,  True]])
    """
    return _points_in_boxes_mask(*_checked(points, boxes))
