"""Noisy surface clouds with labelled positions as a Lightning data module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from zoo.data.bad_samples import DataReport, SampleError
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.formats.occupancy import jitter_half
from zoo.data.occupancy_sets import OccupancySet, Shape, ShapeFiles, Split
from zoo.data.split_data import EVALUATION_STREAM, OnBadSample
from zoo.data.step_loader import StepData, StepLoader, shuffled_indices

__all__ = ["OccupancyBatch", "OccupancyData"]


class OccupancyBatch(NamedTuple):
    """Clouds and labelled positions."""

    names: tuple[str, ...]
    points: Tensor  # (B, N, 3) float32: the noisy cloud
    queries: Tensor  # (B, Q, 3) float32
    occupancy: Tensor  # (B, Q) bool
    surface: Tensor | None = None  # (B, M, 3) float32: clean points of the true surface, in evaluation only
    normals: Tensor | None = None  # (B, M, 3) float32: there


class _Shapes(FrameFiles[OccupancyBatch]):
    """Samples of one shape each, all random numbers from (seed, place)."""

    def __init__(self, data: OccupancyData, files: Sequence[ShapeFiles], place: int | None, is_training: bool) -> None:
        super().__init__(data.on_bad_sample)
        self.data, self.files, self.place, self.is_training = data, files, place, is_training

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> OccupancyBatch:
        data = self.data
        stream = data.seed if self.is_training else data.seed + EVALUATION_STREAM
        rng = np.random.default_rng([stream, number if self.place is None else self.place])
        boundary = data.boundary and self.is_training
        shape = self.files[number].read(rng, boundary=boundary)
        return data.sample(shape, rng, None if not self.is_training else data.num_queries)


class _TrainBatches:
    """The batch of a step: a function of (seed, step, rank) and the files."""

    def __init__(self, data: OccupancyData, files: Sequence[ShapeFiles], rank: int, world_size: int) -> None:
        self.data, self.files, self.rank, self.world_size = data, files, rank, world_size

    def __call__(self, step: int) -> OccupancyBatch:
        size = self.data.batch_size
        first = (step * self.world_size + self.rank) * size
        indices = shuffled_indices(len(self.files), first, size, self.data.seed)
        samples = [_Shapes(self.data, self.files, first + k, True)[index] for k, index in enumerate(indices)]
        return OccupancyBatch(
            tuple(sample.names[0] for sample in samples),
            torch.cat([sample.points for sample in samples]),
            torch.cat([sample.queries for sample in samples]),
            torch.cat([sample.occupancy for sample in samples]),
        )


class OccupancyData(StepData):
    """Batches of noisy clouds with labelled positions.

    A training batch is a function of (seed, step). Evaluation takes one shape at a time with all its positions and all
    stored points of its surface; its cloud is the same in each pass.

    Args:
        source: The data set.
        num_input_points: Points of a cloud, drawn with replacement.
        noise: Standard deviation that is added to them, in unit-cube units.
        num_queries: Positions of a training sample, drawn with replacement.
        boundary: Draws them from the positions near the surface only (second stage).
        batch_size: Clouds of a step on each device.
        seed: Of order, clouds and positions.
        max_steps: Number of training steps.
        num_workers: Worker processes of the loaders.
        on_bad_sample: ``"error"``, or ``"skip"`` to count shapes that cannot be used and take the next instead.

    Raises:
        ValueError: On arguments out of range.
    """

    def __init__(
        self,
        *,
        source: OccupancySet,
        num_input_points: int = 3000,
        noise: float = 0.005,
        num_queries: int = 2048,
        boundary: bool = False,
        batch_size: int = 32,
        seed: int = 0,
        max_steps: int = 1000,
        num_workers: int = 0,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        super().__init__()
        if min(num_input_points, num_queries, batch_size, max_steps) < 1 or num_workers < 0 or noise < 0:
            raise ValueError(
                f"num_input_points={num_input_points}, num_queries={num_queries}, batch_size={batch_size}, max_steps="
                f"{max_steps}, num_workers={num_workers}, noise={noise}: expected at least 1, 1, 1, 1, 0 and 0"
            )
        if on_bad_sample not in ("error", "skip"):
            raise ValueError(f"on_bad_sample: {on_bad_sample!r}, expected 'error' or 'skip'")
        self.source, self.num_input_points, self.noise = source, num_input_points, noise
        self.num_queries, self.boundary, self.batch_size = num_queries, boundary, batch_size
        self.seed, self.max_steps, self.num_workers = seed, max_steps, num_workers
        self.on_bad_sample: OnBadSample = on_bad_sample

    def prepare_data(self) -> None:
        """Make a generated set where it is missing."""
        self.source.ensure()

    def prepare_files(self, overwrite: bool = False) -> None:
        """Make a generated set where it is missing, shapes from meshes, and the boundary flags of the second stage."""
        self.source.ensure()
        self.source.prepare_meshes(overwrite)
        self.source.prepare_boundaries(overwrite)

    def generate_data(self, overwrite: bool = False) -> None:
        """Make the synthetic set."""
        self.source.generate_files(overwrite)

    def check_data(self) -> DataReport:
        """Read every file of every split, going on past bad ones."""
        return self.source.check()

    def sample(self, shape: Shape, rng: np.random.Generator, num_queries: int | None) -> OccupancyBatch:
        """One shape as a batch of one; ``num_queries`` None keeps all positions and the surface.

        Raises:
            SampleError: The shape has no position to draw from.
        """
        cloud = shape.cloud[rng.integers(len(shape.cloud), size=self.num_input_points)]
        cloud = cloud + rng.normal(0.0, self.noise, cloud.shape).astype(np.float32)
        points, occupancy = shape.points, shape.occupancy
        if num_queries is not None:
            pool = np.arange(len(points)) if shape.boundary is None else np.flatnonzero(shape.boundary)
            if not len(pool):
                raise SampleError(shape.name, "has no labelled position to draw from")
            chosen = pool[rng.integers(len(pool), size=num_queries)]
            points, occupancy = points[chosen], occupancy[chosen]
        if shape.is_half:
            points = jitter_half(points, rng)
        arrays = [cloud, points, occupancy] + ([shape.cloud, shape.normals] if num_queries is None else [])
        return OccupancyBatch((shape.name,), *(torch.from_numpy(np.ascontiguousarray(x))[None] for x in arrays))

    def train_dataloader(self) -> StepLoader:
        """The batches that are left of the run."""
        files = self.source.shapes("train")
        return self.steps_left(_TrainBatches(self, files, *self.place()))

    def _evaluation_loader(self, split: Split) -> DataLoader[OccupancyBatch]:
        shapes = _Shapes(self, self.source.shapes(split), None, False)
        return self.measured(shapes, batch_size=None)

    def val_dataloader(self) -> DataLoader[OccupancyBatch]:
        """The val shapes in their order."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[OccupancyBatch]:
        """The test shapes in their order."""
        return self._evaluation_loader("test")
