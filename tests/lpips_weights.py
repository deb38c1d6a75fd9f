"""Weights by formula for the networks of LPIPS, which may not be shipped."""

from __future__ import annotations

import torch

from zoo.metrics.lpips import _layers


def formula_weights(net) -> dict[str, torch.Tensor]:
    """``2 / sqrt(fan in) sin(12.9898 i + 78.233 (k + 1))`` for the k-th convolution, torchvision's names."""
    state, k = {}, 0
    for number, layer in enumerate(_layers(net)[0]):
        if isinstance(layer, torch.nn.Conv2d):
            index = torch.arange(layer.weight.numel(), dtype=torch.float64)
            scale = 2 / layer.weight[0].numel() ** 0.5
            weight = scale * torch.sin(12.9898 * index + 78.233 * (k + 1))
            state[f"features.{number}.weight"] = weight.reshape(layer.weight.shape).float()
            state[f"features.{number}.bias"] = (
                0.05 * torch.sin(0.7 * torch.arange(len(layer.weight)).double() + k)
            ).float()
            k += 1
    return state
