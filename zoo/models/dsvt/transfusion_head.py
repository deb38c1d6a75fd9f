"""TransFusion head, LiDAR part: boxes from queries placed at the peaks of a heat-map (Bai et al., CVPR 2022).

The P strongest local peaks of the class heat-maps become queries. Each looks at the map around it (41 x 41 cells) with
one decoder layer and predicts ::

    center = offset + cell in cells, height = z + dz / 2, dim = ln(dx, dy, dz), rot = (sin yaw, cos yaw), vel, iou

and class logits. Queries and true boxes are matched one to one by the Hungarian algorithm.

Axis order: the head works on maps (B, C, X, Y), the transposed bird's-eye map; a cell's number is ``ix Y + iy``. The
encoding has (sin, cos), CenterHead's (cos, sin).

As upstream: the neighbourhood is taken by flat cell numbers, so that it wraps from one column of the map into the next
at its edge, and the map has to be square; every query attends to itself alone in "self" attention. Computed another way
with the same outputs: keys and values are projected once for each cell, not once for each query and neighbour, so that
in training the position embedding's batch norm sees every cell once instead of once a query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from zoo.data.detection import Detections
from zoo.losses.center_heatmap import center_focal_loss
from zoo.losses.focal import sigmoid_focal_loss
from zoo.models.dsvt.backbone import MultiHeadProjection
from zoo.ops import boxes_aligned_iou, boxes_iou_3d, draw_heatmap, gaussian_radius, nms_rotated
from zoo.ops.processes import shared_count


class QueryPredictions(NamedTuple):
    """What the head says."""

    branches: dict[str, Tensor]  # (B, width, P) by name; heatmap holds the class logits
    query_heat: Tensor  # (B, classes, P), filtered heat at the queries' cells
    query_labels: Tensor  # (B, P) int64, class of the peak that made the query
    dense_heatmap: Tensor  # (B, classes, X, Y) logits
    query_cells: Tensor  # (B, P) int64, number of the peak's cell


class QueryTargets(NamedTuple):
    """What the queries should say."""

    labels: Tensor  # (B, P) int64; the number of classes where no box is matched
    encoded: Tensor  # (B, P, 10 or 8), zeros where no box is matched
    matched: Tensor  # (B, P) bool
    boxes: Tensor  # (B, P, 7 or 9)
    heatmap: Tensor  # (B, classes, X, Y)


class PointwiseConv(nn.Module):
    """Convolution with bias, batch norm."""

    def __init__(self, conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        """Whatever the convolution takes."""
        return functional.relu(self.norm(self.conv(x)))


class QueryBranch(nn.Module):
    """Two pointwise layers over the queries."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.hidden = PointwiseConv(nn.Conv1d(channels, hidden, 1), nn.BatchNorm1d(hidden))
        self.out = nn.Conv1d(hidden, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, P) to (B, out, P)."""
        return self.out(self.hidden(x))


class HeatmapBranch(nn.Module):
    """Two 3x3 convolutions over the map."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = PointwiseConv(nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels))
        self.out = nn.Conv2d(channels, num_classes, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y) to (B, classes, X, Y)."""
        return self.out(self.hidden(x))


class CellPosition(nn.Module):
    """MLP of a position in cells: pointwise, batch norm, ReLU, pointwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(2, channels, 1)
        self.norm = nn.BatchNorm1d(channels)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, position: Tensor) -> Tensor:
        """Positions (B, P, 2) to embeddings (B, P, C)."""
        hidden = functional.relu(self.norm(self.hidden(position.transpose(1, 2))))
        return self.out(hidden).transpose(1, 2)


