"""The U-Net on three planes: one set of weights, run over xy, xz and yz in that order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.models.gridformer.attention import Aggregation, PointGridLayer, Projection

__all__ = ["PlaneDown", "PlaneUNet", "PlaneUp"]


def _conv_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels))


class PlaneDown(PointGridLayer):
    """A level on the way down.

    Args:
        in_channels: Of grids and points.
        channels: Of both behind it.
        pool: Whether it begins by halving the resolution.
        aggregation: See `PointGridLayer`.
    """

    def __init__(self, *, in_channels: int, channels: int, pool: bool, aggregation: Aggregation = "attention") -> None:
        super().__init__(in_channels=in_channels, channels=channels, axes=2, aggregation=aggregation)
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()
        self.conv1 = nn.Sequential(_conv_norm(in_channels, channels), nn.ReLU(), _conv_norm(channels, channels))
        self.weight_conv = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
        self.conv1x1 = nn.Conv2d(channels, channels, 3, padding=1)  # 3 x 3 whatever its published name says

    def forward(
        self, grids: list[Tensor], features: Tensor, projections: list[Projection]
    ) -> tuple[list[Tensor], Tensor]:
        """Grids ``(B, C_in, R, R)`` and point features ``(B N, C_in)`` to those of the level."""
        values = self.point_values(features)
        found = []
        for grid, projection in zip(grids, projections, strict=True):
            inner = torch.relu(self.conv1(self.pool(grid)))
            made = self.attend(values, self.conv_q(inner), projection)
            found.append(self.weight_conv(made) + self.conv1x1(inner))
        return found, values.values + self.sample(found, projections)


class PlaneUp(PointGridLayer):
    """A level on the way up.

    Args:
        in_channels: Of grids and points of the level below.
        channels: Of the skipped grids and of the result.
        enlarge: Whether it doubles the resolution.
        is_last: Whether it ends behind its convolution; the attention layers of the published weights stay unused.
        aggregation: See `PointGridLayer`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        channels: int,
        enlarge: bool = True,
        is_last: bool = False,
        aggregation: Aggregation = "attention",
    ) -> None:
        super().__init__(in_channels=in_channels, channels=channels, axes=2, aggregation=aggregation)
        self.enlarge, self.is_last = enlarge, is_last
        if enlarge:
            self.upconv = nn.Sequential(nn.ConvTranspose2d(in_channels, channels, 2, stride=2))
        else:
            self.upconv_noup = nn.Sequential(nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels))
        self.conv1 = _conv_norm(2 * channels, channels)
        self.weight_conv = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False) for _ in range(2))
        )
        self.conv1x1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv_final = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(
        self, grids: list[Tensor], skipped: list[Tensor], features: Tensor, projections: list[Projection]
    ) -> tuple[list[Tensor], Tensor]:
        """Grids of the level below, grids of the way down ``(B, C, R, R)`` and point features to those of the level."""
        raise_up = self.upconv if self.enlarge else self.upconv_noup
        values = None if self.is_last else self.point_values(features)
        found = []
        for grid, skip, projection in zip(grids, skipped, projections, strict=True):
            inner = torch.relu(self.conv1(torch.cat([raise_up(grid), skip], dim=1)))
            if values is not None:
                made = self.attend(values, self.conv_q(inner), projection)
                inner = self.conv_final(self.weight_conv(made) + self.conv1x1(inner))
            found.append(inner)
        if values is None:
            return found, features
        return found, values.values + self.sample(found, projections)


class PlaneUNet(nn.Module):
    """Four levels down, three up; resolutions R, R, R/2, R/4, R/2, R, R.

    Args:
        channels: Of the finest level, C; below it 2 C, 4 C, 8 C.
        aggregation: See `PointGridLayer`.
    """

    axes = 2

    def __init__(self, *, channels: int, aggregation: Aggregation = "attention") -> None:
        super().__init__()
        width = [channels << level for level in range(4)]
        self.down_convs = nn.ModuleList(
            PlaneDown(
                in_channels=channels if level == 0 else width[level - 1],
                channels=width[level],
                pool=level >= 2,
                aggregation=aggregation,
            )
            for level in range(4)
        )
        self.up_convs = nn.ModuleList(
            PlaneUp(
                in_channels=width[3 - level],
                channels=width[2 - level],
                enlarge=level < 2,
                is_last=level == 2,
                aggregation=aggregation,
            )
            for level in range(3)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)

    def forward(self, grids: list[Tensor], features: Tensor, projections: list[Projection]) -> list[list[Tensor]]:
        """The maps of the three levels up, coarse to fine, for each plane."""
        skipped: list[list[Tensor]] = []
        for down in self.down_convs:
            grids, features = down(grids, features, projections)
            skipped.append(grids)
        maps = []
        for level, up in enumerate(self.up_convs):
            grids, features = up(grids, skipped[2 - level], features, projections)
            maps.append(grids)
        return maps
