"""Progress of long work on data: a bar if someone watches, else a line every ten seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["track"]

logger = logging.getLogger(__name__)
Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, total: int, seconds_between_lines: float = 10.0) -> Iterator[Item]:
    """The items, while rate and remaining time are shown.

    Args:
        items: to go through.
        what: is being done.
        total: number of items.
        seconds_between_lines: where nobody watches.
    """
    if sys.stderr.isatty():
        yield from _with_bar(items, what, total)
        return
    begun = said = time.monotonic()
    for number, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - said >= seconds_between_lines:
            rate = (number + 1) / (now - begun)
            left = (total - number - 1) / rate
            logger.info("%s: %d of %d, %.1f/s, %.0f s left", what, number + 1, total, rate, left)
            said = now


def _with_bar(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total)
