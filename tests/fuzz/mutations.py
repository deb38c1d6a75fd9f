"""Damage to valid files: to their bytes, their words, and what they hold, drawn by hypothesis."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

Kind = str  # "bytes", or what the content of a file is: one of STRUCTURES

NUMBERS = (0, 1, 2, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**63 - 1, 2**64 - 1)
WORDS = (
    *(str(number) for number in NUMBERS),
    *("", "-1", "nan", "inf", "-inf", "1e999", "1e-320", "1.5", "0x10", "1_0", "--", "x", "\u0663", "9" * 5000, "\0"),
)
_PACKED = ("<B", "<H", "<I", "<Q", ">I", ">Q")


def _place(size: int) -> st.SearchStrategy[int]:
    """A byte of the file; headers and directories, at its ends, more often than the rest."""
    last = max(size - 1, 0)
    return st.one_of(
        st.integers(0, last), st.integers(0, min(last, 64)), st.integers(min(last, 256), last).map(lambda p: last - p)
    ).map(lambda place: min(max(place, 0), last))


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with one to five changes of bytes."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 5))):
        place = draw(_place(len(data)))
        change = draw(st.sampled_from(("set", "number", "cut", "delete", "insert", "repeat", "move")))
        length = draw(st.sampled_from((1, 2, 4, 8, 16, 100)))
        if change == "set":
            data[place : place + 1] = bytes([draw(st.integers(0, 255))])
        elif change == "number":
            layout, number = draw(st.sampled_from(_PACKED)), draw(st.sampled_from(NUMBERS))
            size = struct.calcsize(layout)
            data[place : place + size] = struct.pack(layout, number % 2 ** (8 * size))
        elif change == "cut":
            del data[place:]
        elif change == "delete":
            del data[place : place + length]
        elif change == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif change == "repeat":
            data[place:place] = data[place : place + length] * draw(st.sampled_from((1, 3, 1000)))
        else:
            other = draw(_place(len(data)))
            data[place : place + length] = data[other : other + length]
    return bytes(data)


@st.composite
def damaged_words(draw: st.DrawFn, content: bytes) -> bytes:
    """Text with one to three words or lines changed."""
    lines = [line.split(b" ") for line in content.split(b"\n")]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.one_of(st.integers(0, len(lines) - 1), st.integers(0, min(len(lines), 12) - 1)))
        column = draw(st.integers(0, len(lines[row]) - 1)) if lines[row] else 0
        change = draw(st.sampled_from(("word", "word", "word", "drop word", "drop line", "twice", "copy word")))
        if change == "word":
            lines[row][column : column + 1] = [draw(st.sampled_from(WORDS)).encode()]
        elif change == "drop word":
            del lines[row][column : column + 1]
        elif change == "drop line":
            lines[row] = []
        elif change == "twice":
            lines.insert(row, list(lines[row]))
        else:
            source = lines[draw(st.integers(0, len(lines) - 1))]
            lines[row][column : column + 1] = [draw(st.sampled_from(source))] if source else []
    return b"\n".join(b" ".join(line) for line in lines)


def _paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(node, dict):
        found += [inner for key, value in list(node.items())[:20] for inner in _paths(value, (*path, key))]
    elif isinstance(node, list):
        found += [inner for key, value in enumerate(node[:6]) for inner in _paths(value, (*path, key))]
    return found


def _changed(draw: st.DrawFn, content: Any, values: tuple[Any, ...]) -> Any:
    """Containers with one to three entries replaced, removed, or put in another's place."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        paths = _paths(content)
        if not paths:
            break
        *way, last = draw(st.sampled_from(paths))
        node = content
        for key in way:
            node = node[key]
        change = draw(st.sampled_from(("replace", "replace", "remove", "exchange", "root")))
        if change == "remove":
            del node[last]
        elif change == "exchange":
            source: Any = content
            for key in draw(st.sampled_from(paths)):
                source = source[key] if isinstance(source, dict) and key in source else content
            node[last] = copy.deepcopy(source)
        elif change == "root" and len(way) == 0:
            return draw(st.sampled_from(values))
        else:
            node[last] = copy.deepcopy(draw(st.sampled_from(values)))  # the next change may go into it
    return content


_PLAIN = (None, True, 0, -1, 1.5, 10**12, 2**80, 1e308, float("nan"), float("inf"), "", "x", "../x", [], {}, [[]], [0])
_ARRAYS = (
    np.zeros(0),
    np.float64(np.nan),
    np.full((3, 3), np.nan),
    np.full((2, 3), np.inf, dtype=np.float32),
    np.zeros((5, 4, 3)),
    np.arange(7),
    np.full(3, -1),
    np.array(["a", ""]),
    np.array([b"\xff"]),
    np.array(2**63, dtype=np.uint64),
    np.zeros((0, 3), dtype=np.float32),
    np.array([1 + 1j]),
    np.ones((4, 4), dtype=bool),
    np.array(["2020-01-01"], dtype="M8[D]"),
)


