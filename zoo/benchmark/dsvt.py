"""The group ``dsvt``: rotated boxes and dense maps, and the network's own steps.

Each part yields its cases: `zoo.benchmark.boxes` has boxes, suppression, maps and metrics,
`zoo.benchmark.set_attention` sets, attention and the backbone.
"""

from __future__ import annotations

from collections.abc import Iterator

from zoo.benchmark import boxes, set_attention
from zoo.benchmark.harness import Case, Row


def cases() -> Iterator[Case | Row]:
    """All comparisons of the group."""
    yield from boxes.cases()
    yield from set_attention.cases()
