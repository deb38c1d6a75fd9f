"""Training batches as pure functions of (seed, step), so that a resumed run sees what the uninterrupted one saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, get_worker_info

__all__ = ["EvenShare", "StepData", "StepLoader", "Steps", "shuffled_indices", "step_index"]

Batch = TypeVar("Batch")


def step_index(step: int) -> Tensor:
    """The step itself as an int64 tensor of shape ``(1,)``, for tasks that draw their batch themselves."""
    return torch.tensor([step])


class Steps(IterableDataset[Batch], Generic[Batch]):
    """``batch_of(step)`` for the steps ``start`` to ``stop - 1``, dealt out to the workers in turn."""

    def __init__(self, stop: int, batch_of: Callable[[int], Batch]) -> None:
        self.start, self.stop, self.batch_of = 0, stop, batch_of

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for step in range(self.start + first, self.stop, stride):
            yield self.batch_of(step)


class StepLoader(DataLoader[Any]):
    """Loads the steps that are left.

    Args:
        max_steps: number of steps of the run.
        first_step: returns the index of the next step; asked at the start of each pass, so that a resumed run goes on
            where it stopped.
        num_workers: worker processes.
        batch_of: makes the batch of a step.
        pin_memory: whether batches go to page-locked memory.
    """

    def __init__(
        self,
        max_steps: int,
        first_step: Callable[[], int],
        num_workers: int,
        batch_of: Callable[[int], Any] = step_index,
        pin_memory: bool = False,
    ) -> None:
        self._first_step = first_step
        self._steps = Steps(max_steps, batch_of)
        super().__init__(self._steps, batch_size=None, num_workers=num_workers, pin_memory=pin_memory)

    def __iter__(self) -> Any:
        self._steps.start = self._first_step()
        return super().__iter__()


class EvenShare(DistributedSampler[int]):
    """Every ``world_size``-th number from ``rank`` on: the samples that a process evaluates.

    All processes take as many numbers, since they wait for each other. Those from ``count`` on are fillers, which the
    data set has to give a batch for and the metrics must not see. (Lightning's own sampler repeats the first samples
    instead, and metrics count them twice.)

    Example:
        >>> [list(EvenShare(3, rank, 2)) for rank in range(2)]
        [[0, 2], [1, 3]]
    """

    def __init__(self, count: int, rank: int, world_size: int) -> None:
        super().__init__(range(count), num_replicas=world_size, rank=rank, shuffle=False)  # pyright: ignore[reportArgumentType]

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.total_size, self.num_replicas))

    def num_measured(self, first: int, size: int) -> int:
        """How many of this process's numbers ``first`` to ``first + size - 1`` are samples, the rest being fillers.

        Example:
            >>> [EvenShare(3, rank, 2).num_measured(1, 1) for rank in range(2)]
            [1, 0]
        """
        own = len(range(self.rank, len(self.dataset), self.num_replicas))  # pyright: ignore[reportArgumentType]
        return max(0, min(size, own - first))


class _Filled(Dataset[Any]):
    """Samples that go on from the start behind the last one."""

    def __init__(self, samples: Dataset[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)  # pyright: ignore[reportArgumentType]

    def __getitem__(self, index: int) -> Any:
        return self.samples[index % len(self)]


class StepData(LightningDataModule):
    """A data module whose training batches go on where the trainer stands.

    Attributes:
        max_steps: optimizer steps of the run.
        num_workers: worker processes of each loader.
    """

    max_steps: int
    num_workers: int

    def place(self) -> tuple[int, int]:
        """Rank of this process and number of processes."""
        trainer: Any = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def batches_of_step(self) -> int:
        """Batches whose gradients make up one optimizer step."""
        trainer: Any = self.trainer
        return 1 if trainer is None else trainer.accumulate_grad_batches

    def _first_batch(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_step * self.batches_of_step()

    def steps_left(self, batch_of: Callable[[int], Any] = step_index) -> StepLoader:
        """Loads the batches that are left of the run; ``batch_of(number)`` makes one."""
        return StepLoader(self.max_steps * self.batches_of_step(), self._first_batch, self.num_workers, batch_of)

    def measured(self, samples: Dataset[Any], **options: Any) -> DataLoader[Any]:
        """Loads val or test samples in their order, of several processes each an `EvenShare`.

        Args:
            samples: All of them.
            options: Of the loader.
        """
        rank, world_size = self.place()
        if world_size > 1:
            options["sampler"] = EvenShare(len(samples), rank, world_size)  # pyright: ignore[reportArgumentType]
            samples = _Filled(samples)
        return DataLoader(samples, num_workers=self.num_workers, **options)

    def predict_dataloader(self) -> Any:
        """What is tested."""
        return self.test_dataloader()


def shuffled_indices(count: int, first: int, size: int, seed: int) -> list[int]:
    """Entries ``first`` to ``first + size - 1`` of endless passes over ``range(count)``, each pass in its own order.

    Args:
        count: number of samples.
        first: how many samples were taken before.
        size: how many to take.
        seed: of the orders.

    Raises:
        ValueError: there is no sample.

    Example:
        >>> sorted(shuffled_indices(3, 0, 3, seed=0)), len(shuffled_indices(3, 2, 4, seed=0))
        ([0, 1, 2], 4)
    """
    if count < 1:
        raise ValueError(f"count: found {count}, expected at least one sample")
    chosen: list[int] = []
    while len(chosen) < size:
        turn, place = divmod(first + len(chosen), count)
        generator = torch.Generator().manual_seed((seed * 1_000_003 + turn) % (1 << 63))
        order = torch.randperm(count, generator=generator)
        chosen += order[place : place + size - len(chosen)].tolist()
    return chosen
