"""Scans along rays of different length that lie one after another in flat tensors (nerfacc's packed layout).

``packed_info`` ``(n_rays, 2)`` int64 holds, for each ray, the position of its first sample and the number of its
samples; the rays tile the flat tensors in order, rays without samples included. Without ``packed_info`` every function
works along the last axis of a batched tensor ``(..., n_samples)``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import packed as reference


def _fake_scan(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _setup_sum(ctx, inputs, output) -> None:  # noqa: ANN001
    _, packed_info, ctx.exclusive, ctx.reverse = inputs
    ctx.save_for_backward(packed_info)


def _backward_sum(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
    (packed_info,) = ctx.saved_tensors
    return _packed_sum(grad.contiguous(), packed_info, ctx.exclusive, not ctx.reverse), None, None, None


def _setup_prod(ctx, inputs, output) -> None:  # noqa: ANN001
    x, packed_info, ctx.exclusive = inputs
    ctx.save_for_backward(x, packed_info)


def _backward_prod(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN001
    x, packed_info = ctx.saved_tensors
    return _packed_prod_backward(grad.contiguous(), x, packed_info, ctx.exclusive), None, None


_packed_sum = define_op(
    "packed_sum(Tensor x, Tensor packed_info, bool exclusive, bool reverse) -> Tensor",
    reference=reference.packed_sum,
    fake=_fake_scan,
    backward=(_setup_sum, _backward_sum),
    autocast="float32",
)
_packed_prod = define_op(
    "packed_prod(Tensor x, Tensor packed_info, bool exclusive) -> Tensor",
    reference=reference.packed_prod,
    fake=_fake_scan,
    backward=(_setup_prod, _backward_prod),
    autocast="float32",
)
_packed_prod_backward = define_op(
    "packed_prod_backward(Tensor grad, Tensor x, Tensor packed_info, bool exclusive) -> Tensor",
    reference=reference.packed_prod_backward,
    fake=_fake_scan,
    autocast="float32",
)


def check_packed_info(packed_info: Tensor, other_name: str, other: Tensor) -> None:
    """Raise ValueError unless ``packed_info`` is ``(n_rays, 2)`` int64 and, with ``ZOO_CHECK=1``, tiles ``other``."""
    checks.check_shape("packed_info", packed_info, ("n_rays", 2))
    checks.check_dtype("packed_info", packed_info, torch.int64)
    checks.check_same_device("packed_info", packed_info, other_name, other)
    if not checks.checks_values():
        return
    starts, counts = packed_info.unbind(-1)
    expected = counts.cumsum(0) - counts
    if bool((counts < 0).any()) or int(counts.sum()) != len(other) or bool((counts.gt(0) & (starts != expected)).any()):
        raise ValueError(
            f"packed_info: found chunks that do not tile the {len(other)} rows of {other_name} in order; expected "
            "(start, count) rows with start = sum of the counts before, as pack_info and march_rays make them"
        )


def check_samples(name: str, tensor: Tensor, packed_info: Tensor | None) -> None:
    """Raise ValueError unless ``tensor`` is floating and, when packed, one-dimensional."""
    checks.check_dtype(name, tensor, checks.FLOATING_OR_HALF)
    if packed_info is None:
        if tensor.dim() == 0:
            raise ValueError(f"{name}: found a scalar, expected shape (..., n_samples), or (N,) with packed_info")
        return
    if tensor.dim() != 1:
        hint = f"; drop the last axis with {name}.squeeze(-1)" if tensor.dim() == 2 and tensor.shape[1] == 1 else ""
        raise ValueError(f"{name}: found shape {tuple(tensor.shape)}, expected (N,) with packed_info{hint}")
    check_packed_info(packed_info, name, tensor)


def widen(value: Tensor) -> Tensor:
    """Half precision to float32: rays add up many small numbers."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def pack_info(ray_indices: Tensor, n_rays: int | None = None) -> Tensor:
    """Start and count of each ray's run in the sorted ``ray_indices``.

    Args:
        ray_indices: Ray of each sample, ascending, ``(N,)`` int64.
        n_rays: Number of rays; None takes the last index + 1.

    Returns:
        ``packed_info`` ``(n_rays, 2)`` int64.

    Raises:
        ValueError: ``ray_indices`` has another shape or dtype, is not ascending, or goes beyond ``n_rays`` (values are
            checked on the CPU, and on other devices with ``ZOO_CHECK=1``).

    Example:
        >>> pack_info(torch.tensor([0, 0, 2, 2, 2]), n_rays=4)
        tensor([[0, 2],
                [2, 0],
                [2, 3],
                [5, 0]])
    """
    checks.check_shape("ray_indices", ray_indices, ("N",))
    checks.check_dtype("ray_indices", ray_indices, torch.int64)
    if n_rays is None:
        n_rays = int(ray_indices[-1]) + 1 if len(ray_indices) else 0
    if len(ray_indices) and (checks.checks_values() or ray_indices.device.type == "cpu"):
        if bool((ray_indices[1:] < ray_indices[:-1]).any()):
            raise ValueError(
                "ray_indices: found unsorted indices, expected ascending ones (all samples of ray 0, then of ray 1, "
                "...); sort the samples by ray first, or use segment_sum, which takes any order"
            )
        low, high = int(ray_indices[0]), int(ray_indices[-1])
        if low < 0 or high >= n_rays:
            raise ValueError(
                f"ray_indices: found values from {low} to {high}, expected 0 to {n_rays - 1} for n_rays={n_rays}"
            )
    edges = torch.searchsorted(ray_indices, torch.arange(n_rays + 1, device=ray_indices.device))
    return torch.stack([edges[:-1], edges[1:] - edges[:-1]], dim=-1)


