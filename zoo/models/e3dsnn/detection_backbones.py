"""The spiking 3D and bird's-eye-view backbones of the detector. Coordinates are (batch, z, y, x)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.models.e3dsnn.blocks import DownBlock, spike_unit
from zoo.models.layers.sparse_sequential import SparseModule, SparseSequential
from zoo.models.layers.spike_conv import SpikeConv3d, SpikeVoxelCoding, batch_norm
from zoo.models.layers.spiking import NeuronSpec, SpikeConv2d, SpikeConvTranspose2d
from zoo.ops import SparseTensor

__all__ = ["SpikeBEVBackbone", "SpikeVoxelBackbone", "VoxelLevels"]


class VoxelLevels(NamedTuple):
    """Membranes of the 3D backbone at strides 1, 2, 4 and 8, and the spikes that go to the bird's-eye view."""

    conv1: SparseTensor
    conv2: SparseTensor
    conv3: SparseTensor
    conv4: SparseTensor
    out: SparseTensor  # stride 8 in y and x, 16 and a window of 3 in z


class SpikeVoxelBackbone(SparseModule):
    """Spike voxel coding, three down blocks of stride 2, and a convolution along z that squeezes the height.

    The convolution along z reads the membrane itself (multiply-accumulate), as upstream.

    Args:
        in_channels: Channels of the voxels: means of x, y, z, intensity.
        channels: Channels at strides 1, 2, 4 and 8.
        depth: Basic blocks at strides 2, 4 and 8.
        out_channels: Channels after the convolution along z.
        neuron: Which neuron; without memory.
    """

    def __init__(
        self,
        *,
        in_channels: int = 4,
        channels: Sequence[int] = (16, 32, 64, 64),
        depth: int = 2,
        out_channels: int = 128,
        neuron: NeuronSpec | None = None,
    ) -> None:
        super().__init__()
        neuron = _single_step(neuron)
        if len(channels) != 4:
            raise ValueError(f"channels: found {tuple(channels)}, expected 4 numbers, for strides 1, 2, 4 and 8")
        self.conv_input = SpikeVoxelCoding(in_channels, channels[0], neuron)
        self.conv1 = SparseSequential(SparseSequential(*spike_unit(channels[0], neuron)))
        geometry = {"kernel_size": 3, "padding": 1}
        self.conv2 = DownBlock(channels[0], channels[1], depth, neuron, **geometry)
        self.conv3 = DownBlock(channels[1], channels[2], depth, neuron, **geometry)
        self.conv4 = DownBlock(channels[2], channels[3], depth, neuron, **geometry)
        self.conv_out = SparseSequential(
            SpikeConv3d(channels[3], out_channels, (3, 1, 1), max_count=None, stride=(2, 1, 1)),
            batch_norm(out_channels),
            neuron.build(),
        )

    def forward(self, x: SparseTensor) -> VoxelLevels:
        """Real voxel features (N, in_channels)."""
        conv1 = self.conv1(self.conv_input(x))
        conv2 = self.conv2(conv1)
        conv3 = self.conv3(conv2)
        conv4 = self.conv4(conv3)
        return VoxelLevels(conv1, conv2, conv3, conv4, self.conv_out(conv4))

    @staticmethod
    def output_shape(spatial_shape: Sequence[int]) -> tuple[int, int, int]:
        """Shape of the last level, for voxels of shape (z, y, x).

        Raises:
            ValueError: Too few cells along z.
        """
        z, y, x = spatial_shape
        for _ in range(3):
            z, y, x = (z - 1) // 2 + 1, (y - 1) // 2 + 1, (x - 1) // 2 + 1
        if z < 3:
            raise ValueError(
                f"spatial_shape: found {tuple(spatial_shape)} (z, y, x), which leave {z} levels along z, expected at "
                "least 3: 17 cells; use a taller range or flatter voxels"
            )
        return (z - 3) // 2 + 1, y, x


class SpikeBEVBackbone(nn.Module):
    """Dense 2D convolutions of spikes in several strides, brought back to one stride and concatenated.

    Args:
        in_channels: Channels of the bird's-eye view.
        layer_nums: Convolutions of each level after its strided one.
        strides: Of each level relative to the one before.
        channels: Of each level.
        up_strides: By which each level is enlarged.
        up_channels: Of each level after that; the result has their sum.
        neuron: Which neuron; without memory.
        reads_spikes: Whether the input is spikes already; the first neuron is then left out. Upstream has two neurons
            there in a row: the second changes no count, but its window keeps the gradient of the counts 0 and D.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        layer_nums: Sequence[int] = (5, 5),
        strides: Sequence[int] = (1, 2),
        channels: Sequence[int] = (64, 128),
        up_strides: Sequence[int] = (1, 2),
        up_channels: Sequence[int] = (128, 128),
        neuron: NeuronSpec | None = None,
        reads_spikes: bool = False,
    ) -> None:
        super().__init__()
        neuron = _single_step(neuron)
        lengths = {len(values) for values in (layer_nums, strides, channels, up_strides, up_channels)}
        if len(lengths) != 1:
            raise ValueError(
                "layer_nums, strides, channels, up_strides, up_channels: found different numbers of levels, expected "
                "one entry for each level in all of them"
            )
        self.blocks, self.deblocks = nn.ModuleList(), nn.ModuleList()
        for level, number in enumerate(layer_nums):
            width = channels[level]
            before = in_channels if level == 0 else channels[level - 1]
            layers: list[nn.Module] = [nn.ZeroPad2d(1), *_unit(before, width, strides[level], 0, neuron)]
            for _ in range(number):
                layers += _unit(width, width, 1, 1, neuron)
            self.blocks.append(nn.Sequential(*layers))
            rise = SpikeConvTranspose2d(width, up_channels[level], up_strides[level], max_count=neuron.spike_limit)
            self.deblocks.append(nn.Sequential(neuron.build(), rise, _batch_norm(up_channels[level])))
        if reads_spikes:
            self.blocks[0][1] = nn.Identity()  # type: ignore[index]
        self.out_channels = sum(up_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) to (B, sum of up_channels, H', W'), real values."""
        risen = []
        for block, deblock in zip(self.blocks, self.deblocks, strict=True):
            x = block(x)
            risen.append(deblock(x))
        return torch.cat(risen, dim=1)


def _unit(in_channels: int, out_channels: int, stride: int, padding: int, neuron: NeuronSpec) -> list[nn.Module]:
    convolution = SpikeConv2d(
        in_channels, out_channels, 3, max_count=neuron.spike_limit, stride=stride, padding=padding
    )
    return [neuron.build(), convolution, _batch_norm(out_channels)]


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _single_step(neuron: NeuronSpec | None) -> NeuronSpec:
    neuron = neuron or NeuronSpec()
    if neuron.num_steps != 1:
        raise ValueError(f"neuron: found {neuron.num_steps} time steps, expected 1: the detector has no time axis")
    return neuron
