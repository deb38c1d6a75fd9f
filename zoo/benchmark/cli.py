"""The command line ``tools/benchmark.py``: measure groups, record a finished run as evidence, compare recipes."""

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """``GROUP... [--out FILE.csv]`` measures, ``record RUN`` keeps a run, ``results`` writes pages; or ``spare``."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=main.__doc__)
    groups = (
        "fields, sparse, spike, dsvt, surface, spark, gaussians, loading; record RUN; results; "
        "spare, gridpull (each with --help)"
    )
    parser.add_argument("groups", nargs="+", metavar="GROUP", help=groups)
    parser.add_argument("--out", type=Path, metavar="FILE.csv", help="write the rows as CSV")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="write the table for the docs")
    parser.add_argument("--name", help="with record: the name of the result (default: the experiment's)")
    parser.add_argument("--no-pictures", action="store_true", help="with record: keep the figures only")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["spare"]:
        from zoo.benchmark.spare import main as compare_few_views

        return compare_few_views(given[1:])
    if given[:1] == ["gridpull"]:
        from zoo.benchmark.pull_cost import main as cost_of_pulling

        return cost_of_pulling(given[1:])
    options = parser.parse_args(given)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.groups[0] == "record":
            return _record(options.groups[1:], options.name, with_pictures=not options.no_pictures)
        if options.groups == ["results"]:
            return _write_results()
        return _measure(options.groups, options.out, options.table)
    except (ValueError, FileNotFoundError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def _measure(groups: Sequence[str], out: Path | None, table: Path | None) -> int:
    from zoo.benchmark.harness import markdown, run_groups, write_csv
    from zoo.files import write_text

    rows = []
    for row in run_groups(groups):
        rows.append(row)
        sys.stdout.write(markdown([row]).splitlines()[-1] + "\n")
        sys.stdout.flush()
        if out is not None:
            write_csv(rows, out)
    if table is not None:
        write_text(table, _page(groups, markdown(rows)))
    return 0


def _page(groups: Sequence[str], rows: str) -> str:
    names = " ".join(groups)
    return (
        f"# Speed: {names}\n\n{_machine()} Made by `python tools/benchmark.py {names} --table FILE.md`: medians of "
        "interleaved calls whose\nresults are compared in the same run. Ratio: the peer's time over ours. Of limit: "
        f"the time that the machine's measured limit\nwould allow over ours.\n\n{rows}"
    )


def _record(runs: Sequence[str], name: str | None, *, with_pictures: bool) -> int:
    from zoo.benchmark.record import record

    if len(runs) != 1:
        raise ValueError(f"record: found {len(runs)} run folders, expected one")
    sys.stdout.write(f"{record(Path(runs[0]), name=name, with_pictures=with_pictures)}\n")
    return 0


def _write_results() -> int:
    from zoo.benchmark import recipe_cost, spare_page, spiking_twins
    from zoo.benchmark.filled_tables import fill_tables, pages_with_tables
    from zoo.benchmark.record import RESULTS, RESULTS_PAGE, results_page
    from zoo.files import write_text

    write_text(RESULTS_PAGE, results_page())
    for tables in (spiking_twins, recipe_cost):
        write_text(tables.PAGE, tables.fill_page(tables.PAGE.read_text()))
    write_text(spare_page.PAGE, spare_page.spare_page(spare_page.read_records(RESULTS / "spare")))
    for page in pages_with_tables(Path()):
        write_text(page, fill_tables(page.read_text()))
        sys.stdout.write(f"{page}\n")
    sys.stdout.write(f"{RESULTS_PAGE}\n{spiking_twins.PAGE}\n{recipe_cost.PAGE}\n{spare_page.PAGE}\n")
    return 0


def _machine() -> str:
    import torch

    from zoo.benchmark.record import processor_name

    return f"{processor_name()}, {torch.get_num_threads()} threads, {platform.system()}, torch {torch.__version__}."
