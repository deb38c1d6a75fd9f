"""Checking, preparing and generating the data of detectors, as tools/prepare_data.py does."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.samples import sample_data
from tests.unit.data.kitti_sets import small_kitti
from tests.unit.data.nuscenes_set import write_nuscenes
from zoo.data.bad_samples import SampleError
from zoo.data.object_database import ObjectDatabase
from zoo.prepare_data import prepare
from zoo.training.configuration import build, compose

STREETS = [
    "data=synthetic_kitti",
    *(f"data.source.generator.{name}" for name in ("num_train=2", "num_val=1", "num_test=1")),
    *(f"data.source.generator.sensor.{name}" for name in ("beams=12", "azimuth_steps=400")),
]


def configured(*overrides: str) -> Any:
    return compose(list(overrides), config_name="prepare_data")


def test_generate_check_and_prepare(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    overrides = [*STREETS, f"paths.data_dir={tmp_path}"]
    root = tmp_path / "synthetic_kitti_2_1_1"
    assert prepare(configured("action=generate", *overrides))
    with pytest.raises(FileExistsError, match="overwrite=True"):
        prepare(configured("action=generate", *overrides))
    with caplog.at_level(logging.INFO):
        assert prepare(configured(*overrides))
    assert "train (train): 2 of 2 frames" in caplog.text
    assert "test (test): 1 of 1 frames" in caplog.text
    assert prepare(configured("action=prepare", *overrides))
    path = root / "zoo_objects_train.npz"
    assert len(ObjectDatabase.read(path)) > 0
    path.write_bytes(b"")
    assert prepare(configured("action=prepare", *overrides))  # what is there stays
    assert path.stat().st_size == 0
    assert prepare(configured("action=prepare", "overwrite=true", *overrides))
    assert len(ObjectDatabase.read(path)) > 0
    with pytest.raises(SampleError, match="generated with other settings"):
        prepare(configured(*overrides, "data.source.generator.seed=1"))


def test_checking_kitti_lists_all_that_is_bad(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(small_kitti(), tmp_path / "kitti")
    (tmp_path / "kitti" / "training" / "velodyne" / "000001.bin").write_bytes(b"123")
    (tmp_path / "kitti" / "training" / "calib" / "000002.txt").unlink()
    with caplog.at_level(logging.INFO):
        assert not prepare(configured("data=kitti", f"data.source.root={tmp_path / 'kitti'}"))
    assert caplog.text.count("bad: ") == 2
    assert "train (train): 1 of 3 frames" in caplog.text


def test_preparing_nuscenes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_nuscenes(tmp_path)
    (tmp_path / "ImageSets").mkdir()
    for split in ("train", "val"):
        (tmp_path / "ImageSets" / f"{split}.txt").write_text("scene-0061\n")
    overrides = ["data=nuscenes", f"data.source.root={tmp_path}", "data.source.version=v1.0-mini"]
    with pytest.raises(SampleError, match=r"zoo_infos_train\.npz: no such file; make it: .*data=nuscenes"):
        prepare(configured(*overrides))
    assert prepare(configured("action=prepare", *overrides))
    assert (tmp_path / "zoo_infos_train.npz").is_file()
    assert (tmp_path / "zoo_objects_train.npz").is_file()
    with caplog.at_level(logging.INFO):
        assert prepare(configured(*overrides))
    assert "val (val): 3 of 3 frames" in caplog.text
    with pytest.raises(ValueError, match="NuScenesSource cannot be generated"):
        prepare(configured("action=generate", *overrides))


def test_the_real_frame(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert prepare(configured("data=kitti_frame", f"data.source.root={sample_data('kitti_frame')}"))
    assert "train (train): 1 of 1 frames, 17221 points each; 6 Car" in caplog.text


@pytest.mark.parametrize("name", ["kitti", "kitti_frame", "synthetic_kitti", "nuscenes", "waymo"])
def test_every_data_set_can_be_built(name: str) -> None:
    data = build(configured(f"data={name}").data)
    assert data.class_names
    assert len(data.point_range) == 6
    assert data.fade.last_steps == 0
