"""A task that trains in seconds and has what makes resuming hard: dropout, worker processes, momentum, a schedule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from zoo.rendering.report import Picture, ReportSection


class ToyModel(nn.Module):
    def __init__(self, *, width: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ToyStream(IterableDataset):
    """Batch ``step`` is a function of (seed, step); worker w of W gives the steps w, w + W, ..."""

    def __init__(self, *, seed: int, first_step: int, last_step: int, batch_size: int) -> None:
        self.seed, self.first_step, self.last_step, self.batch_size = seed, first_step, last_step, batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        info = get_worker_info()
        offset, stride = (info.id, info.num_workers) if info else (0, 1)
        for step in range(self.first_step + offset, self.last_step, stride):
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
            x = torch.rand(self.batch_size, 2, generator=generator)
            yield x, (x[:, :1] * x[:, 1:]).sin()


class ToyData(LightningDataModule):
    def __init__(self, *, seed: int = 0, batch_size: int = 8, num_workers: int = 0) -> None:
        super().__init__()
        self.seed, self.batch_size, self.num_workers = seed, batch_size, num_workers

    def _loader(self, first: int, last: int, workers: int) -> DataLoader:
        stream = ToyStream(seed=self.seed, first_step=first, last_step=last, batch_size=self.batch_size)
        return DataLoader(stream, batch_size=None, num_workers=workers)

    def train_dataloader(self) -> DataLoader:
        done = self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0
        return self._loader(done, 1_000_000, self.num_workers)

    def val_dataloader(self) -> DataLoader:
        return self._loader(2_000_000, 2_000_004, 0)

    def test_dataloader(self) -> DataLoader:
        return self._loader(3_000_000, 3_000_004, 0)


class ToyTask(LightningModule):
    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., Any] | None = None,
        seconds_per_step: float = 0.0,
    ) -> None:
        super().__init__()
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.seconds_per_step = seconds_per_step

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        time.sleep(self.seconds_per_step)
        loss = F.mse_loss(self.model(x), y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        torch.rand(3)  # evaluation that draws random numbers must not disturb training
        self.log("val/loss", F.mse_loss(self.model(batch[0]), batch[1]))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("test/loss", F.mse_loss(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.model.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step"}}

    def report_sections(self) -> Sequence[ReportSection]:
        return [ReportSection("Toy", pictures=[Picture(torch.rand(8, 8, 3), "a picture")])]
