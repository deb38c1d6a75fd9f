"""The baseline of clusters and L-shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.detection import DetectionBatch, DetectionSample, collate_detection
from zoo.models.l_shape import LShapeDetector, cluster_points, fit_l_shape
from zoo.ops import boxes_iou_3d

SIZES = {"Car": (4.0, 1.8, 1.5), "Pedestrian": (0.7, 0.6, 1.7)}
EXTENTS = {"Car": (1.3, 5.5, 2.4, 1.0, 2.2), "Pedestrian": (0.15, 1.0, 0.9, 1.1, 2.1)}


def make_detector() -> LShapeDetector:
    return LShapeDetector(class_names=list(SIZES), sizes=SIZES, extents=EXTENTS)


def visible_sides(box: np.ndarray, spacing: float = 0.08) -> np.ndarray:
    """Points on the two sides of a box that face the sensor at the origin."""
    x, y, z, length, width, height, yaw = box
    forward, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    toward = -np.array([x, y])
    near_end = np.sign(toward @ forward) * length / 2
    near_side = np.sign(toward @ left) * width / 2
    along, across = np.arange(-length / 2, length / 2, spacing), np.arange(-width / 2, width / 2, spacing)
    long_side = along[:, None] * forward + near_side * left
    short_side = near_end * forward + across[:, None] * left
    footprint = np.concatenate([long_side, short_side]) + np.array([x, y])
    heights = np.arange(z - height / 2 + 0.02, z + height / 2, 0.15)
    return np.concatenate([np.c_[footprint, np.full(len(footprint), value)] for value in [*heights, z + height / 2]])


def ground(height: float = -1.7) -> np.ndarray:
    x, y = np.meshgrid(np.arange(0, 45, 0.4), np.arange(-20, 20, 0.4))
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, height)], axis=1)


BOXES = np.array(
    [
        [12.0, 4.0, -0.95, 4.0, 1.8, 1.5, 0.3],
        [20.0, -6.0, -0.95, 4.0, 1.8, 1.5, -1.2],
        [9.0, -5.0, -0.85, 0.7, 0.6, 1.7, 0.2],
    ]
)


def make_batch() -> DetectionBatch:
    points = np.concatenate([ground(), *(visible_sides(box) for box in BOXES)]).astype(np.float32)
    labels = torch.tensor([0, 0, 1])
    boxes = torch.from_numpy(BOXES.astype(np.float32))
    return collate_detection(
        [DetectionSample(torch.from_numpy(points), boxes, labels, "a"), DetectionSample(torch.zeros(0, 3))]
    )


@pytest.mark.parametrize("angle", [0.1, 0.7, 1.4])
def test_the_angle_of_an_l(angle: float) -> None:
    sides = np.concatenate([np.c_[np.linspace(0, 4, 60), np.zeros(60)], np.c_[np.zeros(30), np.linspace(0, 1.8, 30)]])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found, rectangle, closeness = fit_l_shape(sides @ turn.T + (10, 3))
    assert found == pytest.approx(angle, abs=np.pi / 90)
    np.testing.assert_allclose(rectangle[1] - rectangle[0], [4, 1.8], atol=0.15)
    assert closeness > 15


def test_clusters_stand_on_the_ground() -> None:
    clusters = cluster_points(make_batch().points.numpy())
    assert len(clusters) == 3
    assert all(cluster[:, 2].min() > -1.45 for cluster in clusters)
    assert cluster_points(np.zeros((0, 4))) == []
    assert cluster_points(ground()) == []


def test_boxes_are_found() -> None:
    batch = make_batch()
    found, nothing = make_detector().predict(batch)
    assert len(nothing.boxes) == 0
    overlap = boxes_iou_3d(batch.boxes[0], found.boxes)
    best = overlap.max(dim=1)
    assert (best.values > 0.6).all(), overlap
    assert found.labels[best.indices].tolist() == [0, 0, 1]
    assert ((found.scores > 0) & (found.scores <= 1)).all()


def test_sizes_are_learned() -> None:
    detector, batch = make_detector(), make_batch()
    batch.boxes[0][:, 3:6] *= 1.2
    optimizer = torch.optim.Adam(detector.parameters(), lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        detector.loss(batch)["loss"].backward()
        optimizer.step()
    torch.testing.assert_close(
        detector.log_sizes.exp().detach(), 1.2 * torch.tensor([SIZES[name] for name in SIZES]), rtol=0.05, atol=0
    )
    empty = collate_detection([DetectionSample(torch.zeros(0, 3))])
    assert detector.loss(empty)["loss"].requires_grad


def test_every_class_needs_a_size() -> None:
    with pytest.raises(ValueError, match="found none for 'Tram'"):
        LShapeDetector(class_names=["Tram"], sizes=SIZES, extents=EXTENTS)
