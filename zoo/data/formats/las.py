"""Positions in LAS files, the exchange format of airborne and terrestrial laser scanning (ASPRS LAS 1.0 to 1.4).

Only what a surface needs is read: the header and x, y, z of every point. LAZ, the compressed form, is not read.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError

__all__ = ["read_las"]

_LEGACY_HEADER, _LARGE_HEADER = 227, 375  # bytes, up to version 1.3 and from 1.4 on
_COMPRESSED = 0xC0  # bits of the record format that mark LAZ
_XYZ = np.dtype([("x", "<i4"), ("y", "<i4"), ("z", "<i4")])


class _Header(NamedTuple):
    """Where the records of points are, and how their whole numbers become positions."""

    begin: int
    width: int
    count: int
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


def read_las(path: Path) -> NDArray[np.float64]:
    """Positions ``(N, 3)`` in the file's units: stored whole numbers times the scale plus the offset of each axis.

    Raises:
        SampleError: Not a LAS file, a compressed one, or one that is cut short.
    """
    data = path.read_bytes()
    header = _read_header(path, data)
    end = header.begin + header.count * header.width
    if end > len(data):
        raise SampleError(path, f"{len(data)} bytes, expected {end} for {header.count} points; is it cut short?")
    if header.count == 0:
        return np.zeros((0, 3))
    records = np.ndarray((header.count,), _XYZ, buffer=data, offset=header.begin, strides=(header.width,))
    whole = np.stack([records[axis] for axis in "xyz"], axis=1)
    return whole * header.scale + header.offset


def _read_header(path: Path, data: bytes) -> _Header:
    if len(data) < _LEGACY_HEADER or data[:4] != b"LASF":
        raise SampleError(path, "does not begin with the header of a LAS file")
    major, minor = data[24], data[25]
    if major != 1 or minor > 4:
        raise SampleError(path, f"LAS version {major}.{minor}, expected 1.0 to 1.4")
    (begin,) = struct.unpack_from("<I", data, 96)
    kind, width, count = struct.unpack_from("<BHI", data, 104)
    if kind & _COMPRESSED:
        raise SampleError(path, "is compressed (LAZ); save it as .las, for example with `pdal translate`")
    if minor == 4 and len(data) >= _LARGE_HEADER:
        (count,) = struct.unpack_from("<Q", data, 247)
    numbers = np.array(struct.unpack_from("<6d", data, 131))
    if begin < _LEGACY_HEADER or width < _XYZ.itemsize or not np.isfinite(numbers).all() or not (numbers[:3] > 0).all():
        raise SampleError(
            path, f"records of {width} bytes from byte {begin} on, scales {numbers[:3].tolist()}: its header is damaged"
        )
    return _Header(begin, width, count, numbers[:3], numbers[3:])
