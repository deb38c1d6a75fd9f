"""What the machine can do at most, measured in the run that states it: multiply-adds and copied bytes a second."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.ops.dispatch import define_op

REPEATS = 9


def _probe_reference(sink: Tensor, iterations: int) -> int:
    """Without native kernels the nearest thing to a peak is torch's own matrix product."""
    size = 1024
    left, right = torch.rand(size, size), torch.rand(size, size)
    rounds = max(1, iterations // 1_000_000)
    for _ in range(rounds):
        sink[0] = (left @ right)[0, 0]
    return rounds * 2 * size**3


_multiply_add_probe = define_op(
    "multiply_add_probe(Tensor(a!) sink, int iterations) -> int",
    reference=_probe_reference,
    fake=lambda sink, iterations: 0,
)


@dataclass(frozen=True)
class Limits:
    """The machine's limits at a number of threads."""

    threads: int
    flops: float  # float32 operations a second, a multiply-add counting as two
    copy_bytes: float  # bytes read plus bytes written a second, by a large copy

    def describe(self) -> str:
        """One line for the table's caption."""
        return (
            f"{self.threads} threads: {self.flops / 1e9:.0f} GF/s multiply-add, {self.copy_bytes / 1e9:.1f} GB/s copy"
        )


def measure_limits(threads: int) -> Limits:
    """Measure both limits: the best of 10 multiply-add runs, the median of 9 copies."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return Limits(threads, _multiply_add_rate(threads), _copy_rate())
    finally:
        torch.set_num_threads(before)


def _multiply_add_rate(threads: int) -> float:
    sink = torch.zeros(threads)
    rates = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        operations = _multiply_add_probe(sink, 3_000_000)
        rates.append(operations / (time.perf_counter() - start))
    return max(rates)  # a peak: a thread that waited for its core, or woke on another's, says nothing about it


def _copy_rate(size: int = 64 << 20) -> float:
    source, target = torch.ones(size), torch.zeros(size)
    rates = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        target.copy_(source)
        rates.append(2 * 4 * size / (time.perf_counter() - start))
    return statistics.median(rates[1:])
