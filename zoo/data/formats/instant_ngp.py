"""instant-ngp layout: one ``transforms.json`` with intrinsics, lens distortion and OpenGL poses.

instant-ngp scales and shifts positions (``scale``, by default 0.33, and ``offset``, by default 0.5 in each axis) so
that the interesting part lies in the unit cube, and models a box of side ``aabb_scale`` about the cube's centre. The
same is done here, without its cycling of the axes: the world keeps the orientation of the file. Frames whose picture is
missing are left out and counted, because published captures (fox, for one) name pictures that they do not hold.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from zoo.data.bad_samples import BadSamples, SampleError
from zoo.data.formats.transforms_json import IMAGE_SUFFIXES, read_number, read_transforms, read_view
from zoo.data.posed_images import View
from zoo.data.scene_index import SceneIndex

DEFAULT_SCALE = 0.33
DEFAULT_OFFSET = (0.5, 0.5, 0.5)
NEAR = 0.1  # in the scaled units; instant-ngp's training distance


def is_instant_ngp(root: Path) -> bool:
    """Whether a folder holds this layout."""
    return (root / "transforms.json").is_file()


def read_instant_ngp(root: Path, bad_samples: BadSamples) -> SceneIndex:
    """The views of a capture in instant-ngp's scaled world, without a split.

    Raises:
        SampleError: for an unreadable file, a file without a frame or a usable picture, and a bad frame under the
            policy ``"error"``.
    """
    path = root / "transforms.json"
    content = read_transforms(path)
    if not content["frames"]:
        raise SampleError(path, "an empty split: `frames` has no entry")
    views: list[View] = []
    missing: list[Path] = []
    for number, frame in enumerate(content["frames"]):
        try:
            image = _image_path(frame, path, number)
            if not image.is_file():
                missing.append(image)
                continue
            name = image.relative_to(root).as_posix() if image.is_relative_to(root) else image.as_posix()
            views.append(read_view(frame, content, path, image, name))
        except SampleError as error:
            bad_samples.handle(error)
    for image in missing:
        bad_samples.skip(SampleError(image, f"no such image (named by {path.name})"))
    if not views:
        raise SampleError(path, f"an empty split: none of its {len(content['frames'])} frames can be used")
    aabb_scale = read_number(content, "aabb_scale", path) or 1.0
    if aabb_scale < 1 or aabb_scale > 128 or not math.log2(aabb_scale).is_integer():
        raise SampleError(path, f"aabb_scale is {aabb_scale:g}, expected a power of two from 1 to 128")
    scale = read_number(content, "scale", path) or DEFAULT_SCALE
    offset = content.get("offset", DEFAULT_OFFSET)
    if not isinstance(offset, list | tuple) or len(offset) != 3:
        raise SampleError(path, f"offset is {offset!r}, expected three numbers")
    # the box is stated in the scaled world; written here in the file's units so that one transform moves everything
    half = aabb_scale / 2
    low = [(0.5 - half - shift) / scale for shift in offset]
    high = [(0.5 + half - shift) / scale for shift in offset]
    index = SceneIndex(path, {"all": views}, (low[0], low[1], low[2], high[0], high[1], high[2]), near=NEAR / scale)
    return index.transformed(scale, offset)


def _image_path(frame: Any, path: Path, number: int) -> Path:
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise SampleError(path, f"frame {number} has no file_path")
    image = path.parent / frame["file_path"]
    if image.suffix.lower() not in IMAGE_SUFFIXES:
        # instant-ngp looks for the file as named and, without an extension, for a PNG
        image = image.with_name(image.name + ".png")
    return image
