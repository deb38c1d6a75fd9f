"""Pickles of plain data: builtins and NumPy arrays or scalars, and nothing else.

Prepared data of OpenPCDet comes as pickles, and a pickle may call any function it names. This reader looks names up in
a fixed list of a few constructors; any other name ends the reading before something is called.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from zoo.data.bad_samples import SampleError

__all__ = ["read_plain_pickle"]


class _Latin1:
    """What protocol 2 makes bytes with. An instance without attributes, so that no pickle can change it."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"_codecs.encode to {encoding!r} is refused")
        return text.encode("latin1")


def _constructors() -> dict[tuple[str, str], Any]:
    allowed: dict[tuple[str, str], Any] = {
        ("builtins", "set"): set,
        ("builtins", "frozenset"): frozenset,
        ("builtins", "complex"): complex,
        ("builtins", "bytearray"): bytearray,
        ("_codecs", "encode"): _Latin1(),
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    array = np.zeros(1)
    functions = {
        ("multiarray", "_reconstruct"): array.__reduce__()[0],
        ("multiarray", "scalar"): np.float64(0).__reduce__()[0],
        ("numeric", "_frombuffer"): array.__reduce_ex__(5)[0],
    }
    for (module, name), function in functions.items():
        for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
            allowed[f"{core}.{module}", name] = function
    return allowed


_ALLOWED = _constructors()


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        module = {"__builtin__": "builtins"}.get(module_name, module_name)
        if (module, global_name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")
        return _ALLOWED[module, global_name]

    def persistent_load(self, pid: Any, /) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of the file")


def read_plain_pickle(path: Path | str) -> Any:
    """The content of a pickle that holds builtins and NumPy data only.

    Raises:
        SampleError: a missing or damaged file, or one that names anything else; nothing of it was executed.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SampleError(path, f"not a readable file ({error})") from error
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise SampleError(
            path, f"refused: {error}; only builtins and NumPy arrays are read from pickles (is the file complete?)"
        ) from error
    except (EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise SampleError(path, f"not a readable pickle, or cut short ({error})") from error
