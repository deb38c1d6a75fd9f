"""Normalisation and activation of the features of sparse tensors; absent sites take no part."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from zoo.models.layers.sparse_sequential import SparseModule
from zoo.models.layers.synchronized_norm import SynchronizableNorm
from zoo.ops import SparseTensor


class RowBatchNorm(SynchronizableNorm, nn.BatchNorm1d):
    """Batch normalisation of rows (N, C), however few they are.

    With fewer than two rows there are no batch statistics: training then normalises with the running ones and leaves
    them as they are, so that an empty or nearly empty batch does not stop a run.
    """

    def _alone(self, input: Tensor) -> Tensor:
        if self.training and input.shape[0] < 2 and self.track_running_stats:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super()._alone(input)


class SparseBatchNorm(RowBatchNorm, SparseModule):
    """Batch normalisation over all active sites of the batch, however few they are."""

    def forward(self, input: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise the features (N, C)."""
        return input.replace_feature(super().forward(input.features))


class SparseLayerNorm(nn.LayerNorm, SparseModule):
    """Layer normalisation over the channels of each site."""

    def forward(self, input: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """Normalise the features (N, C)."""
        return input.replace_feature(super().forward(input.features))


class SparseActivation(SparseModule):
    """A plain module applied to the features, for use outside `SparseSequential`."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: SparseTensor) -> SparseTensor:
        """Apply the module to the features (N, C)."""
        features: Tensor = self.module(x.features)
        return x.replace_feature(features)
