"""A trained radiance field, ready to be looked at: from a run's checkpoint or from the file of a pruned field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.posed_images import PosedImages
from zoo.data.radiance_fields import RadianceFieldData
from zoo.models.hollownerf import HollowNeRF
from zoo.rendering.backgrounds import background_colors
from zoo.rendering.field_file import load_field
from zoo.rendering.field_renderer import FieldRenderer
from zoo.tasks.radiance_field import RadianceFieldTask
from zoo.training.configuration import load_run
from zoo.training.run_folder import find_checkpoint

__all__ = ["TrainedField", "open_trained_field"]


@dataclass(frozen=True)
class TrainedField:
    """What rendering needs.

    Attributes:
        field: The field, in evaluation mode.
        renderer: Its renderer with the occupied cells.
        background: Colour behind pictures ``(3,)``.
        views: Cameras of the training views, which orbits and spirals are derived from.
        world_to_scene: Similarity ``(4, 4)`` from the world of the capture's files to the field's.
        folder: The run's folder, or that of the field file.
        data: The capture, where the field came from a checkpoint.
    """

    field: HollowNeRF
    renderer: FieldRenderer
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


def open_trained_field(
    ckpt: str, *, output_dir: str | Path, name: str | None = None, overrides: Sequence[str] = ()
) -> TrainedField:
    """Open what ``ckpt`` names.

    Args:
        ckpt: A checkpoint, a run folder, ``last`` for the newest run, or a ``.safetensors`` file of a pruned field.
        output_dir: Where run folders stand.
        name: The experiment whose newest run ``last`` means; None: of all experiments.
        overrides: Changes to the run's configuration, ``["data.root=/elsewhere"]``.

    Raises:
        FileNotFoundError: There is nothing of that name.
        ValueError: It is no radiance field.
    """
    if str(ckpt).endswith(".safetensors"):
        return _from_file(Path(ckpt))
    path = find_checkpoint(ckpt, output_dir=output_dir, name=name)
    _, parts = load_run(path, overrides)
    task, data = parts.task, parts.data
    if not isinstance(task, RadianceFieldTask) or not isinstance(data, RadianceFieldData):
        raise ValueError(f"ckpt={ckpt}: holds a {type(task).__name__}, expected a radiance field")
    data.prepare_data()
    data.setup()
    background = background_colors(task.test_background, 1)[0]
    folder = path.resolve().parents[1]
    return TrainedField(task.model, task.renderer, background, data.train.cameras, data.world_to_scene, folder, data)


def _from_file(path: Path) -> TrainedField:
    if not path.is_file():
        raise FileNotFoundError(f"ckpt={path}: no such file")
    loaded = load_field(path)
    background = torch.tensor(loaded.background)
    return TrainedField(
        loaded.field, loaded.renderer, background, loaded.views, loaded.world_to_scene, path.resolve().parent
    )
