"""A trained scene, ready to be looked at: from a run's checkpoint or from the file of a pruned field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.posed_images import PosedImages
from zoo.data.radiance_fields import RadianceFieldData
from zoo.models.hollownerf import HollowNeRF
from zoo.rendering.backgrounds import background_colors
from zoo.rendering.field_file import load_field
from zoo.rendering.field_renderer import FieldRenderer, RenderedImage
from zoo.tasks.radiance_field import RadianceFieldTask
from zoo.tasks.view_task import ViewTask
from zoo.training.configuration import load_run
from zoo.training.run_folder import find_checkpoint

__all__ = ["TrainedField", "TrainedScene", "open_trained_field", "open_trained_scene"]


@dataclass(frozen=True, kw_only=True)
class TrainedScene:
    """What rendering needs.

    Attributes:
        render: What a camera sees; rays are rendered in chunks of the second argument where there are rays.
        background: Colour behind pictures ``(3,)``.
        views: Cameras of the training views, which orbits and spirals are derived from.
        world_to_scene: Similarity ``(4, 4)`` from the world of the capture's files to the scene's.
        folder: The run's folder, or that of the field file.
        data: The capture, where the scene came from a checkpoint.
    """

    render: Callable[[Cameras, int], RenderedImage]
    background: Tensor
    views: Cameras
    world_to_scene: Tensor
    folder: Path
    data: RadianceFieldData | None = None

    def images(self, split: str) -> PosedImages:
        """The photographs of a split.

        Raises:
            ValueError: The field came from a file, which holds no photographs.
        """
        if self.data is None:
            raise ValueError(f"views={split}: a field file holds no photographs; give the run's checkpoint as ckpt")
        return getattr(self.data, split)


@dataclass(frozen=True, kw_only=True)
class TrainedField(TrainedScene):
    """A scene that is a radiance field.

    Attributes:
        field: The field, in evaluation mode.
        renderer: Its renderer with the occupied cells.
    """

    field: HollowNeRF
    renderer: FieldRenderer


def open_trained_scene(
    ckpt: str, *, output_dir: str | Path, name: str | None = None, overrides: Sequence[str] = ()
) -> TrainedScene:
    """Open what ``ckpt`` names.

    Args:
        ckpt: A checkpoint, a run folder, ``last`` for the newest run, or a ``.safetensors`` file of a pruned field.
        output_dir: Where run folders stand.
        name: The experiment whose newest run ``last`` means; None: of all experiments.
        overrides: Changes to the run's configuration, ``["data.root=/elsewhere"]``.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: It is no scene that renders cameras.
    """
    if str(ckpt).endswith(".safetensors"):
        return _from_file(Path(ckpt))
    path = find_checkpoint(ckpt, output_dir=output_dir, name=name)
    _, parts = load_run(path, overrides)
    task, data = parts.task, parts.data
    if not isinstance(task, ViewTask) or not isinstance(data, RadianceFieldData):
        raise ValueError(f"ckpt={ckpt}: holds a {type(task).__name__}, expected a radiance field or Gaussians")
    data.prepare_data()
    data.setup()
    background = background_colors(task.test_background, 1)[0]
    place = {"views": data.train.cameras, "world_to_scene": data.world_to_scene, "folder": path.resolve().parents[1]}
    if isinstance(task, RadianceFieldTask):
        return _field(task.model, task.renderer, background, data=data, **place)
    return TrainedScene(render=lambda camera, _: task.render_camera(camera), background=background, data=data, **place)


def open_trained_field(
    ckpt: str, *, output_dir: str | Path, name: str | None = None, overrides: Sequence[str] = ()
) -> TrainedField:
    """As `open_trained_scene`, for radiance fields only.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: It is no radiance field.
    """
    found = open_trained_scene(ckpt, output_dir=output_dir, name=name, overrides=overrides)
    if not isinstance(found, TrainedField):
        raise ValueError(f"ckpt={ckpt}: holds Gaussians, expected a radiance field")
    return found


def _field(field: HollowNeRF, renderer: FieldRenderer, background: Tensor, **place: Any) -> TrainedField:
    def render(camera: Cameras, rays_per_chunk: int) -> RenderedImage:
        return renderer.render_image(field, camera, background=background, rays_per_chunk=rays_per_chunk)

    return TrainedField(render=render, field=field, renderer=renderer, background=background, **place)


def _from_file(path: Path) -> TrainedField:
    if not path.is_file():
        raise FileNotFoundError(f"ckpt={path}: no such file")
    loaded = load_field(path)
    return _field(
        loaded.field, loaded.renderer, torch.tensor(loaded.background), views=loaded.views,
        world_to_scene=loaded.world_to_scene, folder=path.resolve().parent,
    )  # fmt: skip
