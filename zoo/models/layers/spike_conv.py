"""Spike Voxel Coding and Spike Sparse Convolution: sparse convolutions that read spikes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.models.layers.sparse_conv import SparseConv3d, SparseConvBase, SparseInverseConv3d, SubMConv3d
from zoo.models.layers.sparse_norm import SparseBatchNorm
from zoo.models.layers.sparse_sequential import SparseSequential, apply_module
from zoo.models.layers.spiking import NeuronSpec, SpikeLayer
from zoo.ops import SparseTensor, VoxelGrid, sparse_conv, sparse_inverse_conv, subm_conv

__all__ = [
    "SpikeConv3d",
    "SpikeInverseConv3d",
    "SpikeSparseConvolution",
    "SpikeSubMConv3d",
    "SpikeVoxelCoding",
    "batch_norm",
    "mean_over_steps",
    "repeat_steps",
    "set_norm_momentum",
]


class SpikeSparseConvolution(SparseConvBase, SpikeLayer):
    r"""Spike Sparse Convolution: at each site, the weights that the spikes of active neighbours select, added up.

    .. math:: y[p] = \sum_k W_k\, s[p + k] \quad\text{over offsets } k \text{ whose site is active}

    Whether a site is active is a matter of geometry: a site whose spikes are all zero stays. This class holds the one
    place where the operator is chosen; its subclasses say which sites are written.
    """

    def convolve(self, x: SparseTensor, bias: Tensor | None) -> SparseTensor:
        """The convolution with the weights of this layer and a given bias."""
        raise NotImplementedError

    def forward(self, x: SparseTensor, *_: Any) -> SparseTensor:
        """Convolve counts (N, in), or in binary mode their slots one after the other."""
        if not self.binary:
            return self.convolve(x, self.bias)
        out, total = x, None
        for slot in self.slots(x.features):
            out = self.convolve(x.replace_feature(slot), None)
            total = out.features if total is None else total + out.features
        assert total is not None
        return out.replace_feature(total if self.bias is None else total + self.bias)


class SpikeSubMConv3d(SpikeSparseConvolution, SubMConv3d):
    """Submanifold Spike Sparse Convolution: writes the sites that it reads."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, max_count: int | None, bias: bool = False
    ) -> None:
        SubMConv3d.__init__(self, in_channels, out_channels, kernel_size, bias=bias)
        self.max_count = max_count

    def reset_parameters(self) -> None:
        """Normal with standard deviation 0.02, cut at 2; biases 0."""
        nn.init.trunc_normal_(self.weight, std=0.02, a=-2.0, b=2.0)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def convolve(self, x: SparseTensor, bias: Tensor | None) -> SparseTensor:
        """See `zoo.ops.subm_conv`."""
        spikes = self.max_count is not None
        return subm_conv(x, self.weight, bias, dilation=self.dilation, groups=self.groups, spikes=spikes)


class SpikeConv3d(SpikeSparseConvolution, SparseConv3d):
    """Strided Spike Sparse Convolution: writes every cell whose window holds an active site."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        *,
        max_count: int | None,
        stride: int | tuple[int, int, int],
        padding: int | tuple[int, int, int] = 0,
    ) -> None:
        SparseConv3d.__init__(self, in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
        self.max_count = max_count

    def convolve(self, x: SparseTensor, bias: Tensor | None) -> SparseTensor:
        """See `zoo.ops.sparse_conv`."""
        spikes = self.max_count is not None
        return sparse_conv(x, self.weight, bias, stride=self.stride, padding=self.padding, spikes=spikes)


class SpikeInverseConv3d(SpikeSparseConvolution, SparseInverseConv3d):
    """Inverse Spike Sparse Convolution: back to the sites that the strided layer read."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, max_count: int | None) -> None:
        SparseInverseConv3d.__init__(self, in_channels, out_channels, kernel_size, bias=False)
        self.max_count = max_count

    def convolve(self, x: SparseTensor, bias: Tensor | None) -> SparseTensor:
        """See `zoo.ops.sparse_inverse_conv`."""
        return sparse_inverse_conv(x, self.weight, bias, spikes=self.max_count is not None)


class SpikeVoxelCoding(SparseSequential):
    """Spike Voxel Coding: real voxel features become a membrane potential, through two layers of spikes.

    The first convolution reads real values (multiply-accumulate), the second and third read spikes. The current that
    it makes is the same in each of the T time steps, so it is computed once and repeated. There is no neuron at the
    end: what comes out is a membrane, to which residual blocks add.

    Args:
        in_channels: Channels of the voxels: coordinates, normals, intensity, ...
        embed_channels: Channels of the membrane.
        neuron: Which neuron.
    """

    def __init__(self, in_channels: int, embed_channels: int, neuron: NeuronSpec) -> None:
        limit = neuron.spike_limit
        super().__init__(
            SpikeSubMConv3d(in_channels, embed_channels, 3, max_count=None),
            batch_norm(embed_channels),
            neuron.build(),
            SpikeSubMConv3d(embed_channels, embed_channels, 3, max_count=limit),
            batch_norm(embed_channels),
            neuron.build(),
            SpikeSubMConv3d(embed_channels, embed_channels, 3, max_count=limit),
            batch_norm(embed_channels),
        )
        self.num_steps = neuron.num_steps

    def forward(self, input: SparseTensor) -> SparseTensor:
        """Real features (N, in) to membranes (T * N, embed)."""
        x = input
        for index, module in enumerate(self):
            x = apply_module(module, repeat_steps(x, self.num_steps) if index == 2 else x)
        return x


def batch_norm(channels: int) -> SparseBatchNorm:
    """The normalisation that all of E-3DSNN uses."""
    return SparseBatchNorm(channels, eps=1e-3, momentum=0.01)


def set_norm_momentum(network: nn.Module, momentum: float) -> None:
    """Set the share by which each training step moves the running statistics of all batch norms.

    The published 0.01 needs some hundred steps to follow a network that changes. Thresholds of neurons then see shifted
    membranes in evaluation, so that short runs need more.

    Raises:
        ValueError: Not a share above 0.
    """
    if not 0 < momentum <= 1:
        raise ValueError(f"norm_momentum: found {momentum}, expected a share above 0, such as the published 0.01")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = momentum


def repeat_steps(x: SparseTensor, num_steps: int) -> SparseTensor:
    """The batch repeated for T time steps, time first: step t of sample b is sample ``t * B + b``."""
    if num_steps == 1:
        return x
    coords = x.coords.repeat(num_steps, 1)
    steps = torch.arange(num_steps, device=x.device, dtype=coords.dtype).repeat_interleave(len(x))
    coords[:, 0] += steps * x.batch_size
    grid = VoxelGrid.from_sorted(coords, x.spatial_shape, num_steps * x.batch_size)
    return SparseTensor(x.features.repeat(num_steps, 1), grid)


def mean_over_steps(x: SparseTensor, num_steps: int) -> SparseTensor:
    """Mean over time of what `repeat_steps` repeated: (T * N, C) to (N, C)."""
    if num_steps == 1:
        return x
    first = x[: x.batch_size // num_steps]
    return first.replace_feature(x.features.unflatten(0, (num_steps, len(first))).mean(dim=0))
