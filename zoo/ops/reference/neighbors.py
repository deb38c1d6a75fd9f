"""Searches among points by computing every distance."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_MOST_DISTANCES = 1 << 22  # held at a time
_BITS = 20  # of Morton codes, on each axis


def point_order(points: Tensor, samples: Tensor) -> Tensor:
    """Rows of finite points ``(N, 3)`` such that neighbours in the list are near each other, by sample first, ``(N,)``.

    This is Morton order; native kernels may arrange the points otherwise within a sample.
    """
    if not len(points):
        return torch.zeros(0, dtype=torch.int64, device=points.device)
    wide = points.double()
    low = wide.amin(0)
    scale = (wide.amax(0) - low).amax().clamp_min(1e-300)
    cells = ((wide - low) / scale * (2**_BITS - 1)).to(torch.int64)
    code = _spread(cells[:, 0]) | (_spread(cells[:, 1]) << 1) | (_spread(cells[:, 2]) << 2)
    order = torch.argsort(code, stable=True)
    return order[torch.argsort(samples[order], stable=True)]


def _spread(value: Tensor) -> Tensor:
    """Two zero bits after each of the lowest 21 bits."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        value = (value | (value << shift)) & mask
    return value


def squared_distances(queries: Tensor, points: Tensor) -> Tensor:
    """``(M, N)``, summed x, y, z in this order."""
    x, y, z = (queries[:, None] - points[None]).unbind(-1)
    return x * x + y * y + z * z


def _in_caller_order(points: Tensor, order: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return points[inverse], samples[inverse]


def _blocks(queries: Tensor, num_points: int) -> Iterator[slice]:
    size = max(1, _MOST_DISTANCES // max(1, num_points))
    return (slice(start, start + size) for start in range(0, len(queries), size))


def point_knn(
    queries: Tensor,
    query_samples: Tensor,
    query_order: Tensor,
    points: Tensor,
    order: Tensor,
    samples: Tensor,
    boxes: Tensor,
    sample_range: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Rows ``(M, k)`` of the nearest points of the same sample and squared distances; -1 and inf where missing."""
    places, owners = _in_caller_order(points, order, samples)
    rows = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
    distances = queries.new_full((len(queries), k), float("inf"))
    found = min(k, len(places))
    for block in _blocks(queries, len(places)):
        apart = squared_distances(queries[block], places)
        apart = torch.where(query_samples[block, None] == owners[None], apart, float("inf"))
        nearest, index = torch.sort(apart, dim=1, stable=True)
        nearest, index = nearest[:, :found], index[:, :found]
        same = owners[index] == query_samples[block, None]
        rows[block, :found] = torch.where(same, index, -1)
        distances[block, :found] = torch.where(same, nearest, float("inf"))
    return rows, distances


def point_ball(
    queries: Tensor,
    query_samples: Tensor,
    query_order: Tensor,
    points: Tensor,
    order: Tensor,
    samples: Tensor,
    boxes: Tensor,
    sample_range: Tensor,
    radius: float,
    max_neighbors: int,
) -> tuple[Tensor, Tensor]:
    """The first ``max_neighbors`` rows ``(M, K)`` nearer than the radius, ascending, and their number ``(M,)``."""
    places, owners = _in_caller_order(points, order, samples)
    rows = torch.full((len(queries), max_neighbors), -1, dtype=torch.int64, device=queries.device)
    counts = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    width = min(max_neighbors, len(places))
    numbers = torch.arange(len(places), device=queries.device)
    for block in _blocks(queries, len(places)):
        inside = squared_distances(queries[block], places) < radius * radius
        inside &= query_samples[block, None] == owners[None]
        first = torch.where(inside, numbers, len(places)).sort(dim=1).values[:, :width]
        rows[block, :width] = torch.where(first < len(places), first, -1)
        counts[block] = inside.sum(1).clamp_max(max_neighbors)
    return rows, counts


def furthest_points(points: Tensor, order: Tensor, offsets: Tensor, num_samples: int) -> Tensor:
    """Rows ``(B, num_samples)``: each cloud's first point, then always the one farthest from those chosen."""
    places, _ = _in_caller_order(points, order, order)
    clouds = len(offsets) - 1
    chosen = torch.full((clouds, num_samples), -1, dtype=torch.int64, device=points.device)
    for cloud in range(clouds):
        begin, end = int(offsets[cloud]), int(offsets[cloud + 1])
        own = places[begin:end]
        distance = own.new_full((end - begin,), float("inf"))
        row = 0
        for step in range(min(num_samples, end - begin)):
            chosen[cloud, step] = begin + row
            distance = torch.minimum(distance, squared_distances(own[row][None], own)[0])
            distance[row] = -1.0
            row = int(distance.argmax())
    return chosen
