"""Event-driven convolution in plain torch: what it computes is the dense convolution."""

from __future__ import annotations

from torch import Tensor

from zoo.ops.reference import sparse_conv


def spike_conv(
    features: Tensor,
    weight: Tensor,
    pairs_in: Tensor,
    pairs_out: Tensor,
    offsets: Tensor,
    num_out: int,
    break_even: float,
    row_cost: float,
) -> Tensor:
    """``out[o] = sum over the pairs (i, o) of k of weight[:, k] @ features[i]``, however dense they are."""
    return sparse_conv.sparse_conv(features, weight, pairs_in, pairs_out, offsets, num_out, 1)
