"""DSVT's backbone: attention within rotated sets of a window, shifted windows, and attention-style 3D pooling.

Paper: Wang et al., "DSVT: Dynamic Sparse Voxel Transformer with Rotated Sets", CVPR 2023 (arXiv 2301.06051).

For the voxels x ``(N, C)`` of a stage, block b, rotation (layer) i = 0, 1, with the sets of shift ``b mod 2``::

    p = MLP_i(coordinates in the window)                    # position embedding
    y = LN(x + Attention(q = k = x + p, v = x))             # within the sets of rotation i
    y = LN(y + W2 GELU(W1 y))
    x = LN(y + x)                                           # every layer
    x = LN(x + block input)                                 # every block

Between stages the voxels of a pooling region ``d`` attend to themselves::

    B = (M, V, C), zeros where a voxel is empty;  q = max over V
    x = LN(MHA(q, B + e, B) + q)

Axis order: coordinates are (b, x, y, z) and every shape is (x, y, z), as upstream's configuration is.

Quirks of upstream that published weights depend on, kept as the default: layer i uses the position embedding of window
shift i, whichever shift its sets are of (``paired_positions=False``); empty voxels of a pooling region take part in the
maximum and are attended to as zeros. Not copied: upstream's optimiser leaves the query, key and value projections and
the pooling embedding untrained, because it looks for parameters in leaf modules only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from zoo.models.layers.sparse_norm import RowBatchNorm
from zoo.ops import (
    SetPartition,
    SlotSets,
    scatter_to_bev,
    set_attention,
    set_partition,
    slot_attention,
    window_partition,
)
from zoo.ops.grid_keys import linear_keys, unique_keys, unravel_keys

Shape = tuple[int, int, int]
Reduction = Literal["attention", "linear", "maxpool"]


class PoolingRegions(NamedTuple):
    """How the voxels of a stage fall into the pooling regions before the next one."""

    coords: Tensor  # (M, 4) int32, pooled voxels in ascending order
    region: Tensor  # (N,) int64, pooled row of every voxel
    slot: Tensor  # (N,) int64, place in the region


class StageGeometry(NamedTuple):
    """Windows and sets of one stage's voxels."""

    inside: tuple[Tensor, Tensor]  # (N, 3) int64 each: coordinates in the windows of shift 0 and 1
    sets: Mapping[int, SetPartition | SlotSets]  # by shift, those that a block of the stage uses


def pooling_regions(coords: Tensor, shape: Shape, stride: Shape) -> PoolingRegions:
    """Regions of ``stride`` voxels of coordinates (N, 4) within ``shape``."""
    steps = coords.new_tensor(stride)
    pooled = torch.div(coords[:, 1:], steps, rounding_mode="floor")
    rest = (coords[:, 1:] - pooled * steps).to(torch.int64)
    pooled_shape = pooled_extent(shape, stride)
    keys, region, _ = unique_keys(linear_keys(torch.cat([coords[:, :1], pooled], dim=1), pooled_shape))
    slot = (rest[:, 0] * stride[1] + rest[:, 1]) * stride[2] + rest[:, 2]
    return PoolingRegions(unravel_keys(keys, pooled_shape).to(torch.int32), region, slot)


