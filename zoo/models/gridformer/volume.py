"""The U-Net on a dense volume."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.models.gridformer.attention import Aggregation, PointGridLayer, Projection

__all__ = ["VolumeDown", "VolumeUNet", "VolumeUp"]


def _norm_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    norm = nn.GroupNorm(8 if in_channels >= 8 else 1, in_channels)
    conv = nn.Conv3d(in_channels, out_channels, 3, padding=1, bias=False)
    return nn.Sequential(OrderedDict(groupnorm=norm, conv=conv, ReLU=nn.ReLU()))


def _two_convs(in_channels: int, between: int, out_channels: int) -> nn.Sequential:
    first, second = _norm_conv(in_channels, between), _norm_conv(between, out_channels)
    return nn.Sequential(OrderedDict(SingleConv1=first, SingleConv2=second))


class VolumeDown(PointGridLayer):
    """A level on the way down.

    Args:
        in_channels: Of grid and points.
        channels: Of both behind it.
        pool: Whether it begins by halving the resolution.
        aggregation: See `PointGridLayer`.
    """

    def __init__(self, *, in_channels: int, channels: int, pool: bool, aggregation: Aggregation = "attention") -> None:
        super().__init__(in_channels=in_channels, channels=channels, axes=3, aggregation=aggregation)
        self.pool = nn.MaxPool3d(2) if pool else nn.Identity()
        self.basic_module = _two_convs(in_channels, max(in_channels, channels // 2), channels)
        self.weight_conv = nn.Sequential(nn.Conv3d(channels, channels, 3, padding=1), nn.ReLU())
        self.conv1x1 = nn.Conv3d(channels, channels, 3, padding=1)  # 3 x 3 x 3 whatever its published name says

    def forward(self, grid: Tensor, features: Tensor, projection: Projection) -> tuple[Tensor, Tensor]:
        """Grid ``(B, C_in, R, R, R)`` and point features ``(B N, C_in)`` to those of the level."""
        values = self.point_values(features)
        inner = self.basic_module(self.pool(grid))
        made = self.attend(values, self.conv_q(inner), projection)
        found = self.weight_conv(made) + self.conv1x1(inner)
        return found, values.values + self.sample([found], [projection])


class VolumeUp(PointGridLayer):
    """A level on the way up.

    Args:
        in_channels: Of grid and points of the level below.
        channels: Of the skipped grid and of the result.
        is_last: Whether it ends behind its convolutions; the attention layers of the published weights stay unused.
        aggregation: See `PointGridLayer`.
    """

    def __init__(
        self, *, in_channels: int, channels: int, is_last: bool = False, aggregation: Aggregation = "attention"
    ) -> None:
        super().__init__(in_channels=in_channels, channels=channels, axes=3, aggregation=aggregation)
        self.is_last = is_last
        self.basic_module = _two_convs(in_channels + channels, channels, channels)
        self.conv1x1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.weight_conv = nn.Sequential(
            *(nn.Conv3d(channels, channels, 3, padding=1, groups=channels, bias=False) for _ in range(2))
        )
        self.conv_final = nn.Sequential(nn.Conv3d(channels, channels, 1), nn.BatchNorm3d(channels))

    def forward(self, grid: Tensor, skip: Tensor, features: Tensor, projection: Projection) -> tuple[Tensor, Tensor]:
        """Grid of the level below, skipped grid ``(B, C, R, R, R)`` and point features to those of the level."""
        raised = grid if grid.shape[2:] == skip.shape[2:] else F.interpolate(grid, skip.shape[2:], mode="nearest")
        inner = self.basic_module(torch.cat([skip, raised], dim=1))
        if self.is_last:
            return inner, features
        values = self.point_values(features)
        made = self.attend(values, self.conv_q(inner), projection)
        found = self.conv_final(self.weight_conv(made) + self.conv1x1(inner))
        return found, values.values + self.sample([found], [projection])


class VolumeUNet(nn.Module):
    """Four levels down, three up; resolutions R, R, R/2, R/4, R/2, R, R.

    Args:
        channels: Of the finest level, C; below it 2 C, 4 C, 8 C.
        aggregation: See `PointGridLayer`.
    """

    axes = 3

    def __init__(self, *, channels: int, aggregation: Aggregation = "attention") -> None:
        super().__init__()
        width = [channels << level for level in range(4)]
        self.encoders = nn.ModuleList(
            VolumeDown(
                in_channels=channels if level == 0 else width[level - 1],
                channels=width[level],
                pool=level >= 2,
                aggregation=aggregation,
            )
            for level in range(4)
        )
        self.decoders = nn.ModuleList(
            VolumeUp(
                in_channels=width[3 - level], channels=width[2 - level], is_last=level == 2, aggregation=aggregation
            )
            for level in range(3)
        )

    def forward(self, grids: list[Tensor], features: Tensor, projections: list[Projection]) -> list[list[Tensor]]:
        """The maps of the three levels up, coarse to fine, each in a list of one."""
        (grid,), (projection,) = grids, projections
        skipped = []
        for down in self.encoders:
            grid, features = down(grid, features, projection)
            skipped.append(grid)
        maps = []
        for level, up in enumerate(self.decoders):
            grid, features = up(grid, skipped[2 - level], features, projection)
            maps.append([grid])
        return maps
