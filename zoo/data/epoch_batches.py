"""Batches of indices as pure functions of the seed and the step."""

from __future__ import annotations

import math

import torch

__all__ = ["epoch_batch", "steps_per_epoch"]


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