def pooled_extent(shape: Shape, stride: Shape) -> Shape:
    """The shape after pooling, ``ceil(shape / stride)``."""
    x, y, z = (-(-size // step) for size, step in zip(shape, stride, strict=True))
    return x, y, z


class PositionEmbedding(nn.Module):
    """MLP of the coordinates within a window, relative to its middle: linear, batch norm, ReLU, linear.

    Args:
        window: Sites of the window along x, y, z.
        channels: Width C.
        normalize: Whether coordinates are scaled to about -pi to pi.
    """

    def __init__(self, window: Shape, channels: int, *, normalize: bool = False) -> None:
        super().__init__()
        self.window = window
        self.axes = 2 if window[2] == 1 else 3  # a flat window has no height to speak of
        self.scale = tuple(2 * 3.1415 / size if normalize else 1.0 for size in window)  # upstream's pi
        self.hidden = nn.Linear(self.axes, channels)
        self.norm = RowBatchNorm(channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, inside: Tensor) -> Tensor:
        """Coordinates in the window (N, 3) int64 to embeddings (N, C).

        With running statistics an embedding depends on the place in the window alone, so that one for each place is
        computed and looked up; in an exported graph always, since there the number of rows may vary.
        """
        if self.norm.training or (not torch.compiler.is_exporting() and math.prod(self.window) >= len(inside)):
            return self._embed(inside)
        _, wide, high = self.window
        place = (inside[:, 0] * wide + inside[:, 1]) * high + inside[:, 2]
        axes = [torch.arange(size, device=inside.device) for size in self.window]
        return self._embed(torch.cartesian_prod(*axes)).index_select(0, place)

    def _embed(self, inside: Tensor) -> Tensor:
        weight = self.hidden.weight
        middle = weight.new_tensor([size / 2 for size in self.window[: self.axes]])
        location = (inside[:, : self.axes].to(weight.dtype) - middle) * weight.new_tensor(self.scale[: self.axes])
        return self.out(functional.relu(self.norm(self.hidden(location))))


class MultiHeadProjection(nn.Module):
    """Weights of multi-head attention: projections to query, key and value, stacked in this order, and back."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads: found {num_heads}, expected a divisor of the channels, {channels}")
        self.num_heads = num_heads
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.inputs.bias)
        nn.init.zeros_(self.output.bias)

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value (..., C) after their projections."""
        weights, biases = self.inputs.weight.chunk(3), self.inputs.bias.chunk(3)
        if query is key:
            channels = query.shape[-1]
            both = functional.linear(query, self.inputs.weight[: 2 * channels], self.inputs.bias[: 2 * channels])
            q, k = both.chunk(2, dim=-1)
        else:
            q, k = functional.linear(query, weights[0], biases[0]), functional.linear(key, weights[1], biases[1])
        return q, k, functional.linear(value, weights[2], biases[2])


class SetAttentionLayer(nn.Module):
    """Attention within sets and a feed-forward network, both with residual and norm, and an outer residual and norm."""

    def __init__(self, channels: int, num_heads: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = MultiHeadProjection(channels, num_heads)
        self.attention_norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden_dim)
        self.contract = nn.Linear(hidden_dim, channels)
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.outer_norm = nn.LayerNorm(channels)
        self.dropout = dropout

    def forward(self, x: Tensor, position: Tensor, sets: SetPartition | SlotSets, rotation: int) -> Tensor:
        """Features (N, C) and position embeddings (N, C) to features (N, C)."""
        placed = x + position
        q, k, v = self.attention.project(placed, placed, x)
        heads = self.attention.num_heads
        if isinstance(sets, SlotSets):
            attended = slot_attention(q, k, v, sets, rotation=rotation, num_heads=heads)
        else:
            attended = set_attention(q, k, v, sets, rotation=rotation, num_heads=heads)
        y = self.attention_norm(x + self._drop(self.attention.output(attended)))
        y = self.feed_forward_norm(y + self._drop(self.contract(self._drop(functional.gelu(self.expand(y))))))
        return self.outer_norm(y + x)

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class DSVTBlock(nn.Module):
    """Two layers of set attention, one for each rotation of the sets."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        hidden_dim: int,
        windows: tuple[Shape, Shape],
        *,
        shift: int,
        dropout: float = 0.0,
        normalize_positions: bool = False,
        paired_positions: bool = False,
    ) -> None:
        super().__init__()
        self.shift, self.paired_positions = shift, paired_positions
        self.positions = nn.ModuleList(
            PositionEmbedding(window, channels, normalize=normalize_positions) for window in windows
        )
        self.layers = nn.ModuleList(SetAttentionLayer(channels, num_heads, hidden_dim, dropout) for _ in range(2))
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, geometry: StageGeometry) -> Tensor:
        """Features (N, C) to features (N, C)."""
        y = x
        for rotation, layer in enumerate(self.layers):
            which = self.shift if self.paired_positions else rotation
            position = self.positions[which](geometry.inside[which])
            y = layer(y, position, geometry.sets[self.shift], rotation)
        return self.norm(y + x)


class AttentionPooling(nn.Module):
    """The voxels of a region, asked by their maximum: 3D pooling in attention style (section 3.3)."""

    def __init__(self, channels: int, num_places: int, num_heads: int = 8) -> None:
        super().__init__()
        self.num_places = num_places
        self.embedding = nn.Parameter(torch.zeros(num_places, channels))
        self.attention = MultiHeadProjection(channels, num_heads)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, regions: PoolingRegions) -> Tensor:
        """Features (N, C) to features of the regions (M, C)."""
        members = spread_into_regions(x, regions, self.num_places)
        query = members.amax(dim=1, keepdim=True)
        q, k, v = (
            part.unflatten(-1, (self.attention.num_heads, -1)).transpose(1, 2)
            for part in self.attention.project(query, members + self.embedding, members)
        )
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.norm(self.attention.output(attended) + query).squeeze(1)


class LinearPooling(nn.Module):
    """The voxels of a region, side by side through a linear layer and a norm."""

    def __init__(self, channels: int, num_places: int) -> None:
        super().__init__()
        self.num_places = num_places
        self.linear = nn.Linear(channels * num_places, channels, bias=False)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, regions: PoolingRegions) -> Tensor:
        """Features (N, C) to features of the regions (M, C)."""
        return self.norm(self.linear(spread_into_regions(x, regions, self.num_places).flatten(1)))


class MaxPooling(nn.Module):
    """The maximum over a region, in which empty voxels count as zeros."""

    def __init__(self, num_places: int) -> None:
        super().__init__()
        self.num_places = num_places

    def forward(self, x: Tensor, regions: PoolingRegions) -> Tensor:
        """Features (N, C) to features of the regions (M, C)."""
        return spread_into_regions(x, regions, self.num_places).amax(dim=1)


def spread_into_regions(x: Tensor, regions: PoolingRegions, num_places: int) -> Tensor:
    """Features (N, C) by region and place, (M, V, C), zeros where no voxel is."""
    count, channels = regions.coords.shape[0], x.shape[1]  # not len(): an exported graph would fix it
    cells = x.new_zeros(count * num_places, channels)
    return cells.index_copy(0, regions.region * num_places + regions.slot, x).view(count, num_places, channels)


def make_pooling(kind: Reduction, channels: int, num_places: int) -> nn.Module:
    """The pooling of that name between two stages."""
    if kind == "attention":
        return AttentionPooling(channels, num_places)
    if kind == "linear":
        return LinearPooling(channels, num_places)
    if kind == "maxpool":
        return MaxPooling(num_places)
    raise ValueError(f"reduction: found {kind!r}, expected 'attention', 'linear' or 'maxpool'")


class DSVTStage(nn.Module):
    """Blocks at one resolution.

    Args:
        shape: Voxels along x, y, z.
        channels: Width C.
        num_heads: Attention heads.
        hidden_dim: Width of the feed-forward networks.
        num_blocks: Number of blocks.
        first_block: Number of the blocks in the stages before; blocks alternate between the shifts over all stages.
        set_size: Slots of a set.
        window: Window of shift 0; the one of shift 1 is ``hybrid_factor`` times as large.
        hybrid_factor: See ``window``.
        shifts: Voxels by which the windows of shift 0 and 1 are moved; along z none where the window spans the shape.
        dropout: Dropout after attention and feed-forward network.
        normalize_positions: Scale the coordinates of the position embeddings to about -pi to pi.
        paired_positions: Give each layer the position embedding of the shift of its sets; upstream does not.
        checkpoint_activations: Recompute blocks in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        channels: int,
        num_heads: int,
        hidden_dim: int,
        num_blocks: int,
        first_block: int,
        set_size: int,
        window: Shape,
        hybrid_factor: Shape,
        shifts: tuple[Shape, Shape],
        dropout: float = 0.0,
        normalize_positions: bool = False,
        paired_positions: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        wide = (window[0] * hybrid_factor[0], window[1] * hybrid_factor[1], window[2] * hybrid_factor[2])
        self.shape, self.set_size, self.windows = shape, set_size, (window, wide)
        self.checkpoint_activations = checkpoint_activations
        self.shifts = tuple(
            (x, y, 0 if shape[2] == size[2] else z) for (x, y, z), size in zip(shifts, self.windows, strict=True)
        )
        if (window[2] == 1) != (shape[2] == 1):
            raise ValueError(
                f"window: found {window} for a shape of {shape}, expected height 1 exactly where the shape has height 1"
            )
        self.blocks = nn.ModuleList(
            DSVTBlock(
                channels,
                num_heads,
                hidden_dim,
                self.windows,
                shift=(first_block + number) % 2,
                dropout=dropout,
                normalize_positions=normalize_positions,
                paired_positions=paired_positions,
            )
            for number in range(num_blocks)
        )

    def partition(self, coords: Tensor, every_shift: bool = False) -> StageGeometry:
        """Windows and sets of voxels (N, 4); sets of the shifts in use, or of both."""
        first, second = (
            window_partition(coords, self.shape, window, shift=shift).inside
            for window, shift in zip(self.windows, self.shifts, strict=True)
        )
        used = (0, 1) if every_shift else sorted({block.shift for block in self.blocks})  # type: ignore[misc]
        sets = {
            which: set_partition(coords, self.shape, self.windows[which], self.set_size, shift=self.shifts[which])
            for which in used
        }
        return StageGeometry((first, second), sets)  # type: ignore[arg-type]

    def forward(self, x: Tensor, coords: Tensor) -> Tensor:
        """Features (N, C) of voxels (N, 4) to features (N, C)."""
        return self.attend(x, self.partition(coords))

    def attend(self, x: Tensor, geometry: StageGeometry) -> Tensor:
        """Features (N, C) to features (N, C), within sets that `partition` made."""
        for block in self.blocks:
            if self.checkpoint_activations and self.training:
                x = checkpoint(block, x, geometry, use_reentrant=False)  # type: ignore[assignment]
            else:
                x = block(x, geometry)
        return x


class DSVTBackbone(nn.Module):
    """Any number of stages with pooling between them.

    Args:
        shape: Voxels along x, y, z.
        channels: Width C, the same in all stages.
        num_heads: Attention heads.
        hidden_dim: Width of the feed-forward networks.
        set_sizes: Slots of a set, for every stage.
        num_blocks: Blocks of every stage.
        windows: Window of shift 0, for every stage.
        hybrid_factor: The window of shift 1 is this many times as large.
        shifts: Movement of the windows in shift 0 and 1, for every stage.
        strides: Pooling between the stages, one fewer than stages.
        reduction: Kind of pooling.
        dropout: Dropout after attention and feed-forward network.
        normalize_positions: Scale the coordinates of the position embeddings to about -pi to pi.
        paired_positions: Give each layer the position embedding of the shift of its sets; upstream does not.
        checkpoint_activations: Recompute blocks in the backward pass instead of keeping their activations.
    """

    def __init__(
        self,
        *,
        shape: Sequence[int],
        channels: int = 192,
        num_heads: int = 8,
        hidden_dim: int = 384,
        set_sizes: Sequence[int] = (36,),
        num_blocks: Sequence[int] = (4,),
        windows: Sequence[Sequence[int]] = ((12, 12, 1),),
        hybrid_factor: Sequence[int] = (2, 2, 1),
        shifts: Sequence[Sequence[Sequence[int]]] = (((0, 0, 0), (6, 6, 0)),),
        strides: Sequence[Sequence[int]] = (),
        reduction: Reduction = "attention",
        dropout: float = 0.0,
        normalize_positions: bool = False,
        paired_positions: bool = False,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        counts = [len(set_sizes), len(num_blocks), len(windows), len(shifts), len(strides) + 1]
        if len(set(counts)) != 1:
            raise ValueError(
                "set_sizes, num_blocks, windows, shifts, strides: found lengths "
                f"{[*counts[:4], len(strides)]}, expected one entry for each stage and one stride fewer"
            )
        stages: list[nn.Module] = []
        pools: list[nn.Module] = []
        self.shapes = [_triple("shape", shape)]
        self.strides = [_triple("strides", stride) for stride in strides]
        for number in range(len(set_sizes)):
            first, second = (_triple("shifts", shift) for shift in shifts[number])
            stages.append(
                DSVTStage(
                    shape=self.shapes[-1],
                    channels=channels,
                    num_heads=num_heads,
                    hidden_dim=hidden_dim,
                    num_blocks=num_blocks[number],
                    first_block=sum(num_blocks[:number]),
                    set_size=set_sizes[number],
                    window=_triple("windows", windows[number]),
                    hybrid_factor=_triple("hybrid_factor", hybrid_factor),
                    shifts=(first, second),
                    dropout=dropout,
                    normalize_positions=normalize_positions,
                    paired_positions=paired_positions,
                    checkpoint_activations=checkpoint_activations,
                )
            )
            if number < len(self.strides):
                pools.append(make_pooling(reduction, channels, math.prod(self.strides[number])))
                self.shapes.append(pooled_extent(self.shapes[-1], self.strides[number]))
        self.stages, self.pools = nn.ModuleList(stages), nn.ModuleList(pools)
        self.out_channels, self.out_shape = channels, self.shapes[-1]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform matrices, the pooling embeddings among them; biases keep their layers' start."""
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, C) of voxels (N, 4) int32 (b, x, y, z) to those of the last stage."""
        for number, stage in enumerate(self.stages):
            features = stage(features, coords)
            if number < len(self.pools):
                regions = pooling_regions(coords, self.shapes[number], self.strides[number])
                features, coords = self.pools[number](features, regions), regions.coords
        return features, coords

    def to_map(self, features: Tensor, coords: Tensor, batch_size: int) -> Tensor:
        """Features (N, C) of the last stage's voxels (N, 4) to maps (B, C Z, Y, X), zeros where no voxel is."""
        x, y, z = self.out_shape
        return scatter_to_bev(features, coords[:, [0, 3, 2, 1]], batch_size, (z, y, x))


def _triple(name: str, values: Sequence[int]) -> Shape:
    if len(values) != 3:
        raise ValueError(f"{name}: found {tuple(values)}, expected three numbers: x, y, z")
    x, y, z = (int(value) for value in values)
    return x, y, z
