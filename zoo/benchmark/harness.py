"""Side-by-side timing: ours and a named peer, interleaved, results compared, beside the machine's limit."""

from __future__ import annotations

import csv
import importlib
import io
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from zoo.benchmark.limits import Limits, measure_limits
from zoo.files import write_text

log = logging.getLogger("zoo.benchmark")

REPEATS = 9
GROUPS: dict[str, tuple[str, ...]] = {
    "fields": ("zoo.benchmark.fields", "zoo.benchmark.rays"),
    "sparse": ("zoo.benchmark.sparse",),
    "spike": ("zoo.benchmark.spike",),
    "dsvt": ("zoo.benchmark.dsvt",),
    "spark": ("zoo.benchmark.spark",),
    "surface": ("zoo.benchmark.surface",),
    "gaussians": ("zoo.benchmark.gaussians",),
    "loading": ("zoo.benchmark.loading",),
}


@dataclass(frozen=True)
class Case:
    """One comparison.

    ``ours`` and ``peer`` are called without arguments and return what ``compare`` takes: it raises AssertionError where
    the two results differ. ``setup`` is run before every timed call of either, untimed. ``work`` is the amount that the
    machine's limit counts: floating-point operations (``limit="flops"``) or bytes moved (``limit="copy"``).
    """

    case: str
    what: str
    threads: int
    ours: Callable[[], Any]
    peer_name: str = ""
    peer: Callable[[], Any] | None = None
    peer_threads: int | None = None  # None: as many as ours
    compare: Callable[[Any, Any], None] | None = None
    limit: Literal["flops", "copy", ""] = ""
    work: float = 0.0
    repeats: int = REPEATS
    setup: Callable[[], None] | None = None


@dataclass(frozen=True)
class Row:
    """One line of the result; times in milliseconds, ratio = peer / ours, of_limit = limit's time / ours."""

    group: str
    case: str
    what: str
    threads: int
    ours_ms: float
    peer: str = ""
    peer_ms: float | None = None
    ratio: float | None = None
    limit: str = ""
    of_limit: float | None = None


COLUMNS = tuple(field.name for field in fields(Row))


def run_groups(groups: Sequence[str]) -> Iterator[Row]:
    """Measure the cases of the groups one after another.

    Raises:
        ValueError: Unknown group.
    """
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"group: found {group!r}, expected one of {', '.join(GROUPS)}")
    limits: dict[int, Limits] = {}
    for group in groups:
        for module_name in GROUPS[group]:
            module = importlib.import_module(module_name)
            for item in module.cases():
                if isinstance(item, Row):
                    yield item
                    continue
                if item.threads not in limits:
                    limits[item.threads] = measure_limits(item.threads)
                    log.info("%s", limits[item.threads].describe())
                yield measure(group, item, limits[item.threads])


def measure(group: str, case: Case, limits: Limits) -> Row:
    """Time one case: medians of interleaved calls after one warm-up of each, in which the results are compared."""
    before = torch.get_num_threads()
    try:
        ours_times, peer_times = _interleave(case)
    finally:
        torch.set_num_threads(before)
    ours_ms = 1e3 * statistics.median(ours_times)
    peer_ms = 1e3 * statistics.median(peer_times) if peer_times else None
    text, of_limit = "", None
    if case.limit:
        rate = limits.flops if case.limit == "flops" else limits.copy_bytes
        bound_ms = 1e3 * case.work / rate
        unit = "GFlop" if case.limit == "flops" else "GB"
        text = f"{case.work / 1e9:.3g} {unit} at {rate / 1e9:.3g} {unit}/s = {bound_ms:.3g} ms"
        of_limit = bound_ms / ours_ms
    ratio = None if peer_ms is None else peer_ms / ours_ms
    return Row(group, case.case, case.what, case.threads, ours_ms, case.peer_name, peer_ms, ratio, text, of_limit)


def _interleave(case: Case) -> tuple[list[float], list[float]]:
    ours_times: list[float] = []
    peer_times: list[float] = []
    for repeat in range(case.repeats + 1):
        elapsed, result = _timed(case.ours, case.threads, case.setup)
        ours_times.append(elapsed)
        if case.peer is not None:
            elapsed, expected = _timed(case.peer, case.peer_threads or case.threads, case.setup)
            peer_times.append(elapsed)
            if repeat == 0 and case.compare is not None:
                case.compare(result, expected)
            del expected
        del result
    return ours_times[1:], peer_times[1:]


def _timed(function: Callable[[], Any], threads: int, setup: Callable[[], None] | None) -> tuple[float, Any]:
    torch.set_num_threads(threads)
    if setup is not None:
        setup()
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def fastest(makers: Mapping[str, Callable[[], Callable[[], Any]]], threads: int) -> tuple[str, Callable[[], Any]]:
    """The name and a fresh function of that way of a peer which is fastest in its second call."""
    before = torch.get_num_threads()
    times: dict[str, float] = {}
    try:
        for name, make in makers.items():
            run = make()
            _timed(run, threads, None)
            times[name] = _timed(run, threads, None)[0]
            log.info("peer, %s: %.0f ms", name, 1e3 * times[name])
    finally:
        torch.set_num_threads(before)
    best = min(times, key=lambda name: times[name])
    return best, makers[best]()


def close(actual: Any, expected: Any, *, rtol: float = 1e-4, what: str = "result") -> None:
    """Compare tensors, or sequences of tensors: the largest difference against the largest expected value."""
    if not isinstance(actual, torch.Tensor):
        for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
            close(a, b, rtol=rtol, what=f"{what}[{index}]")
        return
    peak = float(expected.abs().max()) if expected.numel() else 0.0
    worst = float((actual - expected).abs().max()) if expected.numel() else 0.0
    assert worst <= rtol * peak, (
        f"{what}: ours differs from the peer's by {worst:.3g}, {rtol:.1g} of {peak:.3g} allowed"
    )


def write_csv(rows: Iterable[Row], path: Path) -> None:
    """Write the rows in the fixed columns, atomically."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([["" if value is None else value for value in astuple(row)] for row in rows])
    write_text(path, text.getvalue())


def markdown(rows: Sequence[Row]) -> str:
    """The table for the docs."""
    lines = [
        "| case | what | threads | ours ms | peer | peer ms | ratio | limit | of limit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peer_ms = "" if row.peer_ms is None else f"{row.peer_ms:.4g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        share = "" if row.of_limit is None else f"{100 * row.of_limit:.0f} %"
        lines.append(
            f"| {row.case} | {row.what} | {row.threads} | {row.ours_ms:.4g} | {row.peer} | {peer_ms} | {ratio} "
            f"| {row.limit} | {share} |"
        )
    return "\n".join(lines) + "\n"
