"""Detectors learn a real frame by heart, through the real recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.samples import sample_data
from tests.smoke.runs import train_here


@pytest.mark.slow
def test_the_spiking_detector_finds_every_car_of_the_frame(tmp_path: Path) -> None:
    root = sample_data("kitti_frame")
    run = train_here(tmp_path, "experiment=e3dsnn_kitti_frame", f"data.source.root={root}")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/found/objects"] == 6  # of at least 50 points
    assert metrics["test/found/missed"] == 0  # at 3D IoU 0.7
    assert metrics["test/found/false_positives"] == 0
    assert 0 < metrics["test/energy/mj"] < metrics["test/energy/real_valued_mj"]
