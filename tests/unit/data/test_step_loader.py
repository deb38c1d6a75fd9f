"""Batches by step: the order of samples, and where loading begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.step_loader import StepData, StepLoader, shuffled_indices, step_index


@given(st.integers(1, 30), st.integers(0, 200), st.integers(0, 70), st.integers(0, 5))
def test_passes_are_permutations_however_they_are_cut(count: int, first: int, size: int, seed: int) -> None:
    whole = shuffled_indices(count, 0, first + size, seed)
    assert shuffled_indices(count, first, size, seed) == whole[first:]
    for start in range(0, len(whole) - count + 1, count):
        assert sorted(whole[start : start + count]) == list(range(count))


def test_passes_differ() -> None:
    first, second = shuffled_indices(50, 0, 50, 0), shuffled_indices(50, 50, 50, 0)
    assert first != second
    assert first != shuffled_indices(50, 0, 50, 1)
    with pytest.raises(ValueError, match="count: found 0"):
        shuffled_indices(0, 0, 1, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_goes_on_where_it_stopped(workers: int) -> None:
    loader = StepLoader(7, lambda: 3, workers)
    assert [int(step) for step in loader] == [3, 4, 5, 6]
    squares = StepLoader(4, lambda: 1, workers, batch_of=lambda step: step_index(step) ** 2)
    assert [int(step) for step in squares] == [1, 4, 9]


class Module(StepData):
    """Three samples, the numbers 0 to 2."""

    num_workers = 0

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)  # pyright: ignore


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_every_sample_is_measured_once(world_size: int, batch_size: int) -> None:
    measured, lengths = [], set()
    for rank in range(world_size):
        loader = Module(rank, world_size).measured([10, 11, 12], batch_size=batch_size)  # pyright: ignore
        batches = [batch.tolist() for batch in loader]
        lengths.add(len(batches))
        for number, batch in enumerate(batches):
            sampler = loader.sampler
            count = sampler.num_measured(number * batch_size, len(batch)) if world_size > 1 else len(batch)
            measured += batch[:count]
    assert sorted(measured) == [10, 11, 12]
    assert len(lengths) == 1  # processes wait for each other
