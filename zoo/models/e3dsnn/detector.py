"""The detector of E-3DSNN: spiking 3D and bird's-eye-view backbones, a head with anchors, optionally a second stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zoo.data.detection import DetectionBatch, Detections
from zoo.models.e3dsnn.detection_backbones import SpikeBEVBackbone, SpikeVoxelBackbone, VoxelLevels
from zoo.models.e3dsnn.roi_head import ProposalLimits, SpikeRoIHead
from zoo.models.layers.anchor_head import AnchorHead, AnchorHeadOutput
from zoo.models.layers.anchors import AnchorSpec
from zoo.models.layers.spike_conv import set_norm_momentum
from zoo.models.layers.spiking import NeuronKind, NeuronSpec
from zoo.ops import SparseTensor, voxelize

__all__ = ["E3DSNNDetector"]

VOXEL_STRIDE = 8  # of the 3D backbone in y and x


class E3DSNNDetector(nn.Module):
    """Points to boxes: voxel means, `SpikeVoxelBackbone`, height into channels, `SpikeBEVBackbone`, `AnchorHead`.

    That is the first stage of upstream's Voxel R-CNN, which finds boxes by itself too; ``roi_head`` adds the second.
    Voxel coordinates are (batch, z, y, x); the map is (y, x). The head's
    convolutions read real values.

    Args:
        anchors: Of each class.
        voxel_size: x, y, z in metres.
        point_range: Minima, then maxima of x, y, z. x and y must hold whole voxels, in a number that the strides of
            both backbones divide; z at least 16 voxels.
        in_channels: Columns of the points that are read, from x, y, z on.
        max_points: Points of a voxel that are averaged, the first ones.
        max_voxels: Voxels of a sample in training and in evaluation, the first ones.
        channels: Of the 3D backbone at strides 1, 2, 4 and 8.
        depth: Basic blocks at strides 2, 4 and 8.
        out_channels: Of the 3D backbone's last layer.
        bev_layers: Convolutions of each level of the 2D backbone after its strided one.
        bev_strides: Of each level relative to the one before.
        bev_channels: Of each level.
        bev_up_strides: By which each level is enlarged.
        bev_up_channels: Of each level after that.
        activation: ``integer``, ``integer_lif``, ``lif`` or ``relu`` (the artificial twin), all in one step.
        max_count: D.
        norm_momentum: Share by which a step moves the running statistics of the batch norms; upstream's is 0.01.
        class_weight: Of the focal loss.
        box_weight: Of the box residuals' loss.
        direction_weight: Of the heading's loss.
        score_threshold: Least score of a box.
        nms_threshold: Overlap above which the better of two boxes is kept.
        max_detections: Boxes of a sample.
        roi_head: Makes the second stage, whose scores and boxes are the result then, from ``in_channels``,
            ``point_range``, ``voxel_size`` and ``neuron``. None: there is none.
    """

    def __init__(
        self,
        *,
        anchors: Sequence[AnchorSpec],
        voxel_size: Sequence[float] = (0.05, 0.05, 0.1),
        point_range: Sequence[float] = (0.0, -40.0, -3.0, 70.4, 40.0, 1.0),
        in_channels: int = 4,
        max_points: int = 5,
        max_voxels: tuple[int, int] = (16000, 40000),
        channels: Sequence[int] = (16, 32, 64, 64),
        depth: int = 2,
        out_channels: int = 128,
        bev_layers: Sequence[int] = (5, 5),
        bev_strides: Sequence[int] = (1, 2),
        bev_channels: Sequence[int] = (64, 128),
        bev_up_strides: Sequence[int] = (1, 2),
        bev_up_channels: Sequence[int] = (128, 128),
        activation: NeuronKind = "integer",
        max_count: int = 4,
        norm_momentum: float = 0.01,
        class_weight: float = 1.0,
        box_weight: float = 2.0,
        direction_weight: float = 0.2,
        score_threshold: float = 0.3,
        nms_threshold: float = 0.1,
        max_detections: int = 500,
        roi_head: Callable[..., SpikeRoIHead] | None = None,
    ) -> None:
        super().__init__()
        self.voxel_size, self.point_range = tuple(voxel_size), tuple(point_range)
        self.in_channels, self.max_points, self.max_voxels = in_channels, max_points, tuple(max_voxels)
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.max_detections = max_detections
        x, y, z = whole_voxels(self.voxel_size, self.point_range)
        self.spatial_shape = (z + 1, y, x)  # one more along z, as upstream
        height, *plane = SpikeVoxelBackbone.output_shape(self.spatial_shape)
        map_shape = bev_shape((y, x), tuple(plane), bev_strides, bev_up_strides)
        neuron = NeuronSpec(activation, max_count)
        self.backbone_3d = SpikeVoxelBackbone(
            in_channels=in_channels, channels=channels, depth=depth, out_channels=out_channels, neuron=neuron
        )
        self.backbone_2d = SpikeBEVBackbone(
            in_channels=out_channels * height,
            layer_nums=bev_layers,
            strides=bev_strides,
            channels=bev_channels,
            up_strides=bev_up_strides,
            up_channels=bev_up_channels,
            neuron=neuron,
            reads_spikes=True,
        )
        self.dense_head = AnchorHead(
            self.backbone_2d.out_channels,
            specs=anchors,
            point_range=self.point_range,
            shape=map_shape,
            class_weight=class_weight,
            box_weight=box_weight,
            direction_weight=direction_weight,
        )
        self.roi_head = (
            roi_head(
                in_channels=tuple(channels[1:]), point_range=self.point_range, voxel_size=self.voxel_size, neuron=neuron
            )
            if roi_head is not None
            else None
        )
        set_norm_momentum(self, norm_momentum)

    def voxels(self, batch: DetectionBatch) -> SparseTensor:
        """Means of the points of each voxel (N, in_channels), coordinates (batch, z, y, x).

        Raises:
            ValueError: Too few columns, or features that are not finite.
        """
        points = batch.points
        if points.shape[1] < self.in_channels:
            raise ValueError(f"points: found {points.shape[1]} columns, expected at least {self.in_channels}")
        points = points[:, : self.in_channels]
        wrong = torch.isfinite(points[:, :3]).all(dim=1) & ~torch.isfinite(points).all(dim=1)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"points: row {row} of the batch has features {points[row, 3:].tolist()}, expected finite ones"
            )
        found = voxelize(
            points,
            self.voxel_size,
            self.point_range,
            max_points=self.max_points,
            max_voxels=self.max_voxels[0 if self.training else 1],
            batch_index=batch.point_batch,
            batch_size=batch.batch_size,
        )
        means = found.points.sum(dim=1) / found.num_points[:, None].to(points.dtype)
        return SparseTensor.from_coords(means, found.coords[:, [0, 3, 2, 1]], self.spatial_shape, batch.batch_size)

    def forward(self, batch: DetectionBatch) -> AnchorHeadOutput:
        """Logits and residuals of all anchors."""
        return self.first_stage(batch)[1]

    def first_stage(self, batch: DetectionBatch) -> tuple[VoxelLevels, AnchorHeadOutput]:
        """The membranes of the 3D backbone, and logits and residuals of all anchors."""
        levels = self.backbone_3d(self.voxels(batch))
        view = levels.out.dense().flatten(1, 2)  # channel * height + level
        return levels, self.dense_head(self.backbone_2d(view))

    def loss(self, batch: DetectionBatch) -> dict[str, Tensor]:
        """``loss``, the total, and its terms."""
        levels, output = self.first_stage(batch)
        terms = self.dense_head.loss(output, batch.boxes, batch.labels)
        if self.roi_head is None:
            return terms
        proposals = self._proposals(output, self.roi_head.train_proposals)
        chosen = self.roi_head.sample(proposals, batch.boxes, batch.labels)
        second = self.roi_head.loss(self.roi_head(levels[1:4], [part.boxes for part in chosen]), chosen)
        return {**terms, **second, "loss": torch.stack([terms["loss"], *second.values()]).sum()}

    def predict(self, batch: DetectionBatch) -> list[Detections]:
        """Boxes (K, 7) of each sample by falling score."""
        levels, output = self.first_stage(batch)
        threshold, overlap, kept = self.score_threshold, self.nms_threshold, self.max_detections
        if self.roi_head is None:
            return self.dense_head.predict(
                output, score_threshold=threshold, nms_threshold=overlap, max_detections=kept
            )
        proposals = self._proposals(output, self.roi_head.test_proposals)
        second = self.roi_head(levels[1:4], [found.boxes for found in proposals])
        return self.roi_head.predict(
            second, proposals, score_threshold=threshold, nms_threshold=overlap, max_detections=kept
        )

    @torch.no_grad()
    def _proposals(self, output: AnchorHeadOutput, limits: ProposalLimits) -> list[Detections]:
        return self.dense_head.predict(
            output,
            score_threshold=0.0,
            nms_threshold=limits.nms_threshold,
            max_candidates=limits.candidates,
            max_detections=limits.kept,
        )


def whole_voxels(voxel_size: Sequence[float], point_range: Sequence[float]) -> tuple[int, int, int]:
    """Voxels along x, y and z.

    Raises:
        ValueError: Not three sizes and six bounds, or a range that holds no whole number of voxels.
    """
    if len(voxel_size) != 3 or len(point_range) != 6 or min(voxel_size) <= 0:
        raise ValueError(
            f"voxel_size, point_range: found {tuple(voxel_size)} and {tuple(point_range)}, expected three "
            "lengths above 0 and six bounds"
        )
    counts = []
    for axis, (size, low, high) in enumerate(zip(voxel_size, point_range[:3], point_range[3:], strict=True)):
        number = (high - low) / size
        whole = round(number)
        if whole < 1 or not math.isclose(number, whole, abs_tol=1e-3):
            raise ValueError(
                f"point_range: axis {'xyz'[axis]} spans {high - low:g} m, {number:g} voxels of {size:g} m, expected a "
                f"whole number; take {low:g} to {low + max(whole, 1) * size:g}"
            )
        counts.append(whole)
    return counts[0], counts[1], counts[2]


def bev_shape(
    voxels: tuple[int, int], plane: tuple[int, ...], strides: Sequence[int], up_strides: Sequence[int]
) -> tuple[int, int]:
    """Shape of the map that the 2D backbone makes of the 3D backbone's ``plane``, both (y, x).

    Raises:
        ValueError: Levels that do not meet in one shape, or voxels that the strides do not divide.
    """
    down = [math.prod(strides[: level + 1]) for level in range(len(strides))]
    scales = {total / up for total, up in zip(down, up_strides, strict=True)}
    if len(scales) != 1:
        raise ValueError(
            f"bev_strides, bev_up_strides: found {tuple(strides)}, {tuple(up_strides)}: levels do not meet"
        )
    step = VOXEL_STRIDE * down[-1]
    if any(count % step for count in voxels):
        raise ValueError(
            f"point_range: found {voxels} voxels along y and x, expected multiples of {step}, the stride of the "
            "coarsest level"
        )
    scale = scales.pop()
    return round(plane[0] / scale), round(plane[1] / scale)
