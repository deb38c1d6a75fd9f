"""Blocks of E-3DSNN. All shortcuts add membranes, never spikes: neuron, convolution, normalisation, then the sum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zoo.models.layers.sparse_sequential import SparseModule, SparseSequential
from zoo.models.layers.spike_conv import (
    SpikeConv3d,
    SpikeInverseConv3d,
    SpikeSubMConv3d,
    SpikeVoxelCoding,
    batch_norm,
)
from zoo.models.layers.spiking import NeuronSpec, SpikeLinear
from zoo.ops import SparseTensor, cat_channels

__all__ = ["BasicBlock", "DownBlock", "Encoder", "ResidualBlock", "UpBlock"]


def spike_unit(channels: int, neuron: NeuronSpec) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Neuron, submanifold convolution of 3^3 cells, normalisation."""
    convolution = SpikeSubMConv3d(channels, channels, 3, max_count=neuron.spike_limit)
    return neuron.build(), convolution, batch_norm(channels)


_PRETRAINED = "encoder."  # where a pre-trained network holds its encoder


class BasicBlock(SparseModule):
    """Three spike convolutions with two membrane shortcuts: ``h = f(x) + x; y = g(h) + h``, f of one and g of two."""

    def __init__(self, channels: int, neuron: NeuronSpec) -> None:
        super().__init__()
        self.block = SparseSequential(*spike_unit(channels, neuron))
        self.voxel_block = SparseSequential(*spike_unit(channels, neuron), *spike_unit(channels, neuron))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C) to (N, C) on the same sites."""
        hidden = self.block(x) + x
        return self.voxel_block(hidden) + hidden


class ResidualBlock(SparseModule):
    """Two spike convolutions with bias and one membrane shortcut, of the detectors without boxes of anchors."""

    def __init__(self, channels: int, neuron: NeuronSpec) -> None:
        super().__init__()
        limit = neuron.spike_limit
        self.neuron1, self.neuron2 = neuron.build(), neuron.build()
        self.conv1 = SpikeSubMConv3d(channels, channels, 3, max_count=limit, bias=True)
        self.bn1 = batch_norm(channels)
        self.conv2 = SpikeSubMConv3d(channels, channels, 3, max_count=limit, bias=True)
        self.bn2 = batch_norm(channels)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, C) to (N, C) on the same sites."""
        hidden = self.bn1(self.conv1(x.map(self.neuron1)))
        return self.bn2(self.conv2(hidden.map(self.neuron2))) + x


class DownBlock(SparseModule):
    """A strided spike convolution, then ``depth`` basic blocks.

    Args:
        in_channels: Channels of the finer level.
        out_channels: Channels of this level.
        depth: Basic blocks.
        neuron: Which neuron.
        kernel_size: 2 (classifier, segmentor) or 3 (detector); the stride is 2.
        padding: 0 or 1. Without padding, an odd axis loses its last plane.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        neuron: NeuronSpec,
        *,
        kernel_size: int = 2,
        padding: int = 0,
    ) -> None:
        super().__init__()
        limit = neuron.spike_limit
        self.down = SparseSequential(
            neuron.build(),
            SpikeConv3d(in_channels, out_channels, kernel_size, max_count=limit, stride=2, padding=padding),
            batch_norm(out_channels),
        )
        self.blocks = nn.ModuleList(BasicBlock(out_channels, neuron) for _ in range(depth))

    def forward(self, x: SparseTensor) -> SparseTensor:
        """(N, in) to (M, out) on the coarser sites."""
        x = self.down(x)
        for block in self.blocks:
            x = block(x)
        return x


class UpBlock(SparseModule):
    """Back to the finer sites by an inverse spike convolution; the skip is fused by two spike-driven linear layers.

    Args:
        in_channels: Channels of the coarser level.
        skip_channels: Channels of the encoder's tensor on the finer level.
        out_channels: Channels of the result.
        neuron: Which neuron.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int, neuron: NeuronSpec) -> None:
        super().__init__()
        limit = neuron.spike_limit
        self.up = SparseSequential(
            neuron.build(),
            SpikeInverseConv3d(in_channels, out_channels, 2, max_count=limit),
            batch_norm(out_channels),
        )
        self.fuse = SparseSequential(
            neuron.build(),
            _linear(skip_channels + out_channels, out_channels, limit),
            batch_norm(out_channels),
            neuron.build(),
            _linear(out_channels, out_channels, limit),
            batch_norm(out_channels),
        )

    def forward(self, x: SparseTensor, skip: SparseTensor) -> SparseTensor:
        """(M, in) and the skip (N, skip) to (N, out)."""
        risen = self.up(x)
        return self.fuse(cat_channels([risen, skip])) + risen


