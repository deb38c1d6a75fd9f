"""From sparse voxels to the dense bird's-eye view of two-dimensional backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import scatter_to_bev as reference


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, int, list[int]], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.shape = inputs[3]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    (coords,) = ctx.saved_tensors
    return _scatter_to_bev_backward(grad.contiguous(), coords, ctx.shape), None, None, None


_scatter_to_bev = define_op(
    "scatter_to_bev(Tensor features, Tensor coords, SymInt batch_size, SymInt[] shape) -> Tensor",
    reference=reference.scatter_to_bev,
    fake=lambda features, coords, batch_size, shape: features.new_empty(
        batch_size, shape[1], shape[2], features.shape[1] * shape[0]
    ),
    backward=(_setup, _backward),
    autocast=("features",),
)
_scatter_to_bev_backward = define_op(
    "scatter_to_bev_backward(Tensor grad, Tensor coords, SymInt[] shape) -> Tensor",
    reference=reference.scatter_to_bev_backward,
    fake=lambda grad, coords, shape: grad.new_empty(coords.shape[0], grad.shape[3] // shape[0]),
)


def scatter_to_bev(features: Tensor, coords: Tensor, batch_size: int, spatial_shape: Sequence[int]) -> Tensor:
    """Put voxel features on a dense map seen from above; heights become channels.

    ``out[b, c nz + z, y, x]`` is channel c of the voxel at (b, z, y, x), 0 where there is none. Values are moved as
    they are, in any floating dtype. The map lies in memory with its channels last, as convolutions want it.

    Args:
        features: ``(N, C)``.
        coords: ``(N, 4)`` int32 or int64: sample, z, y, x. No voxel may stand twice (of several, the last row stays on
            the CPU, any on CUDA).
        batch_size: B; samples without voxels give zeros.
        spatial_shape: nz, ny, nx.

    Returns:
        ``(B, C nz, ny, nx)`` in ``torch.channels_last``, differentiable in the features.

    Raises:
        ValueError: Wrong shape, dtype or device, or coordinates outside (values are checked on the CPU, and on other
            devices with ``ZOO_CHECK=1``).

    Example:
        >>> import torch
        >>> scatter_to_bev(torch.tensor([[7.0], [8.0]]), torch.tensor([[0, 0, 0, 1], [0, 0, 1, 2]]), 1, (1, 2, 3))
        tensor([[[[0., 7., 0.],
                  [0., 0., 8.]]]])
    """
    checks.check_shape("features", features, ("N", "C"))
    checks.check_dtype("features", features, checks.FLOATING_OR_HALF)
    checks.check_shape("coords", coords, (features.shape[0], 4))
    checks.check_dtype("coords", coords, (torch.int32, torch.int64))
    checks.check_same_device("coords", coords, "features", features)
    if len(spatial_shape) != 3 or min(spatial_shape) < 1:
        raise ValueError(f"spatial_shape: found {tuple(spatial_shape)}, expected (nz, ny, nx), each at least 1")
    shape = list(spatial_shape)
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():  # graphs hold torch's own operators
        return reference.scatter_to_bev(features, coords, batch_size, shape).permute(0, 3, 1, 2)
    if len(coords) and (checks.checks_values() or coords.device.type == "cpu"):
        limits = (batch_size, *spatial_shape)
        low, high = coords.amin(0).tolist(), coords.amax(0).tolist()
        for axis, name in enumerate(("sample", "z", "y", "x")):
            if low[axis] < 0 or high[axis] >= limits[axis]:
                raise ValueError(
                    f"coords: found {name} from {low[axis]} to {high[axis]}, expected 0 to {limits[axis] - 1} for "
                    f"batch_size={batch_size}, spatial_shape={tuple(spatial_shape)}"
                )
    seen = _scatter_to_bev(features.contiguous(), coords.int().contiguous(), batch_size, shape)
    return seen.permute(0, 3, 1, 2)
