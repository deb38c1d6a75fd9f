"""How fast batches come from three generated data sets, with 0, 1 and 2 worker processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from zoo.benchmark.harness import Row
from zoo.training.configuration import build, compose

__all__ = ["SETS", "cases", "seconds_per_sample"]

WORKERS = (0, 1, 2)
BATCHES = 40  # that are timed, behind as many as the workers fetch ahead
SETS: dict[str, tuple[str, dict[str, Any]]] = {  # recipes: what a sample is, and the settings of a small set
    "e3dsnn_street": (
        "LiDAR sweep, voxels of 0.2 m",
        {"source.generator.frames": {"00": 2, "01": 2, "08": 1}, "batch_size": 2},
    ),
    "dsvt_street": (
        "LiDAR frame with boxes",
        {"source.generator.num_train": 4, "source.generator.num_val": 1, "source.generator.num_test": 1},
    ),
    "spark_pictures": (
        "picture of 64 x 64",
        {"source.generator.num_train": 20, "source.generator.num_test": 1, "batch_size": 16},
    ),
}


def seconds_per_sample(data: Any, batches: int = BATCHES) -> float:
    """Time of a training sample, over whole batches, once the workers have started and fetched ahead.

    Args:
        data: A data module that is set up, with a ``batch_size``.
        batches: How many are timed.
    """
    stream = iter(data.train_dataloader())
    for _ in range(1 + 4 * data.num_workers):
        next(stream)
    start = time.perf_counter()
    for _ in range(batches):
        next(stream)
    return (time.perf_counter() - start) / (batches * data.batch_size)


def cases() -> Iterator[Row]:
    """Milliseconds of a sample for each data set and number of workers; the peer is this process, without workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in each worker
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, (what, settings) in SETS.items():
                yield from _rows(name, what, settings, Path(folder))
    finally:
        torch.set_num_threads(before)


def _rows(name: str, what: str, settings: dict[str, Any], folder: Path) -> Iterator[Row]:
    alone_ms = None
    for workers in WORKERS:
        cfg = compose([f"experiment={name}", f"paths.data_dir={folder}", f"data.num_workers={workers}"])
        for key, value in (settings | {"max_steps": 100_000}).items():
            OmegaConf.update(cfg.data, key, value, merge=False)
        data = build(cfg.data)
        data.prepare_data()
        data.setup("fit")
        ms = 1e3 * seconds_per_sample(data)
        alone_ms = ms if alone_ms is None else alone_ms
        peer = (f"{WORKERS[0]} workers", alone_ms, alone_ms / ms) if workers else ("", None, None)
        yield Row("loading", what, f"{workers} workers", 1, ms, *peer, limit=f"{1e3 / ms:.4g} samples/s")
