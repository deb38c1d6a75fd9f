"""Infos and object databases that OpenPCDet prepared for KITTI."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.data.kitti_sets import kitti_data, small_kitti
from zoo.data.bad_samples import SampleError
from zoo.data.formats.kitti import KittiObjects
from zoo.data.kitti_detection import KittiSource
from zoo.data.object_database import GroundTruthSampling, ObjectDatabase, build_database


def homogeneous(matrix: np.ndarray) -> np.ndarray:
    result = np.eye(4)
    result[: matrix.shape[0], : matrix.shape[1]] = matrix
    return result.astype(np.float32)


def as_openpcdet(root: Path) -> list[dict[str, Any]]:
    """Infos as its converter pickles them: DontCare last, matrices 4 x 4, dimensions as length, height, width."""
    infos = []
    for frame in KittiObjects(root, "train"):
        labels = frame.labels
        assert labels is not None
        order = np.argsort([name == "DontCare" for name in labels.names], kind="stable")
        labels = labels.select(order)
        annotations = {
            "name": np.array(labels.names),
            "truncated": labels.truncated,
            "occluded": labels.occluded.astype(np.float64),
            "alpha": labels.alpha,
            "bbox": labels.bbox.astype(np.float32),
            "dimensions": labels.dimensions[:, [2, 0, 1]],
            "location": labels.location.astype(np.float32),
            "rotation_y": labels.rotation_y,
            "score": np.full(len(labels), -1.0),
            "difficulty": labels.difficulty().astype(np.int32),
            "index": np.array([row if name != "DontCare" else -1 for row, name in enumerate(labels.names)], np.int32),
            "gt_boxes_lidar": labels.without_dont_care().lidar_boxes(frame.calibration),
            "num_points_in_gt": np.full(len(labels), -1, dtype=np.int32),
        }
        calibration = frame.calibration
        infos.append(
            {
                "point_cloud": {"num_features": 4, "lidar_idx": frame.frame_id},
                "image": {"image_idx": frame.frame_id, "image_shape": np.array(frame.image_shape, dtype=np.int32)},
                "calib": {
                    "P2": homogeneous(calibration.p2),
                    "R0_rect": homogeneous(calibration.r0_rect),
                    "Tr_velo_to_cam": homogeneous(calibration.velo_to_cam),
                },
                "annos": annotations,
            }
        )
    return infos


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(small_kitti(), tmp_path / "kitti")
    return tmp_path / "kitti"


def test_infos_give_the_frames_of_the_files(root: Path) -> None:
    (root / "infos.pkl").write_bytes(pickle.dumps(as_openpcdet(root)))
    shutil.rmtree(root / "training" / "label_2")
    shutil.rmtree(root / "training" / "calib")
    theirs = KittiSource(root=root, infos={"train": "infos.pkl"}).open_split("train")
    ours = KittiSource(root=small_kitti()).open_split("train")
    assert list(theirs.frame_ids) == list(ours.frame_ids)
    for a, b in zip(theirs, ours, strict=True):
        assert abs(len(a.points) - len(b.points)) <= 2  # matrices in single precision
        assert a.names == b.names
        assert a.difficulty.tolist() == b.difficulty.tolist()
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-4)


def test_other_infos_are_refused(root: Path) -> None:
    source = KittiSource(root=root, infos={"train": "infos.pkl"})
    infos = as_openpcdet(root)
    del infos[1]["calib"]["P2"]
    (root / "infos.pkl").write_bytes(pickle.dumps(infos))
    with pytest.raises(SampleError, match=r"infos\.pkl: entry 1 is not what OpenPCDet writes for KITTI .*P2"):
        source.open_split("train")
    infos = as_openpcdet(root)
    infos[0]["annos"]["name"][0] = "Ufo"
    (root / "infos.pkl").write_bytes(pickle.dumps(infos))
    with pytest.raises(SampleError, match=r"entry 0 .*unknown type 'Ufo'"):
        source.open_split("train")
    (root / "infos.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(SampleError, match="holds a dict, expected a list"):
        source.open_split("train")


def write_database(root: Path) -> ObjectDatabase:
    ours = build_database(KittiSource(root=root).open_split("train"), ["Car", "Cyclist"])
    entries: dict[str, list[dict[str, Any]]] = {"Car": [], "Cyclist": []}
    (root / "gt_database").mkdir()
    for index in range(len(ours)):
        path = f"gt_database/{index}.bin"
        ours.points_of(index).tofile(root / path)
        entries[str(ours.names[index])].append(
            {
                "name": str(ours.names[index]),
                "path": path,
                "image_idx": str(ours.frame_ids[index]),
                "gt_idx": index,
                "box3d_lidar": ours.boxes[index],
                "num_points_in_gt": int(ours.num_points[index]),
                "difficulty": int(ours.difficulty[index]),
            }
        )
    (root / "kitti_dbinfos_train.pkl").write_bytes(pickle.dumps(entries))
    return ours


def test_objects_are_planted_from_its_database(root: Path) -> None:
    ours = write_database(root)
    sampling = GroundTruthSampling(
        counts={"Car": 15, "Cyclist": 5}, skip_ungraded=False, path=root / "kitti_dbinfos_train.pkl"
    )
    sampling.prepare(KittiSource(root=root))
    theirs = sampling.database
    order = np.argsort(ours.names, kind="stable")
    assert theirs.names.tolist() == ours.names[order].tolist()
    np.testing.assert_array_equal(theirs.boxes, ours.boxes[order])
    for place, index in enumerate(order.tolist()):
        np.testing.assert_array_equal(theirs.points_of(place), ours.points_of(index))
    data = kitti_data(root, train_transforms={"gt_sampling": sampling}, max_steps=1)
    (batch,) = data.train_dataloader()
    assert len(batch.boxes[0]) > len(data.cloud(data.frames("train")[int(batch.frame_ids[0])]).boxes)


def test_a_damaged_database_is_refused(root: Path) -> None:
    write_database(root)
    sampling = GroundTruthSampling(counts={"Car": 15}, path=root / "kitti_dbinfos_train.pkl")
    first = min((root / "gt_database").iterdir())
    content = first.read_bytes()
    first.write_bytes(content[:-4])
    with pytest.raises(SampleError, match=rf"{first.name}: holds .* numbers, expected"):
        _ = GroundTruthSampling(counts={"Car": 15, "Cyclist": 1}, path=root / "kitti_dbinfos_train.pkl").database
    first.unlink()
    with pytest.raises(SampleError, match="no such point file"):
        _ = GroundTruthSampling(counts={"Car": 15, "Cyclist": 1}, path=root / "kitti_dbinfos_train.pkl").database
    (root / "kitti_dbinfos_train.pkl").write_bytes(pickle.dumps({"Car": [{"name": "Car"}]}))
    with pytest.raises(SampleError, match="is not what OpenPCDet writes"):
        _ = sampling.database
