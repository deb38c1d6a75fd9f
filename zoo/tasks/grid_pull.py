"""Fitting GridPull's distance grid to one cloud, and measuring and showing the surface."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import trimesh
from lightning import LightningModule
from torch import Tensor

from zoo.data.surface_cloud import SurfaceCloud
from zoo.models.gridpull import DistanceGrid
from zoo.rendering.mesh import as_trimesh, write_mesh
from zoo.rendering.report import ReportSection
from zoo.rendering.surface_pictures import UpAxis
from zoo.tasks.pull_terms import PullTerms
from zoo.tasks.surface_gallery import surface_section, surface_turntables
from zoo.tasks.surface_scores import surface_scores

__all__ = ["GridPullTask"]

log = logging.getLogger(__name__)

Optimizer = Callable[[Iterable[Any]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
_CLOUD = "surface_cloud"


class GridPullTask(LightningModule):
    """Each step pulls queries near the cloud; the test extracts, measures and writes the mesh.

    Queries are a function of ``(seed, step)``, so a resumed run continues bit by bit.

    Args:
        model: The grid.
        optimizer: Makes the optimizer.
        scheduler: Makes the learning-rate schedule, stepped after each optimizer step; or None.
        seed: Of the queries.
        num_queries: Of a step.
        sigmas: Standard deviations of their offsets from the cloud, in units of its longest side.
        shares: Part of the queries that each sigma gets.
        level: Half width in cells of the band in which continuity is asked for.
        pull_weight: Of the pulled queries' distances to the cloud.
        surface_weight: Of the field's squares at the cloud.
        normal_weight: Of the normals' consistency.
        continuity_weight: Of the differences between neighbouring cells.
        mesh_file: NAME.ply, NAME.obj or NAME.glb in the run's folder.
        mesh_resolution: Corners along each axis at which the field is read for the mesh; None: the grid's own.
        thresholds: Of the F-scores, in units of the longest side.
        num_scored: Points drawn on the surface and on the truth to compare them.
        up: Axis that points up in pictures.
        log_every: Steps between two rows of training metrics.
    """

    def __init__(
        self,
        *,
        model: DistanceGrid,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        seed: int = 0,
        num_queries: int = 50_000,
        sigmas: Sequence[float] = (2.7e-4, 5.4e-4),
        shares: Sequence[float] = (0.375, 0.625),
        level: int = 14,
        pull_weight: float = 1.0,
        surface_weight: float = 1.0,
        normal_weight: float = 0.005,
        continuity_weight: float = 1.0,
        mesh_file: str = "mesh.ply",
        mesh_resolution: int | None = None,
        thresholds: Sequence[float] = (0.005, 0.01),
        num_scored: int = 100_000,
        up: UpAxis = "z",
        log_every: int = 50,
    ) -> None:
        super().__init__()
        if num_scored < 1:
            raise ValueError(f"num_scored: found {num_scored}, expected at least 1")
        if len(sigmas) != len(shares) or abs(sum(shares) - 1) > 1e-6 or min(shares) < 0 or num_queries < 1:
            raise ValueError(
                f"sigmas, shares, num_queries: found {list(sigmas)}, {list(shares)}, {num_queries}; expected as many "
                "shares as sigmas, with the sum 1, and at least one query"
            )
        self.model, self.optimizer, self.scheduler, self.seed = model, optimizer, scheduler, seed
        self.num_queries, self.sigmas, self.shares, self.level = num_queries, tuple(sigmas), tuple(shares), level
        self.weights = {
            "pull": pull_weight,
            "surface": surface_weight,
            "normal": normal_weight,
            "continuity": continuity_weight,
        }
        self.mesh_file, self.mesh_resolution = mesh_file, mesh_resolution
        self.thresholds, self.num_scored = tuple(thresholds), num_scored
        self.up: UpAxis = up
        self.log_every = log_every
        self._terms: PullTerms | None = None
        self._trained_on: str | None = None
        self._section: ReportSection | None = None

    @property
    def cloud(self) -> SurfaceCloud:
        """The trainer's data."""
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]

    def on_fit_start(self) -> None:
        """Put the grid onto the cloud, start it unless a checkpoint has, find the band, and build the search tree."""
        points = self.cloud.points.to(self.device)
        if self._trained_on not in (None, self.cloud.digest()):
            raise ValueError(f"ckpt: was fitted to another cloud than {self.cloud.path}; a grid cannot go on with it")
        self.model.place(points.amin(0), points.amax(0))
        framed = self.model.to_frame(points)
        if self._trained_on is None:
            self.model.begin(framed)
        self._terms = PullTerms(self.model, framed, level=self.level, weights=self.weights)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Which cloud it is goes along."""
        checkpoint[_CLOUD] = self.cloud.digest()

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Remember which cloud it was."""
        self._trained_on = checkpoint.get(_CLOUD)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """The weighted terms for the queries of this step."""
        if self._terms is None:
            raise RuntimeError("training_step: found no cloud; expected on_fit_start before")
        step = self.global_step
        queries = self._terms.queries(
            self.num_queries, sigmas=self.sigmas, shares=self.shares, seed=self.seed, step=step
        )
        loss, terms = self._terms(queries)
        if (step + 1) % self.log_every == 0:
            self.log_dict({f"train/{name}_loss": term.detach() for name, term in terms.items()}, batch_size=1)
            self.log("train/loss", loss.detach(), batch_size=1)
        return loss

    def extract(self, points: Tensor) -> trimesh.Trimesh:
        """The surface in the units of the file, without triangles where the field has no zero.

        Args:
            points: The cloud that the grid was fitted to, ``(N, 3)``.
        """
        cloud = self.model.to_frame(points.to(self.device))
        surface = self.model.surface(cloud, self.level, resolution=self.mesh_resolution)
        return as_trimesh(surface, lambda vertices: self.model.to_world(vertices.to(self.device)))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """Extract the surface, write it into the run's folder, and compare it with the truth, or with the cloud."""
        mesh = self.extract(self.cloud.points)
        path = write_mesh(mesh, Path(self.trainer.default_root_dir) / self.mesh_file)
        log.info("%s: %d vertices, %d triangles", path, len(mesh.vertices), len(mesh.faces))
        cloud = self.cloud
        found = surface_scores(
            mesh,
            cloud.points,
            cloud.truth,
            scale=float(self.model.scale),
            thresholds=self.thresholds,
            samples=self.num_scored,
        )
        self.log_dict({f"test/{name}": value for name, value in found.figures.items()}, batch_size=1)
        rows = surface_turntables(mesh, cloud.points, cloud.truth, found.places, found.errors, up=self.up)
        self._section = surface_section(rows)

    def predict_step(self, batch: Tensor, batch_idx: int) -> trimesh.Trimesh:
        """The surface."""
        return self.extract(self.cloud.points)

    def configure_optimizers(self) -> Any:
        """All distances in one group."""
        optimizer = self.optimizer(self.model.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def report_sections(self) -> Sequence[ReportSection]:
        """Turntables of the cloud, the surface, the truth and the error."""
        return [] if self._section is None else [self._section]
