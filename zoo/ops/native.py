"""Finds the native kernels: a prebuilt binary, a cached one, or one compiled on first use; else the reference answers.

``ZOO_OPS=reference`` never looks for a binary, ``ZOO_OPS=native`` makes its absence an error. The choice is made once,
at the first call of an op, never at import.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import torch

log = logging.getLogger("zoo.ops")

_lock = threading.Lock()
_settled = False
_binary: Path | None = None
_reason = "no op has been called yet"


def is_settled() -> bool:
    """Whether the search for the binary has been made."""
    return _settled


def binary() -> Path | None:
    """The loaded binary, or None where the reference answers (or nothing was called yet)."""
    return _binary


def reason() -> str:
    """One sentence on why the ops run as they do."""
    return _reason


@torch.compiler.assume_constant_result
def settle() -> bool:
    """Find and load the native kernels, once; returns whether they are in use."""
    global _settled, _binary, _reason
    with _lock:
        if _settled:
            return _binary is not None
        mode = requested_mode()
        if mode == "reference":
            _reason = "ZOO_OPS=reference asks for the plain torch implementations"
        else:
            _binary, _reason = _find_and_load(strict=mode == "native")
        _settled = True
        return _binary is not None


def requested_mode() -> str:
    """``auto``, ``native`` or ``reference``, from the environment variable ``ZOO_OPS``."""
    mode = os.environ.get("ZOO_OPS", "") or "auto"
    if mode not in ("auto", "native", "reference"):
        raise ValueError(f"ZOO_OPS: found {mode!r}, expected 'native', 'reference' or nothing")
    return mode


def _find_and_load(*, strict: bool) -> tuple[Path | None, str]:
    from zoo.ops import build  # the compiler driver is not needed before

    try:
        path = build.find_or_build(strict=strict)
        torch.ops.load_library(str(path))
    except (build.BuildError, OSError) as error:
        if strict:
            raise RuntimeError(f"ZOO_OPS=native asks for the native kernels, but {error}") from error
        log.warning(
            "zoo.ops: native kernels are not available (%s); the slower plain torch implementations are used. "
            "`zoo doctor` says how to change that.",
            error,
        )
        return None, str(error)
    return path, f"native kernels from {path}"