class Encoder(SparseModule):
    """Base of the networks: spike voxel coding and down blocks, of strides 1, 2, 4, 8, 16 where there are four.

    Args:
        in_channels: Channels of the voxels.
        embed_channels: Channels after spike voxel coding.
        channels: Channels of each down block.
        depths: Basic blocks of each.
        neuron: Which neuron.
        keep_border: Whether no voxel may be lost. A kernel of 2 with stride 2 drops the last plane of an odd axis;
            True rounds every axis up to a multiple of the total stride first. Either way, an axis is never shorter than
            the total stride, which upstream fails on.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        embed_channels: int,
        channels: tuple[int, ...],
        depths: tuple[int, ...],
        neuron: NeuronSpec,
        keep_border: bool,
    ) -> None:
        super().__init__()
        if len(channels) != len(depths) or not channels:
            raise ValueError(f"channels, depths: found {channels} and {depths}, expected as many of each, at least one")
        if min(in_channels, embed_channels, *channels) < 1 or min(depths) < 0:
            raise ValueError(f"channels, depths: found {(in_channels, embed_channels, *channels)}, {depths}: too small")
        self.in_channels, self.keep_border, self.stride = in_channels, keep_border, 2 ** len(channels)
        self.num_steps = neuron.num_steps
        self.stem = SpikeVoxelCoding(in_channels, embed_channels, neuron)
        widths = (embed_channels, *channels)
        self.enc = nn.ModuleList(
            DownBlock(widths[level], widths[level + 1], depth, neuron) for level, depth in enumerate(depths)
        )

    def encode(self, x: SparseTensor) -> list[SparseTensor]:
        """Real features (N, in) to the membranes (T * N, C) of all levels, finest first."""
        if x.grid.ndim != 3 or x.num_channels != self.in_channels:
            raise ValueError(
                f"x: found {x.num_channels} channels on {x.grid.ndim} axes, expected {self.in_channels} on 3"
            )
        if not torch.compiler.is_compiling() and not bool(torch.isfinite(x.features).all()):
            raise ValueError("x: found NaN or infinite features, expected finite ones; drop such points first")
        grid = x.grid.enlarged(self.working_shape(x.spatial_shape))
        levels = [self.stem(SparseTensor(x.features, grid))]
        for block in self.enc:
            levels.append(block(levels[-1]))
        return levels

    def adopt_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take all weights, or those of a pre-trained encoder (`zoo.models.spark.voxels`); the rest starts anew.

        Raises:
            RuntimeError: names or shapes do not fit.
        """
        inside = {key.removeprefix(_PRETRAINED): value for key, value in state.items() if key.startswith(_PRETRAINED)}
        if not inside:
            self.load_state_dict(state, strict=True)
            return
        own = self.state_dict()
        missing = [key for key in own if key.startswith(("stem.", "enc.")) and key not in inside]
        if missing or inside.keys() - own.keys():
            raise RuntimeError(f"missing {missing}, unknown {sorted(inside.keys() - own.keys())}")
        self.load_state_dict(inside, strict=False)

    def working_shape(self, spatial_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that the network works in."""
        if self.keep_border:
            return tuple(-(-size // self.stride) * self.stride for size in spatial_shape)
        return tuple(max(size, self.stride) for size in spatial_shape)


def _linear(in_channels: int, out_channels: int, limit: int | None) -> SpikeLinear:
    layer = SpikeLinear(in_channels, out_channels, max_count=limit)
    nn.init.trunc_normal_(layer.weight, std=0.02, a=-2.0, b=2.0)
    nn.init.zeros_(layer.bias)
    return layer
