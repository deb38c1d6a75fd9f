"""nuScenes' figures against plain loops and cases whose figures are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.data.nuscenes_results import ATTRIBUTES, default_attributes
from zoo.metrics.nuscenes import BoxTable, NuScenesNDS, nuscenes_figures

CLASSES = ("car", "barrier", "traffic_cone")


def scene(seed: int, samples: int = 6, count: int = 9) -> tuple[BoxTable, BoxTable]:
    """Objects, and detections that are shaken copies with some missing and some invented."""
    rng = np.random.default_rng(seed)
    total = samples * count
    numbers, labels = np.repeat(np.arange(samples), count), rng.integers(0, 3, total)
    place = rng.uniform(-25, 25, (total, 2))
    sizes, yaw = rng.uniform(0.5, 4, (total, 3)), rng.uniform(-4, 4, (total, 1))
    boxes = np.concatenate([place, np.zeros((total, 1)), sizes, yaw, rng.normal(size=(total, 2))], 1)
    truth = BoxTable(numbers, labels, boxes, np.zeros(total), rng.integers(-1, 3, total))
    kept = rng.random(total) < 0.9
    moved = boxes + rng.normal(size=boxes.shape) * np.array([0.8, 0.8, 0, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3])
    moved[:, 3:6] = np.abs(moved[:, 3:6])
    moved[rng.random(total) < 0.2, :2] += 20
    found = BoxTable(numbers, labels, moved, rng.permutation(total) / total, rng.integers(0, 3, total))
    return truth, found.select(kept)


def brute_class(
    truth: BoxTable, found: BoxTable, label: int, name: str, least: float
) -> tuple[float, dict[str, float]]:
    """AP and errors of a class at one distance, one detection after the other."""
    objects = [row for row in range(len(truth.labels)) if truth.labels[row] == label]
    order = [row for row in range(len(found.labels)) if found.labels[row] == label]
    order.sort(key=lambda row: -found.scores[row])
    assert truth.attributes is not None
    assert found.attributes is not None
    free, hits, scores = set(objects), [], []
    errors: dict[str, list[float]] = {kind: [] for kind in ("ATE", "ASE", "AOE", "AVE", "AAE")}
    hit_scores = []
    for row in order:
        candidates = [other for other in free if truth.samples[other] == found.samples[row]]
        best = min(candidates, key=lambda o: math.dist(truth.boxes[o, :2], found.boxes[row, :2]), default=None)
        hit = best is not None and math.dist(truth.boxes[best, :2], found.boxes[row, :2]) < least
        hits.append(hit)
        scores.append(found.scores[row])
        if best is None or not hit:
            continue
        free.remove(best)
        a, b = truth.boxes[best], found.boxes[row]
        shared = math.prod(min(p, q) for p, q in zip(a[3:6], b[3:6], strict=True))
        turn = abs(a[6] - b[6]) % (math.pi if name == "barrier" else 2 * math.pi)
        errors["ATE"].append(math.dist(a[:2], b[:2]))
        errors["ASE"].append(1 - shared / (math.prod(a[3:6]) + math.prod(b[3:6]) - shared))
        errors["AOE"].append(min(turn, (math.pi if name == "barrier" else 2 * math.pi) - turn))
        errors["AVE"].append(math.dist(a[7:], b[7:]))
        known = truth.attributes[best] >= 0
        errors["AAE"].append(float(truth.attributes[best] != found.attributes[row]) if known else math.nan)
        hit_scores.append(found.scores[row])
    if not hit_scores:
        return 0.0, dict.fromkeys(errors, 1.0)
    hit_count = np.cumsum(hits)
    recall, precision = hit_count / len(objects), hit_count / np.arange(1, len(hits) + 1)
    bins = np.linspace(0, 1, 101)
    curve = np.interp(bins, recall, precision, right=0)
    confidence = np.interp(bins, recall, scores, right=0)
    area = float(np.mean([max(value - 0.1, 0) / 0.9 for value in curve[11:]]))
    last = max(np.flatnonzero(confidence), default=0)
    means = {}
    for kind, values in errors.items():
        running, seen = [], []
        for value in values:
            seen += [] if math.isnan(value) else [value]
            running.append(sum(seen) / len(seen) if seen else 0.0)
        if not seen:
            running = [1.0] * len(values)
        at_bins = np.interp(-confidence, -np.array(hit_scores), running)
        means[kind] = 1.0 if last < 11 else float(at_bins[11 : last + 1].mean())
    return area, means


@pytest.mark.parametrize("seed", range(5))
def test_matches_plain_loops(seed):
    truth, found = scene(seed)
    figures = nuscenes_figures(truth, found, CLASSES)
    near = {0: 50.0, 1: 30.0, 2: 30.0}

    def within(table: BoxTable) -> BoxTable:
        return table.select(
            np.array([math.hypot(*box[:2]) < near[label] for box, label in zip(table.boxes, table.labels, strict=True)])
        )

    truth, found = within(truth), within(found)
    undefined = {"barrier": {"AVE", "AAE"}, "traffic_cone": {"AOE", "AVE", "AAE"}, "car": set()}
    means: dict[str, list[float]] = {}
    areas = []
    for label, name in enumerate(CLASSES):
        results = {least: brute_class(truth, found, label, name, least) for least in (0.5, 1.0, 2.0, 4.0)}
        areas.append(np.mean([area for area, _ in results.values()]))
        assert figures[f"{name}/AP"] == pytest.approx(areas[-1])
        for kind, value in results[2.0][1].items():
            if kind in undefined[name]:
                assert f"{name}/{kind}" not in figures
                continue
            assert figures[f"{name}/{kind}"] == pytest.approx(value), (name, kind)
            means.setdefault(kind, []).append(value)
    assert 0.05 < np.mean(areas) < 0.95
    assert figures["mAP"] == pytest.approx(np.mean(areas))
    score = 5 * np.mean(areas) + sum(1 - min(1.0, float(np.mean(values))) for values in means.values())
    assert figures["NDS"] == pytest.approx(score / 10)


def test_perfect_detections():
    truth, _ = scene(0)
    truth = truth.select(np.hypot(truth.boxes[:, 0], truth.boxes[:, 1]) < 29)
    assert truth.attributes is not None
    attributes = np.maximum(truth.attributes, 0)
    found = BoxTable(truth.samples, truth.labels, truth.boxes, np.full(len(attributes), 0.5), attributes)
    figures = nuscenes_figures(truth, found, CLASSES)
    assert figures["mAP"] == pytest.approx(1)
    assert figures["NDS"] == pytest.approx(1)


def test_nothing_found():
    truth, found = scene(1)
    figures = nuscenes_figures(truth, found.select(np.zeros(0, np.int64)), CLASSES)
    assert figures["mAP"] == 0
    assert figures["NDS"] == 0
    empty = truth.select(np.zeros(0, np.int64))
    assert nuscenes_figures(empty, found, CLASSES)["NDS"] == 0


def test_only_the_best_500_of_a_sample_count():
    truth = BoxTable(
        np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([[1.0, 0, 0, 4, 2, 1, 0, 0, 0]]), np.zeros(1)
    )
    boxes = np.tile(truth.boxes, (501, 1))
    boxes[:500, 0] += 10
    scores = np.append(np.full(500, 0.9), 0.1)
    found = BoxTable(np.zeros(501, np.int64), np.zeros(501, np.int64), boxes, scores)
    assert nuscenes_figures(truth, found, ("car",))["car/ATE"] == 1
    kept = found.select(np.arange(1, 501))
    assert nuscenes_figures(truth, kept, ("car",))["car/ATE"] == 0


@pytest.mark.parametrize("known", [True, False])
def test_metric_equals_the_function(known):
    truth, found = scene(3)
    assert truth.attributes is not None
    words = np.array(["vehicle.moving", "vehicle.parked", "vehicle.stopped", ""])[truth.attributes]  # -1: the last
    frames, detections = [], []
    for sample in range(6):
        own, mine = truth.samples == sample, found.samples == sample
        names = tuple(CLASSES[label] for label in truth.labels[own])
        grades = np.zeros(len(names), np.int64)
        points = np.ones(len(names), np.int64)
        frames.append(
            DetectionFrame(
                str(sample), np.zeros((0, 5), np.float32), truth.boxes[own], names, grades, points,
                attributes=tuple(words[own]) if known else (),
            )
        )  # fmt: skip
        detections.append(
            Detections(
                torch.from_numpy(found.boxes[mine]),
                torch.from_numpy(found.scores[mine]),
                torch.from_numpy(found.labels[mine]),
            )
        )
    metric = NuScenesNDS(class_names=CLASSES)
    metric.update(detections[:2], frames[:2])
    metric.update(detections[2:], frames[2:])
    figures = metric.compute()
    given = default_attributes([CLASSES[label] for label in found.labels], found.boxes[:, 7:])
    wanted, numbers = (np.array([ATTRIBUTES.index(x) if x else -1 for x in some]) for some in (words, given))
    expected = nuscenes_figures(
        replace(truth, attributes=wanted if known else None), replace(found, attributes=numbers), CLASSES
    )
    assert ("NDS" in expected, "NDS_at_least" in figures) == (known, not known)
    assert (expected["mAAE"] == 1) is not known
    for name, value in expected.items():
        assert float(figures[name]) == pytest.approx(value, abs=1e-6), name
    frames[0].num_points[:] = 0
    metric.reset()
    metric.update(detections[:1], frames[:1])
    assert float(metric.compute()["mAP"]) == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="class_names: found 'Car', expected some of car"):
        NuScenesNDS(class_names=("Car",))
    truth, found = scene(0)
    with pytest.raises(ValueError, match="class_names: found 'van'"):
        nuscenes_figures(truth, found, ("van",))
