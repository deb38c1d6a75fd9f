"""nuScenes from its tables and from OpenPCDet's infos."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tests.unit.data.nuscenes_set import SENSOR, SPEED, VAN, cyclist, pose, write_nuscenes
from zoo.data.bad_samples import SampleError
from zoo.data.boxes import points_in_boxes
from zoo.data.detection import Detections
from zoo.data.detection_data import DetectionData
from zoo.data.formats.nuscenes import rigid_transform
from zoo.data.nuscenes_detection import NuScenesSource, balanced_rows
from zoo.data.nuscenes_results import default_attributes, nuscenes_results, write_nuscenes_results
from zoo.data.schema import write_arrays
from zoo.data.sweep_infos import read_infos

SPLITS = {"train": "mini_train", "val": "mini_train", "test": "mini_train"}


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NuScenesSource:
    monkeypatch.setattr("zoo.data.nuscenes_detection.MINI_SCENES", {"mini_train": ("scene-0061",)})
    write_nuscenes(tmp_path)
    made = NuScenesSource(root=tmp_path, splits=SPLITS, version="v1.0-mini", max_sweeps=4)
    made.prepare_files()
    return made


def test_boxes_and_sweeps(source: NuScenesSource) -> None:
    frames = source.open_split("mini_train")
    assert len(frames) == 3
    frame = frames[2]
    assert frame.names == ("truck", "bicycle")  # the animal is no class
    assert frame.points.shape[1] == 5
    times = np.unique(frame.points[:, 4].round(4))
    np.testing.assert_allclose(times, [0, 1 / 6, 2 / 6, 3 / 6], atol=1e-3)
    truck, bicycle = frame.boxes
    np.testing.assert_allclose(truck[3:6], [5, 2, 2])
    np.testing.assert_allclose(bicycle[3:6], [1.8, 0.6, 1.7])
    inside = points_in_boxes(frame.points, frame.boxes[:, :7])
    assert inside[0].sum() == 4 * 60  # what stands still is met by every sweep
    now = frame.points[:, 4] == 0
    assert (inside[1] & now).sum() == 25
    assert (inside[1] & ~now).sum() < 25  # what moves is left behind
    assert now.sum() == 60 + 25 + 2  # the own car is cut from earlier sweeps only
    assert (~now).sum() == 3 * (60 + 25)


def test_velocities(source: NuScenesSource) -> None:
    for number, frame in enumerate(source.open_split("mini_train")):
        truck, bicycle = frame.boxes
        np.testing.assert_allclose(truck[7:], 0, atol=1e-9)
        assert np.hypot(*bicycle[7:]) == pytest.approx(np.hypot(*SPEED[:2]), rel=1e-6)
        forward = np.arctan2(bicycle[8], bicycle[7])
        assert np.cos(forward - bicycle[6]) > 0.999  # it rides forwards in every frame's own axes
        distance = np.hypot(*(VAN[:2] - pose(0.5 * number)["translation"][:2]))
        assert abs(np.hypot(*truck[:2]) - distance) < 1.5


def test_attributes(source: NuScenesSource) -> None:
    frame = source.open_split("mini_train")[1]
    assert frame.attributes == ("vehicle.parked", "cycle.with_rider")
    assert frame.select(np.array([False, True])).attributes == ("cycle.with_rider",)
    kinds = ["car", "car", "bus", "bus", "bicycle", "motorcycle", "pedestrian", "pedestrian", "traffic_cone", "trailer"]
    speeds = np.array([0.21, 0.19, 5, 0, 3, 0, 1, 0, 9, np.nan])
    assert default_attributes(kinds, np.stack([0.6 * speeds, 0.8 * speeds], 1)) == [
        "vehicle.moving", "vehicle.parked", "vehicle.moving", "vehicle.stopped", "cycle.with_rider",
        "cycle.without_rider", "pedestrian.moving", "pedestrian.standing", "", "vehicle.parked",
    ]  # fmt: skip


def test_results_are_the_annotations_in_the_world(source: NuScenesSource, tmp_path: Path) -> None:
    """What is found exactly goes back to what the tables say, in the server's format."""
    names, results = ["bicycle", "truck"], {}
    for frame in source.open_split("mini_train"):
        boxes = torch.from_numpy(np.tile(frame.boxes, (300, 1)))
        scores = torch.cat([torch.tensor([0.5, 0.75]), torch.linspace(0.4, 0.1, 598)])
        found = Detections(boxes, scores, torch.tensor([1, 0]).repeat(300))
        results[frame.frame_id] = nuscenes_results(found, frame, names)
    write_nuscenes_results(tmp_path / "results.json", results)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["meta"]["use_lidar"]
    assert list(written["results"]) == ["sample0", "sample1", "sample2"]
    for number, entries in enumerate(written["results"].values()):
        assert len(entries) == 500
        bicycle, truck = entries[:2]
        assert (bicycle["detection_name"], truck["detection_name"]) == ("bicycle", "truck")
        assert (bicycle["attribute_name"], truck["attribute_name"]) == ("cycle.with_rider", "vehicle.parked")
        assert (bicycle["detection_score"], truck["detection_score"]) == (0.75, 0.5)
        assert bicycle["sample_token"] == f"sample{number}"
        np.testing.assert_allclose(bicycle["translation"], cyclist(0.5 * number), atol=1e-4)
        np.testing.assert_allclose(truck["translation"], VAN, atol=1e-4)
        np.testing.assert_allclose(bicycle["velocity"], SPEED[:2], atol=1e-4)
        assert truck["size"] == [2.0, 5.0, 2.0]
        w, x, y, z = truck["rotation"]
        np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_euler("zyx"), [0.4, 0, 0], atol=1e-5)
    bare = Detections(boxes[:1, :7], scores[:1], torch.tensor([1]))
    assert nuscenes_results(bare, frame, names)[0]["velocity"] == [0, 0]
    with pytest.raises(ValueError, match="sample2 has no pose, expected a key frame of nuScenes"):
        nuscenes_results(bare, replace(frame, pose=None), names)


