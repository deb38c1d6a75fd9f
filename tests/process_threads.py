"""Processes of a distributed run as threads of this one: collectives without start-up, and no hang on a defect."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from zoo.ops import processes

Result = TypeVar("Result")


class ThreadGroup:
    """What `zoo.ops.processes` uses of ``torch.distributed``, for threads; one that does not come breaks the others."""

    def __init__(self, size: int) -> None:
        self.size, self.slots = size, [torch.empty(0)] * size
        self.barrier, self.local = threading.Barrier(size, timeout=20), threading.local()

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return self.size

    def get_rank(self) -> int:
        return self.local.rank

    def _exchange(self, value: Tensor) -> list[Tensor]:
        self.slots[self.local.rank] = value.detach().clone()
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found

    def all_reduce(self, value: Tensor) -> None:
        value.copy_(torch.stack(self._exchange(value)).sum(0))

    def all_gather(self, parts: list[Tensor], value: Tensor) -> None:
        for part, found in zip(parts, self._exchange(value), strict=True):
            part.copy_(found)


def run_processes(monkeypatch: pytest.MonkeyPatch, size: int, work: Callable[[int], Result]) -> list[Result]:
    """``work(rank)`` of each process; an error in one is raised."""
    group = ThreadGroup(size)

    def start(rank: int) -> Result:
        group.local.rank = rank
        try:
            return work(rank)
        except BaseException:
            group.barrier.abort()
            raise

    with monkeypatch.context() as patch, ThreadPoolExecutor(size) as pool:
        patch.setattr(processes, "distributed", group)
        futures: list[Any] = [pool.submit(start, rank) for rank in range(size)]
        errors = [error for error in (future.exception() for future in futures) if error is not None]
        for error in errors:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        return [future.result() for future in futures]
