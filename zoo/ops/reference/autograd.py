"""Gradients of references by differentiating their forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def vjp(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Vector-Jacobian product of ``function`` at ``inputs``; zeros for inputs that do not reach the output.

    Unlike plain autograd it also works inside the kernel of an op, below torch's autograd layer, where the dispatcher
    would otherwise record no graph.
    """
    leaves = [value.detach().requires_grad_() for value in inputs]
    with _autograd_layer(), torch.enable_grad():
        outputs: Any = function(*leaves)
        grads = torch.autograd.grad(outputs, leaves, grad_outputs, allow_unused=True)
    return tuple(torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True))


def _autograd_layer() -> Any:
    """A guard under which autograd records, whatever layer of the dispatcher is running."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)
    for name in ("AutogradOther", "AutogradCPU", "AutogradCUDA"):
        keys = keys | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    include = torch._C._dispatch_tls_local_include_set()
    exclude = torch._C._dispatch_tls_local_exclude_set() - keys
    return torch._C._ForceDispatchKeyGuard(include, exclude)
