"""Small multi-layer perceptrons of fields."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.tcnn_parameters import join_network_parameters
from zoo.ops.backend import active_backend
from zoo.ops.checks import check_option

Activation = Literal["none", "relu", "leaky_relu", "softplus", "sigmoid", "tanh", "exp", "sine", "squareplus"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "exp": torch.exp,
    "sine": torch.sin,
    "squareplus": lambda x: 0.5 * (x + torch.sqrt(x * x + 4)),
}


class MLP(nn.Module):
    """A stack of linear layers with a named activation between them.

    Args:
        in_dim: Input width.
        hidden_dims: Widths of the hidden layers; may be empty.
        out_dim: Output width.
        bias: Whether the layers have biases.
        activation: After every hidden layer.
        output_activation: After the last layer.

    On the ``tcnn`` back-end a bias-free stack on a CUDA tensor runs as one fused kernel of tiny-cuda-nn, in half
    precision.

    Example:
        >>> MLP(32, [64], 16, bias=False)(torch.zeros(5, 32)).shape
        torch.Size([5, 16])
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dims: Sequence[int],
        out_dim: int,
        *,
        bias: bool = True,
        activation: Activation = "relu",
        output_activation: Activation = "none",
    ) -> None:
        super().__init__()
        check_option("activation", activation, tuple(ACTIVATIONS))
        check_option("output_activation", output_activation, tuple(ACTIVATIONS))
        widths = [in_dim, *hidden_dims, out_dim]
        if min(widths) < 1:
            raise ValueError(f"widths: found {widths}, expected positive numbers")
        self.in_dim, self.hidden_dims, self.out_dim = in_dim, tuple(hidden_dims), out_dim
        self.activation, self.output_activation = activation, output_activation
        self.layers = nn.ModuleList(nn.Linear(before, after, bias=bias) for before, after in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_dim)`` to ``(N, out_dim)``."""
        if active_backend() == "tcnn" and x.is_cuda and self.layers[0].bias is None:
            from zoo.ops.vendor import tcnn

            return tcnn.fused_mlp(
                x,
                join_network_parameters(self.weights()),
                out_dim=self.out_dim,
                hidden_dims=self.hidden_dims,
                activation=self.activation,
                output_activation=self.output_activation,
            )
        *hidden, last = self.layers
        for layer in hidden:
            x = ACTIVATIONS[self.activation](layer(x))
        return ACTIVATIONS[self.output_activation](last(x))

    def weights(self) -> list[Tensor]:
        """The matrices ``(out, in)``, first layer first."""
        return [layer.get_parameter("weight") for layer in self.layers]

    @torch.no_grad()
    def load_weights(self, weights: Sequence[Tensor]) -> None:
        """Copy matrices ``(out, in)``, as `split_network_parameters` gives them, into the layers.

        Raises:
            ValueError: Another number of matrices, or other shapes.
        """
        found, expected = [tuple(w.shape) for w in weights], [tuple(w.shape) for w in self.weights()]
        if found != expected:
            raise ValueError(f"weights: found shapes {found}, expected {expected}")
        for target, source in zip(self.weights(), weights, strict=True):
            target.copy_(source)
