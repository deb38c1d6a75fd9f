"""Waymo in OpenPCDet's processed folders."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo.data.bad_samples import SampleError
from zoo.data.detection_data import DetectionData
from zoo.data.waymo_detection import WaymoSource

SEGMENT = "segment-1_with_camera_labels"


def annotations(count: int = 4) -> dict[str, Any]:
    boxes = np.zeros((count, 9), dtype=np.float64)
    boxes[:, 0] = 5 * np.arange(1, count + 1)
    boxes[:, 3:6] = (4.5, 2.0, 1.7)
    return {
        "name": np.array(["Vehicle", "unknown", "Pedestrian", "Vehicle"][:count]),
        "gt_boxes_lidar": boxes,
        "num_points_in_gt": np.array([10, 3, 5, 0][:count]),
        "difficulty": np.array([1, 0, 2, 0][:count]),
    }


def write_waymo(root: Path, frames: int = 10, **changes: Any) -> Path:
    folder = root / "waymo_processed_data_v0_5_0" / SEGMENT
    folder.mkdir(parents=True)
    (root / "ImageSets").mkdir()
    for split in ("train", "val"):
        (root / "ImageSets" / f"{split}.txt").write_text(f"{SEGMENT}.tfrecord\n")
    rng = np.random.default_rng(0)
    infos = []
    for number in range(frames):
        np.save(folder / f"{number:04d}.npy", rng.uniform(0, 20, (50, 6)).astype(np.float32))
        info = {
            "frame_id": f"{SEGMENT}_{number:03d}",
            "point_cloud": {"num_features": 5, "lidar_sequence": SEGMENT, "sample_idx": number},
            "annos": annotations(),
        }
        infos.append(info | changes)
    path = folder / f"{SEGMENT}.pkl"
    path.write_bytes(pickle.dumps(infos))
    return path


def test_frames(tmp_path: Path) -> None:
    write_waymo(tmp_path)
    frames = WaymoSource(root=tmp_path, interval={"train": 5}).open_split("train")
    assert list(frames.frame_ids) == [f"{SEGMENT}_000", f"{SEGMENT}_005"]
    frame = frames[1]
    raw = np.load(tmp_path / "waymo_processed_data_v0_5_0" / SEGMENT / "0005.npy")
    assert frame.points.shape == (50, 5)
    np.testing.assert_array_equal(frame.points[:, :3], raw[:, :3])
    np.testing.assert_allclose(frame.points[:, 3:], np.tanh(raw[:, 3:5]))
    assert frame.names == ("Vehicle", "Pedestrian")  # neither unknown nor without a point
    assert frame.difficulty.tolist() == [1, 2]
    assert len(WaymoSource(root=tmp_path, interval={"train": 5}).open_split("val")) == 10


def test_as_batches(tmp_path: Path) -> None:
    write_waymo(tmp_path, frames=3)
    data = DetectionData(source=WaymoSource(root=tmp_path), class_names=["Vehicle", "Pedestrian"], max_steps=1)
    batch = next(iter(data.train_dataloader()))
    assert batch.points.shape == (100, 5)
    assert batch.boxes[0].shape == (2, 9)
    assert batch.labels[0].tolist() == [0, 1]


def test_missing_segments(tmp_path: Path) -> None:
    write_waymo(tmp_path, frames=2)
    (tmp_path / "ImageSets" / "train.txt").write_text(f"other.tfrecord\n{SEGMENT}.tfrecord\n")
    with pytest.raises(SampleError, match="other: no such segment; convert it with OpenPCDet"):
        WaymoSource(root=tmp_path).open_split("train")
    frames = WaymoSource(root=tmp_path, missing_segments="skip").open_split("train")
    assert len(frames) == 2
    assert len(frames.bad_samples) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annos": {}}, r"has no 'annos\.name'"),
        ({"annos": annotations() | {"difficulty": np.zeros(1)}}, "4 names, 4 counts, 1 difficulties"),
        ({"annos": annotations() | {"gt_boxes_lidar": np.zeros((4, 8))}}, "8 columns, expected 7 or 9"),
    ],
)
def test_other_infos(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_waymo(tmp_path, frames=1, **changes)
    with pytest.raises(SampleError, match=rf"{SEGMENT}\.pkl: .*{message}"):
        WaymoSource(root=tmp_path).open_split("train")


def test_damaged_points(tmp_path: Path) -> None:
    path = write_waymo(tmp_path, frames=2).parent / "0000.npy"
    frames = WaymoSource(root=tmp_path).open_split("train")
    np.save(path, np.zeros((5, 5), dtype=np.float32))
    with pytest.raises(SampleError, match=r"0000\.npy: is float32 \(5, 5\), expected numbers \(N, 6\)"):
        frames[0]
    np.save(path, np.full((5, 6), np.nan, dtype=np.float32))
    with pytest.raises(SampleError, match=r"0000\.npy: point 0 of frame"):
        frames[0]
    path.write_bytes(b"rubbish")
    with pytest.raises(SampleError, match=r"0000\.npy: not a readable array"):
        frames[0]
