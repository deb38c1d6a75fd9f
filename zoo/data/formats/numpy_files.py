"""NumPy's files, read so that a header cannot ask for more memory than the file can fill, and never a pickle.

``numpy.load`` makes an array of the size that a header claims before it looks for the data.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.archives import ZIP_ERRORS, most_bytes

__all__ = ["read_npy", "read_npz"]

_CHUNK = 1 << 20


def read_npy(path: Path | str) -> NDArray[Any]:
    """The array of a ``.npy`` file.

    Raises:
        SampleError: missing or damaged, of objects, or with fewer data than its header claims.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except (OSError, ValueError) as error:
        raise SampleError(path, f"not a readable array of numbers ({error})") from error


def read_npz(path: Path | str, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of a ``.npz`` file by their names.

    Args:
        path: of the file.
        names: those that are needed; None: all.

    Raises:
        SampleError: missing or damaged, an array that is not there or is one of objects, or fewer data than a header
            claims.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            missing = [name for name in names or () if name not in members]
            if missing:
                raise SampleError(path, f"has no array {missing[0]!r}; found {', '.join(sorted(members)) or 'none'}")
            found = {}
            for name in members if names is None else names:
                with archive.open(members[name]) as file:
                    found[name] = _read(file, most_bytes(members[name]))
            return found
    except SampleError:
        raise
    except ZIP_ERRORS as error:
        raise SampleError(path, f"not a readable npz file ({error})") from error


def _read(file: IO[bytes], size: int) -> NDArray[Any]:
    """One array from a stream of at most ``size`` bytes."""
    shape, fortran, kind = _header(file)
    count = math.prod(shape)
    claimed = count * kind.itemsize
    if kind.hasobject:
        raise ValueError("it holds objects, that is a pickle, which is never read; expected numbers or strings")
    if claimed > size or (kind.itemsize == 0 and count):
        raise ValueError(f"its header claims {shape} numbers of {kind}, {claimed} bytes; the file has {size} at most")
    flat = np.empty(count, dtype=kind)
    view = flat.view(np.uint8).data if claimed else memoryview(b"")
    place = 0
    while place < claimed:
        piece = file.read(min(_CHUNK, claimed - place))
        if not piece:
            raise ValueError(f"it ends after {place} of {claimed} bytes of data")
        view[place : place + len(piece)] = piece
        place += len(piece)
    return flat.reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"a format {version} that is not known")
    length = file.read(2 if version == (1, 0) else 4)
    text = file.read(int.from_bytes(length, "little")) if int.from_bytes(length, "little") <= 10_000 else b""
    stream = io.BytesIO(length + text)
    # version 3 differs from 2 in the encoding of names of fields, which no file of ours has
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, kind = read(stream)
    except Exception as error:  # NumPy's parser raises whatever Python's own raises
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from error
    if any(isinstance(side, bool) or side < 0 for side in shape) or len(shape) > 32:
        raise ValueError(f"its header claims the shape {shape}")
    return shape, fortran, kind
