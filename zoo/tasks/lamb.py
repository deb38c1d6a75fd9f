"""LAMB: Adam with a per-tensor trust ratio (arXiv:1904.00962), as SparK's recipes run it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["LAMB"]


class LAMB(Optimizer):
    """``u = m' / (sqrt(v') + eps) + wd p``; ``p -= lr ||p|| / ||u|| u``, the ratio being 1 where a norm is 0.

    Gradients are first divided by ``max(1, ||g|| / max_grad_norm)``, the norm taken over all parameters.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Of the two moments; both have to be given, as no value fits every network.
        eps: Added to the root of the second moment.
        weight_decay: Of groups without their own.
        max_grad_norm: Of the global gradient; None: not clipped.
        bias_correction: Whether young moments are scaled up.
        always_adapt: Whether tensors without weight decay get a trust ratio as well.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 5.0,
        bias_correction: bool = True,
        always_adapt: bool = False,
    ) -> None:
        if lr < 0 or not all(0 <= beta < 1 for beta in betas) or betas[1] == 0:
            raise ValueError(f"lr, betas: found {lr}, {tuple(betas)}; expected lr >= 0 and betas in [0, 1), beta2 > 0")
        if max_grad_norm is not None and max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm: found {max_grad_norm}; expected a positive number or None")
        self.max_grad_norm = max_grad_norm
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": tuple(betas),
                "eps": eps,
                "weight_decay": weight_decay,
                "bias_correction": bias_correction,
                "always_adapt": always_adapt,
            },
        )

    def _clip_divisor(self) -> Tensor | float:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self.max_grad_norm is None or not grads:
            return 1.0
        return (torch.nn.utils.get_total_norm(grads) / self.max_grad_norm).clamp(min=1.0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update; returns the loss of ``closure``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        divisor = self._clip_divisor()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad / divisor, group)
        return loss

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        state["step"] += 1
        beta1, beta2 = group["betas"]
        first = state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
        second = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        correction1 = 1 - beta1 ** state["step"] if group["bias_correction"] else 1.0
        correction2 = 1 - beta2 ** state["step"] if group["bias_correction"] else 1.0
        update = (first / correction1) / ((second.sqrt() / correction2**0.5).add_(group["eps"]))
        if group["weight_decay"]:
            update.add_(parameter, alpha=group["weight_decay"])
        if group["weight_decay"] or group["always_adapt"]:
            size, length = parameter.norm(), update.norm()
            update.mul_(torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size)))
        parameter.add_(update, alpha=-group["lr"])
