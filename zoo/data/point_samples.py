"""Point clouds with features and labels, one by one and as a batch of voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.ops import SparseTensor

__all__ = ["IGNORE", "FragmentedCloud", "PointBatch", "PointSample", "check_sample", "collate_points"]

IGNORE = -1  # label of points that take no part in losses and metrics


@dataclass(frozen=True)
class PointSample:
    """One cloud of N points.

    Attributes:
        name: for people, unique within the split.
        coord: ``(N, 3)`` float32.
        features: further columns by name, each ``(N, C)`` float32, such as ``normal`` or ``strength``.
        segment: class of each point ``(N,)`` int64, `IGNORE` for none; None without labels.
        category: class of the cloud, or None.
        grid_coord: cell of each point ``(N, 3)`` int64, smallest 0 on each axis; None before `GridSample`.
    """

    name: str
    coord: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    segment: Tensor | None = None
    category: int | None = None
    grid_coord: Tensor | None = None

    def __len__(self) -> int:
        return len(self.coord)

    def rows(self, index: Tensor) -> PointSample:
        """The points ``index`` (int64 or bool)."""
        return replace(
            self,
            coord=self.coord[index],
            features={name: values[index] for name, values in self.features.items()},
            segment=None if self.segment is None else self.segment[index],
            grid_coord=None if self.grid_coord is None else self.grid_coord[index],
        )

    def columns(self, names: Sequence[str]) -> Tensor:
        """Features joined in the order of ``names``, ``coord`` among them: ``(N, F)``.

        Raises:
            ValueError: a name that the sample does not have.
        """
        known = {"coord": self.coord, **self.features}
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(f"feature_names: found {missing[0]!r}, expected some of {', '.join(known)}")
        return torch.cat([known[name] for name in names], dim=1)


def check_sample(sample: PointSample, path: object) -> PointSample:
    """The sample, if it can be used.

    Raises:
        SampleError: no point, values that are not finite, or features and labels of another length; names ``path``.
    """
    if len(sample) == 0:
        raise SampleError(str(path), "an empty cloud, expected at least one point")
    for name, values in {"coord": sample.coord, **sample.features}.items():
        if values.dim() != 2 or len(values) != len(sample):
            raise SampleError(str(path), f"{name} has shape {tuple(values.shape)}, expected ({len(sample)}, C)")
        bad = (~torch.isfinite(values)).any(dim=1).nonzero()
        if len(bad):
            raise SampleError(
                str(path), f"{name} of {len(bad)} of {len(sample)} points is NaN or infinite, first {int(bad[0])}"
            )
    if sample.segment is not None and sample.segment.shape != (len(sample),):
        raise SampleError(str(path), f"{len(sample.segment)} labels, expected {len(sample)}: one for each point")
    return sample


@dataclass
class PointBatch:
    """B clouds, their P points one after the other; at most one point in each cell of a cloud.

    Attributes:
        coord: ``(P, 3)`` positions.
        grid_coord: ``(P, 3)`` int64 cells.
        features: ``(P, F)`` what the network reads.
        point_batch: ``(P,)`` int64 cloud of each point, non-decreasing.
        names: B names.
        segment: ``(P,)`` int64 or None.
        category: ``(B,)`` int64 or None.
    """

    coord: Tensor
    grid_coord: Tensor
    features: Tensor
    point_batch: Tensor
    names: list[str]
    segment: Tensor | None = None
    category: Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Number of clouds B."""
        return len(self.names)

    def first(self, count: int) -> PointBatch:
        """The first so many clouds."""
        rows = int((self.point_batch < count).sum())  # clouds stand one after the other
        return replace(
            self,
            coord=self.coord[:rows],
            grid_coord=self.grid_coord[:rows],
            features=self.features[:rows],
            point_batch=self.point_batch[:rows],
            names=self.names[:count],
            segment=None if self.segment is None else self.segment[:rows],
            category=None if self.category is None else self.category[:count],
        )

    def sparse(self) -> SparseTensor:
        """The features on their cells, columns (batch, x, y, z); `SparseTensor.to_caller_order` gives point order."""
        coords = torch.cat([self.point_batch[:, None], self.grid_coord], dim=1)
        extent = self.grid_coord.amax(dim=0) + 1 if len(coords) else self.grid_coord.new_ones(3)
        return SparseTensor.from_coords(self.features, coords, extent.tolist(), self.batch_size)


@dataclass
class FragmentedCloud:
    """One cloud for testing, as fragments that cover each of its points at least once.

    Attributes:
        name: of the cloud.
        coord: ``(N, 3)`` all points.
        fragments: batches of one or more fragments.
        rows: for each batch the row in the cloud of each of its points.
        segment: ``(N,)`` int64 or None.
        category: class of the cloud, or None.
    """

    name: str
    coord: Tensor
    fragments: list[PointBatch]
    rows: list[Tensor]
    segment: Tensor | None = None
    category: int | None = None


def collate_points(samples: Sequence[PointSample], feature_names: Sequence[str], *, mix: bool = False) -> PointBatch:
    """Join sampled clouds into a batch.

    Args:
        samples: clouds with ``grid_coord``.
        feature_names: columns of the features, see `PointSample.columns`.
        mix: Mix3D (Nekrasov et al. 2021): clouds 0 and 1, 2 and 3, ... become one each, their grids laid on one
            another at the smallest cell. Of two points in one cell the first stays.

    Raises:
        ValueError: no sample, or one without cells.
    """
    if not samples:
        raise ValueError("samples: found none, expected at least one")
    grids = []
    for sample in samples:
        if sample.grid_coord is None:
            raise ValueError(f"samples: {sample.name} has no cells; let the transforms end with a GridSample")
        grids.append(sample.grid_coord)
    lengths = torch.tensor([len(sample) for sample in samples])
    group = torch.arange(len(samples)) // (2 if mix else 1)
    segments = [sample.segment for sample in samples if sample.segment is not None]
    categories = [sample.category for sample in samples if sample.category is not None]
    batch = PointBatch(
        coord=torch.cat([sample.coord for sample in samples]),
        grid_coord=torch.cat(grids),
        features=torch.cat([sample.columns(feature_names) for sample in samples]),
        point_batch=group.repeat_interleave(lengths),
        names=[" + ".join(s.name for s, g in zip(samples, group, strict=True) if g == k) for k in range(group[-1] + 1)],
        segment=torch.cat(segments) if len(segments) == len(samples) else None,
        category=torch.tensor(categories) if len(categories) == len(samples) and not mix else None,
    )
    return _first_of_each_cell(batch) if mix else batch


def _first_of_each_cell(batch: PointBatch) -> PointBatch:
    rows = torch.cat([batch.point_batch[:, None], batch.grid_coord], dim=1)
    _, cell = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.full((int(cell.max()) + 1,), len(rows)).scatter_reduce(0, cell, torch.arange(len(rows)), "amin")
    kept = torch.sort(first).values
    return replace(
        batch,
        coord=batch.coord[kept],
        grid_coord=batch.grid_coord[kept],
        features=batch.features[kept],
        point_batch=batch.point_batch[kept],
        segment=None if batch.segment is None else batch.segment[kept],
    )
