"""Intersection over union of rotated boxes ``(x, y, z, dx, dy, dz, yaw)``, seen from above and in space."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.packed import widen
from zoo.ops.reference import box_iou as reference

_MEASURES = {"bev": reference.IOU_BEV, "3d": reference.IOU_3D}


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])
    ctx.measure = inputs[2]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    to_a, to_b = _boxes_iou_aligned_backward(grad, *ctx.saved_tensors, ctx.measure)
    return to_a, to_b, None


_boxes_iou_pairs = define_op(
    "boxes_iou_pairs(Tensor a, Tensor b, int measure) -> Tensor",
    reference=reference.boxes_iou_pairs,
    fake=lambda a, b, measure: a.new_empty(a.shape[0], b.shape[0]),
    autocast="float32",
)
_boxes_iou_aligned = define_op(
    "boxes_iou_aligned(Tensor a, Tensor b, int measure) -> Tensor",
    reference=reference.boxes_iou_aligned,
    fake=lambda a, b, measure: a.new_empty(a.shape[0]),
    backward=(_setup, _backward),
    autocast="float32",
)
_boxes_iou_aligned_backward = define_op(
    "boxes_iou_aligned_backward(Tensor grad, Tensor a, Tensor b, int measure) -> (Tensor, Tensor)",
    reference=reference.boxes_iou_aligned_backward,
    fake=lambda grad, a, b, measure: (a.new_empty(a.shape), b.new_empty(b.shape)),
)


def checked_boxes(name: str, boxes: Tensor) -> Tensor:
    """The seven numbers of boxes ``(N, 7)``, or ``(N, 9)`` with velocities; half precision becomes float32.

    Raises:
        ValueError: Another shape or dtype; with ``ZOO_CHECK=1`` also numbers that are not finite.
    """
    if boxes.dim() != 2 or boxes.shape[1] not in (7, 9):
        raise ValueError(
            f"{name}: found shape {tuple(boxes.shape)}, expected (N, 7): x, y, z, dx, dy, dz, yaw, or (N, 9) with "
            "velocities"
        )
    checks.check_dtype(name, boxes, checks.FLOATING_OR_HALF)
    if checks.checks_values():
        checks.check_finite(name, boxes[:, :7])
    return widen(boxes[:, :7])


def _checked_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = checked_boxes("a", a), checked_boxes("b", b)
    checks.check_same_dtype("b", b, "a", a)
    checks.check_same_device("b", b, "a", a)
    return a, b


def _pairs(a: Tensor, b: Tensor, measure: int) -> Tensor:
    a, b = _checked_pair(a, b)
    return _boxes_iou_pairs(a.detach().contiguous(), b.detach().contiguous(), measure)


def boxes_overlap_bev(a: Tensor, b: Tensor) -> Tensor:
    """Area that the footprints of every box of ``a`` and every box of ``b`` share, seen from above.

    Args:
        a: ``(N, 7)`` centre, edge lengths, yaw (radians, counter-clockwise from +x); columns after the seventh are not
            looked at.
        b: ``(M, 7)``.

    Returns:
        ``(N, M)`` in square units, without gradient. Boxes whose edge lengths dx, dy are not above 0, or that hold a
        number that is not finite, share nothing with any box; boxes that touch share nothing, within rounding.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> import torch
        >>> square = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0]])
        >>> moved = torch.tensor([[1.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0]])
        >>> boxes_overlap_bev(square, moved)
        tensor([[2.]])
    """
    return _pairs(a, b, reference.OVERLAP_BEV)


def boxes_iou_bev(a: Tensor, b: Tensor) -> Tensor:
    r"""Intersection over union of footprints, :math:`I / (A_a + A_b - I)`, of every pair; z is not looked at.

    Args:
        a: ``(N, 7)``, see `boxes_overlap_bev`.
        b: ``(M, 7)``.

    Returns:
        ``(N, M)`` in [0, 1], without gradient; 0 for boxes without area or with numbers that are not finite.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> import torch
        >>> box = torch.tensor([[0.0, 0.0, 0.0, 4.0, 2.0, 1.0, 0.0]])
        >>> across = torch.tensor([[0.0, 0.0, 9.0, 4.0, 2.0, 1.0, torch.pi / 2]])
        >>> boxes_iou_bev(box, across)  # 4 of 8 + 8 - 4
        tensor([[0.3333]])
    """
    return _pairs(a, b, reference.IOU_BEV)


def boxes_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    r"""Intersection over union of volumes of every pair: shared footprint times shared height.

    Args:
        a: ``(N, 7)``, see `boxes_overlap_bev`; z is the centre's.
        b: ``(M, 7)``.

    Returns:
        ``(N, M)`` in [0, 1], without gradient; 0 for boxes without volume or with numbers that are not finite.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> import torch
        >>> box = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0]])
        >>> raised = torch.tensor([[0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 0.0]])
        >>> boxes_iou_3d(box, raised)  # 4 of 8 + 8 - 4
        tensor([[0.3333]])
    """
    return _pairs(a, b, reference.IOU_3D)


def boxes_aligned_iou(a: Tensor, b: Tensor, kind: Literal["3d", "bev"] = "3d") -> Tensor:
    """Intersection over union of row i of ``a`` with row i of ``b``, differentiable in both.

    The gradient of the shared area is that of its outline: an edge that moves outwards adds its length inside the other
    box. It is 0 where the boxes do not overlap, and one-sided where edges coincide.

    Args:
        a: ``(N, 7)``, see `boxes_overlap_bev`.
        b: ``(N, 7)``.
        kind: Volumes, or footprints only.

    Returns:
        ``(N,)`` in [0, 1]; 0, without gradient, for boxes without size or with numbers that are not finite.

    Raises:
        ValueError: Wrong shape, dtype or device, or other numbers of rows.

    Example:
        >>> import torch
        >>> box = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 0.0]])
        >>> boxes_aligned_iou(box, box + torch.tensor([1.0, 0, 0, 0, 0, 0, 0]))
        tensor([0.3333])
    """
    checks.check_option("kind", kind, tuple(_MEASURES))
    a, b = _checked_pair(a, b)
    if len(a) != len(b):
        raise ValueError(f"b: found {len(b)} boxes, expected {len(a)}, as many as a has")
    return _boxes_iou_aligned(a.contiguous(), b.contiguous(), _MEASURES[kind])
