"""Containers that thread sparse tensors through layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from zoo.ops import SparseTensor


class SparseModule(nn.Module):
    """Base class of modules whose ``forward`` takes a `SparseTensor`; other modules are given its features."""


class SparseSequential(nn.Sequential, SparseModule):
    """A sequence of sparse and plain modules.

    A `SparseModule` gets the sparse tensor; any other module (``nn.BatchNorm1d``, ``nn.ReLU``, ``nn.Linear``, ...) gets
    the features (N, C) and its result is put back on the grid. Once a module returns a plain tensor (global pooling,
    ``ToDense``), the rest get that tensor.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from zoo.models.layers.sparse_conv import SubMConv2d
        >>> net = SparseSequential(SubMConv2d(1, 4, 3), nn.BatchNorm1d(4).eval(), nn.ReLU())
        >>> x = SparseTensor.from_coords(torch.ones(2, 1), torch.tensor([[0, 0, 0], [0, 1, 1]]), (2, 2), 1)
        >>> net(x).features.shape
        torch.Size([2, 4])
    """

    def forward(self, input: Any) -> Any:
        """Run every module in turn on a `SparseTensor` (or, after a plain tensor came up, on that)."""
        for module in self:
            input = apply_module(module, input)
        return input


def apply_module(module: nn.Module, x: SparseTensor | Tensor) -> Any:
    """Run a sparse module on the tensor, or a plain one on its features."""
    if isinstance(module, SparseModule) or not isinstance(x, SparseTensor):
        return module(x)
    return x.replace_feature(module(x.features))


class ToDense(SparseModule):
    """Dense values (B, C, S_0, ...) of a sparse tensor, ``fill`` where there is no site."""

    def __init__(self, fill: float = 0.0) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, x: SparseTensor) -> Tensor:
        """Scatter the features into a dense tensor."""
        return x.dense(self.fill)
