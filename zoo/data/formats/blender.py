"""NeRF-Synthetic layout: ``transforms_{train,val,test}.json`` beside folders of RGBA pictures.

``camera_angle_x`` is the horizontal field of view in radians, ``file_path`` has no extension (``.png`` is meant),
``transform_matrix`` is camera-to-world in OpenGL axes. Alpha is straight: a picture on a background ``b`` is
``rgb * a + b * (1 - a)``. Only files named in the JSON are read: depth and normal maps beside them do not matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.data.bad_samples import BadSamples, SampleError
from zoo.data.formats.transforms_json import IMAGE_SUFFIXES, read_transforms, read_view
from zoo.data.posed_images import View
from zoo.data.scene_index import SPLITS, Box, SceneIndex
from zoo.data.synthetic_scene import read_scene_description

DEFAULT_BOX: Box = (-1.5, -1.5, -1.5, 1.5, 1.5, 1.5)


def is_blender(root: Path) -> bool:
    """Whether a folder holds this layout."""
    return (root / "transforms_train.json").is_file()


def read_split(path: Path, bad_samples: BadSamples) -> list[View]:
    """The views of one ``transforms_<split>.json``.

    Raises:
        SampleError: for an unreadable file, and for a bad frame under the policy ``"error"``.
    """
    content = read_transforms(path)
    if not content["frames"]:
        raise SampleError(path, "an empty split: `frames` has no entry")
    views = []
    for number, frame in enumerate(content["frames"]):
        try:
            views.append(_read_frame(frame, content, path, number))
        except SampleError as error:
            bad_samples.handle(error)
    return views


def _read_frame(frame: Any, content: dict[str, Any], path: Path, number: int) -> View:
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise SampleError(path, f"frame {number} has no file_path")
    name = frame["file_path"].removeprefix("./")
    image = path.parent / name
    if image.suffix.lower() not in IMAGE_SUFFIXES:
        image = image.with_name(image.name + ".png")
    if not image.is_file():
        raise SampleError(image, f"no such image (frame {number} of {path.name} names it)")
    return read_view(frame, content, path, image, name)


def read_blender(root: Path, bad_samples: BadSamples) -> SceneIndex:
    """All splits of a scene; a missing val or test file leaves the other of the two in its place.

    Raises:
        SampleError: as `read_split`; if there is no ``transforms_train.json``, or neither a val nor a test split.
    """
    splits: dict[str, list[View]] = {}
    for split in SPLITS:
        path = root / f"transforms_{split}.json"
        if split == "train" or path.is_file():
            splits[split] = read_split(path, bad_samples)
    if "val" not in splits and "test" not in splits:
        raise SampleError(root, "has neither transforms_val.json nor transforms_test.json to evaluate on")
    splits.setdefault("val", splits.get("test", []))
    splits.setdefault("test", splits["val"])
    description = read_scene_description(root)
    box = tuple(description["aabb"]) if description is not None else DEFAULT_BOX
    return SceneIndex(root, splits, box, white_background=True)
