"""JSON files of people and other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.data.bad_samples import SampleError

__all__ = ["read_json"]


def read_json(path: Path | str) -> Any:
    """What a JSON file holds.

    Raises:
        SampleError: missing, no UTF-8, no JSON, a number of thousands of digits, or nested too deeply.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SampleError(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise SampleError(path, f"not valid JSON ({error})") from error
