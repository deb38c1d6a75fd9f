"""GridFormer: occupancy from point clouds by attention between points and grids (arXiv:2401.02292, AAAI 2024).

A cloud ``(B, N, 3)`` in the cube of side 1.1 about the origin becomes point features and a grid of cells: three planes
``(B, C, R, R)`` for objects, or a volume ``(B, C, R, R, R)`` for scenes. A U-Net updates both at every level; a decoder
interpolates the maps of its way up at query positions and gives occupancy logits. The last axis of a grid is its first
coordinate: plane xz is ``[z, x]``, a volume ``[z, y, x]``.

Module names are those of the published weights. Differences from upstream: the linear layer of the scores is applied
before cells are gathered (the same sum in another order), the layers of the last level that never get a gradient are
kept for the weights' sake but frozen, and the mean within a cell is an option.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.models.gridformer.attention import Aggregation, Projection
from zoo.models.gridformer.coordinates import PLANES, normalize_to_plane, normalize_to_volume
from zoo.models.gridformer.planes import PlaneUNet
from zoo.models.gridformer.volume import VolumeUNet
from zoo.ops import rows_to_grid, sample_point_grid, segment_mean

__all__ = ["GridFormer", "GridFormerDecoder", "GridFormerEncoder", "Maps", "remap_upstream"]

Kind = Literal["planes", "grid"]
Maps = list[list[Tensor]]  # coarse to fine; in each the planes xy, xz, yz or the volume
_LEVELS = 3


def normalized_projections(points: Tensor, kind: Kind, padding: float) -> list[Projection]:
    """A cloud ``(B, N, 3)`` on the planes xy, xz, yz or in the volume."""
    if kind == "grid":
        return [Projection(normalize_to_volume(points, padding))]
    return [Projection(normalize_to_plane(points, plane, padding)) for plane in PLANES]


class GridFormerEncoder(nn.Module):
    """Point features, the first grid of their means, and the U-Net.

    Args:
        kind: ``"planes"`` or ``"grid"``.
        channels: C of the finest level, a multiple of 8.
        resolution: R, divisible by 4.
        padding: By how much the cube is larger than 1.
        aggregation: See `zoo.models.gridformer.attention.PointGridLayer`.
    """

    def __init__(self, *, kind: Kind, channels: int, resolution: int, padding: float, aggregation: Aggregation) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.resolution, self.padding = resolution, padding
        self.fc_pos = nn.Sequential(
            nn.Linear(3, 2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, 2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
        )
        if kind == "planes":
            self.unet = PlaneUNet(channels=channels, aggregation=aggregation)
        else:
            self.unet3d = VolumeUNet(channels=channels, aggregation=aggregation)

    def forward(self, points: Tensor) -> Maps:
        """The three maps of the way up of a cloud ``(B, N, 3)``."""
        projections = normalized_projections(points, self.kind, self.padding)
        features = self.fc_pos(points).flatten(0, 1)
        grids = []
        for projection in projections:
            cells = projection.cells(self.resolution)
            means = segment_mean(features[cells.order], packed_info=cells.packed_info)
            grids.append(rows_to_grid(means, len(points), self.resolution, cells.axes))
        return (self.unet if self.kind == "planes" else self.unet3d)(grids, features, projections)


class ResidualBlock(nn.Module):
    """``x + fc_1(relu(fc_0(relu(x))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc_0, self.fc_1 = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.fc_1.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc_1(torch.relu(self.fc_0(torch.relu(x))))


class GridFormerDecoder(nn.Module):
    """Occupancy logits at query positions from the three maps.

    Args:
        kind: As of the encoder.
        channels: As of the encoder.
        padding: As of the encoder.
        num_blocks: Residual blocks.
    """

    def __init__(self, *, kind: Kind, channels: int, padding: float, num_blocks: int = 5) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.padding = padding
        widths = [channels << level for level in reversed(range(_LEVELS))]
        self.fc_multi = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, channels))
            for width in widths
        )
        self.fc_p = nn.Linear(3, channels)
        self.fc_c = nn.ModuleList(nn.Linear(channels, channels) for _ in range(num_blocks))
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(num_blocks))
        self.fc_out = nn.Linear(channels, 1)

    def forward(self, maps: Maps, queries: Tensor) -> Tensor:
        """``(B, Q, 3)`` to logits ``(B, Q)``."""
        places = [projection.coords for projection in normalized_projections(queries, self.kind, self.padding)]
        feature = queries.new_zeros(())
        for mlp, grids in zip(self.fc_multi, maps, strict=True):
            sampled = [sample_point_grid(grid, place) for grid, place in zip(grids, places, strict=True)]
            feature = feature + mlp(functools.reduce(torch.add, sampled))
        net = self.fc_p(queries)
        for to_net, block in zip(self.fc_c, self.blocks, strict=True):
            net = block(net + to_net(feature))
        return self.fc_out(torch.relu(net)).squeeze(-1)


