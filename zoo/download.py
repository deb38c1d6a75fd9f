"""``tools/download.py`` and ``zoo download``: lists the weights of the zoo and fetches them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from zoo.files import write_text
from zoo.hub import Card, cached_file, fetch, find_card, list_cards
from zoo.hub.page import PAGE, card_row, cards_page
from zoo.hub.resuming import Progress as Shown

__all__ = ["download", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, list or fetch; returns the exit status."""
    parser = argparse.ArgumentParser(prog="zoo download", description="List the weights of the zoo, or fetch them.")
    parser.add_argument("names", nargs="*", help="names, or shell patterns such as 'spark-*'; none: list all")
    parser.add_argument("--list", action="store_true", help="list what matches, fetch nothing")
    parser.add_argument("--all", action="store_true", help="every weight that can be fetched")
    parser.add_argument("--to", metavar="FOLDER", type=Path, help="folder to keep them in; it can serve as a mirror")
    parser.add_argument("--mirror", help="https://, file:// or a folder, asked first (default: $ZOO_MIRROR)")
    parser.add_argument("--offline", action="store_true", default=None, help="use no network (default: $ZOO_OFFLINE)")
    parser.add_argument("--page", metavar="FILE", type=Path, help=f"write the page of model cards ({PAGE})")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.page is not None:
        write_text(arguments.page, cards_page())
        return 0
    try:
        if arguments.list or not (arguments.names or arguments.all):
            _print_table([card for pattern in arguments.names or ["*"] for card in _matching(pattern)], arguments.to)
            return 0
        cards = list_cards() if arguments.all else [card for name in arguments.names for card in _matching(name)]
        return download(
            cards,
            folder=arguments.to,
            mirror=arguments.mirror,
            offline=arguments.offline,
            skip_unavailable=arguments.all or any(_is_pattern(name) for name in arguments.names),
        )
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def download(
    cards: Sequence[Card],
    *,
    folder: Path | None = None,
    mirror: str | None = None,
    offline: bool | None = None,
    skip_unavailable: bool = False,
) -> int:
    """Fetch weights one after another and say where they are; one that fails does not keep the others back.

    Args:
        cards: What to fetch.
        folder: See `zoo.hub.fetch`, as for the next two.
        mirror: Asked first.
        offline: Use no network.
        skip_unavailable: Leave out what nobody can fetch; otherwise that is a failure.

    Returns:
        0, or 1 where some failed.
    """
    console, failed = Console(stderr=True), 0
    for card in cards:
        if skip_unavailable and (card.status not in ("available", "converted") or not card.sources):
            continue
        try:
            with _bar(card, console) as progress:
                path = fetch(card, folder=folder, mirror=mirror, offline=offline, progress=progress)
            sys.stdout.write(f"{path}\n")
        except (ValueError, OSError) as error:
            sys.stderr.write(f"{error}\n")
            failed = 1
    return failed


def _is_pattern(name: str) -> bool:
    return any(character in name for character in "*?[")


def _matching(name: str) -> list[Card]:
    if not _is_pattern(name):
        return [find_card(name)]
    found = list_cards(name)
    if not found:
        raise ValueError(f"{name}: no weight matches; `zoo download` lists all")
    return found


def _print_table(cards: Sequence[Card], folder: Path | None) -> None:
    table = Table(title="weights")
    for name in ("weight", "network", "figure", "size", "status", "here"):
        table.add_column(name, no_wrap=name == "weight")
    for card in cards:
        here = "yes" if cached_file(card, folder) else ""
        table.add_row(*(Text(cell) for cell in (*card_row(card), here)))
    console = Console()
    console.print(table)
    console.print("fetch with: python tools/download.py NAME; use with: weights=NAME", highlight=False)


@contextmanager
def _bar(card: Card, console: Console) -> Iterator[Shown]:
    """A bar with rate and time left, for people who look at a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task(card.name, total=card.size)

        def show(done: int, total: int | None) -> None:
            bars.update(task, completed=done, total=total)

        yield show


if __name__ == "__main__":
    raise SystemExit(main())