@st.composite
def damaged_json(draw: st.DrawFn, content: bytes) -> bytes:
    """JSON that holds something else."""
    changed = _changed(draw, json.loads(content), _PLAIN)
    text = json.dumps(changed).encode()
    if draw(st.integers(0, 40)) == 40:
        return text.replace(b"[", b"[" * 100_000, 1)  # deeper than any recursion
    return text


@st.composite
def damaged_pickle(draw: st.DrawFn, content: bytes) -> bytes:
    """A pickle that holds something else."""
    changed = _changed(draw, pickle.loads(content), (*_PLAIN, *_ARRAYS))
    return pickle.dumps(changed, protocol=draw(st.sampled_from((2, 4))))


def _claimed(array: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """A file of an array whose header claims another shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + array.tobytes()


def _damaged_array(draw: st.DrawFn, array: np.ndarray) -> bytes:
    change = draw(st.sampled_from(("other", "claim", "cut", "cast", "value", "objects")))
    file = io.BytesIO()
    if change == "claim":
        shape = draw(st.sampled_from(((10**12,), (2**62, 4), (-1,), (10**6, 10**6), (0, 2**40), (len(array.shape),))))
        return _claimed(array, shape)
    if change == "other":
        array = draw(st.sampled_from(_ARRAYS))
    elif change == "cut":
        array = array[: draw(st.integers(0, 3))] if array.ndim else array
    elif change == "cast":
        kind = draw(st.sampled_from(("f2", ">f8", "i1", "?", "U3", "c8", "S2")))
        with np.errstate(all="ignore"):
            array = np.zeros(array.shape, dtype=kind) if array.dtype.kind in "USO" else array.astype(kind)
    elif change == "value" and array.size and array.dtype.kind in "fiu":
        array = array.copy()
        value = draw(st.sampled_from((np.nan, np.inf, -1.0, 1e30)))
        with np.errstate(all="ignore"):
            array.reshape(-1)[draw(st.integers(0, min(array.size, 20) - 1))] = np.array(value).astype(array.dtype)
    elif change == "objects":
        array = np.array([{}, 1], dtype=object)
    np.lib.format.write_array(file, np.asarray(array), allow_pickle=True)
    return file.getvalue()


@st.composite
def damaged_npy(draw: st.DrawFn, content: bytes) -> bytes:
    """Another array, or a header that claims one."""
    return _damaged_array(draw, np.load(io.BytesIO(content)))


@st.composite
def damaged_npz(draw: st.DrawFn, content: bytes) -> bytes:
    """An archive with an array changed, missing, or of another header; packed or not."""
    import zipfile

    with np.load(io.BytesIO(content)) as source:
        arrays = {name: source[name] for name in source.files}
    members = {}
    for name, array in arrays.items():
        members[name] = io.BytesIO()
        np.lib.format.write_array(members[name], array)
    result = io.BytesIO()
    packing = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    chosen = draw(st.lists(st.sampled_from(sorted(members)), min_size=1, max_size=2))
    drop = draw(st.integers(0, 5)) == 0
    with zipfile.ZipFile(result, "w", packing) as archive:
        for name, file in members.items():
            if name in chosen and drop:
                continue
            data = _damaged_array(draw, arrays[name]) if name in chosen else file.getvalue()
            archive.writestr(f"{name}.npy", data)
    return result.getvalue()


@st.composite
def damaged_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A header that says something else of the same bytes."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    inner = header.get("__metadata__", {})
    if "config" in inner and draw(st.booleans()):  # a configuration as text
        inner["config"] = json.dumps(_changed(draw, json.loads(inner["config"]), (*_PLAIN, 10_000, 40)))
    else:
        header = _changed(draw, header, (*_PLAIN, [0, 10**12], [8, 4], "F64", "U8"))
    text = json.dumps(header).encode()
    return struct.pack("<Q", draw(st.sampled_from((len(text), len(text), len(text) + 1)))) + text + content[8 + size :]


@st.composite
def damaged_checkpoint(draw: st.DrawFn, content: bytes) -> bytes:
    """A checkpoint of torch that holds something else."""
    values = (*_PLAIN, torch.zeros(0), torch.zeros(2, 3, dtype=torch.float16), torch.zeros(2).expand(1000, 2))
    changed = _changed(draw, torch.load(io.BytesIO(content), weights_only=True), values)
    file = io.BytesIO()
    torch.save(changed, file, _use_new_zipfile_serialization=draw(st.booleans()))
    return file.getvalue()


STRUCTURES: dict[Kind, Callable[[bytes], st.SearchStrategy[bytes]]] = {
    "text": damaged_words,
    "json": damaged_json,
    "pickle": damaged_pickle,
    "npy": damaged_npy,
    "npz": damaged_npz,
    "safetensors": damaged_safetensors,
    "checkpoint": damaged_checkpoint,
}


def damaged(content: bytes, kind: Kind) -> st.SearchStrategy[bytes]:
    """The content of a file, damaged in its structure or in its bytes."""
    if kind == "bytes":
        return damaged_bytes(content)
    both = [STRUCTURES[kind](content), damaged_bytes(content)]
    return st.one_of(*both, damaged_words(content)) if kind == "json" else st.one_of(*both)