class GridFormer(nn.Module):
    """Point cloud to occupancy.

    Args:
        kind: ``"planes"`` (objects) or ``"grid"`` (scenes).
        channels: Of the finest level, a multiple of 8; 32 in the paper.
        resolution: Cells along an axis of the finest level, divisible by 4; 64 in the paper.
        padding: The cube's side is 1 + padding.
        num_blocks: Residual blocks of the decoder.
        aggregation: ``"attention"``, or ``"mean"``: the baseline that gives every point of a cell the same weight.

    Raises:
        ValueError: On arguments out of range.

    Example:
        >>> import torch
        >>> model = GridFormer(kind="planes", channels=8, resolution=16)
        >>> model(torch.rand(1, 50, 3) - 0.5, torch.rand(1, 7, 3) - 0.5).shape
        torch.Size([1, 7])
    """

    def __init__(
        self,
        *,
        kind: Kind = "planes",
        channels: int = 32,
        resolution: int = 64,
        padding: float = 0.1,
        num_blocks: int = 5,
        aggregation: Aggregation = "attention",
    ) -> None:
        super().__init__()
        if kind not in ("planes", "grid"):
            raise ValueError(f"kind: found {kind!r}, expected 'planes' or 'grid'")
        if channels < 8 or channels % 8:
            raise ValueError(f"channels: found {channels}, expected a multiple of 8")
        if resolution < 8 or resolution % 4:
            raise ValueError(f"resolution: found {resolution}, expected a multiple of 4 from 8 on")
        if padding < 0 or num_blocks < 1:
            raise ValueError(f"padding={padding}, num_blocks={num_blocks}: expected at least 0 and 1")
        self.kind: Kind = kind
        self.resolution, self.padding = resolution, padding
        self.decoder = GridFormerDecoder(kind=kind, channels=channels, padding=padding, num_blocks=num_blocks)
        self.encoder = GridFormerEncoder(
            kind=kind, channels=channels, resolution=resolution, padding=padding, aggregation=aggregation
        )
        self._freeze_unused(aggregation)

    def _freeze_unused(self, aggregation: Aggregation) -> None:
        """Layers that take part in no output get no gradient: they are not handed to the optimizer."""
        unused = ("fc_k", "fc_v", "conv_q", "fc_pos", "fc_w", "weight_conv", "conv1x1", "conv_final")
        last = (self.encoder.unet.up_convs if self.kind == "planes" else self.encoder.unet3d.decoders)[2]
        for name in unused:
            getattr(last, name).requires_grad_(False)
        if aggregation == "mean":
            for module in self.encoder.modules():
                for name in ("fc_k", "conv_q", "fc_w"):
                    if hasattr(module, name):
                        getattr(module, name).requires_grad_(False)

    def encode(self, points: Tensor) -> Maps:
        """The maps of a cloud ``(B, N, 3)``, for any number of `decode` calls.

        Raises:
            ValueError: Wrong shape, no point, or positions that are NaN or infinite.
        """
        _check_positions("points", points)
        if points.shape[1] < 1:
            raise ValueError("points: found an empty cloud, expected at least one point")
        return self.encoder(points)

    def decode(self, maps: Maps, queries: Tensor) -> Tensor:
        """Occupancy logits ``(B, Q)`` at positions ``(B, Q, 3)``; positions outside the cube take its border's."""
        _check_positions("queries", queries)
        return self.decoder(maps, queries)

    def forward(self, points: Tensor, queries: Tensor) -> Tensor:
        """Cloud ``(B, N, 3)`` and positions ``(B, Q, 3)`` to occupancy logits ``(B, Q)``."""
        return self.decode(self.encode(points), queries)


def _check_positions(name: str, positions: Tensor) -> None:
    if positions.dim() != 3 or positions.shape[2] != 3:
        raise ValueError(f"{name}: found shape {tuple(positions.shape)}, expected (B, N, 3)")
    if positions.device.type == "cpu" and not bool(torch.isfinite(positions).all()):
        bad = int((~torch.isfinite(positions)).any(-1).sum())
        raise ValueError(f"{name}: found {bad} positions that are NaN or infinite, expected none; drop them first")


def remap_upstream(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of `GridFormer` from a checkpoint's ``{"model": ...}`` or its entry, with the prefix ``module.`` or without.

    Raises:
        ValueError: There is no parameter of a GridFormer in it.
    """
    state = state_dict.get("model", state_dict)
    remapped = {str(key).removeprefix("module."): value for key, value in state.items()}
    if "decoder.fc_p.weight" not in remapped:
        raise ValueError(
            f"state_dict: found {len(remapped)} entries without decoder.fc_p.weight, expected those of a GridFormer"
        )
    return remapped
