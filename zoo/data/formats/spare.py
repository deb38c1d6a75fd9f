"""The files of the SpaRe benchmark (AIM 2024 Sparse Neural Rendering): splits, names, calibration.

A split is ``{scene: {"input_views": [...], "test_views": [...], "dataset": "DTU" or another label}}``. View numbers
count from 0; the numbers in the names of pictures and of calibration files count from 1:

* pictures of DTU's scenes: ``<scene>/rect_{view + 1:03d}_{light}_r5000.png``,
* pictures of SpaRe's own scenes: ``<scene>/cam_{view + 1:03d}_{light}_0000.png``,
* calibration, shared by all scenes of a family: ``pos_{view + 1:03d}.txt``, a 3 x 4 projection matrix.

Light 3 is the one with all lamps on, the only one that is evaluated. Pictures have 1600 x 1200 pixels, which the
matrices are meant for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.formats.json_files import read_json
from zoo.data.projection_matrix import decompose_projection

__all__ = ["ALL_LIGHTS", "SIZE", "SpareScene", "picture_name", "read_calibration", "read_projection", "read_split"]

SIZE = (1600, 1200)  # width and height of pictures and calibration
ALL_LIGHTS = 3
NUM_LIGHTS = 7
DTU = "DTU"


def picture_name(view: int, *, is_dtu: bool, light: int = ALL_LIGHTS) -> str:
    """File name of a picture of the 0-based ``view``.

    Example:
        >>> picture_name(13, is_dtu=True), picture_name(0, is_dtu=False)
        ('rect_014_3_r5000.png', 'cam_001_3_0000.png')
    """
    if is_dtu:
        return f"rect_{view + 1:03d}_{light}_r5000.png"
    return f"cam_{view + 1:03d}_{light}_0000.png"


@dataclass(frozen=True)
class SpareScene:
    """One entry of a split.

    Attributes:
        name: of the scene, which is the name of its folder.
        input_views: 0-based numbers of the views to reconstruct from.
        test_views: 0-based numbers of the views to render.
        dataset: ``DTU``, or the label of SpaRe's own scenes.
    """

    name: str
    input_views: tuple[int, ...]
    test_views: tuple[int, ...]
    dataset: str

    @property
    def is_dtu(self) -> bool:
        """Whether the scene is one of DTU's."""
        return self.dataset == DTU

    @property
    def family(self) -> str:
        """``dtu`` or ``synth``, as in the names of the archives."""
        return "dtu" if self.is_dtu else "synth"

    def picture_name(self, view: int, light: int = ALL_LIGHTS) -> str:
        """File name of a picture of the 0-based ``view``."""
        return picture_name(view, is_dtu=self.is_dtu, light=light)

    def as_json(self) -> dict[str, Any]:
        """The entry as it stands in the file."""
        return {
            "input_views": list(self.input_views),
            "test_views": list(self.test_views),
            "dataset": self.dataset,
        }


def read_split(path: Path | str) -> dict[str, SpareScene]:
    """The scenes of a split file, in its order.

    Raises:
        SampleError: The file is missing or no split: a view that is no number from 0, an empty list, a view that is
            both input and test, or one that is named twice.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise SampleError(path, "expected a mapping from scenes to their views, with at least one scene")
    return {name: _read_scene(path, name, entry) for name, entry in content.items()}


def _read_scene(path: Path, name: str, entry: Any) -> SpareScene:
    if not name or name != Path(name).name or name.startswith("."):
        raise SampleError(path, f"scene {name!r} is no plain folder name")
    if not isinstance(entry, Mapping) or not isinstance(entry.get("dataset"), str):
        raise SampleError(path, f"{name}: expected input_views, test_views and the text dataset, found {entry!r}")
    lists: list[tuple[int, ...]] = []
    for key in ("input_views", "test_views"):
        views = entry.get(key)
        if not isinstance(views, list) or not views or not all(type(view) is int and view >= 0 for view in views):
            raise SampleError(path, f"{name}: {key} is {views!r}, expected a list of view numbers that count from 0")
        if len(set(views)) != len(views):
            raise SampleError(path, f"{name}: {key} names a view twice: {views}")
        lists.append(tuple(views))
    both = sorted(set(lists[0]) & set(lists[1]))
    if both:
        raise SampleError(path, f"{name}: the views {both} are both input and test")
    return SpareScene(name, lists[0], lists[1], entry["dataset"])


def read_projection(path: Path | str) -> Tensor:
    """The 3 x 4 projection matrix of a ``pos_*.txt``, float64.

    Raises:
        SampleError: The file is missing, does not hold 12 numbers, or they do not decompose into a camera.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(path, "no such calibration file")
    try:
        numbers = np.array(path.read_text().split(), dtype=np.float64)
    except (ValueError, UnicodeDecodeError) as error:
        raise SampleError(path, f"expected 12 numbers of a 3 x 4 projection matrix ({error})") from error
    if numbers.size != 12:
        raise SampleError(path, f"holds {numbers.size} numbers, expected the 12 of a 3 x 4 projection matrix")
    projection = torch.from_numpy(numbers.reshape(3, 4))
    try:
        decompose_projection(projection)
    except ValueError as error:
        raise SampleError(path, str(error)) from error
    return projection


def read_calibration(folder: Path | str, views: Sequence[int] | None = None) -> dict[int, Tensor]:
    """Projection matrices by 0-based view, of ``views`` or of all that the folder has.

    Raises:
        SampleError: The folder is missing or has none, or a view has no file or an unusable one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SampleError(folder, "no such calibration folder; action=prepare unpacks the archives beside it")
    if views is None:
        views = sorted(int(p.stem[4:]) - 1 for p in folder.glob("pos_*.txt") if p.stem[4:].isdigit())
    if not views:
        raise SampleError(folder, "holds no pos_*.txt")
    return {view: read_projection(folder / f"pos_{view + 1:03d}.txt") for view in views}
