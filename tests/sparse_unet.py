"""A small sparse U-Net of every kind of layer, for tests of whole networks."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from zoo.models.layers.sparse_conv import SparseConv3d, SparseInverseConv3d, SubMConv3d
from zoo.models.layers.sparse_norm import SparseBatchNorm
from zoo.models.layers.sparse_sequential import SparseModule, SparseSequential
from zoo.ops import SparseTensor, VoxelGrid, cat_channels


class SparseUNet(SparseModule):
    """Submanifold blocks on each level, strided convolutions down, inverse convolutions up, skips by concatenation."""

    def __init__(self, in_channels: int, channels: tuple[int, ...], out_channels: int) -> None:
        super().__init__()
        self.stem = SparseSequential(SubMConv3d(in_channels, channels[0], 3, bias=False), nn.ReLU())
        self.down, self.up, self.merge = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for fine, coarse in itertools.pairwise(channels):
            self.down.append(
                SparseSequential(
                    SparseConv3d(fine, coarse, 2, stride=2, bias=False),
                    SparseBatchNorm(coarse),
                    nn.ReLU(),
                    SubMConv3d(coarse, coarse, 3),
                    nn.ReLU(),
                )
            )
            self.up.append(SparseInverseConv3d(coarse, fine, 2))
            self.merge.append(SparseSequential(SubMConv3d(2 * fine, fine, 3), SparseBatchNorm(fine), nn.ReLU()))
        self.head = SubMConv3d(channels[0], out_channels, 1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for up, merge, skip in zip(reversed(self.up), reversed(self.merge), reversed(skips), strict=True):
            x = merge(cat_channels([skip, up(x)]))
        return self.head(x)


class FeaturePart(nn.Module):
    """The features -> features part of a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, features: Tensor, grid: VoxelGrid) -> Tensor:
        return self.net(SparseTensor(features, grid)).features


def sample_tensor(num_points: int, channels: int = 4, seed: int = 0) -> SparseTensor:
    """Two samples of random sites in a cube of 16 cells."""
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, 2, (num_points, 1), generator=generator)
    coords = torch.cat([batch, torch.randint(0, 16, (num_points, 3), generator=generator)], dim=1)
    grid, _ = VoxelGrid.unique(coords, (16, 16, 16), 2)
    return SparseTensor(torch.randn(len(grid), channels, generator=generator), grid)
