"""Softmax over runs of rows in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.reference.packed import sample_rays
from zoo.ops.reference.segment import segment_extreme, segment_total


def segment_softmax(values: Tensor, packed_info: Tensor) -> Tensor:
    """Softmax of each column within each segment, ``(N, C)``."""
    rows = sample_rays(packed_info, len(values))
    largest, _ = segment_extreme(values, packed_info, True)
    shares = torch.exp(values - largest[rows])
    return (shares / segment_total(shares, packed_info)[rows]).contiguous()


def segment_softmax_backward(grad: Tensor, softmax: Tensor, packed_info: Tensor) -> Tensor:
    """Gradient y (g - sum g y) within each segment, ``(N, C)``."""
    rows = sample_rays(packed_info, len(softmax))
    return (softmax * (grad - segment_total(grad * softmax, packed_info)[rows])).contiguous()
