"""ConvNeXt in the layout of its authors and of SparK's released files (arXiv:2201.03545).

Maps are ``(B, C, H, W)``. Block: depth-wise 7x7 -> layer norm -> C to 4C -> GELU -> 4C to C -> layer scale -> + input.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["ConvNeXt", "DropPath", "LayerNorm2d"]


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of ``(B, C, H, W)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each position."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Drops the whole branch of a sample with probability ``rate`` in training and scales the kept ones."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop or scale the samples of ``(B, ...)``."""
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class ConvNeXtBlock(nn.Module):
    """One residual block."""

    def __init__(self, dim: int, *, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out = self.gamma * self.pwconv2(self.act(self.pwconv1(out)))
        return x + self.drop_path(out.permute(0, 3, 1, 2))


class ConvNeXt(nn.Module):
    """Four stages at strides 4, 8, 16, 32; offers SparK's feature-map protocol.

    Args:
        depths: Blocks of each stage.
        dims: Channels of each stage.
        drop_path: Stochastic depth of the last block, rising linearly from 0.
        layer_scale: Initial value of the layer scale.
        num_classes: With a classifier (final norm and linear head); 0: none.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        drop_path: float = 0.0,
        layer_scale: float = 1e-6,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if len(depths) != 4 or len(dims) != 4:
            raise ValueError(f"depths, dims: found {list(depths)}, {list(dims)}; expected four numbers each")
        self.dims = list(dims)
        self.downsample_layers = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), LayerNorm2d(dims[0], eps=1e-6))]
        )
        for narrow, wide in itertools.pairwise(dims):
            self.downsample_layers.append(
                nn.Sequential(LayerNorm2d(narrow, eps=1e-6), nn.Conv2d(narrow, wide, 2, stride=2))
            )
        total, block = max(1, sum(depths) - 1), 0
        self.stages = nn.ModuleList()
        for depth, dim in zip(depths, dims, strict=True):
            rates = [drop_path * (block + i) / total for i in range(depth)]
            block += depth
            self.stages.append(
                nn.Sequential(*(ConvNeXtBlock(dim, drop_path=rate, layer_scale=layer_scale) for rate in rates))
            )
        if num_classes:
            self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
            self.head = nn.Linear(dims[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def get_downsample_ratio(self) -> int:
        """Total stride."""
        return 32

    def get_feature_map_channels(self) -> list[int]:
        """Channels of the maps, fine to coarse."""
        return list(self.dims)

    def forward(self, x: Tensor, hierarchical: bool = False) -> Tensor | list[Tensor]:
        """Logits ``(B, K)``, or the maps of the four stages."""
        maps = []
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
            maps.append(x)
        return maps if hierarchical else self.head(self.norm(x.mean((2, 3))))
