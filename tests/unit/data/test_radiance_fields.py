"""The training loader under Lightning: each step once, in order, across a resume, with and without workers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer

from tests.unit.data.scenes import write_blender
from zoo.data.radiance_fields import RadianceFieldData


class Recorder(LightningModule):
    """Writes down which steps it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps: list[int] = []
        self.pictures: list[int] = []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        assert batch.dtype == torch.int64
        assert batch.shape == (1,)
        assert int(batch) == self.global_step
        self.steps.append(int(batch))
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor) -> None:
        self.pictures.append(int(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(root: Path, max_steps: int, workers: int, resume: Path | None = None) -> tuple[Recorder, Trainer]:
    data = RadianceFieldData(root=root, max_steps=20, num_workers=workers)
    recorder = Recorder()
    trainer = Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        val_check_interval=7,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recorder, datamodule=data, ckpt_path=resume)
    return recorder, trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_goes_on_with_the_next_step(tmp_path: Path, workers: int) -> None:
    write_blender(tmp_path / "scene")
    whole, _ = run(tmp_path / "scene", 20, workers)
    assert whole.steps == list(range(20))
    assert whole.pictures == [0, 1] * 2
    first, trainer = run(tmp_path / "scene", 9, workers)
    assert first.steps == list(range(9))
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second, _ = run(tmp_path / "scene", 20, workers, tmp_path / "half.ckpt")
    assert second.steps == list(range(9, 20))


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_trainer_the_loader_starts_at_zero(tmp_path: Path, workers: int) -> None:
    data = RadianceFieldData(root=write_blender(tmp_path), max_steps=5, num_workers=workers)
    data.setup()
    assert [int(step) for step in data.train_dataloader()] == list(range(5))
    assert [int(index) for index in data.test_dataloader()] == [0, 1]
    assert len(data.val_dataloader()) == 2
    assert len(data.predict_dataloader()) == 2
