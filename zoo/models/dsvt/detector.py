"""DSVT as a detector, from points to boxes, and its presets.

Voxel features, sparse backbone, bird's-eye backbone and head in a row. The range and the voxel size alone determine the
grid, the heights of the windows, the map and the cells of the head; what does not fit together is refused.

Axis order: points, ranges, sizes, shapes and windows are (x, y, z); maps are (B, C, y, x).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.detection import DetectionBatch, Detections
from zoo.models.dsvt.backbone import DSVTBackbone, Reduction, pooled_extent
from zoo.models.dsvt.bird_eye_view import BirdEyeBackbone
from zoo.models.dsvt.voxel_features import DynamicVoxelFeatures


class DSVT(nn.Module):
    """The detector.

    Args:
        point_range: Minima of x, y, z, then maxima, metres.
        voxel_size: Edges along x, y, z, metres; as high as the range for pillars.
        num_point_features: Columns of a point: x, y, z and extras.
        head: Makes the head, given ``in_channels``, ``point_range``, ``voxel_size`` and ``stride``.
        voxel_channels: Widths of the voxel features' layers; the last is the backbone's.
        any_height: Whether pillars also take points above and below the range (nuScenes' encoder).
        num_heads: Attention heads.
        hidden_dim: Width of the backbone's feed-forward networks.
        set_sizes: Slots of a set, for every stage.
        num_blocks: Blocks of every stage.
        window: Voxels along x and y of the windows of shift 0; windows are as high as the grid of their stage.
        hybrid_factor: How much larger the windows of shift 1 are, along x and y.
        shift: Movement of the windows of shift 1 along x and y; None: half a window of shift 0.
        height_strides: Pooling along z between the stages.
        reduction: Kind of pooling.
        dropout: Dropout of the backbone.
        normalize_positions: Scale the coordinates of the position embeddings to about -pi to pi.
        paired_positions: Pair each layer with the position embedding of its sets' shift; released weights do not.
        checkpoint_activations: Recompute backbone blocks in the backward pass to save memory.
        bev_blocks: Residual blocks of each level of the map's backbone behind its first one.
        bev_strides: Stride of each level.
        bev_channels: Width of each level.
        bev_up_strides: Up-sampling of each level's output.
        bev_up_channels: Width of each level's output.

    Raises:
        ValueError: Settings that do not fit together.
    """

    def __init__(
        self,
        *,
        point_range: Sequence[float],
        voxel_size: Sequence[float],
        num_point_features: int,
        head: Callable[..., nn.Module],
        voxel_channels: Sequence[int] = (192, 192),
        any_height: bool = False,
        num_heads: int = 8,
        hidden_dim: int = 384,
        set_sizes: Sequence[int] = (36,),
        num_blocks: Sequence[int] = (4,),
        window: Sequence[int] = (12, 12),
        hybrid_factor: Sequence[int] = (2, 2),
        shift: Sequence[int] | None = None,
        height_strides: Sequence[int] = (),
        reduction: Reduction = "attention",
        dropout: float = 0.0,
        normalize_positions: bool = False,
        paired_positions: bool = False,
        checkpoint_activations: bool = False,
        bev_blocks: Sequence[int] = (1, 2, 2),
        bev_strides: Sequence[int] = (1, 2, 2),
        bev_channels: Sequence[int] = (128, 128, 256),
        bev_up_strides: Sequence[float] = (1, 2, 4),
        bev_up_channels: Sequence[int] = (128, 128, 128),
    ) -> None:
        super().__init__()
        shape = grid_shape(point_range, voxel_size)
        if any_height and shape[2] != 1:
            raise ValueError(f"any_height: found a grid of {shape[2]} heights, expected pillars (1)")
        strides = [(1, 1, int(stride)) for stride in height_strides]
        heights = [shape[2]]
        extent = shape
        for stride in strides:
            extent = pooled_extent(extent, stride)
            heights.append(extent[2])
        moved = [size // 2 for size in window] if shift is None else list(shift)
        self.voxel_features = DynamicVoxelFeatures(
            point_range=point_range,
            voxel_size=voxel_size,
            num_point_features=num_point_features,
            channels=voxel_channels,
            any_height=any_height,
        )
        self.backbone = DSVTBackbone(
            shape=shape,
            channels=voxel_channels[-1],
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            set_sizes=set_sizes,
            num_blocks=num_blocks,
            windows=[(*window, height) for height in heights],
            hybrid_factor=(*hybrid_factor, 1),
            shifts=[((0, 0, 0), (*moved, 0))] * len(heights),
            strides=strides,
            reduction=reduction,
            dropout=dropout,
            normalize_positions=normalize_positions,
            paired_positions=paired_positions,
            checkpoint_activations=checkpoint_activations,
        )
        self.bev_backbone = BirdEyeBackbone(
            in_channels=self.backbone.out_channels * self.backbone.out_shape[2],
            blocks=bev_blocks,
            strides=bev_strides,
            channels=bev_channels,
            up_strides=bev_up_strides,
            up_channels=bev_up_channels,
        )
        self._check_map(shape)
        self.head = head(
            in_channels=self.bev_backbone.out_channels,
            point_range=point_range,
            voxel_size=voxel_size,
            stride=int(self.bev_backbone.out_stride),
        )

    def _check_map(self, shape: Sequence[int]) -> None:
        step = self.bev_backbone.down_strides[-1]
        if shape[0] % step or shape[1] % step:
            raise ValueError(
                f"point_range, voxel_size: found a grid of {shape[0]} x {shape[1]} voxels, expected multiples of "
                f"{step}, the product of bev_strides; change the range by a few voxels"
            )

    def bird_eye_map(self, batch: DetectionBatch) -> Tensor:
        """The map (B, C, H, W) that the head sees."""
        voxels = self.voxel_features(batch.points, batch.point_batch, batch.batch_size)
        features, coords = self.backbone(voxels.features, voxels.coords)
        return self.bev_backbone(self.backbone.to_map(features, coords, batch.batch_size))

    def forward(self, batch: DetectionBatch) -> Any:
        """The raw maps or queries of the head."""
        return self.head(self.bird_eye_map(batch))

    def loss(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """The total under "loss" and the terms that it is the sum of."""
        return self.head.loss(self(batch), batch.boxes, batch.labels)  # type: ignore[operator]

    @torch.no_grad()
    def predict(self, batch: DetectionBatch) -> list[Detections]:
        """The boxes of every sample."""
        return self.head.predict(self(batch))  # type: ignore[operator]


def grid_shape(point_range: Sequence[float], voxel_size: Sequence[float]) -> tuple[int, int, int]:
    """Voxels along x, y, z.

    Raises:
        ValueError: The range is no multiple of the voxel size, to 1 % of a voxel.
    """
    if len(point_range) != 6 or len(voxel_size) != 3:
        raise ValueError(
            f"point_range, voxel_size: found {len(point_range)} and {len(voxel_size)} numbers, expected 6 and 3"
        )
    exact = [(point_range[axis + 3] - point_range[axis]) / voxel_size[axis] for axis in range(3)]
    for axis, voxels in zip("xyz", exact, strict=True):
        if voxels < 0.99 or abs(voxels - round(voxels)) > 0.01:
            raise ValueError(
                f"point_range, voxel_size: found {voxels:.3f} voxels along {axis}, expected a whole number; "
                "change the range or the size"
            )
    x, y, z = (round(voxels) for voxels in exact)
    return x, y, z
