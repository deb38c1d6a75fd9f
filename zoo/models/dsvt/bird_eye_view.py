"""The residual 2D backbone on the dense bird's-eye view (OpenPCDet's BaseBEVResBackbone).

Axis order: maps are (B, C, H, W) with H along y and W along x. They stay channels-last, as `DSVTBackbone.to_map` makes
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNorm(nn.Module):
    """Convolution without bias and batch norm."""

    def __init__(self, conv: nn.Module, channels: int, *, eps: float = 1e-3, momentum: float = 0.01) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(channels, eps=eps, momentum=momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to maps (B, C, H', W')."""
        return self.norm(self.conv(x))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions; a 1x1 convolution on the shortcut where ``project``."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
        self.shortcut = (
            ConvNorm(nn.Conv2d(in_channels, channels, 1, stride, bias=False), channels) if project else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to maps (B, C, H / stride, W / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class BirdEyeBackbone(nn.Module):
    """Levels of residual blocks, each brought to one resolution, side by side.

    Args:
        in_channels: Channels of the map.
        blocks: Residual blocks of each level behind its first one.
        strides: Stride of each level's first block.
        channels: Width of each level.
        up_strides: Up-sampling of each level's output; below 1 (such as 0.5) down-sampling.
        up_channels: Width of each level's output.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        blocks: Sequence[int] = (1, 2, 2),
        strides: Sequence[int] = (1, 2, 2),
        channels: Sequence[int] = (128, 128, 256),
        up_strides: Sequence[float] = (1, 2, 4),
        up_channels: Sequence[int] = (128, 128, 128),
    ) -> None:
        super().__init__()
        lengths = [len(blocks), len(strides), len(channels), len(up_strides), len(up_channels)]
        if len(set(lengths)) != 1:
            raise ValueError(f"blocks, strides, channels, up_*: found lengths {lengths}, expected one entry a level")
        levels, up = [], []
        for width_in, width, count, stride, scale, out in zip(
            [in_channels, *channels], channels, blocks, strides, up_strides, up_channels, strict=False
        ):
            first = ResidualBlock(width_in, width, stride=stride, project=True)
            levels.append(nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(count))))
            up.append(ConvNorm(_resample(width, out, scale), out))
        self.levels, self.up = nn.ModuleList(levels), nn.ModuleList(up)
        self.down_strides = list(itertools.accumulate(strides, lambda a, b: a * b))
        ratios = {total / scale for total, scale in zip(self.down_strides, up_strides, strict=True)}
        if len(ratios) != 1:
            raise ValueError(
                f"strides, up_strides: found {tuple(strides)} and {tuple(up_strides)}, whose levels end at "
                f"different resolutions {sorted(ratios)}; expected strides' products and up_strides in one ratio"
            )
        self.out_stride, self.out_channels = ratios.pop(), sum(up_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to maps (B, sum of up_channels, H / out_stride, W / out_stride)."""
        outputs = []
        for level, up in zip(self.levels, self.up, strict=True):
            x = level(x)
            outputs.append(functional.relu(up(x)))
        return torch.cat(outputs, dim=1)


def _resample(in_channels: int, out_channels: int, scale: float) -> nn.Module:
    if scale >= 1:
        return nn.ConvTranspose2d(in_channels, out_channels, int(scale), int(scale), bias=False)
    step = round(1 / scale)
    return nn.Conv2d(in_channels, out_channels, step, step, bias=False)
