"""Folders of generated data: written beside their place, described by a file, and never taken for another's."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zoo.data.bad_samples import SampleError
from zoo.data.formats.json_files import read_json

__all__ = ["DESCRIPTION", "GeneratedFolder", "check_generated", "describe"]

SCHEMA = 1
DESCRIPTION = "generated.json"


class GeneratedFolder:
    """A context that gives a folder to write into and moves it to its place when it is complete.

    Args:
        root: where it goes.
        layout: what it holds.
        settings: a dataclass, what it was made with.
        overwrite: replace a folder that was generated before; others are never touched.

    Raises:
        FileExistsError: the folder exists and may not be replaced.
    """

    def __init__(self, root: Path, layout: str, settings: Any, overwrite: bool) -> None:
        if root.exists() and not overwrite:
            raise FileExistsError(f"{root} exists; choose another folder, or say overwrite=True to replace it")
        if root.exists() and any(root.iterdir()) and not (root / DESCRIPTION).is_file():
            raise FileExistsError(f"{root} was not made by this generator (no {DESCRIPTION}) and is not replaced")
        self.root, self.part = root, root.with_name(f".{root.name}.{os.getpid()}.part")
        self.description = describe(layout, settings)

    def __enter__(self) -> Path:
        self.part.mkdir(parents=True)
        return self.part

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            return
        (self.part / DESCRIPTION).write_text(json.dumps(self.description, indent=1))
        if self.root.exists():
            shutil.rmtree(self.root)
        self.part.rename(self.root)


def describe(layout: str, settings: Any) -> dict[str, Any]:
    """What ``generated.json`` says of a generated folder."""
    return {"schema": SCHEMA, "layout": layout, "settings": json.loads(json.dumps(asdict(settings)))}


def check_generated(root: Path | str, layout: str, settings: Any) -> None:
    """Make sure that a generated folder is the one that these settings and this version would make.

    Raises:
        SampleError: it was made by another version or with other settings.
    """
    path = Path(root) / DESCRIPTION
    found = read_json(path)
    if found != describe(layout, settings):
        what = (
            "by another version"
            if not isinstance(found, dict) or found.get("schema") != SCHEMA
            else "with other settings"
        )
        raise SampleError(
            path, f"was generated {what}; rebuild it with tools/prepare_data.py action=generate overwrite=true"
        )
