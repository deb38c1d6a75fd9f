"""KITTI's layout as batches for detectors."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.samples import sample_data
from tests.unit.data.kitti_sets import CLASSES, RANGE, SETTINGS, kitti_data, small_kitti
from zoo.data import lidar_writer
from zoo.data.bad_samples import SampleError
from zoo.data.boxes import points_in_boxes
from zoo.data.detection import DetectionBatch, collate_detection
from zoo.data.detection_data import DetectionData, Fade
from zoo.data.detection_transforms import (
    RandomFlip,
    RandomRotation,
    RandomScaling,
    RandomTranslation,
    RangeMask,
    ShufflePoints,
)
from zoo.data.kitti_detection import KittiSource, read_plane
from zoo.data.lidar_writer import write_kitti
from zoo.data.object_database import GroundTruthSampling

AUGMENTATION = {
    "flip": RandomFlip(axes=("x", "y")),
    "rotation": RandomRotation(),
    "scaling": RandomScaling(),
    "translation": RandomTranslation(),
    "range": RangeMask(point_range=RANGE),
    "shuffle": ShufflePoints(),
}


def same(first: DetectionBatch, second: DetectionBatch) -> bool:
    return (
        torch.equal(first.points, second.points)
        and torch.equal(first.point_batch, second.point_batch)
        and all(torch.equal(a, b) for a, b in zip(first.boxes, second.boxes, strict=True))
        and first.frame_ids == second.frame_ids
    )


def test_the_real_frame() -> None:
    frames = KittiSource(root=sample_data("kitti_frame")).open_split("train")
    frame = frames[0]
    assert frame.names == ("Car",) * 6
    assert frame.num_points.tolist() == [1320, 1900, 878, 659, 55, 162]
    assert frame.difficulty.tolist() == [-1, 1, -1, 1, 0, 0]
    assert frame.labels is not None
    assert frame.labels.names.count("DontCare") == 4
    assert frame.view is not None
    pixels, depth = frame.view.calibration.lidar_to_image(frame.points[:, :3])
    assert (depth >= 0).all()
    assert (pixels >= 0).all()
    assert (pixels < np.array(frame.view.shape)[::-1]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_seed_and_step_alone(workers: int) -> None:
    options = {"train_transforms": AUGMENTATION, "batch_size": 2, "max_steps": 5, "seed": 3}
    whole = list(kitti_data(**options).train_dataloader())
    assert len(whole) == 5
    loader = kitti_data(**options, num_workers=workers).train_dataloader()
    loader._first_step = lambda: 2
    rest = list(loader)
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert not same(whole[0], next(iter(kitti_data(**{**options, "seed": 4}).train_dataloader())))


def test_a_pass_sees_every_frame_once() -> None:
    ids = [batch.frame_ids for batch in kitti_data(batch_size=1, max_steps=6).train_dataloader()]
    assert sorted(map(str, ids[:3])) == sorted(map(str, ids[3:])) == ["['000000']", "['000001']", "['000002']"]


def test_evaluation_keeps_the_frames() -> None:
    data = kitti_data(eval_transforms={"range": RangeMask(point_range=RANGE, boxes=False)}, eval_batch_size=2)
    (batch,) = data.test_dataloader()
    assert batch.batch.frame_ids == [frame.frame_id for frame in batch.frames] == ["000004", "000005"]
    moved = batch.to("meta")
    assert moved.batch.points.device.type == "meta"
    assert moved.frames is batch.frames


def test_two_processes_share_the_frames() -> None:
    def of_rank(rank: int) -> tuple[DetectionData, list[DetectionBatch]]:
        data = kitti_data(train_transforms=AUGMENTATION, batch_size=1, max_steps=3)
        place = {"global_rank": rank, "world_size": 2, "global_step": 0, "accumulate_grad_batches": 1}
        data.trainer = SimpleNamespace(**place)  # pyright: ignore[reportAttributeAccessIssue]
        data.source.splits["val"] = "train"
        return data, list(data.train_dataloader())

    (first, ours), (second, theirs) = of_rank(0), of_rank(1)
    whole = kitti_data(train_transforms=AUGMENTATION, batch_size=2, max_steps=3).train_dataloader()
    for own, other, both in zip(ours, theirs, whole, strict=True):  # augmentation and all
        assert same(collate_detection([own.sample(0), other.sample(0)]), both)
    batches = [list(data.val_dataloader()) for data in (first, second)]
    seen = [[frame.frame_id for batch in share for frame in batch.frames] for share in batches]
    assert seen == [["000000", "000002"], ["000001"]]  # no frame twice
    assert [len(share) for share in batches] == [2, 2]  # as many batches, so that none waits
    assert batches[1][1].batch.batch_size == 1


def test_classes_are_filtered_and_columns_fitted() -> None:
    cloud = kitti_data(class_names=["Cyclist", "Car"], point_dim=6, box_dim=9).cloud(
        KittiSource(root=small_kitti()).open_split("train")[0]
    )
    assert cloud.points.shape[1] == 6
    assert not cloud.points[:, 4:].any()
    assert cloud.boxes.shape[1] == 9
    assert set(cloud.labels.tolist()) <= {0, 1}
    assert len(cloud.boxes) > 0


def test_other_names_for_classes() -> None:
    source = KittiSource(root=small_kitti(), rename={"Car": "Vehicle", "Van": "Vehicle"})
    assert "Vehicle" in source.class_names
    names = source.open_split("train")[0].names
    assert "Vehicle" in names
    assert not {"Car", "Van"} & set(names)
    with pytest.raises(ValueError, match="rename: no class 'Cat'"):
        KittiSource(root=small_kitti(), rename={"Cat": "Vehicle"})


def test_unknown_class() -> None:
    with pytest.raises(ValueError, match=r"class_names: found \['Tank'\], expected different classes"):
        kitti_data(class_names=["Tank"])


def test_the_fade_leaves_out_the_end() -> None:
    data = kitti_data(
        train_transforms={"flip": RandomFlip(probability=1.0), "scaling": RandomScaling()},
        max_steps=10,
        fade=Fade(names=["flip"], last_steps=4),
    )
    scaled = kitti_data(train_transforms={"scaling": RandomScaling()}, max_steps=10)
    for step, (batch, unflipped) in enumerate(zip(data.train_dataloader(), scaled.train_dataloader(), strict=True)):
        assert batch.frame_ids == unflipped.frame_ids
        turned = -batch.points[:, 1] if step < 6 else batch.points[:, 1]
        assert torch.equal(turned, unflipped.points[:, 1]), step
    with pytest.raises(ValueError, match=r"fade\.names: no transform 'sampling'"):
        kitti_data(fade=Fade(names=["sampling"], last_steps=4))


def test_planes(tmp_path: Path) -> None:
    frame = KittiSource(root=small_kitti()).open_split("train")[0]
    assert frame.view is not None
    (tmp_path / "plane.txt").write_text("# Plane\nWidth 4\nHeight 1\n0.0 -1.0 0.0 1.65\n")
    a, b, c, d = read_plane(tmp_path / "plane.txt", frame.view.calibration)
    height = -(a * 10 + b * 2 + d) / c
    assert height == pytest.approx(-1.65 - SETTINGS.camera.below, abs=1e-6)
    (tmp_path / "plane.txt").write_text("0 1 2 3\n")
    with pytest.raises(SampleError, match=r"plane\.txt: no plane in its fourth line"):
        read_plane(tmp_path / "plane.txt", frame.view.calibration)


# what goes wrong


def copy(tmp_path: Path) -> Path:
    shutil.copytree(small_kitti(), tmp_path / "kitti")
    return tmp_path / "kitti"


def damage(root: Path, part: str, frame_id: str = "000000") -> Path:
    folder = root / "training"
    label, cloud = folder / "label_2" / f"{frame_id}.txt", folder / "velodyne" / f"{frame_id}.bin"
    if part == "NaN points":
        points = np.fromfile(cloud, dtype="<f4")
        points[5] = np.nan
        points.tofile(cloud)
        return cloud
    if part == "wrong calibration":
        path = folder / "calib" / f"{frame_id}.txt"
        turned = "Tr_velo_to_cam: 0 1 0 0 0 0 -1 0 -1 0 0 0\n"  # looks backwards, where the points were cut away
        path.write_text(
            "".join(turned if line.startswith("Tr_v") else f"{line}\n" for line in path.read_text().splitlines())
        )
        keep_ahead(cloud)
        return folder / "image_2" / f"{frame_id}.png"
    lines = [line for line in label.read_text().splitlines() if not line.startswith("DontCare")]
    words = lines[0].split()
    if part == "unknown class":
        words[0] = "Spaceship"
    else:
        words[9] = "0.00"  # the width
    label.write_text("\n".join([" ".join(words), *lines[1:]]) + "\n")
    return label


def keep_ahead(cloud: Path) -> None:
    points = np.fromfile(cloud, dtype="<f4").reshape(-1, 4)
    points[points[:, 0] > 0].tofile(cloud)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("NaN points", "1 of .* points are NaN or infinite, the first is row 1"),
        ("wrong calibration", "do velodyne and calib belong to this frame"),
        ("unknown class", "line 1: unknown type 'Spaceship', expected one of Car, Van"),
        ("zero size", "line 1: height, width, length .* expected more than 0"),
    ],
)
def test_damaged_files_are_named(part: str, message: str, tmp_path: Path) -> None:
    path = damage(copy(tmp_path), part)
    with pytest.raises(SampleError, match=message) as caught:
        list(kitti_data(tmp_path / "kitti", max_steps=2).train_dataloader())
    assert caught.value.path == path


def test_damaged_frames_are_skipped_on_demand(tmp_path: Path) -> None:
    damage(copy(tmp_path), "NaN points")
    data = kitti_data(tmp_path / "kitti", max_steps=4, on_bad_sample="skip")
    ids = {name for batch in data.train_dataloader() for name in batch.frame_ids}
    assert ids == {"000001", "000002"}
    assert len(data.frames("train").bad_samples) == 1


def test_check_goes_on_past_bad_frames(tmp_path: Path) -> None:
    damage(copy(tmp_path), "unknown class")
    report = kitti_data(tmp_path / "kitti").check_data()
    assert len(report.problems) == 1
    assert "000000.txt" in report.problems[0]
    assert report.lines[0].startswith("train (train): 2 of 3 frames, ")
    assert " Car" in report.lines[0]


def test_points_out_of_range_leave_an_empty_frame() -> None:
    far = RangeMask(point_range=(500.0, 0.0, -3.0, 510.0, 10.0, 1.0))
    data = kitti_data(train_transforms={"range": far}, eval_transforms={"range": far}, max_steps=1)
    (batch,) = data.train_dataloader()
    assert batch.batch_size == 2
    assert len(batch.points) == 0
    (evaluated,) = data.val_dataloader()
    assert len(evaluated.batch.points) == 0
    assert evaluated.batch.batch_size == 1


def test_a_frame_emptied_by_augmentation_is_replaced() -> None:
    frames = KittiSource(root=small_kitti()).open_split("train")
    counts = [int(sum(name == "Cyclist" for name in frame.names)) for frame in frames]
    assert min(counts) == 0 < max(counts)  # some frames are without, some with
    data = kitti_data(class_names=["Cyclist"], max_steps=6)
    assert all(len(boxes) for batch in data.train_dataloader() for boxes in batch.boxes)


def test_generated_with_other_settings(tmp_path: Path) -> None:
    copy(tmp_path)
    source = KittiSource(root=tmp_path / "kitti", generate=True)
    with pytest.raises(SampleError, match="generated with other settings; rebuild it with tools"):
        source.open_split("train")


def test_missing_split() -> None:
    with pytest.raises(SampleError, match=r"missing.txt: no such split"):
        KittiSource(root=small_kitti()).open_split("missing")


def test_data_module_prepares_the_database_once(tmp_path: Path) -> None:
    copy(tmp_path)
    sampling = GroundTruthSampling(counts={"Car": 20}, skip_ungraded=False)
    data = kitti_data(tmp_path / "kitti", train_transforms={"gt_sampling": sampling}, max_steps=2)
    data.prepare_data()
    path = tmp_path / "kitti" / "zoo_objects_train.npz"
    written = path.stat().st_mtime_ns
    data.setup()
    assert path.stat().st_mtime_ns == written
    batch = next(iter(data.train_dataloader()))
    frame = data.frames("train")[int(batch.frame_ids[0])]
    cars = int((batch.labels[0] == 0).sum())
    assert sum(name == "Car" for name in frame.names) < cars <= 20
    inside = points_in_boxes(batch.sample(0).points.numpy(), batch.boxes[0].numpy()).sum(axis=1)
    assert (inside > 0).sum() > len(frame.boxes) // 2


def test_classes_are_those_of_the_labels() -> None:
    data: DetectionData = kitti_data()
    assert data.class_names == CLASSES


def test_generating_with_workers_changes_nothing(tmp_path: Path) -> None:
    write_kitti(tmp_path / "kitti", SETTINGS, workers=2)
    files = sorted(path.relative_to(small_kitti()) for path in small_kitti().rglob("*") if path.is_file())
    assert len(files) > 20
    for file in files:
        assert (tmp_path / "kitti" / file).read_bytes() == (small_kitti() / file).read_bytes(), file


def _write_dispositions(path: Path) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    path.write_text(f"{os.getpid()} {handlers == [signal.SIG_IGN, signal.SIG_DFL]}")


def test_workers_do_not_inherit_handlers_that_hold_signals_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lidar_writer, "_make_kitti_frame", _write_dispositions)
    jobs: Any = [tmp_path / str(number) for number in range(4)]
    former = signal.signal(signal.SIGTERM, lambda number, frame: None)  # as training does
    try:
        lidar_writer._do_jobs(jobs, 2)
    finally:
        signal.signal(signal.SIGTERM, former)
    found = [path.read_text().split() for path in jobs]
    assert {plain for _, plain in found} == {"True"}
    assert str(os.getpid()) not in {process for process, _ in found}
