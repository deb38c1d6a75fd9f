"""The measurement of data loading: every set gives batches, with and without workers, and samples are counted right."""

from __future__ import annotations

import pytest
import torch

from zoo.benchmark import loading


class Clock:
    """Batches of 4 that take a tenth of a second to make, by a clock of their own."""

    batch_size, num_workers, made = 4, 0, 0

    def perf_counter(self):
        return self.made / 10

    def train_dataloader(self):
        while True:
            self.made += 1
            yield self.made


def test_time_is_counted_by_samples(monkeypatch):
    data = Clock()
    monkeypatch.setattr(loading, "time", data)
    assert loading.seconds_per_sample(data, batches=2) == pytest.approx(0.1 / 4)
    assert data.made == 3  # the first is not timed


@pytest.mark.slow
def test_every_set_is_measured(monkeypatch):
    monkeypatch.setattr(loading, "BATCHES", 1)
    monkeypatch.setattr(loading, "WORKERS", (0, 1))
    threads = torch.get_num_threads()
    rows = list(loading.cases())
    assert torch.get_num_threads() == threads
    assert [row.what for row in rows] == ["0 workers", "1 workers"] * len(loading.SETS)
    for alone, helped in zip(rows[::2], rows[1::2], strict=True):
        assert helped.peer_ms == alone.ours_ms
        assert helped.ratio == pytest.approx(alone.ours_ms / helped.ours_ms)
        assert alone.limit.endswith("samples/s")
