"""Augmentation of labelled clouds and gt-sampling."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zoo.data.bad_samples import SampleError
from zoo.data.boxes import bev_overlap, points_in_boxes
from zoo.data.detection_frames import LabelledCloud
from zoo.data.detection_transforms import (
    DropSparseBoxes,
    RandomFlip,
    RandomRotation,
    RandomScaling,
    RandomTranslation,
    RangeMask,
    ShufflePoints,
    Transform,
    apply_transforms,
)
from zoo.data.object_database import GroundTruthSampling, ObjectDatabase
from zoo.data.schema import write_arrays


def make_cloud(num_boxes: int = 3, per_box: int = 20, seed: int = 0) -> LabelledCloud:
    """Boxes far from each other, each with points well inside, and some points elsewhere."""
    rng = np.random.default_rng(seed)
    boxes = np.zeros((num_boxes, 9), dtype=np.float32)
    boxes[:, 0] = 10 + 12 * np.arange(num_boxes)
    boxes[:, 1] = rng.uniform(-5, 5, num_boxes)
    boxes[:, 3:6] = (4, 2, 1.5)
    boxes[:, 6] = rng.uniform(-3, 3, num_boxes)
    boxes[:, 7:] = rng.normal(0, 3, (num_boxes, 2))
    local = rng.uniform(-0.45, 0.45, (num_boxes, per_box, 3)) * boxes[:, None, 3:6]
    cos, sin = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x, y = local[..., 0] * cos - local[..., 1] * sin, local[..., 0] * sin + local[..., 1] * cos
    inside = np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]
    ground = rng.uniform((0, -30, -3), (60, 30, -2), (200, 3))
    places = np.concatenate([inside.reshape(-1, 3), ground])
    points = np.concatenate([places, rng.random((len(places), 1))], axis=1).astype(np.float32)
    return LabelledCloud(points, boxes, np.arange(num_boxes) % 2, ("Car", "Cyclist"))


@pytest.mark.parametrize(
    "transform",
    [
        RandomFlip(axes=("x",), probability=1.0),
        RandomFlip(axes=("y",), probability=1.0),
        RandomFlip(axes=("x", "y"), probability=1.0),
        RandomRotation(),
        RandomScaling(low=0.5, high=2.0),
        RandomTranslation(deviation=(3.0, 3.0, 1.0)),
        ShufflePoints(),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_points_stay_in_their_boxes(transform: Transform) -> None:
    cloud = make_cloud()
    before = points_in_boxes(cloud.points, cloud.boxes[:, :7])
    moved = transform(cloud, np.random.default_rng(1))
    after = points_in_boxes(moved.points, moved.boxes[:, :7])
    assert after.sum(axis=1).tolist() == before.sum(axis=1).tolist() == [20, 20, 20]
    assert not np.array_equal(moved.points, cloud.points)
    np.testing.assert_array_equal(cloud.points, make_cloud().points)  # the argument is untouched


@pytest.mark.parametrize(
    "transform",
    [RandomFlip(axes=("x",), probability=1.0), RandomFlip(axes=("y",), probability=1.0), RandomRotation()],
)
def test_velocities_turn_with_headings(transform: Transform) -> None:
    """A box that drives forwards still does."""
    cloud = make_cloud()
    heading = np.stack([np.cos(cloud.boxes[:, 6]), np.sin(cloud.boxes[:, 6])], axis=1)
    cloud.boxes[:, 7:9] = 5 * heading
    boxes = transform(cloud, np.random.default_rng(0)).boxes
    np.testing.assert_allclose(boxes[:, 7], 5 * np.cos(boxes[:, 6]), atol=1e-5)
    np.testing.assert_allclose(boxes[:, 8], 5 * np.sin(boxes[:, 6]), atol=1e-5)


def test_range_mask() -> None:
    mask = RangeMask(point_range=(0, -40, -2.5, 25, 40, 1))
    cloud = make_cloud()
    cut = mask(cloud, np.random.default_rng())
    assert (cut.points[:, 0] < 25).all()
    assert (cut.points[:, 2] < -2.5).any()  # height is not cut
    assert len(cut.boxes) == 2
    tall = RangeMask(point_range=(0, -40, -2.5, 25, 40, 1), mask_z=True, boxes=False)(cloud, np.random.default_rng())
    assert (tall.points[:, 2] >= -2.5).all()
    assert len(tall.boxes) == 3
    with pytest.raises(ValueError, match="point_range"):
        RangeMask(point_range=(0, 0, 0, 1, 1, 0))


def test_sparse_boxes_are_dropped() -> None:
    cloud = make_cloud()
    rows = points_in_boxes(cloud.points, cloud.boxes[1:2, :7])[0]
    emptied = replace(cloud, points=cloud.points[~rows])
    assert DropSparseBoxes()(emptied, np.random.default_rng()).labels.tolist() == [0, 0]


def test_streams_do_not_depend_on_other_transforms() -> None:
    cloud = make_cloud()
    names: dict[str, Transform | None] = {"flip": RandomFlip(), "rotation": RandomRotation()}
    alone = apply_transforms({"rotation": names["rotation"]}, cloud, (0, 5))
    np.testing.assert_array_equal(apply_transforms(names, cloud, (0, 5), without=["flip"]).boxes, alone.boxes)
    np.testing.assert_array_equal(apply_transforms({**names, "flip": None}, cloud, (0, 5)).boxes, alone.boxes)
    assert not np.array_equal(apply_transforms(names, cloud, (0, 6)).boxes, alone.boxes)


def test_headings_end_within_one_turn() -> None:
    cloud = make_cloud()
    cloud.boxes[:, 6] += 4 * np.pi
    turned = apply_transforms({}, cloud, (0,)).boxes[:, 6]
    assert ((turned >= -np.pi) & (turned < np.pi)).all()


def make_database(count: int, name: str = "Car") -> ObjectDatabase:
    rng = np.random.default_rng(5)
    boxes = np.zeros((count, 9), dtype=np.float32)
    boxes[:, :2] = rng.uniform((0, -30), (60, 30), (count, 2))
    boxes[:, 3:6] = (4, 2, 1.5)
    sizes = np.arange(1, count + 1)
    points = rng.uniform(-0.5, 0.5, (int(sizes.sum()), 4)).astype(np.float32)
    return ObjectDatabase(
        points,
        np.concatenate([[0], np.cumsum(sizes)]),
        boxes,
        np.array([name] * count),
        np.where(np.arange(count) % 3 == 0, -1, 1),
        np.array(["000000"] * count),
    )


def test_planted_objects_overlap_nothing() -> None:
    cloud = make_cloud()
    database = make_database(40)
    sampling = GroundTruthSampling(counts={"Car": 15}, min_points={"Car": 5}, database=database)
    planted = sampling(cloud, np.random.default_rng(0))
    overlap = bev_overlap(planted.boxes[:, :7], planted.boxes[:, :7])
    assert not (overlap & ~np.eye(len(overlap), dtype=bool)).any()
    assert (planted.labels == 0).sum() <= 15
    new = planted.boxes[3:]
    assert len(new) >= 5
    used = [int(np.flatnonzero((database.boxes == box).all(axis=1))[0]) for box in new]
    assert all(database.num_points[index] >= 5 and database.difficulty[index] >= 0 for index in used)
    inside = points_in_boxes(planted.points, new[:, :7]).sum(axis=1)
    assert inside.tolist() == [database.num_points[index] for index in used]  # scene points have given way
    np.testing.assert_array_equal(planted.boxes[:3], cloud.boxes)


def test_only_missing_objects_are_planted() -> None:
    cloud = make_cloud()
    sampling = GroundTruthSampling(counts={"Car": 2, "Tram": 5}, database=make_database(10))
    assert sampling(cloud, np.random.default_rng(0)) is cloud  # two cars are there, trams are no class


def test_objects_stand_on_the_ground() -> None:
    cloud = replace(make_cloud(), ground=np.array([0.0, 0.0, 1.0, 1.7]))
    planted = GroundTruthSampling(counts={"Car": 9}, database=make_database(20))(cloud, np.random.default_rng(0))
    assert len(planted.boxes) > 3
    np.testing.assert_allclose(planted.boxes[3:, 2], -1.7 + 0.75, atol=1e-6)


def test_an_empty_database_plants_nothing() -> None:
    cloud = make_cloud()
    assert GroundTruthSampling(counts={"Car": 9}, database=make_database(0))(cloud, np.random.default_rng(0)) is cloud


def test_databases_of_other_versions_name_the_command(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    make_database(3).write(path)
    assert len(ObjectDatabase.read(path)) == 3
    write_arrays(path, "objects", 99, {"boxes": np.zeros(3)})
    with pytest.raises(SampleError, match=r"objects.npz: has schema version 99, .* action=prepare overwrite=true"):
        ObjectDatabase.read(path)
    write_arrays(path, "infos", 1, {})
    with pytest.raises(SampleError, match="holds 'infos', expected 'objects'"):
        ObjectDatabase.read(path)
    path.write_bytes(b"PK rubbish")
    with pytest.raises(SampleError, match="not a prepared file of this package"):
        ObjectDatabase.read(path)
    with pytest.raises(SampleError, match="no such file; make it"):
        ObjectDatabase.read(tmp_path / "missing.npz")
