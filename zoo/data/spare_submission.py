"""Submissions to the SpaRe benchmark: writing, checking and reading the archive.

A ZIP with the scenes' folders at its root, each with one PNG of 1600 x 1200 pixels for each test view, named as the
benchmark's own pictures. A submission may hold the scenes of one family only (DTU's, or SpaRe's own).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.formats.archives import ZIP_ERRORS
from zoo.data.formats.spare import SIZE, SpareScene
from zoo.data.image_files import check_size
from zoo.files import atomic_path

__all__ = ["SpareSubmission", "check_submission", "write_submission"]

_DATE = (2024, 1, 1, 0, 0, 0)  # archives of the same pictures are the same bytes


def expected_names(scenes: Mapping[str, SpareScene]) -> list[str]:
    """Names of all files of a complete submission, in order."""
    return [f"{scene.name}/{scene.picture_name(view)}" for scene in scenes.values() for view in scene.test_views]


def write_submission(
    path: Path | str, scenes: Mapping[str, SpareScene], renders: Path | str, *, size: tuple[int, int] = SIZE
) -> Path:
    """Pack ``<renders>/<scene>/<name>.png`` into an archive, all or nothing, and check it.

    Raises:
        SampleError: A picture is missing or not as the benchmark wants it.
    """
    path, renders = Path(path), Path(renders)
    with atomic_path(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
            for name in expected_names(scenes):
                source = renders / name
                if not source.is_file():
                    raise SampleError(source, "no such rendering; the submission is not complete")
                archive.writestr(zipfile.ZipInfo(name, _DATE), source.read_bytes())
        problems = check_submission(temporary, scenes, size=size)
        if problems:
            raise SampleError(path, "would not be accepted: " + "; ".join(problems[:5]))
    return path


def check_submission(
    path: Path | str, scenes: Mapping[str, SpareScene], *, size: tuple[int, int] = SIZE, one_family: bool = True
) -> list[str]:
    """What is wrong with a submission, one line for each fault; empty where it would be accepted.

    Args:
        path: the archive.
        scenes: the split that it answers.
        size: width and height of its pictures.
        one_family: whether the scenes of one family may be missing altogether.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            problems = _wrong_names(names, scenes, one_family)
            known = set(expected_names(scenes))
            problems += [
                problem for name in names if name in known and (problem := _wrong_picture(archive, name, size))
            ]
    except ZIP_ERRORS as error:
        return [f"{path}: is no readable ZIP ({error})"]
    return problems


def _wrong_names(names: list[str], scenes: Mapping[str, SpareScene], one_family: bool) -> list[str]:
    problems = [f"{name}: is there {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1]
    expected = expected_names(scenes)
    found = set(names)
    for name in sorted(found - set(expected)):
        parts = name.split("/")
        hint = ""
        if len(parts) > 2 and "/".join(parts[-2:]) in expected:
            hint = "; the scenes must stand at the root of the archive, without a folder around them"
        elif len(parts) == 2 and parts[0] in scenes:
            hint = f"; the test views of {parts[0]} are {list(scenes[parts[0]].test_views)}, files count from 1"
        problems.append(f"{name}: belongs to no test view{hint}")
    families = {scene.family for scene in scenes.values() if any(n.startswith(f"{scene.name}/") for n in found)}
    for scene in scenes.values():
        if one_family and families and scene.family not in families:
            continue
        missing = [name for name in expected_names({scene.name: scene}) if name not in found]
        problems += [f"{name}: is missing" for name in missing]
    return problems


def _wrong_picture(archive: zipfile.ZipFile, name: str, size: tuple[int, int]) -> str | None:
    try:
        with Image.open(io.BytesIO(archive.read(name))) as image:
            if image.format != "PNG" or image.mode != "RGB":
                return f"{name}: is {image.format} with channels {image.mode}, expected PNG with RGB"
            if image.size != size:
                return f"{name}: has {image.size[0]} x {image.size[1]} pixels, expected {size[0]} x {size[1]}"
            image.load()
    except Exception as error:  # Pillow's plug-ins and zipfile raise whatever they stumble over
        return f"{name}: is no readable picture ({error})"
    return None


class SpareSubmission:
    """The pictures of an archive.

    Args:
        path: of the archive.

    Raises:
        SampleError: It cannot be read.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self._archive = zipfile.ZipFile(self.path)
        except ZIP_ERRORS as error:
            raise SampleError(self.path, f"is no readable ZIP ({error})") from error

    def picture(self, scene: SpareScene, view: int) -> Tensor:
        """A test view as float32 ``(H, W, 3)`` in [0, 1].

        Raises:
            SampleError: It is missing or no picture.
        """
        name = f"{scene.name}/{scene.picture_name(view)}"
        try:
            content = self._archive.read(name)
            with Image.open(io.BytesIO(content)) as image:
                check_size(self.path, image, len(content))
                return torch.from_numpy(np.array(image.convert("RGB"))).float() / 255
        except SampleError:
            raise
        except Exception as error:  # as above
            raise SampleError(self.path, f"{name}: missing or no picture ({error})") from error
