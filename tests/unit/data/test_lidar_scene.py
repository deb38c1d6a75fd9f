"""The generator: determinism, splits, plausibility of labels, voxel statistics."""

import numpy as np
import pytest
import torch

from zoo.data import lidar_objects as things
from zoo.data.boxes import bev_overlap, points_in_boxes
from zoo.data.formats.semantic_kitti import to_train_ids
from zoo.data.lidar_objects import SPLITS, ShapeDraw
from zoo.data.lidar_scene import lidar_voxels, make_drive, make_frame
from zoo.data.lidar_sensor import Camera, LidarSensor
from zoo.data.lidar_street import StreetSpec, Terrain, build_street, scene_rng

SENSOR = LidarSensor(beams=48, azimuth_steps=500)
CAMERA = Camera(stride=4)


@pytest.fixture(scope="module")
def frame():
    return make_frame(0, sensor=SENSOR, camera=CAMERA)


def test_same_seed_same_frame(frame):
    again = make_frame(0, sensor=SENSOR, camera=CAMERA)
    np.testing.assert_array_equal(frame.sweep.points, again.sweep.points)
    np.testing.assert_array_equal(frame.sweep.semantic, again.sweep.semantic)
    np.testing.assert_array_equal(frame.picture.image, again.picture.image)
    other = make_frame(1, sensor=SENSOR)
    assert other.sweep.points.shape != frame.sweep.points.shape


def test_splits_differ_and_share_no_shape_value():
    values = {split: [ShapeDraw(scene_rng(s, split, 9), split)(0.0, 1.0) for s in range(300)] for split in SPLITS}
    tenths = {split: set((np.array(v) * 10).astype(int)) for split, v in values.items()}
    assert set().union(*tenths.values()) == set(range(10))
    assert not tenths["train"] & tenths["val"]
    assert not tenths["train"] & tenths["test"]
    assert not tenths["val"] & tenths["test"]
    lengths = [things.car(ShapeDraw(scene_rng(5, split, 0), split)).size[0] for split in SPLITS]
    assert len(set(lengths)) == 3
    assert scene_rng(0, "train").random() != scene_rng(0, "val").random()


@pytest.mark.parametrize(
    ("maker", "low", "high"),
    [
        (things.car, (3.2, 1.4, 1.3), (5.0, 2.0, 1.9)),
        (things.van, (4.5, 1.7, 1.8), (6.4, 2.2, 2.8)),
        (things.truck, (6.5, 2.2, 2.8), (11.5, 2.7, 3.8)),
        (things.pedestrian, (0.2, 0.3, 1.4), (1.2, 0.9, 2.1)),
        (things.cyclist, (1.4, 0.4, 1.5), (2.1, 0.9, 2.1)),
    ],
)
def test_road_users_have_real_sizes_and_fill_their_boxes(maker, low, high):
    for seed in range(20):
        item = maker(ShapeDraw(scene_rng(seed, "train", 0), "train"))
        assert (item.size >= low).all(), item.size
        assert (item.size <= high).all(), item.size
        bottom = min(solid.center[2] - solid.extent()[2] for solid in item.solids)
        assert bottom == pytest.approx(0.0, abs=1e-9)


def test_points_of_an_object_lie_in_its_box(frame):
    grown = frame.boxes + np.array([0, 0, 0, 0.15, 0.15, 0.15, 0])
    inside = points_in_boxes(frame.sweep.points, grown)
    assert len(frame.objects) > 20
    for row, item in enumerate(frame.objects):
        own = frame.sweep.instance == item.instance
        assert own.sum() == frame.num_points[row]
        assert inside[row][own].mean() > 0.97 if own.any() else True
    assert (frame.num_points > 30).sum() >= 4


def test_road_users_do_not_overlap(frame):
    overlap = bev_overlap(frame.boxes, frame.boxes)
    np.fill_diagonal(overlap, False)
    assert not overlap.any()


def test_sweep_is_plausible(frame):
    sweep = frame.sweep
    points = sweep.points
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert points[:, 3].min() >= 0.0
    assert points[:, 3].max() < 1.0
    classes = to_train_ids(sweep.semantic)
    assert set(np.unique(classes)) >= {-1, 0, 8, 10, 12, 14, 16}
    road = points[classes == 8]
    assert abs(np.median(road[np.hypot(road[:, 0], road[:, 1]) < 10, 2]) + SENSOR.height) < 0.1
    assert (np.diff(sweep.ring.astype(int)) >= 0).all()
    elevation = np.arctan2(points[:, 2], np.hypot(points[:, 0], points[:, 1]))
    kept = sweep.semantic != 1
    assert np.abs(elevation - SENSOR.elevations()[sweep.ring])[kept].max() < 1e-5
    assert 0.5 < len(points) / (48 * 500) < 0.97
    assert 0 < (sweep.semantic == 1).sum() < 100


def test_objects_cast_shadows(frame):
    """Behind a well-seen car the ground within its angles has no return."""
    near = [
        row
        for row, item in enumerate(frame.objects)
        if item.kind == "Car" and frame.num_points[row] > 40 and np.hypot(*frame.boxes[row, :2]) < 25
    ]
    assert near
    points, ground = frame.sweep.points, np.isin(frame.sweep.semantic, (40, 44, 48, 60, 72))
    angle, reach = np.arctan2(points[:, 1], points[:, 0]), np.hypot(points[:, 0], points[:, 1])
    for row in near:
        box = frame.boxes[row]
        bearing, distance = np.arctan2(box[1], box[0]), np.hypot(box[0], box[1])
        behind = (
            (np.abs(np.angle(np.exp(1j * (angle - bearing)))) < 0.3 / distance)
            & (reach > distance + 3)
            & (reach < distance + 6)
        )
        assert (behind & ground).sum() <= 2


