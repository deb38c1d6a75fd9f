"""CenterHead: boxes as peaks of class heat-maps with regressed size, height, heading and overlap (CenterPoint, DSVT).

Each group of classes has one set of branches over the shared map; at the cell of a box's centre they hold ::

    center = (x, y) / cell - floor, center_z = z, dim = ln(dx, dy, dz), rot = (cos yaw, sin yaw), vel = (vx, vy)
    iou = 2 IoU3D(decoded box, true box) - 1, hm = logit of a Gaussian peak

A score s of class c with predicted overlap u becomes ``s^(1 - a_c) u^a_c`` before class-wise rotated suppression.

Axis order: maps are (B, C, H, W) with H along y and W along x; a cell's number is ``iy W + ix``; labels start at 0.

Difference from upstream: suppression uses the boxes' true footprints. The DSVT repository turns every footprint by a
quarter turn first, by a mistake in converting coordinates; ``turned_suppression=True`` does the same for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.data.detection import Detections
from zoo.losses.center_heatmap import center_focal_loss, distance_iou
from zoo.models.dsvt.bird_eye_view import ConvNorm
from zoo.ops import boxes_aligned_iou, draw_heatmap, gaussian_radius, nms_rotated
from zoo.ops.processes import shared_count


class CenterTargets(NamedTuple):
    """What the maps of one group of classes should hold; K rows for every sample, in the order of its boxes."""

    heatmap: Tensor  # (B, classes, H, W)
    encoded: Tensor  # (B, K, 8 or 10): center, center_z, dim, rot[, vel]
    cells: Tensor  # (B, K) int64, iy W + ix
    valid: Tensor  # (B, K) bool
    boxes: Tensor  # (B, K, 7 or 9)


class CenterCandidates(NamedTuple):
    """Decoded peaks of one group of classes in one sample, by falling heat."""

    boxes: Tensor  # (K, 7 or 9)
    heat: Tensor  # (K,)
    labels: Tensor  # (K,) int64, among all classes
    iou: Tensor | None  # (K,)
    scores: Tensor  # (K,), rectified


class Branch(nn.Module):
    """Two 3x3 convolutions, norm and ReLU between them."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.hidden = ConvNorm(nn.Conv2d(in_channels, in_channels, 3, 1, 1, bias=False), in_channels)
        self.out = nn.Conv2d(in_channels, out_channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to maps (B, out, H, W)."""
        return self.out(functional.relu(self.hidden(x)))


class CenterHead(nn.Module):
    """Branches, targets, losses and decoding.

    Args:
        in_channels: Channels of the bird's-eye map.
        point_range: Minima of x, y, z, then maxima, metres.
        voxel_size: Edges along x, y, z, metres.
        stride: Voxels along the edge of a cell of the map.
        groups: Classes of each set of branches, by label; every class once.
        shared_channels: Width of the shared convolution and the branches.
        velocity: Whether boxes have a velocity.
        predict_iou: Whether there is an overlap branch.
        iou_regression: Whether the distance-IoU of the (axis-aligned) boxes is a loss.
        min_overlap: Overlap that the radius of a peak keeps.
        min_radius: Least radius of a peak, cells.
        max_objects: Rows of the targets of a sample; further boxes of a group are left out.
        heat_weight: Weight of the heat-map loss.
        box_weight: Weight of the box regression and the distance-IoU.
        code_weights: Weight of each encoded number.
        center_range: Minima and maxima of x, y, z of detected centres, metres.
        max_detections: Peaks taken from the heat-maps of a group.
        score_threshold: Least heat of a peak.
        iou_exponents: a_c of the overlap in the score, for every class; none: heat alone.
        nms_thresholds: Overlap above which a weaker box of the same class is dropped, for every class.
        nms_candidates: Boxes of a class that suppression looks at.
        nms_kept: Boxes of a class that it keeps at most.
        turned_suppression: Repeat upstream's quarter turn of the footprints.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        point_range: Sequence[float],
        voxel_size: Sequence[float],
        stride: int = 1,
        groups: Sequence[Sequence[int]] = ((0, 1, 2),),
        shared_channels: int = 64,
        velocity: bool = False,
        predict_iou: bool = True,
        iou_regression: bool = True,
        min_overlap: float = 0.1,
        min_radius: int = 2,
        max_objects: int = 500,
        heat_weight: float = 1.0,
        box_weight: float = 2.0,
        code_weights: Sequence[float] = (1.0,) * 8,
        center_range: Sequence[float] = (-80.0, -80.0, -10.0, 80.0, 80.0, 10.0),
        max_detections: int = 500,
        score_threshold: float = 0.1,
        iou_exponents: Sequence[float] = (0.68, 0.71, 0.65),
        nms_thresholds: Sequence[float] = (0.7, 0.6, 0.55),
        nms_candidates: int = 4096,
        nms_kept: int = 500,
        turned_suppression: bool = False,
    ) -> None:
        super().__init__()
        self.groups = [list(group) for group in groups]
        num_classes = sum(map(len, self.groups))
        if sorted(label for group in self.groups for label in group) != list(range(num_classes)):
            raise ValueError(f"groups: found {self.groups}, expected every label from 0 once")
        for name, values, wanted in (
            ("iou_exponents", iou_exponents, num_classes),
            ("nms_thresholds", nms_thresholds, num_classes),
            ("code_weights", code_weights, 10 if velocity else 8),
        ):
            if len(values) != wanted and not (name == "iou_exponents" and len(values) == 0):
                raise ValueError(f"{name}: found {len(values)} values, expected {wanted}")
        self.num_classes, self.velocity, self.stride = num_classes, velocity, stride
        self.point_range, self.voxel_size = tuple(point_range), tuple(voxel_size)
        self.cell = (voxel_size[0] * stride, voxel_size[1] * stride)
        self.iou_regression, self.min_overlap, self.min_radius = iou_regression, min_overlap, min_radius
        self.max_objects, self.heat_weight, self.box_weight = max_objects, heat_weight, box_weight
        self.code_weights, self.center_range = list(code_weights), list(center_range)
        self.max_detections, self.score_threshold = max_detections, score_threshold
        self.iou_exponents = list(iou_exponents) if predict_iou else []
        self.nms_thresholds, self.nms_candidates, self.nms_kept = list(nms_thresholds), nms_candidates, nms_kept
        self.turned_suppression = turned_suppression
        self.shared = ConvNorm(nn.Conv2d(in_channels, shared_channels, 3, 1, 1, bias=False), shared_channels)
        widths = {"center": 2, "center_z": 1, "dim": 3, "rot": 2}
        if velocity:
            widths["vel"] = 2
        self.regressed = list(widths)
        if predict_iou:
            widths["iou"] = 1
        self.heads = nn.ModuleList(
            nn.ModuleDict(
                {name: Branch(shared_channels, width) for name, width in {**widths, "hm": len(group)}.items()}
            )
            for group in self.groups
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal convolutions in the regression branches; heat-maps start at a probability of 0.1."""
        for head in self.heads:
            for name, branch in head.items():  # type: ignore[operator]
                if name == "hm":
                    nn.init.constant_(branch.out.bias, -2.19)
                    continue
                for module in branch.modules():
                    if isinstance(module, nn.Conv2d):
                        nn.init.kaiming_normal_(module.weight)
                        if module.bias is not None:
                            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        """A bird's-eye map (B, C, H, W) to the branches' maps (B, width, H, W) by name, for every group."""
        shared = functional.relu(self.shared(x))
        return [{name: branch(shared) for name, branch in head.items()} for head in self.heads]  # type: ignore[operator]

    def targets(self, boxes: Sequence[Tensor], labels: Sequence[Tensor], size: tuple[int, int]) -> list[CenterTargets]:
        """Targets of every group for maps of ``size`` (H, W)."""
        return [self._group_targets(group, boxes, labels, size) for group in self.groups]

    def _group_targets(
        self, group: list[int], boxes: Sequence[Tensor], labels: Sequence[Tensor], size: tuple[int, int]
    ) -> CenterTargets:
        height, width = size
        samples = len(boxes)
        columns = 9 if self.velocity else 7
        own = boxes[0].new_zeros(samples, self.max_objects, columns)
        kind = torch.full((samples, self.max_objects), -1, dtype=torch.int64, device=own.device)
        for sample, (some, their) in enumerate(zip(boxes, labels, strict=True)):
            for position, label in enumerate(group):
                their = torch.where(their == label, -1 - position, their)
            rows = (their < 0).nonzero().squeeze(1)[: self.max_objects]
            own[sample, : len(rows)] = some[rows, :columns]
            kind[sample, : len(rows)] = -1 - their[rows]
        valid = (kind >= 0) & (own[..., 3] > 0) & (own[..., 4] > 0)
        low = own.new_tensor(self.point_range[:2])
        grid = (own[..., :2] - low) / own.new_tensor(self.voxel_size[:2]) / self.stride
        grid = torch.minimum(grid.clamp(min=0), own.new_tensor([width - 0.5, height - 0.5]))
        cells = grid.to(torch.int64)
        extent = own[..., 3:5] / own.new_tensor(self.voxel_size[:2]) / self.stride
        radii = gaussian_radius(extent.reshape(-1, 2), self.min_overlap).view(kind.shape)
        radii = radii.nan_to_num(0).to(torch.int64).clamp(min=self.min_radius)
        plane = torch.arange(samples, device=own.device)[:, None] * len(group) + kind
        heatmap = draw_heatmap(
            cells.view(-1, 2),
            radii.view(-1),
            torch.where(valid, plane, -1).view(-1),
            (samples * len(group), height, width),
            dtype=own.dtype,
        )
        yaw = own[..., 6:7]
        parts = [grid - cells, own[..., 2:3], own[..., 3:6].clamp(min=1e-6).log(), yaw.cos(), yaw.sin(), own[..., 7:]]
        encoded = torch.where(valid[..., None], torch.cat(parts, dim=-1), 0)
        numbers = torch.where(valid, cells[..., 1] * width + cells[..., 0], 0)
        return CenterTargets(heatmap.view(samples, len(group), height, width), encoded, numbers, valid, own)

    def loss(
        self, maps: Sequence[dict[str, Tensor]], boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The total under "loss" and its terms, summed over the groups.

        In a distributed run every process has to call it: all boxes are counted together, so that the average over the
        processes is the loss of one with all samples.
        """
        size = (maps[0]["hm"].shape[2], maps[0]["hm"].shape[3])
        terms: dict[str, list[Tensor]] = {}
        for group, target in zip(maps, self.targets(boxes, labels, size), strict=True):
            for name, value in self._group_loss(group, target).items():
                terms.setdefault(name, []).append(value)
        totals = {name: torch.stack(values).sum() for name, values in terms.items()}
        return {"loss": torch.stack(list(totals.values())).sum(), **totals}

    def _group_loss(self, maps: dict[str, Tensor], target: CenterTargets) -> dict[str, Tensor]:
        valid = target.valid
        count = shared_count(valid.sum())  # of the boxes of all processes
        predicted = torch.cat([_at_cells(maps[name], target.cells) for name in self.regressed], dim=-1)[valid]
        encoded = target.encoded[valid]
        known = ~encoded.isnan()  # unknown velocities
        difference = torch.where(known, predicted - encoded.nan_to_num(0), 0).abs()
        weights = difference.new_tensor(self.code_weights)
        terms = {
            "heat_loss": self.heat_weight * center_focal_loss(maps["hm"], target.heatmap, over_processes=True),
            "box_loss": self.box_weight * (difference.sum(dim=0) / count * weights).sum(),
        }
        boxes, decoded = target.boxes[valid][:, :7], self._decode(predicted, target.cells[valid], maps["hm"].shape[3])
        if "iou" in maps:
            overlap = boxes_aligned_iou(decoded[:, :7].detach().float(), boxes.float())
            wanted = 2 * overlap - 1
            found = _at_cells(maps["iou"], target.cells)[valid].squeeze(-1)
            terms["iou_loss"] = (found - wanted).abs().sum() / count
        if self.iou_regression:
            terms["iou_box_loss"] = self.box_weight * (1 - distance_iou(decoded[:, :7], boxes)).sum() / count
        return terms

    def _decode(self, encoded: Tensor, cells: Tensor, width: int) -> Tensor:
        """Encoded rows (K, 8 or 10) at cells (K,) to boxes (K, 7 or 9)."""
        column, row = cells % width, torch.div(cells, width, rounding_mode="floor")
        grid = torch.stack([column, row], dim=-1) + encoded[:, :2]
        center = grid * encoded.new_tensor(self.cell) + encoded.new_tensor(self.point_range[:2])
        yaw = torch.atan2(encoded[:, 7:8], encoded[:, 6:7])
        return torch.cat([center, encoded[:, 2:3], encoded[:, 3:6].exp(), yaw, encoded[:, 8:]], dim=-1)

    def candidates(self, maps: Sequence[dict[str, Tensor]]) -> list[list[CenterCandidates]]:
        """Decoded peaks within ``center_range`` above the threshold, for every group and sample."""
        return [
            [self._sample_candidates(group, head, sample) for sample in range(len(head["hm"]))]
            for group, head in zip(self.groups, maps, strict=True)
        ]

    def _sample_candidates(self, group: list[int], maps: dict[str, Tensor], sample: int) -> CenterCandidates:
        heat = maps["hm"][sample].float().sigmoid()
        width, cells = heat.shape[2], heat.shape[1] * heat.shape[2]
        best, where = heat.reshape(-1).topk(min(self.max_detections, heat.numel()))
        kind, cell = torch.div(where, cells, rounding_mode="floor"), where % cells
        encoded = torch.cat([maps[name][sample].flatten(1)[:, cell].T.float() for name in self.regressed], dim=1)
        boxes = self._decode(encoded, cell, width)
        labels = torch.tensor(group, device=where.device)[kind]
        iou = (maps["iou"][sample].flatten()[cell].float() + 1) / 2 if "iou" in maps else None
        low, high = boxes.new_tensor(self.center_range[:3]), boxes.new_tensor(self.center_range[3:])
        kept = (best > self.score_threshold) & ((boxes[:, :3] >= low) & (boxes[:, :3] <= high)).all(dim=1)
        boxes, best, labels = boxes[kept], best[kept], labels[kept]
        scores = best
        if iou is not None:
            iou = iou[kept]
            if self.iou_exponents:
                exponent = best.new_tensor(self.iou_exponents)[labels]
                scores = best ** (1 - exponent) * iou.clamp(0, 1) ** exponent
        return CenterCandidates(boxes, best, labels, iou, scores)

    def predict(self, maps: Sequence[dict[str, Tensor]]) -> list[Detections]:
        """Detections of every sample, grouped by class, by falling score within a class."""
        found: list[list[Detections]] = [[] for _ in range(len(maps[0]["hm"]))]
        for group, samples in zip(self.groups, self.candidates(maps), strict=True):
            for sample, candidates in enumerate(samples):
                found[sample].extend(self._suppress(candidates, label) for label in group)
        return [Detections(*(torch.cat(part) for part in zip(*some, strict=True))) for some in found]

    def _suppress(self, candidates: CenterCandidates, label: int) -> Detections:
        rows = (candidates.labels == label).nonzero().squeeze(1)
        footprints = candidates.boxes[rows, :7]
        if self.turned_suppression:
            footprints = torch.cat([footprints[:, :6], footprints[:, 6:] - math.pi / 2], dim=1)
        kept = nms_rotated(
            footprints.contiguous(),
            candidates.scores[rows],
            self.nms_thresholds[label],
            max_candidates=self.nms_candidates,
            max_kept=self.nms_kept,
        )
        rows = rows[kept]
        return Detections(candidates.boxes[rows], candidates.scores[rows], candidates.labels[rows])


def _at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """Values of maps (B, C, H, W) at cells (B, K), (B, K, C) float32 at least."""
    flat = maps.flatten(2)
    values = flat.gather(2, cells[:, None].expand(-1, flat.shape[1], -1)).transpose(1, 2)
    return values if values.dtype == torch.float64 else values.float()
