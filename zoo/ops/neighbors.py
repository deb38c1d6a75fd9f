"""Exact searches among points: nearest neighbours, balls, furthest point sampling, and interpolation by them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.interpolate import three_interpolate
from zoo.ops.point_tree import PointTree, check_offsets, check_points, fill_axes, point_order, samples_of
from zoo.ops.reference import neighbors as reference

_TREE = "Tensor points, Tensor order, Tensor samples, Tensor boxes, Tensor sample_range"
_QUERIES = "Tensor queries, Tensor query_samples, Tensor query_order"


def _fake_knn(queries: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], rest[-1])
    return queries.new_empty(shape, dtype=torch.int64), queries.new_empty(shape)


def _fake_ball(queries: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    count = queries.shape[0]
    return queries.new_empty((count, rest[-1]), dtype=torch.int64), queries.new_empty(count, dtype=torch.int64)


_point_knn = define_op(
    f"point_knn({_QUERIES}, {_TREE}, SymInt k) -> (Tensor, Tensor)", reference=reference.point_knn, fake=_fake_knn
)
_point_ball = define_op(
    f"point_ball({_QUERIES}, {_TREE}, float radius, SymInt max_neighbors) -> (Tensor, Tensor)",
    reference=reference.point_ball,
    fake=_fake_ball,
)
_furthest_points = define_op(
    "furthest_points(Tensor points, Tensor order, Tensor offsets, SymInt num_samples) -> Tensor",
    reference=reference.furthest_points,
    fake=lambda points, order, offsets, num_samples: offsets.new_empty((offsets.shape[0] - 1, num_samples)),
)


class Neighbors(NamedTuple):
    """What `knn` finds.

    Attributes:
        indices: Rows of the points, nearest first, ``(M, k)`` int64; -1 where the sample has fewer than k points.
        squared_distances: ``(M, k)``, inf there; differentiable in points and queries.
    """

    indices: Tensor
    squared_distances: Tensor


class BallNeighbors(NamedTuple):
    """What `ball_query` finds.

    Attributes:
        indices: Rows of the points, ascending, ``(M, K)`` int64; -1 beyond ``counts``.
        counts: Number of points found, at most K, ``(M,)`` int64.
    """

    indices: Tensor
    counts: Tensor


def _as_tree(points: Tensor | PointTree, offsets: Tensor | None) -> PointTree:
    if isinstance(points, Tensor):
        return PointTree.from_points(points, offsets)
    if offsets is not None:
        raise ValueError("offsets: found beside a PointTree, which knows its samples; expected None")
    return points


def _checked_queries(tree: PointTree, queries: Tensor, query_offsets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries with three axes, their samples, and the order in which to search."""
    check_points("queries", queries)
    checks.check_shape("queries", queries, ("M", tree.num_axes))
    checks.check_same_dtype("queries", queries, "points", tree.points)
    checks.check_same_device("queries", queries, "points", tree.points)
    clouds = 1 if query_offsets is None else len(query_offsets) - 1
    if clouds != tree.num_clouds:
        raise ValueError(f"query_offsets: found {clouds} samples, expected {tree.num_clouds}, as the points have")
    checks.check_finite("queries", queries)
    samples = samples_of("query_offsets", query_offsets, queries)
    filled = fill_axes(queries.detach())
    return filled, samples, point_order(filled, samples)


def knn(
    points: Tensor | PointTree,
    queries: Tensor,
    k: int,
    *,
    offsets: Tensor | None = None,
    query_offsets: Tensor | None = None,
) -> Neighbors:
    r"""The k points nearest to each query.

    Exact; of equal distances the lower row comes first. The gradient of a squared distance
    :math:`d = |q - p|^2` is :math:`2 (q - p)` for the query and its negative for the point.

    Args:
        points: ``(N, D)``, D = 1 to 3, or a `PointTree` built from them for repeated searches.
        queries: ``(M, D)``.
        k: Number of neighbours, at least 1.
        offsets: Rows ``offsets[b]`` to ``offsets[b + 1]`` of the points are sample b, ``(B + 1,)`` int64.
        query_offsets: The same for the queries; a query finds points of its own sample only.

    Returns:
        Indices and squared distances, ``(M, k)``.

    Raises:
        ValueError: Wrong shape, dtype or device, offsets that do not fit, or coordinates that are not finite.

    Example:
        >>> import torch
        >>> found = knn(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.9]]), 2)
        >>> found.indices.tolist(), [round(d, 2) for d in found.squared_distances[0].tolist()]
        ([[1, 0]], [0.01, 0.81])
    """
    tree = _as_tree(points, offsets)
    if k < 1:
        raise ValueError(f"k: found {k}, expected at least 1")
    indices, squared = _point_knn(*_checked_queries(tree, queries, query_offsets), *tree.parts, k)
    if torch.is_grad_enabled() and (queries.requires_grad or tree.source.requires_grad):
        near = three_interpolate(tree.source, indices.view(-1, 1), torch.ones_like(squared.view(-1, 1)))
        near = near.view(*indices.shape, tree.num_axes)
        squared = torch.where(indices >= 0, (queries[:, None] - near).square().sum(-1), squared)
    return Neighbors(indices, squared)


