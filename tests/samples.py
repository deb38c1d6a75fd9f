"""What tests need from outside the repository: real sample data, and open3d with its system libraries.

Both are skipped with the reason where they are absent; ``ZOO_FORBID_SKIPS=1`` (see conftest.py) makes that a failure.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]


def sample_data(name: str) -> Path:
    """The folder ``name`` of the real samples, ``$ZOO_SAMPLE_DATA`` (default ``../shared/data``)."""
    path = Path(os.environ.get("ZOO_SAMPLE_DATA") or ROOT.parent / "shared" / "data") / name
    if not path.is_dir():
        pytest.skip(f"no sample data: {path} is missing; set ZOO_SAMPLE_DATA")
    return path


def open3d() -> ModuleType:
    """The module open3d."""
    try:
        import open3d as module
    except (ImportError, OSError) as error:  # OSError: a system library is missing
        pytest.skip(f"open3d cannot be imported: {error}")
    return module
