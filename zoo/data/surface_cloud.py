"""One surface to reconstruct: a cloud from a file, or points sampled on a mesh, which is then the truth."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from zoo.data.bad_samples import DataReport, SampleError
from zoo.data.formats.surface_files import SurfaceFile, read_surface
from zoo.data.step_loader import StepData, StepLoader
from zoo.files import atomic_path

__all__ = ["SurfaceCloud", "draw_queries", "sample_faces", "sample_surface"]

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
_QUERY_STREAM = 1 << 33


def sample_faces(mesh: trimesh.Trimesh, count: int, *, seed: int) -> tuple[Array, NDArray[np.int64]]:
    """Points drawn evenly by area, ``(count, 3)``, and the triangles that they lie on, ``(count,)``."""
    drawn = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return np.array(drawn[0], dtype=np.float64), np.array(drawn[1], dtype=np.int64)


def sample_surface(mesh: trimesh.Trimesh, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Points drawn evenly by area and the normals of their triangles, ``(count, 3)`` float64 each."""
    points, faces = sample_faces(mesh, count, seed=seed)
    return torch.from_numpy(points), torch.from_numpy(np.array(mesh.face_normals[faces], dtype=np.float64))


def draw_queries(
    points: Tensor, count: int, *, sigmas: Sequence[float], shares: Sequence[float], seed: int, step: int
) -> Tensor:
    """Positions near a cloud: points drawn with replacement, moved by Gaussian offsets; a function of (seed, step).

    Args:
        points: ``(P, 3)``.
        count: N.
        sigmas: Standard deviations of the offsets, in units of the points.
        shares: Part of the queries that each of them gets; the last gets what is left.
        seed: Of the run.
        step: Of the optimizer.

    Returns:
        ``(N, 3)``.
    """
    generator = torch.Generator().manual_seed((seed + _QUERY_STREAM) * 1_000_003 + step)
    rows = torch.randint(len(points), (count,), generator=generator)
    counts = [round(share * count) for share in shares[:-1]]
    counts.append(count - sum(counts))
    scale = torch.repeat_interleave(torch.tensor(sigmas), torch.tensor(counts))
    offsets = torch.randn(count, 3, generator=generator) * scale[:, None]
    return points[rows.to(points.device)] + offsets.to(points)


class SurfaceCloud(StepData):
    """A cloud to find the surface of.

    The training loader yields only the number of each step: the task draws its queries with `draw_queries`.

    Args:
        file: A mesh or a cloud, see `zoo.data.formats.surface_files.read_surface`; None: a torus, which is generated.
        root: Where the generated mesh goes.
        num_points: Sampled on a mesh, or drawn from a larger cloud; None: all points of a cloud, 20,000 of a mesh.
        noise: Standard deviation of Gaussian noise on each point, in units of the longest side of the bounding box.
        seed: Of the sampling.
        max_steps: Optimizer steps of the run.
        num_workers: Worker processes of the loaders.

    Raises:
        ValueError: Numbers out of range.
    """

    def __init__(
        self,
        *,
        file: str | Path | None = None,
        root: str | Path = "datasets/surface",
        num_points: int | None = None,
        noise: float = 0.0,
        seed: int = 0,
        max_steps: int = 1000,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if (num_points is not None and num_points < 4) or noise < 0 or max_steps < 1 or num_workers < 0:
            raise ValueError(
                f"num_points={num_points}, noise={noise}, max_steps={max_steps}, num_workers={num_workers}: expected "
                "at least 4, 0, 1 and 0"
            )
        self.file = None if file is None else Path(file).expanduser()
        self.root, self.num_points, self.noise, self.seed = Path(root), num_points, noise, seed
        self.max_steps, self.num_workers = max_steps, num_workers

    @property
    def path(self) -> Path:
        """The file that is read."""
        return self.root / "torus.ply" if self.file is None else self.file

    def prepare_data(self) -> None:
        """Make the generated mesh if it is wanted and missing."""
        if self.file is None and not self.path.is_file():
            self.generate_data(overwrite=False)

    def generate_data(self, *, overwrite: bool) -> None:
        """Write the torus.

        Raises:
            ValueError: There is a file of one's own.
            FileExistsError: It exists and may not be replaced.
        """
        if self.file is not None:
            raise ValueError(f"file: {self.file} is given; only file=null is generated")
        if self.path.exists() and not overwrite:
            raise FileExistsError(f"{self.path} exists; say overwrite=true to replace it")
        ring = trimesh.creation.torus(major_radius=0.35, minor_radius=0.13, major_sections=96, minor_sections=48)
        with atomic_path(self.path) as draft:
            ring.export(draft, file_type="ply")

    @cached_property
    def surface(self) -> SurfaceFile:
        """The file's content."""
        self.prepare_data()
        found = read_surface(self.path)
        if found.left_out:
            logger.warning("%s: left out %d points that are NaN or infinite", self.path, found.left_out)
        return found

    @property
    def truth(self) -> trimesh.Trimesh | None:
        """The mesh; None where the file is a cloud."""
        return self.surface.mesh

    @cached_property
    def points(self) -> Tensor:
        """The cloud in the units of the file, ``(N, 3)`` float64, without repeated points."""
        mesh, generator = self.truth, torch.Generator().manual_seed(self.seed)
        if mesh is not None:
            points, _ = sample_surface(mesh, self.num_points or 20_000, seed=self.seed)
        else:
            points = torch.from_numpy(self.surface.points)
            if self.num_points is not None and len(points) > self.num_points:
                chosen = torch.randperm(len(points), generator=generator)[: self.num_points]
                points = points[chosen.sort().values]
        if self.noise > 0:
            side = (points.amax(0) - points.amin(0)).amax()
            points = points + torch.randn(points.shape, generator=generator, dtype=torch.float64) * self.noise * side
        return points.unique(dim=0)

    def digest(self) -> str:
        """A short hash of the cloud, by which a resumed run knows that it is the same."""
        return hashlib.sha256(self.points.numpy().tobytes()).hexdigest()[:16]

    def check_data(self) -> DataReport:
        """Read the file and say what it holds."""
        try:
            mesh = self.truth
        except SampleError as error:
            return DataReport((), (str(error),))
        if mesh is None:
            return DataReport((f"{self.path}: a cloud of {len(self.surface.points)} points",))
        kind = "watertight" if mesh.is_watertight else "not watertight"
        return DataReport((f"{self.path}: a mesh of {len(mesh.faces)} triangles, {kind}",))

    def train_dataloader(self) -> StepLoader:
        """The numbers of the steps that are left."""
        return self.steps_left()

    def test_dataloader(self) -> Any:
        """One surface."""
        return torch.utils.data.DataLoader([torch.zeros(1, dtype=torch.int64)], batch_size=None)  # pyright: ignore[reportArgumentType]
