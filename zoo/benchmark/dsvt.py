"""The group ``dsvt``: rotated boxes and dense maps, and the network's own steps.

Each part yields its cases: `zoo.benchmark.boxes` has boxes, suppression, maps and metrics.
"""

from __future__ import annotations

from collections.abc import Iterator

from zoo.benchmark import boxes
from zoo.benchmark.harness import Case, Row


def cases() -> Iterator[Case | Row]:
    """All comparisons of the group."""
    yield from boxes.cases()