def inclusive_sum(x: Tensor, packed_info: Tensor | None = None) -> Tensor:
    """Running sum with the sample itself, y_i = sum_{j <= i} x_j, along each ray.

    Args:
        x: Values ``(N,)`` with ``packed_info``, else ``(..., n_samples)``.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64.

    Returns:
        The sums, shaped as ``x``; differentiable any number of times.

    Example:
        >>> inclusive_sum(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[0, 2], [2, 0], [2, 2]]))
        tensor([1., 3., 3., 7.])
    """
    check_samples("x", x, packed_info)
    x = widen(x)
    if packed_info is None:
        return torch.cumsum(x, dim=-1)
    return _packed_sum(x.contiguous(), packed_info.contiguous(), False, False)


def exclusive_sum(x: Tensor, packed_info: Tensor | None = None) -> Tensor:
    """Running sum before the sample, y_i = sum_{j < i} x_j, along each ray; each ray begins with 0.

    Args:
        x: Values ``(N,)`` with ``packed_info``, else ``(..., n_samples)``.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64.

    Returns:
        The sums, shaped as ``x``; differentiable any number of times.

    Example:
        >>> exclusive_sum(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[0, 2], [2, 0], [2, 2]]))
        tensor([0., 1., 0., 3.])
    """
    check_samples("x", x, packed_info)
    x = widen(x)
    if packed_info is None:
        return torch.cumsum(torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], dim=-1), dim=-1)
    return _packed_sum(x.contiguous(), packed_info.contiguous(), True, False)


def inclusive_prod(x: Tensor, packed_info: Tensor | None = None) -> Tensor:
    """Running product with the sample itself, y_i = prod_{j <= i} x_j, along each ray.

    The gradient divides by nothing, so it is exact where factors are zero.

    Args:
        x: Factors ``(N,)`` with ``packed_info``, else ``(..., n_samples)``.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64.

    Returns:
        The products, shaped as ``x``.

    Example:
        >>> inclusive_prod(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[0, 2], [2, 0], [2, 2]]))
        tensor([ 1.,  2.,  3., 12.])
    """
    check_samples("x", x, packed_info)
    x = widen(x)
    if packed_info is None:
        return torch.cumprod(x, dim=-1)
    return _packed_prod(x.contiguous(), packed_info.contiguous(), False)


def exclusive_prod(x: Tensor, packed_info: Tensor | None = None) -> Tensor:
    """Running product before the sample, y_i = prod_{j < i} x_j, along each ray; each ray begins with 1.

    The gradient divides by nothing, so it is exact where factors are zero.

    Args:
        x: Factors ``(N,)`` with ``packed_info``, else ``(..., n_samples)``.
        packed_info: Start and count of each ray, ``(n_rays, 2)`` int64.

    Returns:
        The products, shaped as ``x``.

    Example:
        >>> exclusive_prod(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([[0, 2], [2, 0], [2, 2]]))
        tensor([1., 1., 1., 3.])
    """
    check_samples("x", x, packed_info)
    x = widen(x)
    if packed_info is None:
        return torch.cumprod(torch.cat([torch.ones_like(x[..., :1]), x[..., :-1]], dim=-1), dim=-1)
    return _packed_prod(x.contiguous(), packed_info.contiguous(), True)
