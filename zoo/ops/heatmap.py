"""Targets of centre-based detectors: a Gaussian peak at the cell of every object."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import heatmap as reference

_draw_heatmap = define_op(
    "draw_heatmap(Tensor cells, Tensor radii, Tensor channels, Tensor like, SymInt[] shape) -> Tensor",
    reference=reference.draw_heatmap,
    fake=lambda cells, radii, channels, like, shape: like.new_empty(shape),
)


def gaussian_radius(sizes: Tensor, min_overlap: float = 0.1) -> Tensor:
    r"""Radius within which a box of the same size still overlaps by at least ``min_overlap`` (CenterNet, CornerNet).

    The least of three quadratic rules for length l and width w, in the published form whose solutions are halved
    instead of divided by twice the leading coefficient:

    .. math::
        r_1 = \frac{b_1 + \sqrt{b_1^2 - 4 c_1}}{2},\ b_1 = l + w,\ c_1 = w l \frac{1 - o}{1 + o} \\
        r_2 = \frac{b_2 + \sqrt{b_2^2 - 16 c_2}}{2},\ b_2 = 2 (l + w),\ c_2 = (1 - o) w l \\
        r_3 = \frac{b_3 + \sqrt{b_3^2 - 16 o c_3}}{2},\ b_3 = -2 o (l + w),\ c_3 = (o - 1) w l

    Args:
        sizes: Edge lengths in cells, ``(M, 2)``.
        min_overlap: o, in (0, 1).

    Returns:
        ``(M,)`` in cells; detectors cut it to an integer and raise it to 2.

    Raises:
        ValueError: Wrong shape, dtype or overlap.

    Example:
        >>> import torch
        >>> gaussian_radius(torch.tensor([[12.0, 6.0]]))
        tensor([3.6000])
    """
    checks.check_shape("sizes", sizes, ("M", 2))
    checks.check_dtype("sizes", sizes, checks.FLOATING_OR_HALF)
    if not 0 < min_overlap < 1:
        raise ValueError(f"min_overlap: found {min_overlap}, expected a number between 0 and 1")
    total, area = sizes.sum(-1), sizes.prod(-1)
    b1, c1 = total, area * (1 - min_overlap) / (1 + min_overlap)
    b2, c2 = 2 * total, (1 - min_overlap) * area
    b3, c3 = -2 * min_overlap * total, (min_overlap - 1) * area
    r1 = (b1 + (b1 * b1 - 4 * c1).sqrt()) / 2
    r2 = (b2 + (b2 * b2 - 16 * c2).sqrt()) / 2
    r3 = (b3 + (b3 * b3 - 16 * min_overlap * c3).sqrt()) / 2
    return torch.minimum(torch.minimum(r1, r2), r3)


def draw_heatmap(
    cells: Tensor,
    radii: Tensor,
    channels: Tensor,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Draw one Gaussian for each object; where several meet, the largest value stays.

    Object m adds :math:`e^{-(u^2 + v^2) / 2 \sigma^2}` at the offsets u, v from its cell with
    :math:`|u|, |v| \le r` and :math:`\sigma = (2 r + 1) / 6`, so that the cell itself is exactly 1.

    Args:
        cells: Column x and row y of each object, ``(M, 2)`` int64; cells outside the plane draw the part that is
            inside.
        radii: r, ``(M,)`` int64.
        channels: Plane of each object, ``(M,)`` int64; objects with a negative channel or radius are left out. For a
            batch, count ``sample * num_classes + label``.
        shape: C, H, W.
        dtype: float32 or float64.

    Returns:
        ``(C, H, W)``, the same bits whatever the order of the objects.

    Raises:
        ValueError: Wrong shape, dtype or device, or a channel beyond C (values are checked on the CPU, and on other
            devices with ``ZOO_CHECK=1``).

    Example:
        >>> import torch
        >>> peak = draw_heatmap(torch.tensor([[1, 0]]), torch.tensor([1]), torch.tensor([0]), (1, 2, 4))
        >>> peak.round(decimals=3)
        tensor([[[0.1350, 1.0000, 0.1350, 0.0000],
                 [0.0180, 0.1350, 0.0180, 0.0000]]])
    """
    checks.check_shape("cells", cells, ("M", 2))
    for name, value in (("cells", cells), ("radii", radii), ("channels", channels)):
        checks.check_dtype(name, value, torch.int64)
        checks.check_same_device(name, value, "cells", cells)
    checks.check_shape("radii", radii, (len(cells),))
    checks.check_shape("channels", channels, (len(cells),))
    if dtype not in checks.FLOATING:
        raise ValueError(f"dtype: found {dtype}, expected float32 or float64")
    if len(shape) != 3 or min(shape) < 0:
        raise ValueError(f"shape: found {tuple(shape)}, expected (C, H, W)")
    if len(channels) and (checks.checks_values() or channels.device.type == "cpu"):
        highest = int(channels.max())
        if highest >= shape[0]:
            raise ValueError(f"channels: found {highest}, expected at most {shape[0] - 1} for the shape {tuple(shape)}")
    like = torch.empty(0, dtype=dtype, device=cells.device)
    return _draw_heatmap(cells.contiguous(), radii.contiguous(), channels.contiguous(), like, list(shape))
