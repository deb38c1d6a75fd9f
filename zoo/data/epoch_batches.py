"""Batches of indices as pure functions of the seed and the step."""

from __future__ import annotations

import math

import torch

__all__ = ["epoch_batch", "repeated_batch", "steps_per_epoch"]


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Steps in which every sample is seen."""
    return math.ceil(num_samples / batch_size)


def epoch_batch(
    step: int,
    *,
    num_samples: int,
    batch_size: int,
    seed: int = 1,
    world_size: int = 1,
    rank: int = 0,
    fill: bool = True,
) -> list[int]:
    """Indices of a process at a step: a permutation seeded with ``seed + epoch``, cut into one share a process.

    Args:
        step: Global step.
        num_samples: Of the data set.
        batch_size: Over all processes.
        seed: Of the first epoch.
        world_size: Number of processes.
        rank: Of this one.
        fill: Whether the last batch is filled from the start of the permutation.

    Raises:
        ValueError: If the batch cannot be divided, or there is nothing to draw.
    """
    if num_samples < 1 or batch_size < 1 or batch_size % world_size or not 0 <= rank < world_size:
        raise ValueError(
            f"num_samples, batch_size, world_size, rank: found {num_samples}, {batch_size}, {world_size}, {rank}; "
            "expected at least one sample, and a batch that divides over the processes"
        )
    if world_size > 1 and not fill:
        raise ValueError("fill: found False with several processes; expected True, else their shares differ")
    steps = steps_per_epoch(num_samples, batch_size)
    epoch, place = divmod(step, steps)
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed + epoch))
    if fill:
        order = order.repeat(math.ceil(steps * batch_size / num_samples))[: steps * batch_size]
    own = batch_size // world_size
    start = rank * steps * own + place * own
    return order[start : start + own].tolist()


def repeated_batch(
    step: int, *, num_samples: int, batch_size: int, repeats: int, seed: int = 1, world_size: int = 1, rank: int = 0
) -> list[int]:
    """Indices of a process at a step where each picture comes ``repeats`` times in a row (arXiv:1901.09335).

    An epoch has ``num_samples // batch_size`` steps and sees ``1 / repeats`` of the samples. The copies of one go to
    different processes where there are several.

    Args:
        step: Global step.
        num_samples: Of the data set.
        batch_size: Over all processes.
        repeats: Copies of each sample, augmented differently.
        seed: Of the first epoch.
        world_size: Number of processes.
        rank: Of this one.

    Raises:
        ValueError: If the batch cannot be divided, or is larger than the data set.
    """
    if repeats < 1 or not 1 <= batch_size <= num_samples or batch_size % world_size or not 0 <= rank < world_size:
        raise ValueError(
            f"repeats, num_samples, batch_size, world_size, rank: found {repeats}, {num_samples}, {batch_size}, "
            f"{world_size}, {rank}; expected at least one repeat, and a batch that divides over the processes and is "
            "no larger than the data set"
        )
    epoch, place = divmod(step, num_samples // batch_size)
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed + epoch))
    own = batch_size // world_size
    return order.repeat_interleave(repeats)[rank::world_size][place * own : (place + 1) * own].tolist()
