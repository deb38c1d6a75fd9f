"""Meshes of other programs by trimesh, which trusts what a file says of its size."""

from __future__ import annotations

import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import trimesh

from zoo.data.bad_samples import SampleError
from zoo.data.formats.ply_files import check_ply

__all__ = ["load_trimesh"]


def load_trimesh(path: Path, **options: Any) -> Any:
    """What ``trimesh.load`` makes of a file, which must not refer to other files.

    Materials and textures, which stand in other files, are left out.

    Raises:
        SampleError: It cannot be read, or claims more data than it has.
    """
    kind = path.suffix.lower().removeprefix(".")
    try:
        if kind == "ply":
            check_ply(path)
        elif kind == "glb":
            _check_glb(path)
        # bytes have no folder in which a reader could look for other files, and give no more than they have
        return trimesh.load(io.BytesIO(path.read_bytes()), file_type=kind, **options)
    except SampleError:
        raise
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise SampleError(path, f"cannot be read as a mesh ({type(error).__name__}: {error})") from error


def _check_glb(path: Path) -> None:
    """An accessor without data stands for zeros, of which it may claim any number."""
    content = path.read_bytes()
    if len(content) < 20:
        raise SampleError(path, f"{len(content)} bytes are no binary glTF; is it cut short?")
    (length,) = struct.unpack("<I", content[12:16])
    header = json.loads(content[20 : 20 + length].decode("utf-8"))
    for accessor in header.get("accessors", ()):
        count = accessor.get("count", 0)
        if not isinstance(count, int) or not 0 <= count <= len(content):
            raise SampleError(path, f"claims {count} numbers in {len(content)} bytes; is it cut short?")
    for view in header.get("bufferViews", ()):
        if not math.isfinite(view.get("byteLength", 0)) or view.get("byteLength", 0) > len(content):
            raise SampleError(path, f"claims {view.get('byteLength')} of {len(content)} bytes; is it cut short?")
