"""Voxels back to points: interpolation of a sparse tensor at given positions."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from zoo.ops.checks import FLOATING, check_dtype, check_option, check_shape
from zoo.ops.sparse_tensor import SparseTensor


def devoxelize(
    x: SparseTensor, positions: Tensor, batch_index: Tensor | None = None, *, mode: str = "trilinear"
) -> Tensor:
    r"""Evaluate a sparse tensor at continuous positions.

    ``"nearest"`` reads the voxel that holds the position. ``"trilinear"`` (linear on each of the D axes) weighs the
    :math:`2^D` voxels whose centres surround it; absent ones are left out and the weights of the rest made to sum to 1:

    .. math:: y = \frac{\sum_v w_v\, x_v}{\sum_v w_v}, \quad w_v = \prod_a (1 - |p_a - c_{v,a} - \tfrac12|)

    over present voxels v. A position without a present voxel gets 0.

    Args:
        x: Values (N, C).
        positions: (P, D) in voxel units, cell i covers ``[i, i + 1)``: ``(point - minimum) / voxel_size``.
        batch_index: Sample of every position (P,), int32 or int64; all in sample 0 if None.
        mode: ``"nearest"`` or ``"trilinear"``.

    Returns:
        (P, C); differentiable in the features and, for ``"trilinear"``, in the positions.

    Raises:
        ValueError: Wrong shapes, dtypes or mode.

    Example:
        >>> import torch
        >>> x = SparseTensor.from_coords(torch.tensor([[1.0], [3.0]]), torch.tensor([[0, 0], [0, 1]]), (4,), 1)
        >>> devoxelize(x, torch.tensor([[0.75], [1.9], [3.5]])).tolist()
        [[1.5], [3.0], [0.0]]
    """
    check_option("mode", mode, ("nearest", "trilinear"))
    check_shape("positions", positions, ("P", x.grid.ndim))
    check_dtype("positions", positions, FLOATING)
    if batch_index is None:
        batch_index = torch.zeros(len(positions), dtype=torch.int64, device=positions.device)
    check_shape("batch_index", batch_index, (len(positions),))
    sample = batch_index.to(torch.int64)[:, None]
    if mode == "nearest":
        return voxels_to_points(x.features, x.grid.rows_of(torch.cat([sample, _cells(positions)], dim=1)))
    shifted = positions - 0.5
    base = _cells(shifted)
    fraction = (shifted - base).to(x.dtype)
    total = torch.zeros(len(positions), 1, dtype=x.dtype, device=x.device)
    out = torch.zeros(len(positions), x.num_channels, dtype=x.dtype, device=x.device)
    for corner in itertools.product((0, 1), repeat=x.grid.ndim):
        step = base.new_tensor(corner)
        rows = x.grid.rows_of(torch.cat([sample, base + step], dim=1))
        weight = torch.where(step == 1, fraction, 1 - fraction).prod(dim=1, keepdim=True)
        weight = torch.where(rows[:, None] >= 0, weight, 0)
        out = out + weight * voxels_to_points(x.features, rows)
        total = total + weight
    return torch.where(total > 0, out / torch.where(total > 0, total, 1), 0)


def voxels_to_points(features: Tensor, point_to_voxel: Tensor) -> Tensor:
    """Give every point the value of its voxel.

    Args:
        features: Voxel values (N, C).
        point_to_voxel: Voxel of every point (P,), int64; -1 gives 0.

    Returns:
        (P, C); the gradient is summed in point order, so it does not depend on the number of threads.

    Example:
        >>> import torch
        >>> voxels_to_points(torch.tensor([[5.0], [7.0]]), torch.tensor([1, -1, 0])).tolist()
        [[7.0], [0.0], [5.0]]
    """
    check_shape("features", features, ("N", "C"))
    check_shape("point_to_voxel", point_to_voxel, ("P",))
    if features.shape[0] == 0:
        return features.new_zeros(point_to_voxel.shape[0], features.shape[1])
    values = features.index_select(0, point_to_voxel.clamp(min=0))
    return torch.where(point_to_voxel[:, None] >= 0, values, 0)


def _cells(positions: Tensor) -> Tensor:
    """Floor as int64; positions beyond int32 or NaN lie in no grid."""
    cells = torch.floor(positions.detach())
    return torch.where(cells.abs() < 2.0**31, cells, -1).to(torch.int64)
