"""KITTI's average precision: cases whose figures are known, and the metric against the function."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data.detection import Detections
from zoo.data.detection_frames import CameraView, DetectionFrame
from zoo.data.detection_results import STRAIGHT_AHEAD, kitti_results
from zoo.data.formats.kitti import KittiLabels
from zoo.metrics.kitti_ap import LOOSE, KittiAP, kitti_average_precision
from zoo.metrics.kitti_matching import recall_thresholds

SHAPE = (375, 1242)
CLASSES = ("Car", "Pedestrian", "Cyclist")


def objects(seed: int, count: int = 12) -> Detections:
    """Cars, pedestrians and cyclists ahead of the camera, each in a lane of its own."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    sizes = np.array([[4.2, 1.8, 1.6], [0.8, 0.7, 1.8], [1.8, 0.6, 1.7]])[labels]
    place = np.stack([generator.uniform(8, 30, count), np.linspace(-8, 8, count), np.full(count, -0.9)], 1)
    boxes = np.concatenate([place, sizes, generator.uniform(-3, 3, (count, 1))], 1)
    scores = generator.uniform(0.1, 1, count)
    return Detections(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(labels))


def frame(truth: Detections, number: int) -> DetectionFrame:
    labels = kitti_results(truth, CLASSES, STRAIGHT_AHEAD, SHAPE)
    labels = replace(labels, score=None, truncated=np.zeros(len(labels)), occluded=np.zeros(len(labels), np.int64))
    view = CameraView(Path("none.png"), STRAIGHT_AHEAD, SHAPE)
    empty = np.zeros(0, dtype=np.int64)
    return DetectionFrame(
        f"{number:06d}", np.zeros((0, 4), np.float32), np.zeros((0, 7)), (), empty, empty, view, labels
    )


def moved(found: Detections, seed: int, amount: float) -> Detections:
    generator = torch.Generator().manual_seed(seed)
    boxes = found.boxes + amount * torch.randn(found.boxes.shape, generator=generator, dtype=torch.float64)
    boxes[:, 3:6] = boxes[:, 3:6].abs()
    return Detections(boxes, found.scores, found.labels)


def test_metric_equals_the_function_and_survives_any_split_of_frames():
    scenes = [objects(seed) for seed in range(30)]
    frames = [frame(scene, number) for number, scene in enumerate(scenes)]
    found = [moved(scene, number, 0.12) for number, scene in enumerate(scenes)]
    results = [kitti_results(some, CLASSES, STRAIGHT_AHEAD, SHAPE) for some in found]
    truth = [some.labels for some in frames if some.labels is not None]
    expected = kitti_average_precision(truth, results)
    assert 5 < expected["Car_3d/moderate_R40"] < 95
    assert expected["Car_bev/moderate_R40"] >= expected["Car_3d/moderate_R40"]
    metric = KittiAP(class_names=CLASSES, loose=True)
    metric.update(found[:7], frames[:7])
    metric.update(found[7:], frames[7:])
    figures = metric.compute()
    for name, value in expected.items():
        assert float(figures[name]) == pytest.approx(value, abs=1e-4), name
    for name, value in kitti_average_precision(truth, results, LOOSE).items():
        assert float(figures[f"loose/{name}"]) == pytest.approx(value, abs=1e-4), name
    metric.reset()
    assert float(metric.compute()["Car_3d/easy_R40"]) == 0


def test_the_objects_themselves_reach_everything():
    scenes = [objects(seed) for seed in range(40)]
    metric = KittiAP(class_names=("Vehicle", "Pedestrian", "Cyclist"), rename={"Vehicle": "Car"})
    metric.update(scenes, [frame(scene, number) for number, scene in enumerate(scenes)])
    figures = metric.compute()
    assert set(figures) == set(kitti_average_precision([], []))
    assert all(float(value) == pytest.approx(100) for value in figures.values()), figures


