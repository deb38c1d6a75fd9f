"""Weighted sums of a few rows for each query: interpolation from neighbours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import interpolate as reference


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
    features, indices, weights = ctx.saved_tensors
    flat = indices.reshape(-1)
    ordered, uses = torch.sort(flat, stable=True)  # every row's uses lie side by side; -1 comes first, before row 0
    edges = torch.searchsorted(ordered, torch.arange(features.shape[0] + 1, device=flat.device))
    use_info = torch.stack([edges[:-1], edges[1:] - edges[:-1]], dim=-1)
    to_features, to_weights = _interpolate_rows_backward(grad, features, indices, weights, uses, use_info)
    return to_features, None, to_weights


_interpolate_rows = define_op(
    "interpolate_rows(Tensor features, Tensor indices, Tensor weights) -> Tensor",
    reference=reference.interpolate_rows,
    fake=lambda features, indices, weights: features.new_empty(indices.shape[0], features.shape[1]),
    backward=(_setup, _backward),
    autocast="float32",
)
_interpolate_rows_backward = define_op(
    "interpolate_rows_backward(Tensor grad, Tensor features, Tensor indices, Tensor weights, Tensor uses, "
    "Tensor use_info) -> (Tensor, Tensor)",
    reference=reference.interpolate_rows_backward,
    fake=lambda grad, features, indices, weights, uses, use_info: (
        features.new_empty(features.shape),
        weights.new_empty(weights.shape),
    ),
)


def three_interpolate(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    r"""Weighted sum of a few rows for each query, of three as a rule: :math:`y_m = \sum_k w_{mk} x_{i_{mk}}`.

    Args:
        features: ``(N, C)``; half precision is computed and returned in float32.
        indices: Rows of ``features``, ``(M, K)`` int64; -1 adds nothing.
        weights: ``(M, K)``.

    Returns:
        ``(M, C)``; differentiable in features and weights, gradients summed in a fixed order.

    Raises:
        ValueError: Wrong shape, dtype or device, or an index beyond the features (values are checked on the CPU, and
            on other devices with ``ZOO_CHECK=1``).

    Example:
        >>> import torch
        >>> three_interpolate(torch.tensor([[1.0], [3.0]]), torch.tensor([[0, 1, -1]]), torch.tensor([[0.5, 0.5, 9.0]]))
        tensor([[2.]])
    """
    checks.check_shape("features", features, ("N", "C"))
    checks.check_dtype("features", features, checks.FLOATING_OR_HALF)
    checks.check_shape("indices", indices, ("M", "K"))
    checks.check_dtype("indices", indices, torch.int64)
    checks.check_shape("weights", weights, tuple(indices.shape))
    checks.check_dtype("weights", weights, checks.FLOATING_OR_HALF)
    for name, tensor in (("indices", indices), ("weights", weights)):
        checks.check_same_device(name, tensor, "features", features)
    if indices.numel() and (checks.checks_values() or indices.device.type == "cpu"):
        low, high = (int(value) for value in torch.aminmax(indices))
        if low < -1 or high >= len(features):
            raise ValueError(f"indices: found values from {low} to {high}, expected -1 to {len(features) - 1}")
    dtype = torch.promote_types(torch.promote_types(features.dtype, weights.dtype), torch.float32)
    return _interpolate_rows(features.to(dtype), indices.contiguous(), weights.to(dtype))
