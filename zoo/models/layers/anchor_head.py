"""A detection head with anchors on a bird's-eye-view map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.detection import Detections
from zoo.losses.anchor_boxes import box_residual_loss, direction_target
from zoo.losses.focal import sigmoid_focal_loss
from zoo.models.layers.anchors import (
    IGNORED,
    AnchorSpec,
    assign_anchors,
    decode_boxes,
    encode_boxes,
    make_anchors,
)
from zoo.ops import nms_rotated

__all__ = ["AnchorHead", "AnchorHeadOutput"]


class AnchorHeadOutput(NamedTuple):
    """What the head says about A anchors of B samples."""

    classes: Tensor  # (B, A, K) logits
    residuals: Tensor  # (B, A, 7)
    directions: Tensor  # (B, A, 2) logits


class AnchorHead(nn.Module):
    """Three 1x1 convolutions: classes, residuals and heading of the anchors of each cell.

    Args:
        in_channels: Channels of the map.
        specs: Anchors of each class; class k is ``specs[k]``.
        point_range: Minima, then maxima of x, y, z.
        shape: (H, W) of the map.
        class_weight: Of the focal loss in the total.
        box_weight: Of the residuals' loss.
        direction_weight: Of the heading's loss.
        direction_offset: Angle at which the first half turn of headings begins.
    """

    anchors: Tensor  # (A, 7)
    anchor_labels: Tensor  # (A,)

    def __init__(
        self,
        in_channels: int,
        *,
        specs: Sequence[AnchorSpec],
        point_range: Sequence[float],
        shape: tuple[int, int],
        class_weight: float = 1.0,
        box_weight: float = 2.0,
        direction_weight: float = 0.2,
        direction_offset: float = 0.78539,
    ) -> None:
        super().__init__()
        if not specs:
            raise ValueError("specs: found none, expected the anchors of at least one class")
        self.specs, self.num_classes = tuple(specs), len(specs)
        self.class_weight, self.box_weight, self.direction_weight = class_weight, box_weight, direction_weight
        self.direction_offset = direction_offset
        per_cell = [label for label, spec in enumerate(specs) for _ in spec.rotations]
        self.conv_cls = nn.Conv2d(in_channels, len(per_cell) * self.num_classes, 1)
        self.conv_box = nn.Conv2d(in_channels, len(per_cell) * 7, 1)
        self.conv_dir_cls = nn.Conv2d(in_channels, len(per_cell) * 2, 1)
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - 0.01) / 0.01))  # type: ignore[arg-type]
        nn.init.normal_(self.conv_box.weight, std=0.001)
        self.register_buffer("anchors", make_anchors(specs, point_range, shape).reshape(-1, 7), persistent=False)
        labels = torch.tensor(per_cell).repeat(shape[0] * shape[1])
        self.register_buffer("anchor_labels", labels, persistent=False)

    def forward(self, x: Tensor) -> AnchorHeadOutput:
        """The map (B, in, H, W) to logits and residuals."""
        outputs = [layer(x).permute(0, 2, 3, 1) for layer in (self.conv_cls, self.conv_box, self.conv_dir_cls)]
        sizes = (self.num_classes, 7, 2)
        return AnchorHeadOutput(
            *(out.reshape(len(x), -1, size).float() for out, size in zip(outputs, sizes, strict=True))
        )

    def loss(self, output: AnchorHeadOutput, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Losses against the boxes (M, 7 or more) and labels (M,) of each sample; ``loss`` is the weighted total.

        Each sample's sums are divided by its number of anchors that find a box, and averaged over samples.

        Raises:
            ValueError: A label without anchors.
        """
        terms = [self._sample_loss(output, index, boxes[index], labels[index]) for index in range(len(boxes))]
        sums = torch.stack(terms).mean(dim=0) if terms else sum(part.sum() for part in output) * output[0].new_zeros(3)
        classes, residuals, directions = (sums * self._weights(sums)).unbind()
        total = classes + residuals + directions
        return {"loss": total, "class_loss": classes, "box_loss": residuals, "direction_loss": directions}

    def predict(
        self,
        output: AnchorHeadOutput,
        *,
        score_threshold: float,
        nms_threshold: float,
        max_candidates: int = 4096,
        max_detections: int = 500,
    ) -> list[Detections]:
        """The boxes of each sample, by falling score; boxes of all classes suppress one another."""
        found = []
        for classes, residuals, directions in zip(*output, strict=True):
            scores, labels = classes.sigmoid().max(dim=1)
            rows = (scores > score_threshold).nonzero().squeeze(1)
            boxes = self._decode(residuals[rows], self.anchors[rows], directions[rows])
            kept = nms_rotated(
                boxes, scores[rows], nms_threshold, max_candidates=max_candidates, max_kept=max_detections
            )
            found.append(Detections(boxes[kept], scores[rows][kept], labels[rows][kept]))
        return found

    def _decode(self, residuals: Tensor, anchors: Tensor, directions: Tensor) -> Tensor:
        boxes = decode_boxes(residuals, anchors)
        half_turn = torch.remainder(boxes[:, 6] - self.direction_offset, math.pi) + self.direction_offset
        yaw = half_turn + math.pi * directions.argmax(dim=1).to(half_turn.dtype)
        yaw = torch.remainder(yaw + math.pi, 2 * math.pi) - math.pi
        return torch.cat([boxes[:, :6], yaw[:, None]], dim=1)

    def _sample_loss(self, output: AnchorHeadOutput, index: int, boxes: Tensor, labels: Tensor) -> Tensor:
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"labels: found {int(labels.min())} to {int(labels.max())}, expected 0 to {self.num_classes - 1}: the "
                "data has other classes than the anchors"
            )
        targets = assign_anchors(self.anchors, self.anchor_labels, self.specs, boxes, labels)
        counted = (targets.labels != IGNORED).nonzero().squeeze(1)
        finding = (targets.labels >= 0).nonzero().squeeze(1)
        number = max(len(finding), 1)
        logits = output.classes[index, counted]
        wanted = F.one_hot(targets.labels[counted].clamp(min=0), self.num_classes).to(logits.dtype)
        wanted = wanted * (targets.labels[counted] >= 0)[:, None]
        focal = sigmoid_focal_loss(logits, wanted).sum() / number
        anchors, truth = self.anchors[finding], boxes[targets.matched[finding], :7].to(logits.dtype)
        residuals = box_residual_loss(output.residuals[index, finding], encode_boxes(truth, anchors)).sum() / number
        heading = direction_target(truth[:, 6], offset=self.direction_offset)
        directions = F.cross_entropy(output.directions[index, finding], heading, reduction="sum") / number
        return torch.stack([focal, residuals, directions])

    def _weights(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.class_weight, self.box_weight, self.direction_weight])
