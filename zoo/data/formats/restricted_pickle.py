"""Pickles of plain data: builtins and NumPy arrays or scalars, and nothing else.

Prepared data of OpenPCDet comes as pickles, and a pickle may call any function it names. This reader looks names up in
a fixed list of a few constructors; any other name ends the reading before something is called. Even NumPy's own
constructors do not get what a pickle says: arrays are made here from their bytes, shape and kind of number.
"""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any, cast

import numpy as np

from zoo.data.bad_samples import SampleError

__all__ = ["numpy_scalars", "read_plain_pickle"]


_CODE = re.compile(r"[biufcSUO?]\d*")


class _Latin1:
    """What protocol 2 makes bytes with. An instance without attributes, so that no pickle can change it."""

    __slots__ = ()

    def __call__(self, text: str, encoding: str = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"_codecs.encode to {encoding!r} is refused")
        return text.encode("latin1")


class _NoBytes:
    """How protocol 2 writes bytes of length zero."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


class _Dtype:
    """Stands for a dtype: a pickled state could give a real one flags that NumPy trusts."""

    __slots__ = ("order", "text")

    def __init__(self, text: str, align: Any = False, copy: Any = True) -> None:
        if not isinstance(text, str) or not _CODE.fullmatch(text):
            raise pickle.UnpicklingError(f"the dtype {text!r} is refused")
        self.text, self.order = text, "="

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "=", "|") or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError(f"the dtype state {state!r} is refused")
        self.order = "=" if state[1] == "|" else state[1]

    def real(self) -> np.dtype[Any]:
        return np.dtype(self.text).newbyteorder(cast(Any, self.order))


class _Array:
    """Stands for an array until its state is there."""

    __slots__ = ("content",)

    def __init__(self, kind: Any, shape: Any, code: Any) -> None:
        if kind is not _Array:
            raise pickle.UnpicklingError("an array of another class is refused")
        self.content: np.ndarray = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.content = _filled(data, dtype, shape, "F" if fortran else "C")


def _filled(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array without shape and dtype is refused")
    kind = dtype.real()
    if kind.hasobject:
        if not isinstance(data, list):
            raise pickle.UnpicklingError("objects that are no list are refused")
        flat = np.empty(len(data), dtype=object)
        flat[:] = data
    else:
        content = data.encode("latin1") if isinstance(data, str) else bytes(data)  # a string in Python 2's pickles
        flat = np.frombuffer(content, dtype=kind) if kind.itemsize else np.zeros(shape, dtype=kind).ravel()
    return flat.reshape(shape, order=cast(Any, order)).copy(order="K")


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _filled(data, dtype, ())[()]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "bytes"): _NoBytes(),
    ("_codecs", "encode"): _Latin1(),
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _filled


def numpy_scalars() -> list[Any]:
    """NumPy's scalars for ``torch.serialization.safe_globals``: made here, not as a checkpoint's pickle says."""
    return [
        (_Dtype, "numpy.dtype"),
        *((_scalar, f"{core}.multiarray.scalar") for core in ("numpy.core", "numpy._core")),
    ]


def _finished(value: Any, done: dict[int, Any]) -> Any:
    """The value with arrays in place of what stood for them."""
    if isinstance(value, _Array):
        if value.content.dtype.hasobject:
            flat = value.content.ravel()
            for index in range(flat.size):
                flat[index] = _finished(flat[index], done)
            return flat.reshape(value.content.shape)
        return value.content
    if isinstance(value, _Dtype):
        return value.real()
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return value
    key = id(value)
    if key in done:
        if done[key] is _OPEN:
            raise pickle.UnpicklingError("a container that holds itself is refused")
        return done[key]
    done[key] = _OPEN
    if isinstance(value, dict):
        result: Any = {_finished(name, done): _finished(entry, done) for name, entry in value.items()}
    else:
        result = type(value)(_finished(entry, done) for entry in value)
    done[key] = result
    return result


_OPEN = object()


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
        return _finished(_PlainUnpickler(io.BytesIO(content), encoding="latin1").load(), {})
    except pickle.UnpicklingError as error:
        raise SampleError(
            path, f"refused: {error}; only builtins and NumPy arrays are read from pickles (is the file complete?)"
        ) from error
    except MemoryError:
        raise SampleError(path, "not a readable pickle: it asks for more memory than there is") from None
    except Exception as error:  # a damaged file may make the constructors raise anything
        raise SampleError(path, f"not a readable pickle, or cut short ({error})") from error
