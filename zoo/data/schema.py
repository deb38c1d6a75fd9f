"""Prepared arrays on disk: npz files that say what they are and which version of this package made them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.formats.numpy_files import read_npz
from zoo.files import atomic_path

__all__ = ["read_arrays", "write_arrays"]

_KEY = "zoo_schema"


def write_arrays(path: Path, kind: str, schema: int, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays under their names, all or nothing.

    Raises:
        ValueError: an array that could only be stored as a pickle.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name}: found an array of objects, expected numbers or strings")
    header = np.array(json.dumps({"kind": kind, "schema": schema}))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{_KEY: header, **arrays})  # pyright: ignore[reportArgumentType]


def read_arrays(path: Path, kind: str, schema: int, rebuild: str) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote.

    Args:
        path: of the file.
        kind: what it must be.
        schema: the version that it must have.
        rebuild: command that makes it anew, for the message.

    Raises:
        SampleError: missing or damaged, something else, or another version.
    """
    if not path.is_file():
        raise SampleError(path, f"no such file; make it: {rebuild}")
    try:
        arrays = read_npz(path)
        header = json.loads(str(arrays.pop(_KEY)))
        found = (header["kind"], int(header["schema"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        problem = error.problem if isinstance(error, SampleError) else error
        raise SampleError(path, f"not a prepared file of this package ({problem}); rebuild it: {rebuild}") from error
    if found[0] != kind:
        raise SampleError(path, f"holds {found[0]!r}, expected {kind!r}")
    if found[1] != schema:
        raise SampleError(path, f"has schema version {found[1]}, this version reads {schema}; rebuild it: {rebuild}")
    return arrays
