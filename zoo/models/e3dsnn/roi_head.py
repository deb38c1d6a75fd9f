"""The second stage of the detector: spiking layers that look at the voxels about each proposal (Voxel R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.detection import Detections
from zoo.losses.anchor_boxes import box_residual_loss
from zoo.losses.box_corners import corner_loss
from zoo.models.layers.roi_targets import (
    RoITargets,
    choose_proposals,
    decode_in_proposals,
    encode_in_proposals,
    overlap_targets,
    turned_about_z,
)
from zoo.models.layers.sparse_norm import RowBatchNorm
from zoo.models.layers.spiking import NeuronSpec, SpikeLinear
from zoo.ops import SparseTensor, ball_query, nms_rotated, segment_max
from zoo.ops.processes import shared_count

__all__ = ["ProposalLimits", "RoIOutput", "SpikeRoIHead", "SpikeVoxelPool"]


@dataclass(frozen=True)
class ProposalLimits:
    """Which boxes of the first stage become proposals.

    Args:
        candidates: The best so many go into suppression.
        nms_threshold: Overlap above which the better of two is kept.
        kept: At most so many of a sample are left.
    """

    candidates: int
    nms_threshold: float
    kept: int


class RoIOutput(NamedTuple):
    """What the second stage says about R proposals."""

    scores: Tensor  # (R,) logits
    residuals: Tensor  # (R, 7) in the frame of the proposals


class SpikeVoxelPool(nn.Module):
    """Features of the voxels about given places: membranes of voxels and of their offsets are added, then fire.

    For place q with its neighbours v: ``out(max_v neuron(in(x_v) + pos(v - q)))``, all three linear with a batch norm;
    0 where there is no neighbour. ``in`` and ``pos`` read real values.

    Args:
        in_channels: Of the voxels.
        channels: Of the result.
        radius: Within which neighbours count, metres.
        num_neighbors: At most so many, the first ones by row.
        neuron: Which neuron.
    """

    def __init__(
        self, in_channels: int, channels: int, *, radius: float, num_neighbors: int, neuron: NeuronSpec
    ) -> None:
        super().__init__()
        self.radius, self.num_neighbors = radius, num_neighbors
        self.mlps_in = nn.Sequential(*_unit(in_channels, channels, None))
        self.mlps_pos = nn.Sequential(*_unit(3, channels, None))
        self.neuron = neuron.build()
        self.mlps_out = nn.Sequential(*_unit(channels, channels, neuron.spike_limit))

    def forward(self, x: SparseTensor, centers: Tensor, places: Tensor, offsets: Tensor) -> Tensor:
        """Voxels with centres (N, 3) in metres, places (M, 3) by sample as ``offsets`` (B + 1,) says, to (M, C)."""
        found = ball_query(
            centers,
            places,
            self.radius,
            self.num_neighbors,
            offsets=x.grid.sample_offsets,
            query_offsets=offsets,
        ).indices
        place, slot = (found >= 0).nonzero(as_tuple=True)
        voxel = found[place, slot]
        membrane = self.mlps_in(x.features)[voxel] + self.mlps_pos(centers[voxel] - places[place])
        return self.mlps_out(segment_max(self.neuron(membrane), place, len(places)))


class SpikeRoIHead(nn.Module):
    """Proposals with the membranes of three strides to scores and corrected boxes.

    Each proposal holds ``grid_size``^3 places; the pools of all places are joined, and go through stacks of spiking
    linear layers: one that both tasks share, one for each task. The last layer of each task reads the membrane.

    Args:
        in_channels: Channels of the membranes at strides 2, 4 and 8.
        point_range: Minima, then maxima of x, y, z.
        voxel_size: Of stride 1, in metres.
        neuron: Which neuron; without memory.
        grid_size: Places of a proposal along each axis.
        radii: Of the pools, metres.
        num_neighbors: Of each place.
        pool_channels: Of each pool.
        shared_channels: Of the layers that both tasks share.
        task_channels: Of the layers of each task.
        dropout: Between the layers of a stack.
        train_proposals: In training.
        test_proposals: In evaluation.
        num_sampled: Proposals of a sample that are trained on.
        class_weight: Of the scores' loss.
        box_weight: Of the residuals' loss.
        corner_weight: Of the corners' loss.
    """

    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        point_range: Sequence[float],
        voxel_size: Sequence[float],
        neuron: NeuronSpec,
        grid_size: int = 6,
        radii: Sequence[float] = (0.4, 0.8, 1.6),
        num_neighbors: int = 16,
        pool_channels: int = 32,
        shared_channels: Sequence[int] = (256, 256),
        task_channels: Sequence[int] = (256, 256),
        dropout: float = 0.3,
        train_proposals: ProposalLimits = ProposalLimits(9000, 0.8, 512),
        test_proposals: ProposalLimits = ProposalLimits(2048, 0.7, 100),
        num_sampled: int = 128,
        class_weight: float = 1.0,
        box_weight: float = 1.0,
        corner_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if len(radii) != len(in_channels) or grid_size < 1 or num_sampled < 1:
            raise ValueError(
                f"radii, grid_size, num_sampled: found {tuple(radii)}, {grid_size}, {num_sampled}, expected a radius "
                f"for each of {len(in_channels)} strides, and at least 1"
            )
        self.point_range, self.voxel_size = tuple(point_range), tuple(voxel_size)
        self.grid_size, self.num_sampled = grid_size, num_sampled
        self.train_proposals, self.test_proposals = train_proposals, test_proposals
        self.class_weight, self.box_weight, self.corner_weight = class_weight, box_weight, corner_weight
        self.roi_grid_pool_layers = nn.ModuleList(
            SpikeVoxelPool(width, pool_channels, radius=radius, num_neighbors=num_neighbors, neuron=neuron)
            for width, radius in zip(in_channels, radii, strict=True)
        )
        pooled = grid_size**3 * pool_channels * len(in_channels)
        self.shared_fc_layer = _stack(pooled, shared_channels, dropout, neuron)
        self.cls_fc_layers = _stack(shared_channels[-1], task_channels, dropout, neuron)
        self.reg_fc_layers = _stack(shared_channels[-1], task_channels, dropout, neuron)
        self.cls_pred_layer = SpikeLinear(task_channels[-1], 1, max_count=None)
        self.reg_pred_layer = SpikeLinear(task_channels[-1], 7, max_count=None)
        nn.init.normal_(self.reg_pred_layer.weight, std=0.001)
        nn.init.zeros_(self.reg_pred_layer.bias)

    def forward(self, levels: Sequence[SparseTensor], proposals: Sequence[Tensor]) -> RoIOutput:
        """Membranes at strides 2, 4, 8 and the proposals (R_b, 7) of each sample to what is said of all of them."""
        boxes = torch.cat(list(proposals))
        places = self.places(boxes).flatten(0, 1)
        lengths = torch.tensor([0, *(len(part) * self.grid_size**3 for part in proposals)], device=places.device)
        pooled = [
            pool(level, self.centers(level, 2 ** (index + 1)), places, lengths.cumsum(0))
            for index, (pool, level) in enumerate(zip(self.roi_grid_pool_layers, levels, strict=True))
        ]
        joined = torch.cat(pooled, dim=1)
        shared = self.shared_fc_layer(joined.reshape(len(boxes), self.grid_size**3 * joined.shape[1]))
        scores = self.cls_pred_layer(self.cls_fc_layers(shared))[:, 0]
        return RoIOutput(scores.float(), self.reg_pred_layer(self.reg_fc_layers(shared)).float())

    def places(self, boxes: Tensor) -> Tensor:
        """Centres of the cells of a grid in each box (R, 7): (R, G^3, 3) in metres, z fastest."""
        steps = (torch.arange(self.grid_size, device=boxes.device, dtype=boxes.dtype) + 0.5) / self.grid_size - 0.5
        cells = torch.cartesian_prod(steps, steps, steps).reshape(-1, 3)
        return turned_about_z(cells * boxes[:, None, 3:6], boxes[:, 6]) + boxes[:, None, :3]

    def centers(self, level: SparseTensor, stride: int) -> Tensor:
        """Centres (N, 3), x, y, z in metres, of the cells of a level."""
        size = torch.tensor(self.voxel_size, device=level.coords.device) * stride
        low = torch.tensor(self.point_range[:3], device=level.coords.device)
        return (level.coords[:, [3, 2, 1]] + 0.5) * size + low

    def sample(
        self, proposals: Sequence[Detections], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> list[RoITargets]:
        """The proposals of each sample that are trained on."""
        return [
            choose_proposals(found.boxes, found.labels, truth, kinds, number=self.num_sampled)
            for found, truth, kinds in zip(proposals, boxes, labels, strict=True)
        ]

    def loss(self, output: RoIOutput, chosen: Sequence[RoITargets], foreground: float = 0.55) -> dict[str, Tensor]:
        """Weighted losses of the scores, and of the residuals and corners of proposals that overlap a box well.

        Proposals are counted over all processes, each of which has to call it.
        """
        targets = RoITargets(*(torch.cat(parts) for parts in zip(*chosen, strict=True)))
        wanted = overlap_targets(targets.overlap)
        number = shared_count(len(wanted), device=wanted.device)
        scores = F.binary_cross_entropy_with_logits(output.scores, wanted.to(output.scores), reduction="sum") / number
        good = (targets.overlap >= foreground).nonzero().squeeze(1)
        residuals, proposals, truth = output.residuals[good], targets.boxes[good], targets.truth[good]
        found = shared_count(len(good), device=wanted.device)
        boxes = box_residual_loss(residuals, encode_in_proposals(truth, proposals)).sum() / found
        corners = corner_loss(decode_in_proposals(residuals, proposals), truth).sum() / found
        return {
            "roi_class_loss": self.class_weight * scores,
            "roi_box_loss": self.box_weight * boxes,
            "roi_corner_loss": self.corner_weight * corners,
        }

    def predict(
        self,
        output: RoIOutput,
        proposals: Sequence[Detections],
        *,
        score_threshold: float,
        nms_threshold: float,
        max_detections: int = 500,
    ) -> list[Detections]:
        """Corrected boxes of each sample with the second stage's scores, by falling score."""
        lengths = [len(found.scores) for found in proposals]
        kept = []
        for found, scores, residuals in zip(
            proposals, output.scores.split(lengths), output.residuals.split(lengths), strict=True
        ):
            likely = scores.sigmoid()
            rows = (likely > score_threshold).nonzero().squeeze(1)
            boxes = decode_in_proposals(residuals[rows], found.boxes[rows])
            best = nms_rotated(boxes, likely[rows], nms_threshold, max_kept=max_detections)
            kept.append(Detections(boxes[best], likely[rows][best], found.labels[rows][best]))
        return kept


def _unit(in_channels: int, out_channels: int, limit: int | None) -> tuple[nn.Module, nn.Module]:
    return SpikeLinear(in_channels, out_channels, max_count=limit, bias=False), RowBatchNorm(out_channels)


def _stack(in_channels: int, channels: Sequence[int], dropout: float, neuron: NeuronSpec) -> nn.Sequential:
    """Neuron, linear, batch norm for each number of channels, with dropout between them; ends with a membrane."""
    layers: list[nn.Module] = []
    for index, width in enumerate(channels):
        if index:
            layers.append(nn.Dropout(dropout))
        layers += [neuron.build(), *_unit(in_channels, width, neuron.spike_limit)]
        in_channels = width
    return nn.Sequential(*layers)
