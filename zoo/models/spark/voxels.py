"""SparK on voxels: hierarchical masked modelling with real sparse convolution.

Cubes of voxels (patches as large as the encoder's total stride P) are hidden; the encoder, E-3DSNN's, runs on the
voxels of visible patches alone. Its down-sampling kernels are as wide as their stride, so that no site of any level
reaches beyond its own patch except by submanifold convolutions between visible sites: what is hidden cannot be seen,
and no site appears in a hidden patch. A dense decoder takes every level but the finest, puts a learned token of that
level into the cells of hidden patches, and works its way to stride 2. There it predicts, in hidden patches only,

- which of the 2 x 2 x 2 voxels of each cell are occupied (binary cross entropy, occupied and empty voxels weighing the
  same in sum), and
- the mean features of each occupied cell, normalised by the mean and deviation of its patch (squared error).

Empty patches are hidden at the same rate as occupied ones, so that a token does not betray that there is something.
Coordinates are (batch, x, y, z). This is not part of the SparK paper (arXiv:2301.03580), which is about pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.e3dsnn.blocks import Encoder
from zoo.models.layers.sparse_norm import SparseBatchNorm
from zoo.models.layers.spiking import NeuronKind, NeuronSpec
from zoo.ops import SparseTensor

__all__ = ["SparK3D", "VoxelReconstruction", "sample_patch_mask"]


def sample_patch_mask(occupied: Tensor, mask_ratio: float, generator: torch.Generator | None = None) -> Tensor:
    """Which patches are visible: of n occupied ones ``round(n (1 - mask_ratio))``, of the empty ones the same share.

    Of two or more occupied patches at least one is visible and one hidden; a single one stays visible.

    Args:
        occupied: bool ``(B, X, Y, Z)``.
        mask_ratio: between 0 and 1.
        generator: of the choice, on the CPU.

    Raises:
        ValueError: the ratio is out of range.
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f"mask_ratio: found {mask_ratio}; expected a number between 0 and 1, both excluded")
    flat = occupied.flatten(1)
    noise = torch.rand(flat.shape, generator=generator).to(flat.device)
    visible = torch.zeros_like(flat)
    for group, is_occupied in ((flat, True), (~flat, False)):
        count = group.sum(1, keepdim=True)
        keep = (count * (1 - mask_ratio)).round()
        if is_occupied:
            keep = torch.minimum(keep.clamp(min=1), (count - 1).clamp(min=1))
        rank = noise.masked_fill(~group, 2.0).argsort(dim=1).argsort(dim=1)  # those of the group come first
        visible |= group & (rank < keep)
    return visible.view_as(occupied)


