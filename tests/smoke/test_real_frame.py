"""Detectors learn a real frame by heart, through the real recipe, or meet it after generated streets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.samples import sample_data
from tests.smoke.runs import train_here
from zoo.training.configuration import build, compose


@pytest.mark.slow
def test_the_spiking_detector_finds_every_car_of_the_frame(tmp_path: Path) -> None:
    root = sample_data("kitti_frame")
    run = train_here(tmp_path, "experiment=e3dsnn_kitti_frame", f"data.source.root={root}")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/found/objects"] == 6  # of at least 50 points
    assert metrics["test/found/missed"] == 0  # at 3D IoU 0.7
    assert metrics["test/found/false_positives"] == 0
    assert 0 < metrics["test/energy/mj"] < metrics["test/energy/real_valued_mj"]


def test_what_learned_on_streets_is_measured_on_the_frame() -> None:
    """``experiment=dsvt_street data=kitti_frame``: the frame with the classes and the range of the streets' model."""
    root = sample_data("kitti_frame")
    cfg = compose(["experiment=dsvt_street", "data=kitti_frame", f"data.source.root={root}", "train=false"])
    data = build(cfg.data)
    (batch,) = data.test_dataloader()
    assert data.class_names == tuple(cfg.task.class_names) == ("Car", "Pedestrian", "Cyclist")
    assert batch.frames[0].names == ("Car",) * 6
    low, high = torch.tensor(cfg.model.point_range).view(2, 3)
    points = batch.batch.points[:, :2]
    assert 10_000 < len(points) < 17_221
    assert ((points >= low[:2]) & (points <= high[:2])).all()
