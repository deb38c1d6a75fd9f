"""Waymo's figures against a search of all matchings and cases whose figures are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.metrics.waymo import CUTOFFS, WaymoAP, average_precision, count_frame, object_levels

CLASSES = ("Vehicle", "Pedestrian", "Cyclist")


def brute_matching(overlap: np.ndarray, least: float) -> tuple[float, int]:
    """Largest sum of overlaps and its number of pairs, over all ways to give rows to columns."""
    rows, columns = overlap.shape
    best = (0.0, 0)
    for chosen in itertools.product([*range(columns), None], repeat=rows):
        used = [column for column in chosen if column is not None]
        if len(set(used)) < len(used):
            continue
        pairs = [(row, column) for row, column in enumerate(chosen) if column is not None]
        if all(overlap[pair] >= least for pair in pairs):
            best = max(best, (float(sum(overlap[pair] for pair in pairs)), len(pairs)))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_the_best_matching(seed):
    rng = np.random.default_rng(seed)
    overlap, scores = rng.random((5, 4)) * rng.integers(0, 2, (5, 4)), rng.random(5)
    heading, levels = rng.random((5, 4)), rng.integers(1, 3, 4)
    counts = count_frame(overlap, heading, scores, levels, 0.3)
    for number in (0, 20, 50, 80, 100):
        active = scores >= CUTOFFS[number]
        _, hits = brute_matching(overlap[active], 0.3)
        assert counts[0, number] == hits
        assert counts[1, number] == active.sum() - hits
        assert counts[3, number] == 4 - hits
    assert (counts[2] <= counts[3]).all()
    assert (counts[4] <= counts[0]).all()


def brute_area(hits: np.ndarray, alarms: np.ndarray, missed: np.ndarray) -> float:
    """The same area by a fine sum over recall."""
    points = [(h / (h + m), h / (h + a)) for h, a, m in zip(hits, alarms, missed, strict=True) if h > 0]
    if not points:
        return 0.0

    def ceiling(recall: float) -> float:
        return max((p for r, p in points if r >= recall - 1e-12), default=0.0)

    recalls = sorted({0.0, *(r for r, _ in points)})
    knots = [0.0]
    for recall in recalls[1:]:
        while recall - knots[-1] > 0.05 + 1e-9:
            knots.append(knots[-1] + 0.05)
        knots.append(recall)
    values = [ceiling(knot) for knot in knots]
    return sum((b - a) * (p + q) / 2 for a, b, p, q in zip(knots, knots[1:], values, values[1:], strict=False))


@pytest.mark.parametrize("seed", range(8))
def test_area(seed):
    rng = np.random.default_rng(seed)
    hits = np.sort(rng.integers(0, 40, 101))[::-1].astype(float)
    alarms = np.sort(rng.integers(0, 60, 101))[::-1].astype(float)
    missed = 45 - hits
    assert average_precision(hits, alarms, missed) == pytest.approx(brute_area(hits, alarms, missed))
    assert average_precision(hits, alarms, missed, hits / 2) == pytest.approx(brute_area(hits, alarms, missed) / 2)


def test_area_of_nothing():
    nothing = np.zeros(101)
    assert average_precision(nothing, nothing, nothing) == 0
    assert average_precision(nothing, nothing + 3, nothing + 2) == 0


def test_levels():
    levels = object_levels(np.array([0, 0, -1, 1, 2, 2]), np.array([6, 5, 0, 3, 9, 0]))
    assert levels.tolist() == [1, 2, 0, 1, 2, 0]


def frame(boxes: np.ndarray, names: list[str], points: list[int]) -> DetectionFrame:
    return DetectionFrame(
        "0", np.zeros((0, 5), np.float32), boxes, tuple(names), np.zeros(len(names), np.int64), np.array(points)
    )


def boxes_in_a_row(count: int) -> np.ndarray:
    boxes = np.tile(np.array([0.0, 0, 0, 4, 2, 1.5, 0.3]), (count, 1))
    boxes[:, 0] = 10 * np.arange(count)
    return boxes


def test_perfect_detections_and_turned_ones():
    boxes = boxes_in_a_row(6)
    names = ["Vehicle"] * 3 + ["Pedestrian"] * 2 + ["Cyclist"]
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    metric = WaymoAP(class_names=CLASSES)
    found = Detections(torch.from_numpy(boxes), torch.linspace(0.5, 0.9, 6), labels)
    metric.update([found] * 2, [frame(boxes, names, [9] * 6)] * 2)
    figures = metric.compute()
    assert all(float(value) == pytest.approx(100) for value in figures.values()), figures
    assert {"L1/mAP", "L2/mAPH", "Vehicle_L1/AP", "Cyclist_L2/APH"} <= set(figures)
    metric.reset()
    turned = found.boxes.clone()
    turned[:, 6] += np.pi
    metric.update([Detections(turned, found.scores, labels)], [frame(boxes, names, [9] * 6)])
    figures = metric.compute()
    assert float(figures["L1/mAP"]) == pytest.approx(100)
    assert float(figures["L1/mAPH"]) == pytest.approx(0, abs=1e-4)


def test_misses_of_hard_objects_count_at_level_2_only():
    boxes = boxes_in_a_row(4)
    metric = WaymoAP(class_names=("Vehicle",))
    found = Detections(torch.from_numpy(boxes[:2]), torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64))
    metric.update([found], [frame(boxes, ["Vehicle"] * 4, [9, 9, 3, 0])])
    figures = metric.compute()
    assert float(figures["Vehicle_L1/AP"]) == pytest.approx(100)
    assert float(figures["Vehicle_L2/AP"]) == pytest.approx(200 / 3)


def test_a_false_alarm_of_higher_score_halves_precision():
    boxes = boxes_in_a_row(2)
    metric = WaymoAP(class_names=("Vehicle",))
    found = Detections(torch.from_numpy(boxes), torch.tensor([0.4, 0.8]), torch.zeros(2, dtype=torch.int64))
    metric.update([found], [frame(boxes[:1], ["Vehicle"], [9])])
    assert float(metric.compute()["Vehicle_L1/AP"]) == pytest.approx(50)


def test_empty_frames_and_bad_arguments():
    metric = WaymoAP(class_names=CLASSES)
    nothing = Detections(torch.zeros(0, 7), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    metric.update([nothing], [frame(np.zeros((0, 7)), [], [])])
    assert float(metric.compute()["L1/mAP"]) == 0
    with pytest.raises(ValueError, match="class_names: found"):
        WaymoAP(class_names=("Car",))