def test_the_first_frame_repeats_its_sweep(source: NuScenesSource) -> None:
    info = read_infos(source.root / "zoo_infos_mini_train.npz")[0]
    assert len(set(info.paths)) == 1
    assert info.times.tolist() == [0, 0, 0, 0]


def test_openpcdet_infos_give_the_same(source: NuScenesSource) -> None:
    sensor = rigid_transform(SENSOR["translation"], SENSOR["rotation"])
    entries = [
        {
            "token": info.frame_id,
            "lidar_path": info.paths[0],
            "sweeps": [
                {"lidar_path": path, "transform_matrix": matrix, "time_lag": time}
                for path, matrix, time in zip(info.paths[1:], info.transforms[1:], info.times[1:], strict=True)
            ],
            "gt_boxes": info.boxes,
            "gt_names": np.array(info.names),
            "num_lidar_pts": info.num_points,
            "ref_from_car": np.linalg.inv(sensor),
            "car_from_global": sensor @ np.linalg.inv(info.pose),
        }
        for info in read_infos(source.root / "zoo_infos_mini_train.npz")
    ]
    entries[0]["gt_boxes"][0, 7:] = np.nan
    (source.root / "infos.pkl").write_bytes(pickle.dumps(entries))
    other = NuScenesSource(root=source.root, splits=SPLITS, max_sweeps=4, infos={"mini_train": "infos.pkl"})
    for ours, theirs in zip(source.open_split("mini_train"), other.open_split("mini_train"), strict=True):
        np.testing.assert_allclose(theirs.points, ours.points)
        np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=1e-9)
        assert theirs.names == ours.names
        np.testing.assert_allclose(theirs.pose, ours.pose, atol=1e-9)
        assert theirs.attributes == ("", "")


