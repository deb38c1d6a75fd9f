"""The loss of a step of GridPull for one cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoo.data.surface_cloud import draw_queries
from zoo.losses.pulling import band_edges, continuity_loss, normal_consistency_loss, pull_loss, surface_loss
from zoo.models.gridpull import DistanceGrid, FieldSample, band_cells, pull
from zoo.ops import PointTree, knn

__all__ = ["PullTerms"]


class PullTerms:
    """Draws the queries of a step near a cloud, and weighs what they and the band say about the field.

    Args:
        model: The grid, placed onto the cloud.
        cloud: In its frame, ``(N, 3)``.
        level: Half width in cells of the band in which continuity is asked for.
        weights: Of the terms ``pull``, ``surface``, ``normal`` and ``continuity``.
    """

    def __init__(self, model: DistanceGrid, cloud: Tensor, *, level: int, weights: Mapping[str, float]) -> None:
        self.model, self.weights = model, dict(weights)
        index, weight = band_cells(model.to_cells(cloud), model.resolution, level)
        self.edges = band_edges(index, weight, model.values.shape)
        self.tree = PointTree.from_points(cloud)

    def queries(self, count: int, *, sigmas: Sequence[float], shares: Sequence[float], seed: int, step: int) -> Tensor:
        """Positions near the cloud ``(count, 3)``, see `draw_queries`."""
        return draw_queries(self.tree.source, count, sigmas=sigmas, shares=shares, seed=seed, step=step)

    def __call__(self, queries: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term without its weight."""
        targets = self.tree.source[knn(self.tree, queries, 1).indices[:, 0]]
        both = self.model(torch.cat([queries, targets]))
        at_queries, at_targets = (
            FieldSample(*part) for part in zip(*(x.split(len(queries)) for x in both), strict=True)
        )
        terms = {
            "pull": pull_loss(queries, targets, pull(queries, at_queries)),
            "surface": surface_loss(at_targets.value),
            "normal": normal_consistency_loss(at_queries.normal, at_targets.normal),
            "continuity": continuity_loss(self.model.values, self.edges),
        }
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum(), terms
