"""Pre-training with SparK: masks, failures, resuming, and the way from a run to its fine-tuning."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.smoke.runs import checkpoint, differences, train_here
from tests.smoke.twins import twin
from zoo.data.image_samples import ImageBatch
from zoo.data.posed_images import step_generator
from zoo.models.spark import SmallResNet, SparK
from zoo.tasks.annealed_decay import AnnealedDecay
from zoo.tasks.lamb import LAMB
from zoo.tasks.masked_pretraining import MaskedPretrainingTask


def make_task() -> MaskedPretrainingTask:
    torch.manual_seed(0)
    spark = SparK(backbone=SmallResNet(depths=(1, 1, 1), width=16), decoder_width=32)
    return MaskedPretrainingTask(model=spark, optimizer=lambda groups: LAMB(groups, lr=0.01, betas=(0.9, 0.95)))


def test_masks_are_functions_of_seed_and_step() -> None:
    task, batch = make_task().eval(), ImageBatch(torch.randn(4, 3, 32, 32), list("abcd"))
    first = task.reconstruct(batch, step_generator(5, 0)).mask
    torch.rand(3)
    assert torch.equal(task.reconstruct(batch, step_generator(5, 0)).mask, first)
    assert not torch.equal(task.reconstruct(batch, step_generator(5, 1)).mask, first)
    assert first.flatten(1).sum(1).tolist() == [6] * 4  # round(16 x 0.4)
    assert task.predict_step(batch, 0).shape == batch.image.shape
    assert task.features(batch.image).shape == (4, 64)


def test_groups_without_decay() -> None:
    groups = make_task().configure_optimizers().param_groups
    undecayed = next(group for group in groups if group["weight_decay_scale"] == 0.0)
    assert {"mask_tokens.0", "decoder.proj.bias", "encoder.backbone.bn1.weight"} <= set(undecayed["names"])
    assert "encoder.backbone.conv1.weight" not in undecayed["names"]


def test_warm_up_as_a_share() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = AnnealedDecay(optimizer, total_steps=500_800, warmup_share=0.025)
    assert schedule.warmup_steps == 12_520


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"step \d: the loss is nan; lower optim\.optimizer\.lr"):
        train_here(tmp_path, *twin("spark_pictures", tmp_path / "data", 6), "optim.optimizer.lr=1e30")


def test_a_run_resumes_bitwise_and_is_fine_tuned_and_probed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    options = (*twin("spark_pictures", data, 4), "optim.scheduler.total_steps=4")
    whole = train_here(tmp_path / "whole", *options)
    train_here(tmp_path / "parts", *options, "trainer.max_steps=2")
    parts = train_here(tmp_path / "parts", *options, "ckpt=last", "data.num_workers=1")
    assert not differences(checkpoint(parts)["state_dict"], checkpoint(whole)["state_dict"])
    metrics = json.loads((whole / "metrics.json").read_text())
    assert math.isfinite(metrics["test/loss"])
    assert {"test/knn_accuracy", "test/baseline_accuracy"} <= set(metrics)
    assert "Reconstructions" in (whole / "report.html").read_text()

    handed = f"weights={whole / 'checkpoints' / 'last.ckpt'}"
    probe = (*twin("spark_small_probe", data, 2), handed)
    probed = checkpoint(train_here(tmp_path / "probe", *probe))["state_dict"]
    before = checkpoint(whole)["state_dict"]
    for key, value in probed.items():
        if key.startswith("model.backbone."):
            assert torch.equal(value, before[key.replace("model.", "model.encoder.", 1)]), key
    tuned = checkpoint(train_here(tmp_path / "tune", *twin("spark_pictures_finetune", data, 2), handed))["state_dict"]
    assert differences(tuned["model.backbone.conv1.weight"], before["model.encoder.backbone.conv1.weight"])
