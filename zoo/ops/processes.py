r"""Sums over the processes of a distributed run, differentiable where that is needed.

Distributed data parallel training averages the gradients of W processes. The mean of a loss over the rows of all
processes, :math:`\sum_r \sum_{i \in r} l_i / \sum_r n_r`, is therefore what each process makes with the denominator
:math:`\sum_r n_r / W` instead of its own number of rows :math:`n_r`: see `shared_count`. What gathers here adds up the
gradients of all processes, so that their average fits as well.

Every function is a collective: all processes have to call it, with empty tensors where they have nothing. With a single
process each is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

__all__ = [
    "gather_objects",
    "gather_over_processes",
    "gather_rows",
    "num_processes",
    "shared_count",
    "sum_over_processes",
    "zero_of",
]

Item = TypeVar("Item")


def num_processes() -> int:
    """W; 1 where no process group is initialised."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of a tensor of one shape over all processes, without gradient."""
    total = x.detach().clone(memory_format=torch.contiguous_format)
    if num_processes() > 1:
        distributed.all_reduce(total)
    return total


def shared_count(count: Tensor | int, *, least: float = 1.0, device: torch.device | None = None) -> Tensor:
    """What a process divides the sum of its losses by: ``max(sum of the counts, least) / W``, a scalar.

    The average over the processes is then the mean over the rows of all of them.

    Args:
        count: Rows of this process, or the sum of their weights; may be 0.
        least: The denominator of all processes is never below.
        device: Of the result where the count is a number.

    Example:
        >>> shared_count(torch.tensor(3)), shared_count(0)
        (tensor(3.), tensor(1.))
    """
    total = torch.as_tensor(count, device=device)
    total = total if total.is_floating_point() else total.float()
    return sum_over_processes(total).clamp(min=least) / num_processes()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(num_processes())]
        distributed.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return sum_over_processes(grad)[distributed.get_rank()]


def gather_over_processes(x: Tensor) -> Tensor:
    """Tensors of one shape of all processes, ``(W, *shape)``; the gradient is the sum of those of all processes."""
    return x[None] if num_processes() == 1 else _Gather.apply(x)  # pyright: ignore[reportReturnType]


def gather_rows(x: Tensor) -> Tensor:
    """Rows ``(N, ...)`` of all processes one after the other, N may differ; gradients as `gather_over_processes`."""
    if num_processes() == 1:
        return x
    counts = gather_over_processes(torch.tensor(len(x), device=x.device)).tolist()
    padded = torch.cat([x, x.new_zeros(max(counts) - len(x), *x.shape[1:])])
    return torch.cat([part[:count] for part, count in zip(gather_over_processes(padded), counts, strict=True)])


def gather_objects(item: Item) -> list[Item]:
    """Any picklable object of each process, in the order of the processes."""
    if num_processes() == 1:
        return [item]
    found: list[Any] = [None] * num_processes()
    distributed.all_gather_object(found, item)
    return found


def zero_of(parameters: Iterable[Tensor]) -> Tensor:
    """0, with a gradient of 0 for each parameter: the loss of a process that has nothing to learn from in a step."""
    return torch.stack([parameter.sum() * 0.0 for parameter in parameters if parameter.requires_grad]).sum()
