"""Test-time augmentation of clouds: rotated copies cut into fragments that together hold every point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from zoo.data.point_samples import FragmentedCloud, PointSample, collate_points
from zoo.data.point_transforms import rotation_about, turn
from zoo.ops import grid_sample_points

__all__ = ["PointFragments"]


class PointFragments:
    """Cuts a cloud into fragments; the network's scores of a point are summed over all fragments that hold it.

    Fragment i of a rotation takes point ``i mod count`` of each cell, so that there are as many fragments as the
    fullest cell has points.

    Args:
        grid_size: edge of a cell.
        angles: rotations about z in degrees.
        max_points: fragments are joined to batches of at most so many points; 0: each fragment is a batch.
    """

    def __init__(
        self, *, grid_size: float, angles: Sequence[float] = (0.0, 90.0, 180.0, 270.0), max_points: int = 200_000
    ) -> None:
        if not grid_size > 0 or not angles:
            raise ValueError(f"grid_size, angles: found {grid_size}, {list(angles)}, expected a size and an angle")
        self.grid_size, self.angles, self.max_points = grid_size, tuple(angles), max_points

    def __call__(self, sample: PointSample, feature_names: Sequence[str]) -> FragmentedCloud:
        """The fragments of a cloud."""
        pieces = []
        for angle in self.angles:
            turned = turn(sample, rotation_about("z", angle))
            found = grid_sample_points(turned.coord, self.grid_size, mode="test")
            turned = replace(turned, grid_coord=found.grid_coords)
            pieces += [(_anchored(turned.rows(rows)), rows) for rows in found.fragments]
        groups: list[list[tuple[PointSample, torch.Tensor]]] = []
        room = 0
        for piece in pieces:
            if not groups or len(piece[1]) > room:
                groups.append([])
                room = self.max_points
            groups[-1].append(piece)
            room -= len(piece[1])
        return FragmentedCloud(
            name=sample.name,
            coord=sample.coord,
            fragments=[collate_points([piece for piece, _ in group], feature_names) for group in groups],
            rows=[torch.cat([rows for _, rows in group]) for group in groups],
            segment=sample.segment,
            category=sample.category,
        )


def _anchored(fragment: PointSample) -> PointSample:
    """Every fragment has a point in every cell, so its smallest cell is 0 already; labels are not its business."""
    return replace(fragment, segment=None)