def ball_query(
    points: Tensor | PointTree,
    queries: Tensor,
    radius: float,
    max_neighbors: int,
    *,
    offsets: Tensor | None = None,
    query_offsets: Tensor | None = None,
) -> BallNeighbors:
    """The points nearer than ``radius`` to each query: the first ``max_neighbors`` of them by row.

    Args:
        points: ``(N, D)``, D = 1 to 3, or a `PointTree`.
        queries: ``(M, D)``.
        radius: Above 0; a point at exactly this distance is outside.
        max_neighbors: K, at least 1.
        offsets: Samples of the points, as in `knn`.
        query_offsets: Samples of the queries.

    Returns:
        Indices ``(M, K)`` and counts ``(M,)``.

    Raises:
        ValueError: Wrong shape, dtype or device, offsets that do not fit, or coordinates that are not finite.

    Example:
        >>> import torch
        >>> ball_query(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.9]]), 1.0, 3).indices.tolist()
        [[0, 1, -1]]
    """
    tree = _as_tree(points, offsets)
    if not 0 < radius < float("inf"):
        raise ValueError(f"radius: found {radius}, expected a finite number above 0")
    if max_neighbors < 1:
        raise ValueError(f"max_neighbors: found {max_neighbors}, expected at least 1")
    found = _point_ball(*_checked_queries(tree, queries, query_offsets), *tree.parts, radius, max_neighbors)
    return BallNeighbors(*found)


def furthest_point_sample(points: Tensor, num_samples: int, *, offsets: Tensor | None = None) -> Tensor:
    """Points spread evenly over a cloud: the first one, then always the one farthest from those chosen so far.

    Of equal distances the lower row wins; no row is chosen twice.

    Args:
        points: ``(N, D)``, D = 1 to 3.
        num_samples: S, how many to choose from each cloud.
        offsets: Rows ``offsets[b]`` to ``offsets[b + 1]`` are cloud b, ``(B + 1,)`` int64.

    Returns:
        Rows of ``points`` in the order of choice, int64: ``(S,)``, or ``(B, S)`` with ``offsets``; -1 where a cloud has
        fewer points.

    Raises:
        ValueError: Wrong shape or dtype, offsets that do not fit, or coordinates that are not finite.

    Example:
        >>> import torch
        >>> furthest_point_sample(torch.tensor([[0.0], [1.0], [5.0], [2.0]]), 3).tolist()
        [0, 2, 3]
    """
    check_points("points", points)
    checks.check_finite("points", points)
    if num_samples < 0:
        raise ValueError(f"num_samples: found {num_samples}, expected at least 0")
    if offsets is not None:
        check_offsets("offsets", offsets, len(points))
        checks.check_same_device("offsets", offsets, "points", points)
    bounds = torch.tensor([0, len(points)], device=points.device) if offsets is None else offsets
    filled = fill_axes(points.detach())
    order = point_order(filled, samples_of("offsets", offsets, points))
    chosen = _furthest_points(filled[order], order, bounds, num_samples)
    return chosen if offsets is not None else chosen[0]


def interpolate_features(
    points: Tensor | PointTree,
    features: Tensor,
    queries: Tensor,
    k: int = 3,
    *,
    offsets: Tensor | None = None,
    query_offsets: Tensor | None = None,
    eps: float = 1e-8,
) -> Tensor:
    r"""Features at queries from their k nearest points, weighted by the inverse of the squared distance.

    .. math:: y = \frac{\sum_k w_k x_k}{\sum_k w_k}, \quad w_k = \frac{1}{d_k^2 + \epsilon}

    Args:
        points: ``(N, D)``, D = 1 to 3, or a `PointTree`.
        features: ``(N, C)``.
        queries: ``(M, D)``.
        k: Number of neighbours.
        offsets: Samples of the points, as in `knn`.
        query_offsets: Samples of the queries.
        eps: Keeps a query that lies on a point from dividing by zero.

    Returns:
        ``(M, C)``, zero for a query whose sample has no point; differentiable in features, points and queries.

    Example:
        >>> import torch
        >>> points, features = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [3.0]])
        >>> interpolate_features(points, features, torch.tensor([[1.0]]))
        tensor([[2.]])
    """
    found = knn(points, queries, k, offsets=offsets, query_offsets=query_offsets)
    weights = torch.where(found.indices >= 0, 1.0 / (found.squared_distances + eps), 0)
    weights = weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return three_interpolate(features, found.indices, weights)
