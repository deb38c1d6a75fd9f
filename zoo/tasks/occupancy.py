"""Training and measuring a network of occupancy."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import trimesh
from lightning import LightningModule
from torch import Tensor, nn

from zoo.data.occupancy_data import OccupancyBatch
from zoo.losses.occupancy import margin_bce
from zoo.metrics.surface import SurfaceScores
from zoo.models.gridformer import occupancy_surface
from zoo.ops import knn
from zoo.rendering.mesh import as_trimesh, write_mesh
from zoo.rendering.point_pictures import draw_cloud
from zoo.rendering.report import Picture, ReportSection
from zoo.tasks.evaluation_share import num_measured
from zoo.tasks.surface_gallery import surface_picture, surface_turntables
from zoo.tasks.surface_scores import draw_to_compare

__all__ = ["OccupancyTask"]

Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
_FIGURES = ("chamfer_l1", "chamfer_l1_x10", "normal_consistency", "f_score_0.01", "empty_meshes")
_LARGEST_ERROR = 0.02  # of the unit cube, the darkest red; stored clouds are up to half of that apart


class OccupancyTask(LightningModule):
    """Margin cross entropy of ``model(points, queries)`` ``(B, Q)``; intersection over union of all positions.

    Both stages are runs of this task: the second takes ``weights=`` of the first, a margin, positions near the surface
    and an optimizer of its own.

    With ``mesh_resolution`` the test makes a mesh of every shape and compares it with the stored points of the true
    surface as Occupancy Networks' evaluation does: ``chamfer_l1``, ``chamfer_l1_x10``, ``normal_consistency`` and
    ``f_score_0.01`` are means of class means, in units of the cube. A mesh without triangles counts in
    ``empty_meshes`` and as a surface that was not found (`SurfaceScores.update_empty`).

    Args:
        model: The network, with ``encode``, ``decode`` and ``padding``.
        optimizer: Makes the optimizer from the parameters that need a gradient.
        scheduler: Makes the learning-rate schedule, stepped after each optimizer step; or None.
        margin: Of the loss, see `margin_bce`.
        threshold: Probability from which a position counts as inside.
        chunk_size: Positions that are decoded at once in evaluation.
        log_every: Steps between two rows of training metrics.
        max_pictures: Test shapes, evenly spread, that the report shows and whose meshes are kept, in
            ``meshes/<class>/<shape>.ply`` of the run's folder.
        mesh_resolution: Cells of a mesh's grid along the padded cube; None: no meshes.
        mesh_level: Probability on the surface.
        mesh_refinements: Halvings of the edges that vertices lie on; 0 interpolates the logits.
        mesh_samples: Points drawn on a mesh to measure it.
        wall_margin: Of rooms, see `draw_to_compare`; None: all of a mesh is measured.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        margin: float = 0.0,
        threshold: float = 0.2,
        chunk_size: int = 50000,
        log_every: int = 50,
        max_pictures: int = 8,
        mesh_resolution: int | None = None,
        mesh_level: float = 0.5,
        mesh_refinements: int = 0,
        mesh_samples: int = 100_000,
        wall_margin: float | None = None,
    ) -> None:
        super().__init__()
        if margin < 0 or not 0 < threshold < 1 or chunk_size < 1:
            raise ValueError(
                f"margin={margin}, threshold={threshold}, chunk_size={chunk_size}: expected from 0 on, within (0, 1), "
                "and at least 1"
            )
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.margin, self.threshold, self.chunk_size = margin, threshold, chunk_size
        self.log_every, self.max_pictures = log_every, max_pictures
        self.mesh_resolution, self.mesh_level = mesh_resolution, mesh_level
        self.mesh_refinements, self.mesh_samples, self.wall_margin = mesh_refinements, mesh_samples, wall_margin
        self.scores = SurfaceScores(thresholds=(0.01,))
        self._pictures: list[Picture] = []

    def training_step(self, batch: OccupancyBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss = margin_bce(self.model(batch.points, batch.queries), batch.occupancy, margin=self.margin)
        if (self.global_step + 1) % self.log_every == 0:
            self.log("train/loss", loss.detach(), batch_size=len(batch.points), sync_dist=True)
        return loss

    def predict_step(self, batch: OccupancyBatch, batch_idx: int) -> Tensor:
        """Probabilities ``(B, Q)``."""
        model: Any = self.model
        maps = model.encode(batch.points)
        return torch.cat([model.decode(maps, part) for part in batch.queries.split(self.chunk_size, 1)], 1).sigmoid()

    def _score(self, stage: str, batch: OccupancyBatch, count: int) -> Tensor:
        """Positions found inside ``(B, Q)``; logs the figure of the first ``count`` shapes."""
        inside = self.predict_step(batch, 0) >= self.threshold
        both = (inside & batch.occupancy).sum(1)
        either = (inside | batch.occupancy).sum(1)
        iou = torch.where(either > 0, both / either.clamp_min(1), 1.0)  # nothing there and nothing found
        if inside.shape[1]:  # of scans nobody knows what lies inside
            self.log(f"{stage}/iou", iou[: max(count, 1)].mean(), batch_size=count, on_epoch=True, sync_dist=True)
        return inside

    def validation_step(self, batch: OccupancyBatch, batch_idx: int) -> None:
        """Intersection over union of the shapes, averaged over them."""
        self._score("val", batch, num_measured(self, batch_idx, len(batch.names)))

    def reconstruct(self, points: Tensor) -> trimesh.Trimesh:
        """The surface of a cloud ``(N, 3)`` in the unit cube; without triangles where none is found."""
        model: Any = self.model
        if self.mesh_resolution is None:
            raise ValueError("mesh_resolution: found None, expected a number of cells")
        with torch.no_grad():
            maps = model.encode(points[None].to(self.device))
        surface = occupancy_surface(
            lambda places: model.decode(maps, places[None].to(self.device))[0],
            self.mesh_resolution,
            side=1 + model.padding,
            level=self.mesh_level,
            refinements=self.mesh_refinements,
            chunk_size=self.chunk_size,
        )
        return as_trimesh(surface)

    def on_test_start(self) -> None:
        """Begin with nothing."""
        self._pictures.clear()
        self.scores.reset()

    def test_step(self, batch: OccupancyBatch, batch_idx: int) -> None:
        """As validation; make and measure meshes, and keep some pictures."""
        count = num_measured(self, batch_idx, len(batch.names))
        inside = self._score("test", batch, count)
        shown = count > 0 and self._is_shown(batch_idx)
        if self.mesh_resolution is not None:
            for row in range(count):
                self._measure_mesh(batch, row, shown and row == 0)
        elif shown:
            queries = batch.queries[0][:, [0, 2, 1]].cpu()  # y is up in the data, z in the pictures
            clouds = (batch.points[0][:, [0, 2, 1]].cpu(), queries[inside[0].cpu()], queries[batch.occupancy[0].cpu()])
            for cloud, what in zip(clouds, ("input", "found inside", "truly inside"), strict=True):
                self._pictures.append(Picture(draw_cloud(cloud), f"{batch.names[0]}: {what}"))

    def _is_shown(self, batch_idx: int) -> bool:
        """Whether a batch is one of ``max_pictures`` that are evenly spread over the test."""
        total = self.trainer.num_test_batches[0]
        stride = max(1, total // self.max_pictures) if self.max_pictures else 0
        return stride > 0 and batch_idx % stride == 0 and batch_idx // stride < self.max_pictures

    def _measure_mesh(self, batch: OccupancyBatch, row: int, shown: bool) -> None:
        if batch.surface is None or batch.normals is None:
            raise ValueError("batch: holds no points of the true surface, which mesh_resolution needs")
        name, cloud = batch.names[row], batch.points[row].cpu()
        truth, normals = batch.surface[row].cpu(), batch.normals[row].cpu()
        category = zlib.crc32(name.split("/")[0].encode()) >> 8  # the same number in all processes, exact in float32
        mesh = self.reconstruct(cloud)
        drawn, drawn_normals = draw_to_compare(mesh, truth, samples=self.mesh_samples, margin=self.wall_margin)
        self.scores.update(drawn, truth, drawn_normals, normals, category=category)
        if shown:
            write_mesh(mesh, Path(self.trainer.default_root_dir) / "meshes" / f"{name}.ply")
            errors = knn(truth, drawn.float(), 1).squared_distances[:, 0].sqrt()
            rows = surface_turntables(
                mesh, cloud, (truth, normals), drawn, errors, up="y", largest_error=_LARGEST_ERROR
            )
            self._pictures.append(surface_picture(name, rows))

    def on_test_epoch_end(self) -> None:
        """Log the figures of the meshes."""
        if self.mesh_resolution is not None:
            values = self.scores.compute()
            self.log_dict({f"test/{name}": values[name] for name in _FIGURES}, batch_size=1)

    def report_sections(self) -> Sequence[ReportSection]:
        """Test shapes."""
        return [ReportSection("Test shapes", pictures=list(self._pictures))] if self._pictures else []

    def configure_optimizers(self) -> Any:
        """All parameters that need a gradient, in one group."""
        optimizer = self.optimizer([p for p in self.model.parameters() if p.requires_grad])
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}
