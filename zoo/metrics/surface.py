r"""How close a surface comes to the true one, as papers on reconstruction measure it, from points sampled on both.

With :math:`d(a, B)` the distance of a point to the nearest of a set, P the predicted and T the true points:

- accuracy: mean of :math:`d(p, T)`; completeness: mean of :math:`d(t, P)`,
- **Chamfer-L1**: half the sum of both. Papers print ten times that number ("Chamfer-L1 x10", the unit is a tenth of the
  box's edge); **Chamfer-L2**: the same of squared distances,
- **normal consistency**: mean of :math:`|n_p \cdot n_t|` with the nearest point's unit normal, averaged over both ways,
- **F-score(t)**: harmonic mean of precision, the share of P nearer than t, and recall, that of T; 0 where both are,
- **IoU**: :math:`|A \cap B| / |A \cup B|` of two sets of occupied points.

All but the IoU are in units of the points: Occupancy Networks' clouds have a longest side of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.metrics.gathered_rows import join_rows
from zoo.ops import knn

__all__ = [
    "SurfaceDistances",
    "SurfaceScores",
    "chamfer_l1",
    "chamfer_l1_x10",
    "chamfer_l2",
    "f_score",
    "normal_consistency",
    "occupancy_iou",
    "surface_distances",
]

_EMPTY = 3**0.5  # distance that a missing surface is given: the diagonal of the unit cube


class SurfaceDistances(NamedTuple):
    """Distances between two sampled surfaces.

    Attributes:
        accuracy: From each predicted point to the true surface, ``(N,)``.
        completeness: From each true point to the predicted surface, ``(M,)``.
        accuracy_cosine: Absolute cosine between a predicted point's normal and the nearest true one's, ``(N,)``.
        completeness_cosine: The same for each true point, ``(M,)``.
    """

    accuracy: Tensor
    completeness: Tensor
    accuracy_cosine: Tensor | None = None
    completeness_cosine: Tensor | None = None


def surface_distances(
    predicted: Tensor,
    target: Tensor,
    predicted_normals: Tensor | None = None,
    target_normals: Tensor | None = None,
    *,
    componentwise: bool = False,
) -> SurfaceDistances:
    r"""Exact nearest-neighbour distances between two sampled surfaces, and cosines where both have normals.

    Args:
        predicted: ``(N, 3)``, at least one point.
        target: ``(M, 3)``.
        predicted_normals: ``(N, 3)`` of any length.
        target_normals: ``(M, 3)``.
        componentwise: GridPull's upstream code takes :math:`\sum_k |n_k m_k|` for the cosine, which is never smaller.

    Raises:
        ValueError: No point, wrong shapes, or coordinates that are not finite.

    Example:
        >>> found = surface_distances(torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 2.0]]))
        >>> float(chamfer_l1(found)), float(f_score(found, 0.01))
        (2.0, 0.0)
    """
    for name, points, normals in (
        ("predicted", predicted, predicted_normals),
        ("target", target, target_normals),
    ):
        if points.dim() != 2 or points.shape[1] != 3 or len(points) == 0:
            raise ValueError(f"{name}: found shape {tuple(points.shape)}, expected (N, 3) with at least one point")
        if normals is not None and normals.shape != points.shape:
            raise ValueError(f"{name}_normals: found shape {tuple(normals.shape)}, expected {tuple(points.shape)}")
    predicted, target = predicted.detach().double(), target.detach().double()
    to_target, to_predicted = knn(target, predicted, 1), knn(predicted, target, 1)
    accuracy, completeness = to_target.squared_distances[:, 0].sqrt(), to_predicted.squared_distances[:, 0].sqrt()
    if predicted_normals is None or target_normals is None:
        return SurfaceDistances(accuracy, completeness)
    first, second = (torch.nn.functional.normalize(n.double(), dim=-1) for n in (predicted_normals, target_normals))
    cosines = []
    for own, other, rows in ((first, second, to_target.indices), (second, first, to_predicted.indices)):
        products = own * other[rows[:, 0]]
        cosines.append(products.abs().sum(-1) if componentwise else products.sum(-1).abs())
    return SurfaceDistances(accuracy, completeness, *cosines)


def chamfer_l1(distances: SurfaceDistances) -> Tensor:
    """Half the sum of the two mean distances."""
    return (distances.accuracy.mean() + distances.completeness.mean()) / 2


def chamfer_l1_x10(distances: SurfaceDistances) -> Tensor:
    """Ten times Chamfer-L1, the number that papers print for clouds in the unit cube."""
    return 10 * chamfer_l1(distances)


def chamfer_l2(distances: SurfaceDistances) -> Tensor:
    """Half the sum of the two mean squared distances."""
    return (distances.accuracy.square().mean() + distances.completeness.square().mean()) / 2


def normal_consistency(distances: SurfaceDistances) -> Tensor:
    """Mean of the two mean absolute cosines.

    Raises:
        ValueError: The distances were taken without normals.
    """
    if distances.accuracy_cosine is None or distances.completeness_cosine is None:
        raise ValueError("distances: hold no cosines; give normals of both surfaces to surface_distances")
    return (distances.accuracy_cosine.mean() + distances.completeness_cosine.mean()) / 2


def f_score(distances: SurfaceDistances, threshold: float) -> Tensor:
    """Harmonic mean of the shares of points nearer than or at the threshold; 0 where both are 0.

    Raises:
        ValueError: A threshold that is not above 0.
    """
    if not threshold > 0:
        raise ValueError(f"threshold: found {threshold}, expected a distance above 0")
    precision = (distances.accuracy <= threshold).double().mean()
    recall = (distances.completeness <= threshold).double().mean()
    return 2 * precision * recall / (precision + recall).clamp_min(1e-300)


def occupancy_iou(predicted: Tensor, target: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Intersection over union of occupied points, ``(...)`` from ``(..., N)``; 1 where neither occupies any.

    Args:
        predicted: Bool, or numbers that are occupied from ``threshold`` on, ``(..., N)``.
        target: The same.
        threshold: For numbers.

    Example:
        >>> occupancy_iou(torch.tensor([0.9, 0.2, 0.8]), torch.tensor([True, True, False]))
        tensor(0.3333)
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted, target: found {tuple(predicted.shape)}, {tuple(target.shape)}; expected the same")
    first, second = (x if x.dtype == torch.bool else x >= threshold for x in (predicted, target))
    both, either = (first & second).sum(-1), (first | second).sum(-1)
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(either, dtype=torch.float32))


class SurfaceScores(Metric):
    """Chamfer-L1 (and x10), Chamfer-L2, normal consistency and F-scores over many surfaces: the mean of class means.

    A surface that was not found, `update_empty`, counts with the distances of Occupancy Networks' evaluation: the
    diagonal of the unit cube, normals -1, F-score 0; ``empty_meshes`` is the number of them.

    Args:
        thresholds: Of the F-scores, each with its name in the result: ``f_score_0.01``.
        componentwise: See `surface_distances`.

    Example:
        >>> scores = SurfaceScores()
        >>> scores.update(torch.zeros(2, 3), torch.zeros(1, 3))
        >>> float(scores.compute()["f_score_0.01"])
        1.0
    """

    rows: list[Tensor] | Tensor
    empty: Tensor
    full_state_update = False
    higher_is_better = None

    def __init__(self, *, thresholds: Sequence[float] = (0.01, 0.015, 0.02), componentwise: bool = False) -> None:
        super().__init__()
        self.thresholds, self.componentwise = tuple(thresholds), componentwise
        self.names = (
            *("accuracy", "completeness", "chamfer_l1", "chamfer_l1_x10", "chamfer_l2", "normal_consistency"),
            *(f"f_score_{threshold:g}" for threshold in self.thresholds),
        )
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("empty", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(
        self,
        predicted: Tensor,
        target: Tensor,
        predicted_normals: Tensor | None = None,
        target_normals: Tensor | None = None,
        *,
        category: int = 0,
    ) -> None:
        """Add one surface: points sampled on it and on the true one, ``(N, 3)`` and ``(M, 3)``, and their normals.

        An empty ``predicted`` is a surface that was not found.
        """
        if len(predicted) == 0:
            self.update_empty(category=category)
            return
        found = surface_distances(
            predicted, target, predicted_normals, target_normals, componentwise=self.componentwise
        )
        cosine = found.accuracy.new_tensor(float("nan")) if found.accuracy_cosine is None else normal_consistency(found)
        chamfer = chamfer_l1(found)
        means = [found.accuracy.mean(), found.completeness.mean(), chamfer, chamfer_l1_x10(found), chamfer_l2(found)]
        self._add([*means, cosine, *(f_score(found, threshold) for threshold in self.thresholds)], category)

    def update_empty(self, *, category: int = 0) -> None:
        """Add a surface that was not found."""
        self.empty += 1
        zeros = [0.0] * len(self.thresholds)
        self._add(torch.tensor([_EMPTY, _EMPTY, _EMPTY, 10 * _EMPTY, 3.0, -1.0, *zeros]).unbind(), category)

    def _add(self, values: Sequence[Tensor], category: int) -> None:
        row = torch.stack([torch.as_tensor(float(category)), *(value.detach().cpu() for value in values)])
        assert isinstance(self.rows, list)
        self.rows.append(row.double().to(self.device)[None])

    def compute(self) -> dict[str, Tensor]:
        """Each figure: mean over the surfaces of a category, then over the categories; NaN without any surface."""
        rows = join_rows(self.rows, len(self.names) + 1)
        means = [rows[rows[:, 0] == category, 1:].mean(dim=0) for category in rows[:, 0].unique()]
        values = torch.stack(means).mean(dim=0) if means else rows.new_full((len(self.names),), float("nan"))
        return {**dict(zip(self.names, values.unbind(), strict=True)), "empty_meshes": self.empty.double()}