def test_picture_measures(frame):
    picture = frame.picture
    assert picture.image.shape == (375, 1242, 3)
    shown = np.isfinite(picture.boxes[:, 0])
    assert 5 < shown.sum() < len(shown)
    boxes = picture.boxes[shown]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [1242, 375]).all()
    assert ((picture.visible >= 0) & (picture.visible <= 1)).all()
    assert (picture.truncated[~shown] == 1).all()
    ahead = frame.boxes[shown][:, 0] > 1
    left = frame.boxes[shown][:, 1] > 0
    steep = np.abs(frame.boxes[shown][:, 1]) > 0.2 * frame.boxes[shown][:, 0]
    middle = boxes[:, [0, 2]].mean(axis=1)
    assert ((middle < 609) == left)[ahead & steep].all()


def test_a_drive_keeps_instances_and_moves(tmp_path):
    frames = list(make_drive(2, 3, "val", step=2.0, sensor=LidarSensor(beams=16, azimuth_steps=200)))
    assert [round(f.time, 3) for f in frames] == [0.0, 0.1, 0.2]
    ids = [[item.instance for item in f.objects] for f in frames]
    assert ids[0] == ids[1] == ids[2]
    moved = np.linalg.norm(frames[2].pose.position - frames[0].pose.position)
    assert 3.5 < moved < 4.5
    still = [row for row, item in enumerate(frames[0].objects) if item.speed == 0]
    world = [f.boxes[still][:, :3] @ f.pose.matrix()[:3, :3].T + f.pose.position for f in frames]
    np.testing.assert_allclose(world[0], world[2], atol=1e-9)
    fast = [row for row, item in enumerate(frames[0].objects) if item.speed > 5]
    place = [np.array([f.objects[row].position for row in fast]) for f in frames]
    assert (np.linalg.norm(place[2] - place[0], axis=1) > 0.9).all()


def test_bare_street_and_empty_drive():
    empty = StreetSpec(
        **{name: 0.0 for name in StreetSpec.__dataclass_fields__ if name not in ("half_length", "clear_radius")}
    )
    bare = make_frame(0, sensor=LidarSensor(beams=8, azimuth_steps=60), camera=Camera(stride=16), spec=empty)
    assert bare.boxes.shape[1] == 7
    assert list(make_drive(0, 0)) == []


def test_terrain_surfaces():
    terrain = Terrain(4.0, 2.0, 2.0, 0.1, 0.0, np.array([30.0]), np.array([50.0]), np.zeros((0, 4)), np.zeros((0, 4)))
    x = np.array([1.0, 4.0, 1.0, 1.0, 1.0, 50.0, 30.0, 1.0])
    y = np.array([2.0, 0.0, 3.86, 5.0, 7.0, 9.0, 20.0, 20.0])
    assert terrain.surface(x, y).tolist() == [40, 40, 60, 44, 48, 49, 40, 72]
    np.testing.assert_allclose(terrain.height(x, y), [0, 0, 0, 0, 0.1, 0.1, 0, 0.1])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LidarSensor(beams=1), "beams"),
        (lambda: LidarSensor(fov_up=-30), "fov_down"),
        (lambda: LidarSensor(drop_rate=1.0), "drop_rate"),
        (lambda: build_street(-1), "seed"),
        (lambda: build_street(0, "validation"), "split"),
        (lambda: lidar_voxels(-1), "num_voxels"),
        (lambda: next(make_drive(0, 2, step=0.0)), "step"),
    ],
)
def test_bad_arguments_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_lidar_voxels_of_a_benchmark():
    voxels = lidar_voxels(60_000)
    coords = voxels.coords
    assert coords.shape == (60_000, 4)
    assert coords.dtype == torch.int32
    assert voxels.spatial_shape == (67, 1504, 1504)
    assert int(coords.min()) >= 0
    assert (coords[:, 1:].amax(0) < torch.tensor(voxels.spatial_shape)).all()
    keys = (coords[:, 1].long() * 1506 + coords[:, 2]) * 1506 + coords[:, 3]
    ordered, _ = keys.sort()
    assert len(ordered.unique()) == 60_000
    assert not torch.equal(keys, ordered)
    neighbours = 0
    for dz in (-1, 0, 1):
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                wanted = keys + (dz * 1506 + dy) * 1506 + dx
                found = torch.searchsorted(ordered, wanted).clamp_max(59_999)
                neighbours += int((ordered[found] == wanted).sum())
    assert 8.4 < neighbours / 60_000 < 9.6


@pytest.mark.slow
def test_lidar_voxels_of_other_sizes():
    assert lidar_voxels(200_000).coords.shape == (200_000, 4)
    assert torch.equal(lidar_voxels(60_000).coords, lidar_voxels(60_000).coords)
    large = lidar_voxels(300_000, seed=1)
    assert len(large.coords.unique(dim=0)) == 300_000
    assert (large.coords[:, 1:].amax(0) < torch.tensor(large.spatial_shape)).all()


def test_no_voxels():
    assert lidar_voxels(0).coords.shape == (0, 4)