def test_as_batches(source: NuScenesSource) -> None:
    data = DetectionData(source=source, class_names=["bicycle", "truck"], max_steps=2)
    batch = next(iter(data.train_dataloader()))
    assert batch.boxes[0].shape == (2, 9)
    assert batch.labels[0].tolist() == [1, 0]
    report = data.check_data()
    assert not report.problems
    assert report.lines[0].startswith("train (mini_train): 3 of 3 frames")


def test_classes_are_balanced(source: NuScenesSource) -> None:
    infos = read_infos(source.root / "zoo_infos_mini_train.npz")
    common, rare = infos[0], infos[1]
    many = [common] * 9 + [rare]
    object.__setattr__(common, "names", ("truck", "truck"))
    object.__setattr__(rare, "names", ("bicycle", "bicycle"))
    rows = balanced_rows(many, ["truck", "bicycle"])
    assert len(rows) == 10
    assert rows.count(9) == 5


def test_what_goes_wrong(source: NuScenesSource, tmp_path: Path) -> None:
    root = source.root
    with pytest.raises(SampleError, match="has 4 sweeps a frame, max_sweeps is 10"):
        NuScenesSource(root=root, splits=SPLITS).open_split("mini_train")
    with pytest.raises(SampleError, match=r"ImageSets/val\.txt: no such split"):
        NuScenesSource(root=root, splits=SPLITS | {"val": "val"}, version="v1.0-mini").prepare_files()
    (root / "ImageSets").mkdir()
    (root / "ImageSets" / "val.txt").write_text("scene-9999\n")
    with pytest.raises(SampleError, match="holds no scene 'scene-9999' of the split 'val'"):
        NuScenesSource(root=root, splits=SPLITS | {"val": "val"}, version="v1.0-mini").prepare_files()
    points = root / "samples" / "LIDAR_TOP" / "0.pcd.bin"
    content = points.read_bytes()
    points.write_bytes(content[:-3])
    with pytest.raises(SampleError, match=r"0\.pcd\.bin: .*is it cut short"):
        source.open_split("mini_train")[0]
    points.write_bytes(np.full(5, np.nan, dtype="<f4").tobytes() + content[20:])
    with pytest.raises(SampleError, match=r"0\.pcd\.bin: point 0 is \[nan"):
        source.open_split("mini_train")[0]
    (root / "infos.pkl").write_bytes(pickle.dumps([{"token": "x"}]))
    with pytest.raises(SampleError, match=r"infos\.pkl: entry 0 is not what OpenPCDet writes"):
        NuScenesSource(root=root, splits=SPLITS, infos={"mini_train": "infos.pkl"}).open_split("mini_train")
    write_arrays(root / "zoo_infos_mini_train.npz", "sweep infos", 0, {})
    with pytest.raises(SampleError, match=r"schema version 0, this version reads 2; rebuild it: .*data=nuscenes"):
        source.open_split("mini_train")


def test_damaged_tables(source: NuScenesSource) -> None:
    table = source.root / "v1.0-mini" / "ego_pose.json"
    table.write_text(json.dumps(json.loads(table.read_text())[1:]))
    with pytest.raises(SampleError, match="tables do not fit together: scene-0061 refers to 'e0'"):
        source.prepare_files(overwrite=True)
    table.write_text("[")
    with pytest.raises(SampleError, match=r"ego_pose\.json: not valid JSON"):
        source.prepare_files(overwrite=True)


def test_a_box_without_extent_is_named(source: NuScenesSource) -> None:
    table = source.root / "v1.0-mini" / "sample_annotation.json"
    records = json.loads(table.read_text())
    records[0]["size"] = [0.0, 5.0, 2.0]
    table.write_text(json.dumps(records))
    source.prepare_files(overwrite=True)
    with pytest.raises(SampleError, match=r"box 0 \(truck\) of frame sample0 is .* expected edges above 0"):
        source.open_split("mini_train")[0]
