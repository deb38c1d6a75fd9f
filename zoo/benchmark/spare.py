"""Quality from few views: recipes x scenes x views by the command line, one record a run, and the page of tables.

``tools/benchmark.py spare`` does the runs that have no record yet and writes docs/benchmarks/spare.md from all records
in docs/results/spare. It may be interrupted at any time: the same command goes on, a run from its last checkpoint.
``--part 1/2`` and ``--part 2/2`` share the work between two processes, each of one thread.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from zoo.benchmark.record import RESULTS, commit_of, record
from zoo.benchmark.spare_cases import METHODS, SCENES, TABLES, Case, cases_of
from zoo.benchmark.spare_page import PAGE, read_records, spare_page
from zoo.files import write_text
from zoo.training.run_folder import RunFolder, environment_text
from zoo.training.signals import RunInterrupted, Signals

__all__ = ["RECORDS", "main", "run_case"]

RECORDS = RESULTS / "spare"
TRAIN = Path(__file__).resolve().parents[2] / "tools" / "train.py"

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns 1 if a run failed, 128 + the signal's number if it was interrupted."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    index, count = options.part
    wanted = [case for table in options.tables for case in _cases(table, options)]
    cases = wanted[index - 1 :: count]
    failed = []
    try:
        with Signals().installed():
            _prepare(cases, options.runs)
            for number, case in enumerate(cases):
                log.info("run %d of %d: %s", number + 1, len(cases), case.name)
                try:
                    run_case(case, runs=options.runs, records=options.records)
                except (ChildProcessError, OSError) as error:
                    log.error("%s: %s", case.name, error)
                    failed.append(case.name)
    except RunInterrupted as interruption:
        log.info("%s; the same command goes on", interruption)
        return interruption.exit_code
    if failed:
        log.error("%d of %d runs failed: %s", len(failed), len(cases), ", ".join(failed))
    left = [case.name for case in wanted if not _record_of(case, options.records).is_file()]
    if left:  # a page that changes between runs would make their commit look changed
        log.info("%d runs have no record yet; the page follows the last of them", len(left))
    else:
        write_text(options.page, spare_page(read_records(options.records)))
        log.info("%s", options.page)
    return 1 if failed else 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmark.py spare", description=__doc__)
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help="every N-th run, from the K-th on")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES[:3]), help="of the two tracks")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--minutes", type=float, default=6.0, help="of a run of the tracks and of the fox")
    parser.add_argument("--ablation-minutes", type=float, default=3.0, help="of a run of the ablation")
    for name in ("--steps", "--ablation-steps"):
        parser.add_argument(name, nargs="+", type=_steps, default=[], metavar="EXPERIMENT=N", help="length of its runs")
    parser.add_argument("--fox", type=Path, metavar="FOLDER", help="the capture; without it its runs are left out")
    parser.add_argument("--more", nargs="+", default=[], metavar="KEY=VALUE", help="further overrides of every run")
    parser.add_argument("--runs", type=Path, default=Path("outputs/spare_tables"), help="where run folders stand")
    parser.add_argument("--records", type=Path, default=RECORDS)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    if options.fox is not None and not options.fox.is_dir():
        parser.error(f"--fox: no such folder: {options.fox}")
    return options


def _steps(text: str) -> tuple[str, int]:
    name, _, steps = text.partition("=")
    if name not in METHODS or not steps.isdigit() or int(steps) < 1:
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected EXPERIMENT=N of {list(METHODS)} and a number of steps"
        )
    return name, int(steps)


def _part(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected K/N with 1 <= K <= N")
    return int(index), int(count)


def _cases(table: str, options: argparse.Namespace) -> list[Case]:
    minutes = options.ablation_minutes if table == "ablation" else options.minutes
    scenes = options.scenes[:2] if table == "ablation" else options.scenes
    steps = dict(options.ablation_steps if table == "ablation" else options.steps)
    return cases_of(
        table, minutes=minutes, scenes=scenes, methods=options.methods, steps=steps, fox=options.fox, more=options.more
    )


def run_case(case: Case, *, runs: Path, records: Path) -> Path:
    """Train a case, unless it is recorded, and return its record.

    Args:
        case: The run.
        runs: Where its folder stands; a run that was interrupted goes on there.
        records: Where its record goes.

    Raises:
        ChildProcessError: The run failed.
        zoo.training.signals.RunInterrupted: A signal came; the run has saved its state.
    """
    target = _record_of(case, records)
    if target.is_file():
        log.info("%s: recorded already", target)
        return target
    folder = RunFolder(runs / case.name)
    overrides = [*case.overrides, f"paths.run_dir='{folder.path.resolve()}'"]
    if folder.path.exists() and not _goes_on(folder, overrides):
        shutil.rmtree(folder.path)  # another recipe or another commit: no part of this run
    if not folder.metrics.is_file():
        resume = [f"ckpt='{folder.last.resolve()}'"] if folder.last.is_file() else []
        _train([*overrides, *resume])
    _warn_if_cut(folder)
    more = {"table": case.table, "method": case.method, "scene": case.scene, "change": case.change}
    return record(folder.path, name=case.name, results=records, with_pictures=False, overrides=overrides, more=more)


def _warn_if_cut(folder: RunFolder) -> None:
    """Say so where time ended a run before its schedules did: such a recipe is better off with fewer steps."""
    done = json.loads(folder.metrics.read_text())["steps"]
    config: Any = OmegaConf.load(folder.config)
    wanted = config.trainer.max_steps
    if done < wanted:
        log.warning("%s: time was up at step %d of %d; --steps makes its schedules fit", folder.path.name, done, wanted)


def _record_of(case: Case, records: Path) -> Path:
    return records / f"{case.name}.json"


def _goes_on(folder: RunFolder, overrides: Sequence[str]) -> bool:
    """Whether a folder holds a part of the very run: the same command of the same commit."""
    path = folder.path / "overrides.txt"
    if not path.is_file():
        return False
    former = [line for line in path.read_text().splitlines() if not line.startswith("ckpt=")]
    return former == list(overrides) and commit_of(folder.path / "environment.txt") == _present_commit()


def _present_commit() -> str:
    lines = environment_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("commit:"))


def _train(overrides: Sequence[str]) -> None:
    """One run of the command line in a process group of its own, so that a signal reaches it once, through here."""
    process = subprocess.Popen([sys.executable, str(TRAIN), *overrides], start_new_session=True)
    try:
        code = process.wait()
    except RunInterrupted as interruption:
        process.send_signal(interruption.number)
        process.wait()
        raise
    if code:
        raise ChildProcessError(f"tools/train.py ended with {code}: {' '.join(overrides)}")


def _prepare(cases: Sequence[Case], runs: Path) -> None:
    """Generate the scenes before two parts would both begin to."""
    if not any(case.table != "fox" for case in cases):
        return
    from zoo.training.configuration import build, compose

    first = next(case for case in cases if case.table != "fox")
    with _alone(runs / ".preparing"):
        build(compose(list(first.overrides)).data).prepare_data()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock that one process at a time can have; the system frees it when the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
