"""Point Cloud Data files (``.pcd``): ascii, binary and binary_compressed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError

__all__ = ["read_pcd"]

_KINDS = {"F": "f", "U": "u", "I": "i"}
_SIZES = {"f": (4, 8), "u": (1, 2, 4, 8), "i": (1, 2, 4, 8)}


@dataclass(frozen=True)
class _Header:
    fields: tuple[str, ...]
    types: tuple[np.dtype[Any], ...]
    counts: tuple[int, ...]
    points: int
    encoding: str
    size: int  # of the header in bytes

    @property
    def row(self) -> np.dtype[Any]:
        """One point as it lies in a binary file; a field of several values is one entry with a shape."""
        entries = zip(self.types, self.counts, strict=True)
        return np.dtype([(f"f{index}", kind, (count,)) for index, (kind, count) in enumerate(entries)])


def read_pcd(path: Path | str) -> dict[str, NDArray[Any]]:
    """The fields of a cloud, by name, each ``(N,)``, or ``(N, count)`` where a field has several values.

    Raises:
        SampleError: a missing file, a header that does not read so, or fewer points than it promises.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SampleError(path, f"not a readable file ({error})") from error
    header = _read_header(path, content)
    body = content[header.size :]
    readers = {"ascii": _read_ascii, "binary": _read_binary, "binary_compressed": _read_compressed}
    columns = readers[header.encoding](path, header, body)
    return {
        name: column[:, 0] if count == 1 else column
        for name, column, count in zip(header.fields, columns, header.counts, strict=True)
    }


def _read_header(path: Path, content: bytes) -> _Header:
    lines: dict[str, list[str]] = {}
    place = 0
    while "DATA" not in lines:
        end = content.find(b"\n", place)
        if end < 0 or end - place > 4096:
            raise SampleError(path, "no PCD header: no line DATA")
        words = content[place:end].decode("latin1").split()
        place = end + 1
        if words and not words[0].startswith("#"):
            lines[words[0].upper()] = words[1:]
    try:
        fields = tuple(lines["FIELDS"])
        counts = tuple(int(word) for word in lines.get("COUNT", ["1"] * len(fields)))
        kinds = [_KINDS[word] for word in lines["TYPE"]]
        sizes = [int(word) for word in lines["SIZE"]]
        shape = int(lines["WIDTH"][0]) * int(lines["HEIGHT"][0])
        points = int(lines["POINTS"][0]) if "POINTS" in lines else shape
        encoding = lines["DATA"][0].lower()
        wrong = any(size not in _SIZES[kind] for kind, size in zip(kinds, sizes, strict=True))
        if wrong or not len(fields) == len(kinds) == len(counts) or points != shape or points < 0 or min(counts) < 1:
            raise ValueError(f"FIELDS, TYPE, SIZE, COUNT, WIDTH, HEIGHT and POINTS {points} do not fit together")
        if encoding not in ("ascii", "binary", "binary_compressed"):
            raise ValueError(f"DATA {encoding}, expected ascii, binary or binary_compressed")
    except (KeyError, ValueError, IndexError) as error:
        raise SampleError(path, f"a PCD header that cannot be read: {error}") from error
    types = tuple(np.dtype(f"<{kind}{size}") for kind, size in zip(kinds, sizes, strict=True))
    return _Header(fields, types, counts, points, encoding, place)


def _read_ascii(path: Path, header: _Header, body: bytes) -> list[NDArray[Any]]:
    width = sum(header.counts)
    try:
        values = np.array(body.decode("latin1").split(), dtype=np.float64)
    except ValueError as error:
        raise SampleError(path, f"its data hold something that is no number ({error})") from error
    if values.size != header.points * width:
        raise SampleError(path, f"holds {values.size} numbers, expected {header.points} points of {width}")
    table = values.reshape(header.points, width)
    ends = np.cumsum(header.counts)
    return [
        table[:, end - count : end].astype(kind)
        for end, count, kind in zip(ends, header.counts, header.types, strict=True)
    ]


def _read_binary(path: Path, header: _Header, body: bytes) -> list[NDArray[Any]]:
    row = header.row
    if len(body) < header.points * row.itemsize:
        raise SampleError(
            path,
            f"holds {len(body)} bytes of data, expected {header.points} points of {row.itemsize}; is it cut short?",
        )
    table = np.frombuffer(body, dtype=row, count=header.points)
    return [np.ascontiguousarray(table[name]) for name in row.names or ()]


def _read_compressed(path: Path, header: _Header, body: bytes) -> list[NDArray[Any]]:
    """Sizes before and after compression, then all values of the first field, of the second, and so on."""
    if len(body) < 8:
        raise SampleError(path, "ends before its data; is it cut short?")
    packed, size = (int(value) for value in np.frombuffer(body, dtype="<u4", count=2))
    expected = header.points * header.row.itemsize
    if size != expected or len(body) < 8 + packed:
        raise SampleError(
            path, f"says {packed} bytes of {size} when unpacked, has {len(body) - 8}, expected {expected}; cut short?"
        )
    try:
        unpacked = _lzf_decompress(body[8 : 8 + packed], size)
    except (ValueError, IndexError) as error:
        raise SampleError(path, f"its compressed data are damaged ({error})") from error
    columns, place = [], 0
    for kind, count in zip(header.types, header.counts, strict=True):
        columns.append(np.frombuffer(unpacked, dtype=kind, count=header.points * count, offset=place))
        place += header.points * count * kind.itemsize
    return [column.reshape(header.points, count) for column, count in zip(columns, header.counts, strict=True)]


def _lzf_decompress(packed: bytes, size: int) -> bytes:
    """LZF: runs of literals, and references to what was written before."""
    result = bytearray()
    place = 0
    while place < len(packed):
        control = packed[place]
        place += 1
        if control < 32:  # control + 1 literals
            if place + control >= len(packed):
                raise ValueError("a run of literals reaches beyond the end")
            result += packed[place : place + control + 1]
            place += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += packed[place]
            place += 1
        start = len(result) - ((control & 31) << 8) - packed[place] - 1
        place += 1
        length += 2
        if start < 0:
            raise ValueError("a reference to before the beginning")
        distance = len(result) - start
        piece = result[start : start + length]
        result += (piece * (length // distance + 1))[:length] if distance < length else piece
    if len(result) != size:
        raise ValueError(f"unpacks to {len(result)} bytes, expected {size}")
    return bytes(result)