class VoxelReconstruction(NamedTuple):
    """What one forward pass gives."""

    loss: Tensor  # () occupancy_loss + feature_weight * feature_loss
    occupancy_loss: Tensor  # ()
    feature_loss: Tensor  # () 1 is what the mean of each patch gives
    occupancy: Tensor  # (B, X, Y, Z) logits of every voxel
    visible: Tensor  # (B, X / P, Y / P, Z / P) bool
    levels: list[SparseTensor]  # of the encoder, finest first

    def likeliest(self, sample: int, count: int) -> Tensor:
        """The voxels ``(count, 3)`` of one cloud's hidden patches with the highest logits; fewer where there are fewer.

        The loss weighs occupied and empty voxels the same in sum, so that a logit of 0 is no threshold: of the few
        occupied voxels' neighbours most would lie above it.
        """
        logits = self.occupancy[sample]
        shown = _repeat(self.visible[sample : sample + 1], len(logits) // len(self.visible[sample]))[0]
        count = min(count, int((~shown).sum()))
        best = logits.masked_fill(shown, -torch.inf).flatten().topk(count).indices
        return torch.stack(torch.unravel_index(best, logits.shape), dim=1)


def _repeat(mask: Tensor, times: int) -> Tensor:
    for axis in range(1, 4):
        mask = mask.repeat_interleave(times, axis)
    return mask


class SparK3D(nn.Module):
    """Encoder, mask tokens, decoder and losses.

    Args:
        in_channels: of the voxels.
        embed_channels: of the encoder's stem.
        enc_channels: of its down blocks; as many halvings.
        enc_depths: basic blocks of each.
        activation: of the encoder, see `zoo.models.e3dsnn.E3DSNNClassifier`; with one time step.
        max_count: the most spikes of a step.
        decoder_width: channels of the decoder at stride P, halving with every level.
        mask_ratio: share of hidden patches where no mask is given.
        feature_weight: of the feature loss.
    """

    def __init__(
        self,
        *,
        in_channels: int = 6,
        embed_channels: int = 16,
        enc_channels: Sequence[int] = (32, 64, 128),
        enc_depths: Sequence[int] = (1, 1, 1),
        activation: NeuronKind = "relu",
        max_count: int = 4,
        decoder_width: int = 64,
        mask_ratio: float = 0.6,
        feature_weight: float = 1.0,
    ) -> None:
        super().__init__()
        levels = len(enc_channels)
        if decoder_width >> levels < 1 or not 0 < mask_ratio < 1 or feature_weight < 0:
            raise ValueError(
                f"decoder_width, mask_ratio, feature_weight: found {decoder_width}, {mask_ratio}, {feature_weight}; "
                f"expected at least {1 << levels}, a number between 0 and 1, at least 0"
            )
        self.mask_ratio, self.feature_weight = mask_ratio, feature_weight
        self.encoder = Encoder(
            in_channels=in_channels,
            embed_channels=embed_channels,
            channels=tuple(enc_channels),
            depths=tuple(enc_depths),
            neuron=NeuronSpec(activation, max_count, 1, 0.25, "atan"),
            keep_border=True,
        )
        self.norms, self.projections, self.blocks = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.mask_tokens = nn.ParameterList()
        for index, channels in enumerate(reversed(enc_channels)):
            width = decoder_width >> index
            self.norms.append(SparseBatchNorm(channels))
            self.mask_tokens.append(nn.Parameter(nn.init.trunc_normal_(torch.empty(1, channels, 1, 1, 1), std=0.02)))
            self.projections.append(nn.Conv3d(channels, width, 1 if index == 0 else 3, padding=0 if index == 0 else 1))
            self.blocks.append(_block(width, width >> 1, last=index == levels - 1))
        self.head = nn.Conv3d(decoder_width >> levels, 8 + in_channels, 1)

    @property
    def patch(self) -> int:
        """Voxels on each side of a patch."""
        return self.encoder.stride

    def occupied_patches(self, x: SparseTensor) -> Tensor:
        """Which patches hold a voxel, bool ``(B, X / P, Y / P, Z / P)``."""
        shape = [size // self.patch for size in self.encoder.working_shape(x.spatial_shape)]
        occupied = torch.zeros(x.batch_size, *shape, dtype=torch.bool, device=x.device)
        occupied[self._patch_of(x)] = True
        return occupied

    def _patch_of(self, x: SparseTensor) -> tuple[Tensor, ...]:
        batch, *cells = x.coords.long().unbind(1)
        return (batch, *(cell // self.patch for cell in cells))

    def encode(self, x: SparseTensor, visible: Tensor) -> list[SparseTensor]:
        """The encoder's levels on the voxels of visible patches, finest first.

        Raises:
            ValueError: the mask does not fit, or hides every voxel.
        """
        shape = self.encoder.working_shape(x.spatial_shape)
        expected = (x.batch_size, *(size // self.patch for size in shape))
        if visible.dtype != torch.bool or tuple(visible.shape) != expected:
            raise ValueError(f"visible: found {visible.dtype} {tuple(visible.shape)}; expected bool {expected}")
        kept = visible[self._patch_of(x)]
        if not bool(kept.any()):
            raise ValueError("visible: found no voxel in a visible patch; expected at least one in the batch")
        return self.encoder.encode(SparseTensor.from_coords(x.features[kept], x.coords[kept], shape, x.batch_size))

    def decode(self, levels: list[SparseTensor], visible: Tensor) -> tuple[Tensor, Tensor]:
        """Occupancy logits ``(B, X, Y, Z)`` and features of cells of two voxels ``(B, C, X / 2, Y / 2, Z / 2)``."""
        out: Tensor | None = None
        for index, level in enumerate(reversed(levels[1:])):
            shown = _repeat(visible, 1 << index)[:, None]
            filled = torch.where(shown, self.norms[index](level).dense(), self.mask_tokens[index])
            given = self.projections[index](filled)
            out = self.blocks[index](given if out is None else out + given)
        found = self.head(out)
        occupancy, features = found[:, :8], found[:, 8:]
        parts = occupancy.unflatten(1, (2, 2, 2)).permute(0, 4, 1, 5, 2, 6, 3)  # (B, X/2, 2, Y/2, 2, Z/2, 2)
        return parts.flatten(5, 6).flatten(3, 4).flatten(1, 2), features

    def forward(
        self, x: SparseTensor, visible: Tensor | None = None, generator: torch.Generator | None = None
    ) -> VoxelReconstruction:
        """Reconstruct the hidden patches of voxels ``(N, in_channels)``."""
        if visible is None:
            visible = sample_patch_mask(self.occupied_patches(x), self.mask_ratio, generator)
        levels = self.encode(x, visible)
        occupancy, features = self.decode(levels, visible)
        hidden = ~_repeat(visible, self.patch)
        truth = torch.zeros_like(hidden)
        truth[x.coords.long().unbind(1)] = True
        error = F.binary_cross_entropy_with_logits(occupancy.float(), truth.float(), reduction="none")
        sums = [((error * part).sum() / part.sum().clamp(min=1)) for part in (hidden & truth, hidden & ~truth)]
        occupancy_loss = (sums[0] + sums[1]) / 2
        feature_loss = self._feature_loss(x, features.float(), visible)
        loss = occupancy_loss + self.feature_weight * feature_loss
        return VoxelReconstruction(loss, occupancy_loss, feature_loss, occupancy, visible, levels)

    def _feature_loss(self, x: SparseTensor, found: Tensor, visible: Tensor) -> Tensor:
        """Squared error of the mean features of hidden cells, normalised within their patch."""
        masked = ~visible[self._patch_of(x)]
        coords, values = x.coords[masked].long(), x.features[masked].float()
        cells, cell_of = torch.unique(torch.cat([coords[:, :1], coords[:, 1:] // 2], 1), dim=0, return_inverse=True)
        means = _group_mean(values, cell_of, len(cells))
        patches, patch_of = torch.unique(
            torch.cat([cells[:, :1], cells[:, 1:] // (self.patch // 2)], 1), dim=0, return_inverse=True
        )
        centred = means - _group_mean(means, patch_of, len(patches))[patch_of]
        variance = _group_mean(centred.square(), patch_of, len(patches))[patch_of]
        target = centred / (variance + 1e-6).sqrt()
        batch, i, j, k = cells.unbind(1)
        error = (found[batch, :, i, j, k] - target).square().mean(1)
        return error.sum() / max(len(error), 1)


def _group_mean(values: Tensor, group: Tensor, count: int) -> Tensor:
    total = values.new_zeros(count, values.shape[1]).index_add(0, group, values)
    return total / values.new_zeros(count).index_add(0, group, torch.ones_like(values[:, 0])).clamp(min=1)[:, None]


def _block(in_channels: int, out_channels: int, *, last: bool) -> nn.Sequential:
    """Two convolutions, with a doubling of the resolution between them unless ``last``."""
    middle: nn.Module = (
        nn.Conv3d(in_channels, out_channels, 3, padding=1)
        if last
        else nn.ConvTranspose3d(in_channels, out_channels, 2, stride=2)
    )
    return nn.Sequential(
        nn.Conv3d(in_channels, in_channels, 3, padding=1, bias=False),
        nn.BatchNorm3d(in_channels),
        nn.ReLU(inplace=True),
        middle,
    )
