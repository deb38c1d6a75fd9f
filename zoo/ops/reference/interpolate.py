"""Weighted sums of rows in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def _gather(features: Tensor, indices: Tensor) -> Tensor:
    """``(M, K, C)``, zero where the index is -1."""
    if not len(features):
        return features.new_zeros(*indices.shape, features.shape[1])
    return torch.where((indices >= 0)[..., None], features[indices.clamp_min(0)], 0)


def interpolate_rows(features: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """``sum_k weights[m, k] features[indices[m, k]]``, ``(M, C)``."""
    return (_gather(features, indices) * weights[..., None]).sum(1)


def interpolate_rows_backward(
    grad: Tensor, features: Tensor, indices: Tensor, weights: Tensor, uses: Tensor, use_info: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to features ``(N, C)`` and weights ``(M, K)``."""
    to_weights = (_gather(features, indices) * grad[:, None]).sum(-1)
    parts = (grad[:, None] * weights[..., None]).reshape(-1, grad.shape[1])
    known = indices.reshape(-1) >= 0
    to_features = torch.zeros_like(features).index_add(0, indices.reshape(-1)[known], parts[known])
    return to_features, to_weights
