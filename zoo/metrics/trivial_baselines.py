"""What a method without any learning reaches: a yardstick that a trained network has to leave well behind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from zoo.ops import knn

__all__ = ["height_intensity_3nn", "occupancy_3nn", "occupancy_grid", "vote"]

_NEIGHBORS = 3


def occupancy_grid(coord: Tensor, resolution: int = 16) -> Tensor:
    """Which cells of a cube around the cloud ``(N, 3)`` hold a point: ``(resolution^3,)`` float of 0 and 1.

    The cube is centred on the middle of the cloud's box and as wide as its longest side.
    """
    low, high = coord.amin(dim=0), coord.amax(dim=0)
    side = (high - low).amax().clamp(min=1e-9)
    cells = ((coord - (low + high) / 2) / side + 0.5) * resolution
    cells = cells.floor().clamp(0, resolution - 1).long()
    flat = (cells[:, 0] * resolution + cells[:, 1]) * resolution + cells[:, 2]
    grid = torch.zeros(resolution**3)
    grid[flat] = 1.0
    return grid


def vote(labels: Tensor, num_classes: int) -> Tensor:
    """The most frequent label of each row of ``(Q, k)``, nearest first; the nearest one's where all differ."""
    counts = torch.zeros(len(labels), num_classes).scatter_add_(1, labels, torch.ones(labels.shape))
    counts.scatter_add_(1, labels[:, :1], torch.full((len(labels), 1), 0.5))
    return counts.argmax(dim=1)


def occupancy_3nn(
    train: Sequence[Tensor], train_labels: Tensor, test: Sequence[Tensor], num_classes: int, resolution: int = 16
) -> Tensor:
    """Classes ``(Q,)`` of the test clouds by the three training clouds whose occupied cells differ least.

    Args:
        train: clouds ``(N, 3)``.
        train_labels: ``(T,)`` int64.
        test: clouds to classify.
        num_classes: K.
        resolution: cells on each side.
    """
    known = torch.stack([occupancy_grid(coord, resolution) for coord in train])
    asked = torch.stack([occupancy_grid(coord, resolution) for coord in test])
    differing = asked.sum(1, keepdim=True) + known.sum(1) - 2 * asked @ known.T  # Hamming distance
    nearest = differing.topk(min(_NEIGHBORS, len(known)), dim=1, largest=False).indices
    return vote(train_labels[nearest], num_classes)


def height_intensity_3nn(
    train: Iterable[tuple[Tensor, Tensor]],
    test: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    points_per_cloud: int = 2000,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Classes of test points by the three training points nearest in height and intensity, both standardised.

    Args:
        train: for each cloud ``(N, 2)`` height and intensity, and classes ``(N,)``; negative ones are left out.
        test: likewise.
        num_classes: K.
        points_per_cloud: so many random points of each cloud are used.
        seed: of the choice.

    Returns:
        Predictions and targets ``(Q,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    known, labels = _gather(train, points_per_cloud, generator)
    asked, targets = _gather(test, points_per_cloud, generator)
    mean, deviation = known.mean(dim=0), known.std(dim=0).clamp(min=1e-6)
    known, asked = (known - mean) / deviation, (asked - mean) / deviation
    nearest = knn(known, asked, min(_NEIGHBORS, len(known))).indices
    return vote(labels[nearest], num_classes), targets


def _gather(clouds: Iterable[tuple[Tensor, Tensor]], count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    values, labels = [], []
    for cloud, classes in clouds:
        rows = (classes >= 0).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)[:count]]
        values.append(cloud[rows])
        labels.append(classes[rows])
    return torch.cat(values), torch.cat(labels)
