"""Boxes and KITTI's frames against brute force and hand-made values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data.boxes import (
    Calibration,
    bev_corners,
    bev_overlap,
    box_corners,
    camera_to_lidar_boxes,
    check_boxes,
    lidar_to_camera_boxes,
    observation_angle,
    points_in_boxes,
    project_boxes,
    wrap_angle,
)

P2 = [[700.0, 0, 600, 45], [0, 700, 170, 0.2], [0, 0, 1, 0.003]]


def calibration(seed=0):
    """A LiDAR looking along the camera, a little askew."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(np.eye(3) + 0.02 * rng.normal(size=(3, 3)))
    turn *= np.sign(np.diag(turn))
    axes = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    return Calibration(np.array(P2), turn, np.column_stack([axes, [0.0, -0.08, -0.27]]))


def random_boxes(seed, count=30, spread=6.0):
    rng = np.random.default_rng(seed)
    center = rng.uniform(-spread, spread, (count, 3)) * [1, 1, 0.2]
    return np.column_stack([center, rng.uniform(0.3, 4.0, (count, 3)), rng.uniform(-4, 4, count)])


def test_corner_order_and_turn():
    corners = box_corners([[1, 2, 3, 4, 2, 6, 0]])[0]
    expected = [[3, 3, 0], [3, 1, 0], [-1, 1, 0], [-1, 3, 0], [3, 3, 6], [3, 1, 6], [-1, 1, 6], [-1, 3, 6]]
    np.testing.assert_allclose(corners, expected)
    turned = box_corners([[0, 0, 0, 4, 2, 2, np.pi / 2]])[0]
    np.testing.assert_allclose(turned[0], [-1, 2, -1], atol=1e-12)


def test_points_in_boxes_against_the_local_frame():
    boxes, rng = random_boxes(0), np.random.default_rng(1)
    points = rng.uniform(-7, 7, (500, 4)) * [1, 1, 0.3, 1]
    inside = points_in_boxes(points, boxes)
    for box, row in zip(boxes, inside, strict=True):
        cos, sin = np.cos(box[6]), np.sin(box[6])
        local = (points[:, :3] - box[:3]) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        np.testing.assert_array_equal(row, (np.abs(local) <= box[3:6] / 2).all(axis=1))
    assert inside.any()


def test_overlap_against_a_fine_raster():
    a, b = random_boxes(2, 12, 3.0), random_boxes(3, 12, 3.0)
    axis = np.linspace(-7, 7, 200)
    grid = np.stack([*np.meshgrid(axis, axis), np.zeros((200, 200))], axis=-1).reshape(-1, 3)
    flat_a, flat_b = a.copy(), b.copy()
    flat_a[:, 2] = flat_b[:, 2] = 0
    cells_a, cells_b = points_in_boxes(grid, flat_a), points_in_boxes(grid, flat_b)
    shared = (cells_a[:, None] & cells_b[None]).sum(-1)
    overlap = bev_overlap(a, b)
    assert overlap[shared > 0].all()
    assert (shared[overlap] == 0).mean() < 0.1  # slivers between the raster's points
    assert 0.1 < overlap.mean() < 0.9
    np.testing.assert_array_equal(overlap, bev_overlap(b, a).T)


def test_touching_boxes_do_not_overlap():
    assert not bev_overlap([[0, 0, 0, 2, 2, 1, 0]], [[2, 0, 0, 2, 2, 1, 0]]).any()
    assert bev_overlap([[0, 0, 0, 2, 2, 1, 0]], [[1.99, 0, 5, 2, 2, 1, 0]]).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_camera_and_lidar_boxes_are_inverse(seed):
    boxes, calib = random_boxes(seed, 8, 30.0), calibration(seed)
    back = camera_to_lidar_boxes(*lidar_to_camera_boxes(boxes, calib), calib)
    np.testing.assert_allclose(back[:, :6], boxes[:, :6], atol=1e-9)
    np.testing.assert_allclose(wrap_angle(back[:, 6] - boxes[:, 6]), 0, atol=1e-9)


def test_points_and_pixels_round_trip():
    calib, points = calibration(4), np.random.default_rng(0).normal(size=(20, 3)) * 5 + [20, 0, 0]
    np.testing.assert_allclose(calib.rect_to_lidar(calib.lidar_to_rect(points)), points, atol=1e-10)
    pixels, depth = calib.lidar_to_image(points)
    rect = calib.lidar_to_rect(points)
    np.testing.assert_allclose(pixels[:, 0], (700 * rect[:, 0] + 600 * rect[:, 2] + 45) / rect[:, 2])
    np.testing.assert_allclose(depth, rect[:, 2])
    assert calib.in_view([[10.0, 0, 0], [-10.0, 0, 0], [10.0, 30, 0]], (375, 1242)).tolist() == [True, False, False]


def test_a_car_straight_ahead():
    calib = Calibration(np.array(P2), np.eye(3), np.array([[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0]]))
    box = [[20.0, 0, -1.0, 4.0, 1.8, 1.5, 0.0]]
    location, dimensions, rotation = lidar_to_camera_boxes(box, calib)
    np.testing.assert_allclose(location, [[0, 1.75, 20]], atol=1e-9)
    np.testing.assert_allclose(dimensions, [[1.5, 1.8, 4.0]])
    np.testing.assert_allclose(rotation, [-np.pi / 2])
    np.testing.assert_allclose(observation_angle(box), [-np.pi / 2])
    left, top, right, bottom = project_boxes(box, calib, (375, 1242))[0]
    assert left < 600 < right
    assert top < bottom


def test_empty_and_bad_boxes():
    empty = np.zeros((0, 7))
    assert box_corners(empty).shape == (0, 8, 3)
    assert bev_corners(empty).shape == (0, 4, 2)
    assert points_in_boxes(np.zeros((5, 3)), empty).shape == (0, 5)
    assert bev_overlap(empty, random_boxes(0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match=r"boxes: found shape \(2, 6\), expected \(N, 7\)"):
        check_boxes(np.zeros((2, 6)))
    with pytest.raises(ValueError, match="row 1 has edge lengths"):
        check_boxes([[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, -1, 1, 0]])
    with pytest.raises(ValueError, match=r"p2: found shape \(3, 3\), expected \(3, 4\)"):
        Calibration(np.eye(3), np.eye(3), np.eye(3, 4))
