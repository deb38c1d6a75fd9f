"""A bounding-box tree over points: built by sorting, searched by `knn` and `ball_query`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import neighbors as reference

LEAF_POINTS = 8

point_order = define_op(
    "point_order(Tensor points, Tensor samples) -> Tensor",
    reference=reference.point_order,
    fake=lambda points, samples: samples.new_empty(samples.shape),
)


@dataclass(frozen=True, eq=False)
class PointTree:
    """Points in a spatial order under a complete binary tree of bounding boxes.

    Build it once with `from_points` where one cloud is searched many times. Points of several clouds (samples of a
    batch) share a tree; a search never crosses from one to another.

    Attributes:
        points: ``(N, 3)``, sorted; clouds of 1 or 2 axes are filled up with zeros.
        order: Caller's row of each sorted point, ``(N,)`` int64.
        samples: Sample of each sorted point, ``(N,)`` int64, ascending.
        boxes: ``(2 L - 1, 6)`` lower and upper corner of each node, root first, L leaves of 8 points.
        sample_range: ``(2 L - 1, 2)`` int64 first and last sample under each node; first > last where it is empty.
        num_axes: Axes of the caller's points.
        num_clouds: Number of samples.
        source: The caller's points, ``(N, num_axes)``, through which gradients flow.
    """

    points: Tensor
    order: Tensor
    samples: Tensor
    boxes: Tensor
    sample_range: Tensor
    num_axes: int
    num_clouds: int
    source: Tensor

    def __len__(self) -> int:
        return self.points.shape[0]

    @classmethod
    def from_points(cls, points: Tensor, offsets: Tensor | None = None) -> PointTree:
        """Build the tree.

        Args:
            points: ``(N, D)``, D = 1 to 3, finite.
            offsets: Rows ``offsets[b]`` to ``offsets[b + 1]`` are sample b, ``(B + 1,)`` int64; None is one sample.

        Raises:
            ValueError: Wrong shape or dtype, values that are not finite, or offsets that do not cut the rows.
        """
        check_points("points", points)
        checks.check_finite("points", points)
        samples = samples_of("offsets", offsets, points)
        num_clouds = 1 if offsets is None else len(offsets) - 1
        filled = fill_axes(points.detach())
        order = point_order(filled, samples)
        ordered, samples = filled[order], samples[order]
        boxes, sample_range = _build_nodes(ordered, samples)
        return cls(ordered, order, samples, boxes, sample_range, points.shape[1], num_clouds, points)

    @cached_property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the search ops take."""
        return self.points, self.order, self.samples, self.boxes, self.sample_range


def check_points(name: str, points: Tensor) -> None:
    """Raise ValueError unless these are points of 1 to 3 axes."""
    if points.dim() != 2 or not 1 <= points.shape[1] <= 3:
        raise ValueError(f"{name}: found shape {tuple(points.shape)}, expected (N, D) with D = 1, 2 or 3")
    checks.check_dtype(name, points, checks.FLOATING)


def samples_of(name: str, offsets: Tensor | None, points: Tensor) -> Tensor:
    """Sample of each row, ``(N,)`` int64, from the offsets ``(B + 1,)`` of the samples."""
    if offsets is None:
        return torch.zeros(len(points), dtype=torch.int64, device=points.device)
    check_offsets(name, offsets, len(points))
    checks.check_same_device(name, offsets, "points", points)
    clouds = torch.arange(len(offsets) - 1, device=points.device)
    return torch.repeat_interleave(clouds, offsets.diff(), output_size=len(points))


def check_offsets(name: str, offsets: Tensor, num_rows: int) -> None:
    """Raise ValueError unless the offsets cut ``num_rows`` rows into samples."""
    checks.check_shape(name, offsets, ("B + 1",))
    checks.check_dtype(name, offsets, torch.int64)
    values = offsets.tolist()
    if not values or values[0] != 0 or values[-1] != num_rows or sorted(values) != values:
        raise ValueError(f"{name}: found {values[:8]}, expected ascending row numbers from 0 to {num_rows}")


def fill_axes(points: Tensor) -> Tensor:
    """Three axes: the missing ones are zero, which changes no distance."""
    return torch.nn.functional.pad(points, (0, 3 - points.shape[1])).contiguous()


def _build_nodes(points: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and sample ranges of all nodes, from the leaves up."""
    leaves = 1
    while leaves * LEAF_POINTS < len(points):
        leaves *= 2
    missing = leaves * LEAF_POINTS - len(points)
    pad = torch.nn.functional.pad
    low = pad(points, (0, 0, 0, missing), value=float("inf")).view(leaves, LEAF_POINTS, 3).amin(1)
    high = pad(points, (0, 0, 0, missing), value=float("-inf")).view(leaves, LEAF_POINTS, 3).amax(1)
    first = pad(samples, (0, missing), value=2**62).view(leaves, LEAF_POINTS).amin(1)
    last = pad(samples, (0, missing), value=-1).view(leaves, LEAF_POINTS).amax(1)
    boxes, ranges = [torch.cat([low, high], 1)], [torch.stack([first, last], 1)]
    while len(boxes[-1]) > 1:
        pairs, pair_ranges = boxes[-1].view(-1, 2, 6), ranges[-1].view(-1, 2, 2)
        boxes.append(torch.cat([pairs[..., :3].amin(1), pairs[..., 3:].amax(1)], 1))
        ranges.append(torch.stack([pair_ranges[..., 0].amin(1), pair_ranges[..., 1].amax(1)], 1))
    return torch.cat(boxes[::-1]), torch.cat(ranges[::-1])
