"""After the test: prune the field, measure what that changes, and keep the pruned field as a file."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from zoo.metrics.image import psnr
from zoo.models.field_pruning import PruningReport, prune
from zoo.models.hollownerf import HollowNeRF
from zoo.rendering.backgrounds import background_colors, composite
from zoo.rendering.field_file import save_field
from zoo.rendering.field_renderer import FieldRenderer
from zoo.rendering.report import ReportSection, Table
from zoo.tasks.radiance_field import RadianceFieldTask

__all__ = ["PruneField"]

log = logging.getLogger(__name__)


class PruneField(Callback):
    """Prunes a copy of the trained field and reports rows, bytes, PSNR and render time before and after.

    Args:
        field: Configuration with the keys ``model`` and ``renderer``; it travels in the file.
        threshold: Probability at or below which a saliency cell is closed.
        num_views: Test pictures that are rendered before and after.
        file_name: The file, below the run's folder.
    """

    def __init__(
        self,
        *,
        field: Mapping[str, Any],
        threshold: float = 1e-4,
        num_views: int = 4,
        file_name: str = "field.safetensors",
    ) -> None:
        if num_views < 1:
            raise ValueError(f"num_views: found {num_views}, expected at least 1")
        self.field: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(dict(field)), resolve=True)  # pyright: ignore
        self.threshold, self.num_views, self.file_name = threshold, num_views, file_name

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune, measure and write; nothing happens for a field without saliency grid."""
        if not isinstance(pl_module, RadianceFieldTask) or pl_module.model.saliency is None:
            return
        if not trainer.is_global_zero:
            return
        field, renderer = copy.deepcopy(pl_module.model), copy.deepcopy(pl_module.renderer)
        before = self._measure(pl_module, field, renderer)
        report = prune(field, renderer.occupancy, threshold=self.threshold)
        after = self._measure(pl_module, field, renderer)
        path = Path(trainer.default_root_dir) / self.file_name
        full_bytes = sum(value.numel() * value.element_size() for value in pl_module.model.state_dict().values())
        full_bytes += pl_module.renderer.occupancy.binaries.numel()
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        file_bytes = save_field(
            path,
            field,
            renderer,
            config=self.field,
            views=data.train.cameras,
            world_to_scene=data.world_to_scene,
            background=background_colors(pl_module.test_background, 1)[0].tolist(),
        )
        figures = {
            "prune/rows_before": sum(report.rows_before),
            "prune/rows_after": sum(report.rows_after),
            "prune/bytes_before": full_bytes,
            "prune/bytes_after": file_bytes,
            "prune/psnr_before": before[0],
            "prune/psnr_after": after[0],
            "prune/ms_per_view_before": before[1],
            "prune/ms_per_view_after": after[1],
        }
        pl_module.log_dict({name: torch.tensor(float(value)) for name, value in figures.items()})
        pl_module.gallery.add_section(_section(report, figures, path))
        log.info(
            "pruned: %d of %d rows, %.2f of %.2f MB, %.2f dB before, %.2f after: %s",
            *(figures["prune/rows_after"], figures["prune/rows_before"], file_bytes / 1e6, full_bytes / 1e6),
            *(before[0], after[0], path),
        )

    def _measure(self, task: RadianceFieldTask, field: HollowNeRF, renderer: FieldRenderer) -> tuple[float, float]:
        """Mean PSNR over the chosen test pictures, and the median time of one in milliseconds."""
        images = task.images("test")
        background = background_colors(task.test_background, 1)[0].to(task.device)
        values, times = [], []
        for index in torch.linspace(0, len(images) - 1, min(self.num_views, len(images))).round().long().tolist():
            start = time.perf_counter()
            rendered = renderer.render_image(field, images.cameras[[index]], background=background)
            times.append(1e3 * (time.perf_counter() - start))
            values.append(float(psnr(rendered.rgb, composite(images.rgba(index), background))))
        return sum(values) / len(values), sorted(times)[len(times) // 2]


def _section(report: PruningReport, figures: Mapping[str, float], path: Path) -> ReportSection:
    overview = Table(
        ("", "before", "after"),
        [
            ("rows of the hash tables", figures["prune/rows_before"], figures["prune/rows_after"]),
            ("bytes (field and occupied cells)", figures["prune/bytes_before"], figures["prune/bytes_after"]),
            ("cells of the saliency grid", report.cells, report.open_cells),
            ("occupied cells", report.occupied_before, report.occupied_after),
            ("PSNR, dB", figures["prune/psnr_before"], figures["prune/psnr_after"]),
            ("ms for a view", figures["prune/ms_per_view_before"], figures["prune/ms_per_view_after"]),
        ],
    )
    levels = Table(
        ("level", "rows before", "rows after"),
        [
            (level, before, after)
            for level, (before, after) in enumerate(zip(report.rows_before, report.rows_after, strict=True))
        ],
    )
    text = f"Rows that no cell with p > {report.threshold:g} can address are dropped. The pruned field: {path}"
    return ReportSection("Pruning", text=text, tables=[overview, levels])