def one(
    name: str = "Car",
    *,
    score: float | None = None,
    x: float = 0.0,
    height: float = 60.0,
    occluded: int = 0,
    truncated: float = 0.0,
    alpha: float = 0.0,
) -> KittiLabels:
    return KittiLabels(
        (name,),
        np.array([truncated]),
        np.array([occluded]),
        np.array([alpha]),
        np.array([[500 + 20 * x, 100.0, 600 + 20 * x, 100 + height]]),
        np.array([[1.5, 1.7, 4.0]]),
        np.array([[x, 1.5, 15.0]]),
        np.zeros(1),
        None if score is None else np.array([score]),
    )


def both(first: KittiLabels, second: KittiLabels) -> KittiLabels:
    arrays = {
        name: np.concatenate([getattr(first, name), getattr(second, name)])
        for name in ("truncated", "occluded", "alpha", "bbox", "dimensions", "location", "rotation_y")
    }
    score = None if first.score is None or second.score is None else np.concatenate([first.score, second.score])
    return KittiLabels(first.names + second.names, score=score, **arrays)


def figures_of(truth: KittiLabels, found: KittiLabels) -> dict[str, float]:
    return kitti_average_precision([truth] * 50, [found] * 50)


def test_a_false_alarm_beside_each_hit_halves_precision():
    figures = figures_of(one(), both(one(score=0.9), one(score=0.9, x=9)))
    for kind in ("3d", "bev", "image", "aos"):
        assert figures[f"Car_{kind}/easy_R40"] == pytest.approx(50)


def test_difficulty_leaves_out_what_is_harder():
    truth = both(one(), one(x=9, occluded=1))
    found = both(one(score=0.9), one(score=0.8, x=20))
    figures = figures_of(truth, found)
    assert figures["Car_3d/easy_R40"] == pytest.approx(100)  # the miss is not easy, the false alarm scores lower
    assert figures["Car_3d/moderate_R40"] == pytest.approx(50)  # half of the recall
    for harder in (one(height=39.0), one(truncated=0.2), one("Van"), one(height=40.0)):
        figures = figures_of(both(one(x=9), harder), both(one(score=0.5, x=9), one(score=0.9)))
        assert figures["Car_3d/easy_R40"] == pytest.approx(100), harder  # found, but not counted


def test_low_detections_are_not_counted():
    figures = figures_of(one(), both(one(score=0.9), one(score=0.95, x=9, height=24.0)))
    assert figures["Car_3d/hard_R40"] == pytest.approx(100)


def test_regions_without_labels_excuse_image_detections_only():
    figures = figures_of(both(one(), one("DontCare", x=9)), both(one(score=0.9), one(score=0.95, x=9)))
    assert figures["Car_image/easy_R40"] == pytest.approx(100)
    assert figures["Car_3d/easy_R40"] == pytest.approx(50)


def test_orientation():
    figures = figures_of(one(), one(score=0.9, alpha=np.pi / 2))
    assert figures["Car_aos/easy_R40"] == pytest.approx(50)
    assert figures["Car_image/easy_R40"] == pytest.approx(100)


def test_thresholds_of_few_matches():
    assert recall_thresholds([], 5).tolist() == []
    assert recall_thresholds([0.2, 0.9, 0.5], 3).tolist() == [0.9, 0.5, 0.2]
    assert len(recall_thresholds(list(np.linspace(0, 1, 1000)), 1000)) == 41


def test_bad_arguments():
    with pytest.raises(ValueError, match="class_names: found 'Bus', expected KITTI's"):
        KittiAP(class_names=("Bus",))
    with pytest.raises(ValueError, match="overlaps: found class 'Bus'"):
        kitti_average_precision([], [], {"Bus": {}})
    with pytest.raises(ValueError, match="found: found 1 frames, expected 0"):
        kitti_average_precision([], [one(score=1.0)])
    with pytest.raises(ValueError, match="found: frame 0 has no scores"):
        kitti_average_precision([one()], [one()])
    bare = replace(frame(objects(0), 3), labels=None)
    with pytest.raises(ValueError, match="frames: '000003' has no label file or calibration"):
        KittiAP(class_names=CLASSES).update([objects(0)], [bare])
