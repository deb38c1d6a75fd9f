"""All readers by name."""

from __future__ import annotations

from tests.fuzz.clouds import CLOUDS
from tests.fuzz.detection import DETECTION
from tests.fuzz.harness import Reader
from tests.fuzz.scenes import PICTURES
from tests.fuzz.weights import WEIGHTS

READERS: dict[str, Reader] = {reader.name: reader for reader in (*CLOUDS, *PICTURES, *DETECTION, *WEIGHTS)}
