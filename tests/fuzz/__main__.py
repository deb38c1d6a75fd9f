"""Look for files that break a reader: ``python -m tests.fuzz [READER ...] [--seconds 120] [--out TABLE.md]``.

Every reader runs in a process of its own, so that one that crashes is reported, too. Inputs that break something are
kept below ``tests/fuzz/kept``, where `tests/property/test_damaged_files.py` reads them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.harness import Case, Tally, keep, search_for
from tests.fuzz.readers import READERS
from zoo.files import write_text


def _search_all(name: str, seconds: float, folder: Path, channel: Connection) -> None:
    """Search in all cases of a reader; the parent hears the case that is begun, and the tally at the end."""
    total, cases = Tally(), READERS[name].cases
    for case in cases:
        channel.send(case.name)
        (folder / case.name).mkdir()
        search_for(case, folder / case.name, total, seconds / len(cases))
    channel.send(total)


def _run(name: str, seconds: float) -> Tally:
    """Search in a process of its own; one that dies counts as a fault."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp())
    process = fork.Process(target=_search_all, args=(name, seconds, folder, sender))
    process.start()
    sender.close()
    now, tally = "", None
    try:
        while tally is None:
            message = receiver.recv()
            now, tally = (message, None) if isinstance(message, str) else (now, message)
    except EOFError:
        process.join()
        kept = _keep_crash(next(case for case in READERS[name].cases if case.name == now), folder / now)
        tally = Tally(broken={"crash": f"{now}: died with exit status {process.exitcode} ({kept})"})
    process.join()
    shutil.rmtree(folder, ignore_errors=True)
    return tally


def _keep_crash(case: Case, folder: Path) -> Path:
    """Keep the file that a process read when it died."""
    last = max(folder.iterdir(), key=lambda root: int(root.name))
    return keep(case, (last / case.file).read_bytes())


def main() -> int:
    """Run the readers one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; default: all")
    parser.add_argument("--seconds", type=float, default=120.0, help="for each reader, shared by its formats")
    parser.add_argument("--out", type=Path, help="table for the documentation")
    arguments = parser.parse_args()
    names = arguments.readers or list(READERS)
    unknown = [name for name in names if name not in READERS]
    if unknown:
        parser.error(f"readers: found {unknown[0]!r}, expected some of {', '.join(READERS)}")
    rows, broken = [], 0
    for name in names:
        tally = _run(name, arguments.seconds)
        print(f"{name}: {tally.files} files, {tally.accepted} accepted, {len(tally.broken)} faults", flush=True)
        for key, text in tally.broken.items():
            print(f"    {key}: {text[:600]}", flush=True)
        broken += len(tally.broken)
        formats = len(READERS[name].cases)
        rows.append(f"| {name} | {formats} | {tally.files:,} | {tally.accepted:,} | {len(tally.broken)} |")
    if arguments.out is not None:
        head = ["| Reader | Formats | Damaged files | of them still valid | Faults |", "|---|---|---|---|---|"]
        made = f"`python -m tests.fuzz --seconds {arguments.seconds:g}`: so many seconds for each reader.\n"
        write_text(arguments.out, "\n".join(["# Fuzzing of the readers", "", made, *head, *rows]) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
