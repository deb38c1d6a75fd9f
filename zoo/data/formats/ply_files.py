"""PLY files: what their header claims against what they hold, and the table of their vertices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.files import atomic_path

__all__ = ["check_ply", "read_ply_vertices", "write_ply_vertices"]

_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "int32", "uint32", "float", "float32"), 4),
    **dict.fromkeys(("double", "float64", "int64", "uint64"), 8),
}
_LONGEST_HEADER = 1 << 16


def check_ply(path: Path | str) -> None:
    """Refuse a file whose header claims more rows than its bytes can hold, before anything is made for them.

    Raises:
        SampleError: missing, no PLY, or cut short.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_LONGEST_HEADER)
    except OSError as error:
        raise SampleError(path, f"not a readable file ({error})") from error
    header, found, _ = head.partition(b"end_header")
    if not head.startswith(b"ply") or not found:
        raise SampleError(path, "not a readable PLY file: no header between the words ply and end_header")
    binary, least = True, 0
    rows, row = 0, 0
    for line in header.decode("latin1").splitlines():
        words = line.split()
        try:
            if words[:1] == ["format"]:
                binary = words[1].startswith("binary")
            elif words[:1] == ["element"]:
                least += rows * row
                rows, row = int(words[2]), 0
                if rows < 0:
                    raise ValueError(f"{rows} rows")
            elif words[:1] == ["property"]:
                row += _SIZES[words[2] if words[1] == "list" else words[1]] if binary else 2  # a digit and a space
        except (IndexError, KeyError, ValueError) as error:
            raise SampleError(path, f"not a readable PLY file: the line {line[:60]!r} of its header") from error
    least += rows * row
    rest = size - len(header) - len(found)
    if least > rest:
        raise SampleError(path, f"its header claims at least {least} bytes of data, it has {rest}; is it cut short?")


def read_ply_vertices(path: Path | str) -> dict[str, NDArray[Any]]:
    """The numbers of each vertex by the name of the property, ``(N,)`` each.

    Raises:
        SampleError: missing, damaged, or without vertices of plain numbers.
    """
    from plyfile import PlyData

    path = Path(path)
    check_ply(path)
    try:
        vertices = PlyData.read(str(path))["vertex"].data
    except Exception as error:  # the reader raises whatever it stumbles over
        raise SampleError(path, f"not a readable PLY file with vertices ({error})") from error
    if vertices.dtype.hasobject:
        raise SampleError(path, "its vertices have lists as properties, expected numbers")
    return {name: np.asarray(vertices[name]) for name in vertices.dtype.names or ()}


def write_ply_vertices(path: Path | str, columns: Mapping[str, NDArray[Any]]) -> None:
    """Write vertices without faces, binary and little-endian.

    Args:
        path: The file.
        columns: The numbers of each vertex by the name of the property, ``(N,)`` each.
    """
    from plyfile import PlyData, PlyElement

    length = len(next(iter(columns.values())))
    rows = np.empty(length, dtype=[(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    with atomic_path(Path(path)) as temporary:
        PlyData([PlyElement.describe(rows, "vertex")], byte_order="<").write(str(temporary))
