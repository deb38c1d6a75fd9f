"""What all tasks that learn a scene from posed photographs share: their views, how they are measured and shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning import LightningModule
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.posed_images import PosedImages
from zoo.metrics.image import psnr
from zoo.metrics.spare_scores import SpareScores, mean_scores
from zoo.ops.processes import gather_objects
from zoo.rendering.backgrounds import BackgroundKind, background_colors, composite
from zoo.rendering.field_renderer import RenderedImage
from zoo.rendering.report import ReportSection
from zoo.tasks.evaluation_share import num_measured
from zoo.tasks.view_gallery import ViewGallery
from zoo.tasks.view_scores import ViewScores

__all__ = ["ViewTask"]


class ViewTask(LightningModule):
    """A task whose test batches are numbers of pictures; a derived one renders a camera and trains.

    Args:
        test_background: Behind measured pictures.
        scores: How whole test pictures are measured; None: PSNR and SSIM.
        object_scores: Measures test pictures instead of ``scores``, and their objects where the data has masks.
        gallery: Pictures for the report.
    """

    def __init__(
        self,
        *,
        test_background: BackgroundKind = "white",
        scores: ViewScores | None = None,
        object_scores: SpareScores | None = None,
        gallery: ViewGallery | None = None,
    ) -> None:
        super().__init__()
        self.test_background: BackgroundKind = test_background
        self.scores, self.object_scores = scores or ViewScores(), object_scores
        self.gallery = gallery or ViewGallery()
        self._scored: list[dict[str, float]] = []

    def images(self, split: str) -> PosedImages:
        """The photographs of a split, from the trainer's data module."""
        return getattr(self.trainer.datamodule, split)  # pyright: ignore[reportAttributeAccessIssue]

    def render_camera(self, camera: Cameras) -> RenderedImage:
        """What the only camera of ``camera`` sees, over the test background."""
        raise NotImplementedError

    def render_view(self, images: PosedImages, index: int) -> tuple[RenderedImage, Tensor]:
        """One picture as it is rendered and as it was taken, composited over the test background ``(H, W, 3)``."""
        background = background_colors(self.test_background, 1)[0].to(self.device)
        return self.render_camera(images.cameras[[index]]), composite(images.rgba(index).to(self.device), background)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """PSNR of one val picture."""
        rendered, truth = self.render_view(self.images("val"), int(batch))
        count = num_measured(self, batch_idx, 1)
        self.log("val/psnr", psnr(rendered.rgb, truth), batch_size=count, sync_dist=True)

    def on_test_start(self) -> None:
        """Begin with nothing."""
        self._scored.clear()

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """The scores of one test picture."""
        images, index = self.images("test"), int(batch)
        rendered, truth = self.render_view(images, index)
        if not num_measured(self, batch_idx, 1):
            return
        values = {f"test/{name}": float(value) for name, value in self._measure(rendered, truth, index).items()}
        self._scored.append(values)
        self.gallery.add(images.names[index], rendered, truth, values)

    def on_test_epoch_end(self) -> None:
        """Log the mean of each figure over the pictures that have it, of all processes."""
        rows = [row for part in gather_objects(self._scored) for row in part]
        values = {name: torch.tensor(value, device=self.device) for name, value in mean_scores(rows).items()}
        self.log_dict(values, batch_size=1, sync_dist=True)

    def _measure(self, rendered: RenderedImage, truth: Tensor, index: int) -> dict[str, Tensor] | dict[str, float]:
        if self.object_scores is None:
            return self.scores(rendered.rgb, truth)
        masks_of = getattr(self.trainer.datamodule, "masks_of", None)  # pyright: ignore[reportAttributeAccessIssue]
        masks = None if masks_of is None else masks_of("test")
        return self.object_scores(rendered.rgb, truth, None if masks is None else masks[index].to(truth.device))

    def predict_step(self, batch: Tensor, batch_idx: int) -> RenderedImage:
        """One test picture."""
        return self.render_view(self.images("test"), int(batch))[0]

    def report_sections(self) -> Sequence[ReportSection]:
        """The gallery of test pictures and what callbacks added to it."""
        return self.gallery.sections()