class QueryDecoder(nn.Module):
    """One decoder layer whose queries see the cells around them."""

    def __init__(self, channels: int, num_heads: int, hidden_dim: int, radius: int, dropout: float) -> None:
        super().__init__()
        self.radius, self.dropout = radius, dropout
        self.self_attention = MultiHeadProjection(channels, num_heads)
        self.cross_attention = MultiHeadProjection(channels, num_heads)
        self.expand, self.contract = nn.Linear(channels, hidden_dim), nn.Linear(hidden_dim, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))
        self.self_position, self.cross_position = CellPosition(channels), CellPosition(channels)

    def forward(self, query: Tensor, cell: Tensor, position: Tensor, cells: Tensor, grid: Tensor) -> Tensor:
        """One layer.

        Args:
            query: (B, P, C).
            cell: Number of each query's cell, (B, P) int64.
            position: Of each query, in cells, (B, P, 2).
            cells: The map, (B, X Y, C).
            grid: Position of each cell, (X Y, 2).
        """
        place = self.self_position(position)
        own = self.self_attention
        width = query.shape[-1]
        alone = functional.linear(query + place, own.inputs.weight[2 * width :], own.inputs.bias[2 * width :])
        query = self.norm1(query + self._drop(own.output(alone)))
        query = self.norm2(query + self._drop(self._look_around(query + place, cell, cells, grid)))
        hidden = self._drop(functional.relu(self.expand(query)))
        return self.norm3(query + self._drop(self.contract(hidden)))

    def _look_around(self, query: Tensor, cell: Tensor, cells: Tensor, grid: Tensor) -> Tensor:
        cross = self.cross_attention
        keys = cells + self.cross_position(grid[None].to(cells.dtype))
        q, k, v = cross.project(query, keys, keys)
        side = round(grid.shape[0] ** 0.5)
        step = torch.arange(-self.radius, self.radius + 1, device=cell.device)
        around = (step[:, None] * side + step).reshape(-1)
        numbers = cell[..., None] + around  # (B, P, K)
        inside = (numbers >= 0) & (numbers < len(grid))
        numbers = numbers.clamp(0, len(grid) - 1)
        attended = []
        for sample in range(len(query)):  # a sample's keys are P K C numbers
            some_k, some_v = (
                part[sample][numbers[sample]].unflatten(-1, (cross.num_heads, -1)).transpose(1, 2) for part in (k, v)
            )  # (P, heads, K, D)
            some_q = q[sample][:, None].unflatten(-1, (cross.num_heads, -1)).transpose(1, 2)  # (P, heads, 1, D)
            seen = inside[sample][:, None, None]
            found = functional.scaled_dot_product_attention(some_q, some_k, some_v, attn_mask=seen)
            attended.append(found.transpose(1, 2).flatten(2).squeeze(1))
        return cross.output(torch.stack(attended))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class TransFusionHead(nn.Module):
    """Queries, matching, losses and decoding.

    Args:
        in_channels: Channels of the bird's-eye map.
        point_range: Minima of x, y, z, then maxima, metres; square in x and y.
        voxel_size: Edges along x, y, z, metres.
        stride: Voxels along the edge of a cell of the map.
        num_classes: Number of classes.
        num_queries: P.
        channels: Width of the map, the queries and the decoder.
        num_heads: Attention heads.
        hidden_dim: Width of the decoder's feed-forward network.
        branch_channels: Width of the branches.
        radius: Cells that a query sees in each direction.
        dropout: Of the decoder.
        velocity: Whether boxes have a velocity.
        predict_iou: Whether there is an overlap branch.
        point_classes: Classes so small that every cell may be a peak, and among which boxes are suppressed.
        min_overlap: Overlap that the radius of a peak keeps.
        min_radius: Least radius of a peak, cells.
        heat_weight: Weight of the heat-map loss.
        class_weight: Weight of the queries' class loss.
        box_weight: Weight of the box regression.
        iou_weight: Weight of the overlap branch.
        code_weights: Weight of each encoded number.
        match_costs: Weights of class, position and overlap in the matching.
        center_range: Minima and maxima of x, y, z of detected centres, metres.
        score_threshold: Scores below are dropped.
        iou_exponent: Share of the overlap in the score, 0: none.
        nms_threshold: Overlap above which a weaker box of a point class is dropped.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        point_range: Sequence[float],
        voxel_size: Sequence[float],
        stride: int = 2,
        num_classes: int = 10,
        num_queries: int = 200,
        channels: int = 128,
        num_heads: int = 8,
        hidden_dim: int = 256,
        branch_channels: int = 64,
        radius: int = 20,
        dropout: float = 0.0,
        velocity: bool = True,
        predict_iou: bool = True,
        point_classes: Sequence[int] = (8, 9),
        min_overlap: float = 0.1,
        min_radius: int = 2,
        heat_weight: float = 1.0,
        class_weight: float = 1.0,
        box_weight: float = 0.25,
        iou_weight: float = 0.5,
        code_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2),
        match_costs: Sequence[float] = (0.15, 0.25, 0.25),
        center_range: Sequence[float] = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0),
        score_threshold: float = 0.0,
        iou_exponent: float = 0.5,
        nms_threshold: float = 0.175,
    ) -> None:
        super().__init__()
        wanted = 10 if velocity else 8
        if len(code_weights) != wanted or len(match_costs) != 3:
            raise ValueError(
                f"code_weights, match_costs: found {len(code_weights)} and {len(match_costs)} values, expected "
                f"{wanted} and 3"
            )
        self.point_range, self.voxel_size, self.stride = list(point_range), list(voxel_size), stride
        self.cell = [size * stride for size in voxel_size[:2]]
        self.num_classes, self.num_queries, self.velocity = num_classes, num_queries, velocity
        self.point_classes, self.min_overlap, self.min_radius = list(point_classes), min_overlap, min_radius
        self.weights = {"heat": heat_weight, "class": class_weight, "box": box_weight, "iou": iou_weight}
        self.code_weights, self.match_costs = list(code_weights), list(match_costs)
        self.center_range, self.score_threshold = list(center_range), score_threshold
        self.iou_exponent, self.nms_threshold = iou_exponent, nms_threshold
        self.shared = nn.Conv2d(in_channels, channels, 3, 1, 1)
        self.heatmap = HeatmapBranch(channels, num_classes)
        self.class_embedding = nn.Conv1d(num_classes, channels, 1)
        self.decoder = QueryDecoder(channels, num_heads, hidden_dim, radius, dropout)
        widths = {"center": 2, "height": 1, "dim": 3, "rot": 2}
        if velocity:
            widths["vel"] = 2
        self.regressed = list(widths)
        if predict_iou:
            widths["iou"] = 1
        widths["heatmap"] = num_classes
        self.branches = nn.ModuleDict(
            {name: QueryBranch(channels, branch_channels, width) for name, width in widths.items()}
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform decoder; heat-maps and class logits start at a probability of 0.1."""
        for parameter in self.decoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for out in (self.heatmap.out, self.branches["heatmap"].out):
            nn.init.constant_(out.bias, -2.19)  # type: ignore[arg-type, union-attr]

    def forward(self, x: Tensor) -> QueryPredictions:
        """A bird's-eye map (B, C, H, W) to the queries' predictions.

        Raises:
            ValueError: The map is not square.
        """
        if x.shape[2] != x.shape[3]:
            raise ValueError(f"x: found a map of {tuple(x.shape[2:])} cells, expected a square one")
        shared = self.shared(x.transpose(2, 3))
        dense = self.heatmap(shared)
        side = dense.shape[2]
        heat = self._peaks(dense.detach().float().sigmoid()).flatten(2)
        best = heat.flatten(1).topk(min(self.num_queries, heat[0].numel()), dim=1).indices
        label, cell = torch.div(best, side * side, rounding_mode="floor"), best % (side * side)
        cells = shared.flatten(2).transpose(1, 2)  # (B, X Y, C)
        axis = torch.arange(side, device=x.device) + 0.5
        grid = torch.cartesian_prod(axis, axis)
        kind = functional.one_hot(label, self.num_classes).transpose(1, 2).to(cells.dtype)
        query = cells.gather(1, cell[..., None].expand(-1, -1, cells.shape[2]))
        query = query + self.class_embedding(kind).transpose(1, 2)
        query = self.decoder(query, cell, grid[cell].to(cells.dtype), cells, grid)
        columns = query.transpose(1, 2)
        branches = {name: branch(columns) for name, branch in self.branches.items()}
        branches["center"] = branches["center"] + grid[cell].transpose(1, 2)
        at_query = heat.gather(2, cell[:, None].expand(-1, self.num_classes, -1))
        return QueryPredictions(branches, at_query, label, dense, cell)

    def _peaks(self, heat: Tensor) -> Tensor:
        """Heat (B, classes, X, Y) with 0 wherever a neighbour is hotter, and on the border; point classes untouched."""
        highest = functional.pad(functional.max_pool2d(heat, 3, 1), (1, 1, 1, 1))
        for label in self.point_classes:
            highest[:, label] = heat[:, label]
        return heat * (heat == highest)

    def _decode(self, branches: Mapping[str, Tensor]) -> Tensor:
        """Boxes (B, P, 7 or 9)."""
        columns = {name: branches[name].transpose(1, 2).float() for name in self.regressed}
        size = columns["dim"].exp()
        low = size.new_tensor(self.point_range[:2])
        center = columns["center"] * size.new_tensor(self.cell) + low
        height = columns["height"] - size[..., 2:] / 2
        yaw = torch.atan2(columns["rot"][..., :1], columns["rot"][..., 1:])
        return torch.cat([center, height, size, yaw, *([columns["vel"]] if self.velocity else [])], dim=-1)

    def _encode(self, boxes: Tensor) -> Tensor:
        """Boxes (M, 7 or 9) as the branches hold them, (M, 8 or 10)."""
        low, cell = boxes.new_tensor(self.point_range[:2]), boxes.new_tensor(self.cell)
        yaw = boxes[:, 6:7]
        height = boxes[:, 2:3] + boxes[:, 5:6] / 2
        parts = [(boxes[:, :2] - low) / cell, height, boxes[:, 3:6].log(), yaw.sin(), yaw.cos(), boxes[:, 7:]]
        return torch.cat(parts, dim=1)

    @torch.no_grad()
    def targets(self, predictions: QueryPredictions, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> QueryTargets:
        """Matched boxes of the queries, and the heat-maps."""
        decoded, logits = self._decode(predictions.branches), predictions.branches["heatmap"]
        samples, queries, columns = decoded.shape
        kinds = torch.full((samples, queries), self.num_classes, dtype=torch.int64, device=decoded.device)
        matched = torch.zeros_like(kinds, dtype=torch.bool)
        encoded = decoded.new_zeros(samples, queries, len(self.code_weights))
        truth = torch.zeros_like(decoded)
        for sample in range(samples):
            real = (boxes[sample][:, 3] > 0) & (boxes[sample][:, 4] > 0)
            own, kind = boxes[sample][real][:, :columns].float(), labels[sample][real]
            rows, picked = self._match(decoded[sample], logits[sample].T.float(), own, kind)
            kinds[sample, rows], matched[sample, rows] = kind[picked], True
            encoded[sample, rows], truth[sample, rows] = self._encode(own[picked]), own[picked]
        heatmap = self._draw(boxes, labels, predictions.dense_heatmap.shape[2], encoded.dtype)
        return QueryTargets(kinds, encoded, matched, truth, heatmap)

    def _match(self, decoded: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the queries and of the boxes that are matched to each other, at the least total cost."""
        if not len(boxes):
            return labels.new_zeros(0), labels.new_zeros(0)
        probability = logits.sigmoid()
        absent = -(1 - probability + 1e-12).log() * 0.75 * probability**2
        present = -(probability + 1e-12).log() * 0.25 * (1 - probability) ** 2
        low, high = decoded.new_tensor(self.point_range[:2]), decoded.new_tensor(self.point_range[3:5])
        apart = torch.cdist((decoded[:, :2] - low) / (high - low), (boxes[:, :2] - low) / (high - low), p=1)
        overlap = boxes_iou_3d(*(_raised(some) for some in (decoded, boxes)))
        by_class, by_place, by_overlap = self.match_costs
        cost = (present - absent)[:, labels] * by_class + apart * by_place - overlap * by_overlap
        rows, picked = linear_sum_assignment(cost.nan_to_num(1e4, 1e4, -1e4).cpu().numpy())
        return torch.as_tensor(rows, device=labels.device), torch.as_tensor(picked, device=labels.device)

    def _draw(self, boxes: Sequence[Tensor], labels: Sequence[Tensor], side: int, dtype: torch.dtype) -> Tensor:
        """Heat-maps (B, classes, X, Y)."""
        counts = torch.tensor([len(some) for some in boxes], device=boxes[0].device)
        every = torch.cat([some[:, :7].to(dtype) for some in boxes])
        sample = torch.repeat_interleave(torch.arange(len(boxes), device=every.device), counts)
        size, low = every.new_tensor(self.voxel_size[:2]), every.new_tensor(self.point_range[:2])
        cells = ((every[:, :2] - low) / size / self.stride).to(torch.int64)
        extent = every[:, 3:5] / size / self.stride
        radii = gaussian_radius(extent, self.min_overlap).nan_to_num(0).to(torch.int64).clamp(min=self.min_radius)
        inside = (cells >= 0).all(dim=1) & (cells < side).all(dim=1) & (extent > 0).all(dim=1)
        plane = torch.where(inside, sample * self.num_classes + torch.cat(list(labels)), -1)
        drawn = draw_heatmap(
            cells.flip(1).contiguous(), radii, plane, (len(boxes) * self.num_classes, side, side), dtype=dtype
        )
        return drawn.view(len(boxes), self.num_classes, side, side)

    def loss(
        self, predictions: QueryPredictions, boxes: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """The total under "loss" and its terms; boxes are counted over all processes, as in `CenterHead`."""
        target = self.targets(predictions, boxes, labels)
        branches, matched = predictions.branches, target.matched
        count = shared_count(matched.sum())
        kinds = functional.one_hot(target.labels, self.num_classes + 1)[..., :-1].float()
        focal = sigmoid_focal_loss(branches["heatmap"].transpose(1, 2).float(), kinds)
        found = torch.cat([branches[name].transpose(1, 2).float() for name in self.regressed], dim=-1)
        known = matched[..., None] & ~target.encoded.isnan()
        difference = torch.where(known, found - target.encoded.nan_to_num(0), 0).abs()
        terms = {
            "heat_loss": self.weights["heat"]
            * center_focal_loss(predictions.dense_heatmap, target.heatmap, over_processes=True),
            "class_loss": self.weights["class"] * focal.sum() / count,
            "box_loss": self.weights["box"] * (difference * difference.new_tensor(self.code_weights)).sum() / count,
        }
        if "iou" in branches:
            decoded = self._decode(branches)[matched].detach()
            overlap = boxes_aligned_iou(decoded[:, :7].contiguous(), target.boxes[matched][:, :7].contiguous())
            met = overlap > 0
            wrong = (branches["iou"][:, 0].float()[matched] - (2 * overlap - 1)).abs()
            terms["iou_loss"] = self.weights["iou"] * torch.where(met, wrong, 0).sum() / shared_count(met.sum())
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def predict(self, predictions: QueryPredictions) -> list[Detections]:
        """Detections of every sample, in the order of the queries."""
        branches = predictions.branches
        own = functional.one_hot(predictions.query_labels, self.num_classes).transpose(1, 2)
        scores, labels = (branches["heatmap"].float().sigmoid() * predictions.query_heat * own).max(dim=1)
        if "iou" in branches and self.iou_exponent:
            overlap = ((branches["iou"][:, 0].float() + 1) / 2).clamp(0, 1)
            scores = scores ** (1 - self.iou_exponent) * overlap**self.iou_exponent
        boxes = self._decode(branches)
        low, high = boxes.new_tensor(self.center_range[:3]), boxes.new_tensor(self.center_range[3:])
        kept = ((boxes[..., :3] >= low) & (boxes[..., :3] <= high)).all(dim=-1) & (scores >= self.score_threshold)
        return [
            self._suppress(Detections(*(part[sample][kept[sample]] for part in (boxes, scores, labels))))
            for sample in range(len(boxes))
        ]

    def _suppress(self, found: Detections) -> Detections:
        kept = torch.ones_like(found.labels, dtype=torch.bool)
        for label in self.point_classes:
            rows = (found.labels == label).nonzero().squeeze(1)
            kept[rows] = False
            kept[rows[nms_rotated(found.boxes[rows, :7].contiguous(), found.scores[rows], self.nms_threshold)]] = True
        return Detections(*(part[kept] for part in found))


def _raised(boxes: Tensor) -> Tensor:
    """Boxes (M, 7) standing on their z, as upstream's matching takes them."""
    return torch.cat([boxes[:, :2], boxes[:, 2:3] + boxes[:, 5:6] / 2, boxes[:, 3:7]], dim=1)
