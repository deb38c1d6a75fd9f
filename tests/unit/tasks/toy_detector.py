"""A detector that learns in seconds: clusters of points become boxes of a learned size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.data.detection import DetectionBatch, Detections, collate_detection


class ToyDetector(nn.Module):
    """One box of class 0 for each sample, at the mean of its points, with a learned size and score."""

    def __init__(self, *, num_classes: int = 3) -> None:
        super().__init__()
        self.size = nn.Parameter(torch.ones(3))
        self.score = nn.Parameter(torch.zeros(num_classes))

    def loss(self, batch: DetectionBatch) -> dict[str, Tensor]:
        boxes = torch.cat(batch.boxes)
        size = (self.size - boxes[:, 3:6]).abs().mean() if len(boxes) else self.size.sum() * 0
        score = (self.score - 2).square().mean()
        return {"loss": size + score, "size": size, "score": score}

    def predict(self, batch: DetectionBatch) -> list[Detections]:
        results = []
        for index in range(batch.batch_size):
            points = batch.points[batch.point_batch == index]
            if not len(points):
                empty = points.new_zeros(0)
                results.append(Detections(points.new_zeros(0, 7), empty, empty.long()))
                continue
            box = torch.cat([points[:, :3].mean(0), self.size, self.size.new_zeros(1)])
            results.append(Detections(box[None], self.score[:1].sigmoid(), points.new_zeros(1).long()))
        return results


class EvenDetector(ToyDetector):
    """Every sample weighs the same, so that the mean over two processes is the mean over their samples."""

    def loss(self, batch: DetectionBatch) -> dict[str, Tensor]:
        terms = [ToyDetector.loss(self, collate_detection([batch.sample(row)])) for row in range(batch.batch_size)]
        return {name: torch.stack([some[name] for some in terms]).mean() for name in terms[0]}


class PerfectDetector(ToyDetector):
    """Finds what is labelled, with the score 0.9, and one box far away."""

    def predict(self, batch: DetectionBatch) -> list[Detections]:
        results = []
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True):
            far = boxes.new_tensor([[500.0, 0, 0, 4, 2, 1.5, 0]])
            scores = torch.cat([torch.full((len(boxes),), 0.9), torch.tensor([0.2])])
            results.append(Detections(torch.cat([boxes, far]), scores, torch.cat([labels, labels.new_zeros(1)])))
        return results
