"""The detection task trains, measures, reports, and its model is used on files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tests.smoke.runs import checkpoint, differences, newest_run, train_here, train_there
from tests.unit.data.kitti_sets import CLASSES, RANGE, kitti_data, small_kitti
from tests.unit.data.nuscenes_set import write_nuscenes
from tests.unit.data.test_point_files import write_pcd
from tests.unit.tasks.toy_detector import PerfectDetector, ToyDetector
from zoo.data.detection import collate_detection
from zoo.data.formats.kitti import read_labels
from zoo.data.kitti_detection import KittiSource
from zoo.metrics.detection import FoundObjects
from zoo.predict import predict
from zoo.rendering.report import write_report
from zoo.tasks.detection import DetectionTask
from zoo.tasks.detection_gallery import DetectionGallery
from zoo.training.configuration import compose

TOY = (
    "data=synthetic_kitti",
    f"data.source.root={small_kitti()}",
    "data.source.generate=false",
    "data.train_transforms.gt_sampling=null",
    "data.fade=null",
    "+model._target_=tests.unit.tasks.toy_detector.ToyDetector",
    "+task._target_=zoo.tasks.detection.DetectionTask",
    "+task.class_names=${data.class_names}",
    "+task.log_every=2",
    "+task.metrics.found._target_=zoo.metrics.detection.FoundObjects",
    "+task.metrics.found.class_names=${data.class_names}",
    "+task.metrics.found.class_name=Car",
    "+task.gallery._target_=zoo.tasks.detection_gallery.DetectionGallery",
    "optim=adamw",
    "optim.optimizer.lr=0.1",
    "trainer=cpu",
    "trainer.log_every_n_steps=2",
    "threads=1",
)


def run(folder: Path, steps: int, *options: str) -> Path:
    return train_here(
        folder, *TOY, f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps // 2}",
        "trainer.check_val_every_n_epoch=null", *options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs"), 30)


def test_a_run(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert metrics["test/found/objects"] > 0
    assert 0 <= metrics["test/found/recall"] <= 1
    size = checkpoint(trained)["state_dict"]["model.size"]
    assert size.max() > 1.3  # it has learned something
    report = (trained / "report.html").read_text()
    assert report.count("data:image/") >= 6  # three pictures of each of the two test frames
    assert "Frame 000004" in report
    assert "train/size" in (trained / "metrics.csv").read_text().split("\n")[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_is_exact(workers: int, tmp_path: Path) -> None:
    options = (f"data.num_workers={workers}", "test=false", "checkpoint_every=4")
    whole = checkpoint(run(tmp_path / "whole", 8, *options))
    first = run(tmp_path / "parts", 8, *options, "trainer.max_steps=4", "data.max_steps=8")
    resumed = checkpoint(run(tmp_path / "parts", 8, *options, f"ckpt={first}"))
    assert resumed["global_step"] == 8
    for part in ("state_dict", "optimizer_states"):
        assert not differences(resumed[part], whole[part])


@pytest.mark.slow
def test_two_processes_learn_and_measure_what_one_does(tmp_path: Path) -> None:
    """Three test frames for two processes: the last one gets a filler, which must not count."""
    options = (
        *TOY, "model._target_=tests.unit.tasks.toy_detector.EvenDetector",
        "data.source.splits={train: train, val: val, test: train}", "trainer.max_steps=6",
        "+task.metrics.found.min_points=1",
    )  # fmt: skip
    one = train_here(tmp_path / "one", *options, "data.batch_size=2")
    devices = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=1")
    done = train_there(tmp_path / "two", *options, *devices)
    assert done.returncode == 0, done.stdout + done.stderr
    two = newest_run(tmp_path / "two")
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (one, two))
    measured = [name for name in ours if name.startswith("test/")]
    assert "test/found/objects" in measured
    assert {name: theirs[name] for name in measured} == pytest.approx({name: ours[name] for name in measured}, abs=1e-6)
    whole, shared = (checkpoint(run)["state_dict"] for run in (one, two))
    for name, value in whole.items():
        torch.testing.assert_close(shared[name], value, rtol=1e-5, atol=1e-6)


def make_task(**options: object) -> DetectionTask:
    return DetectionTask(
        model=options.pop("model", ToyDetector()),  # pyright: ignore[reportArgumentType]
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        class_names=CLASSES,
        **options,  # pyright: ignore[reportArgumentType]
    )


def test_a_perfect_detector_finds_all(tmp_path: Path) -> None:
    task = make_task(
        model=PerfectDetector(),
        metrics={"found": FoundObjects(class_names=CLASSES, min_points=1)},
        gallery=DetectionGallery(max_frames=1),
    )
    logged: dict[str, torch.Tensor] = {}
    task.log_dict = lambda values, **_: logged.update(values)  # pyright: ignore[reportAttributeAccessIssue]
    for number, batch in enumerate(kitti_data().test_dataloader()):
        task.test_step(batch, number)
    task.on_test_epoch_end()
    assert logged["test/found/recall"] == 1
    assert logged["test/found/false_positives"] == 0
    assert logged["test/found/mean_iou"] == pytest.approx(1.0, abs=1e-3)
    (section,) = task.report_sections()
    rows = section.tables[0].rows
    assert all(row[3] == pytest.approx(0.9) and row[4] == pytest.approx(1.0, abs=1e-3) for row in rows)
    assert len(section.pictures) == 3
    write_report(tmp_path / "report.html", title="x", sections=[section])


def test_an_empty_batch_is_skipped_and_an_empty_frame_is_not() -> None:
    task = make_task()
    sample = kitti_data().frames("train")[0]
    cloud = kitti_data().cloud(sample).sample("a")
    empty = type(cloud)(torch.zeros(0, 4), torch.zeros(0, 7), torch.zeros(0, dtype=torch.int64), "b")
    assert task.training_step(collate_detection([empty]), 0) is None
    loss = task.training_step(collate_detection([cloud, empty]), 0)
    assert loss is not None
    assert torch.isfinite(loss)
    assert [len(found.boxes) for found in task.predict_step(collate_detection([empty, cloud]), 0)] == [0, 1]


def test_what_is_no_detector() -> None:
    with pytest.raises(ValueError, match="model: Linear has no method 'loss', expected a detector"):
        make_task(model=torch.nn.Linear(1, 1))


def test_classes_have_to_agree(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task.class_names: found \['Car'\], the data has \['Car', 'Pedestrian'"):
        run(tmp_path, 2, "task.class_names=[Car]", "task.metrics.found.class_names=[Car]")


# predictions on files


def predict_with(trained: Path, source: Path, output: Path, *options: str) -> Path:
    cfg = compose([f"ckpt={trained}", f"input={source}", f"output={output}", *options], config_name="predict")
    OmegaConf.set_struct(cfg, False)
    return predict(cfg)


def test_predicting_a_folder_of_kitti(trained: Path, tmp_path: Path) -> None:
    folder = predict_with(trained, small_kitti() / "testing" / "velodyne", tmp_path / "out", "min_score=0.1")
    content = json.loads((folder / "000004.json").read_text())
    (entry,) = content["detections"]
    assert entry["class"] == "Car"
    assert len(entry["box"]) == 7
    frame = KittiSource(root=small_kitti()).open_split("test")[0]
    inside = (frame.points[:, :2] >= RANGE[:2]).all(axis=1) & (frame.points[:, :2] < RANGE[3:5]).all(axis=1)
    np.testing.assert_allclose(entry["box"][:3], frame.points[inside, :3].mean(axis=0), atol=1e-3)
    labels = read_labels(folder / "kitti" / "000004.txt")
    assert frame.view is not None
    np.testing.assert_allclose(labels.lidar_boxes(frame.view.calibration)[0], entry["box"], atol=2e-3)
    assert labels.score is not None
    assert (labels.bbox[0, 2:] > labels.bbox[0, :2]).all()
    for kind in ("above", "perspective", "photo"):
        assert (folder / f"000004_{kind}.png").is_file()
    assert (folder / "000005.json").is_file()


def test_predicting_a_split(trained: Path, tmp_path: Path) -> None:
    options = [f"ckpt={trained}", f"output={tmp_path}", "min_score=0.1", "pictures=false"]
    predict(compose([*options, "split=test"], config_name="predict"))
    predict_with(trained, small_kitti() / "testing" / "velodyne", tmp_path / "files", *options[2:])
    for name in ("000004", "000005"):
        split, files = (json.loads((folder / f"{name}.json").read_text()) for folder in (tmp_path, tmp_path / "files"))
        assert split["source"] == name
        assert split["detections"] == files["detections"]
    assert not (tmp_path / "results_nusc.json").exists()


def test_a_submission_to_nuscenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.data.nuscenes_detection.MINI_SCENES", {"mini_train": ("scene-0061",)})
    write_nuscenes(tmp_path / "set")
    trained = train_here(
        tmp_path / "run", *(option for option in TOY if not option.startswith("data")),
        "data=nuscenes", f"data.source.root={tmp_path / 'set'}", "data.source.version=v1.0-mini",
        "data.source.splits={train: mini_train, val: mini_train, test: mini_train}", "data.source.max_sweeps=2",
        "data.source.balanced=false",
        "data.train_transforms.gt_sampling=null", "data.fade=null", "trainer.max_steps=1", "test=false",
        "task.metrics.found.class_name=car",
    )  # fmt: skip
    cfg = compose([f"ckpt={trained}", "split=val", f"output={tmp_path}", "min_score=0"], config_name="predict")
    content = json.loads((predict(cfg) / "results_nusc.json").read_text())
    assert list(content["results"]) == ["sample0", "sample1", "sample2"]
    for token, (entry,) in content["results"].items():
        assert entry["sample_token"] == token
        assert (entry["detection_name"], entry["attribute_name"]) == ("car", "vehicle.parked")
        assert abs(entry["translation"][2]) < 3  # over the ground of the world, not around the sensor


def test_predicting_other_files_without_camera(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    points = np.fromfile(small_kitti() / "testing" / "velodyne" / "000004.bin", dtype="<f4").reshape(-1, 4)
    write_pcd(tmp_path / "in" / "cloud.pcd", "binary", points)
    (tmp_path / "in" / "broken.ply").write_bytes(b"rubbish")
    folder = predict_with(trained, tmp_path / "in", tmp_path / "out", "min_score=0.1", "pictures=false")
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["cloud.json", "cloud.txt"]
    labels = read_labels(folder / "kitti" / "cloud.txt")
    assert labels.names == ("Car",)
    shutil.rmtree(folder)
    assert not json.loads(
        (predict_with(trained, tmp_path / "in", tmp_path / "out", "min_score=0.999", "pictures=false") / "cloud.json")
        .read_text()
    )["detections"]  # fmt: skip


def test_predicting_nothing(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input=None, split=None: expected one of them"):
        predict(compose([f"ckpt={trained}"], config_name="predict"))
    with pytest.raises(ValueError, match="split: found 'all', expected one of train, val, test"):
        predict(compose([f"ckpt={trained}", "split=all"], config_name="predict"))
    (tmp_path / "broken.bin").write_bytes(b"123")
    with pytest.raises(ValueError, match="none of 1 files could be read"):
        predict_with(trained, tmp_path / "broken.bin", tmp_path / "out")
