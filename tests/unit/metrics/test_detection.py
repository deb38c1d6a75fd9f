"""The share of well-seen objects that were found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.detection import Detections
from zoo.data.detection_frames import DetectionFrame
from zoo.metrics.detection import FoundObjects, match_greedily

CLASSES = ("Pedestrian", "Car")


def make_frame(num_points: list[int], names: list[str] | None = None) -> DetectionFrame:
    """Boxes of 4 x 2 x 1.5 m, ten metres apart."""
    count = len(num_points)
    boxes = np.zeros((count, 7))
    boxes[:, 0] = 10 * np.arange(count)
    boxes[:, 3:6] = (4, 2, 1.5)
    kinds = tuple(names or ["Car"] * count)
    ungraded = np.zeros(count, dtype=np.int64)
    return DetectionFrame("f", np.zeros((0, 4), np.float32), boxes, kinds, ungraded, np.array(num_points, np.int64))


def make_found(rows: list[tuple[float, float]], label: int = 1) -> Detections:
    """Boxes of the same size at (x, score)."""
    boxes = torch.zeros(len(rows), 7)
    boxes[:, 3:6] = torch.tensor([4.0, 2.0, 1.5])
    boxes[:, 0] = torch.tensor([x for x, _ in rows])
    return Detections(boxes, torch.tensor([score for _, score in rows]), torch.full((len(rows),), label))


def measure(found: Detections, frame: DetectionFrame, **options: float) -> dict[str, float]:
    metric = FoundObjects(class_names=CLASSES, **options)  # pyright: ignore[reportArgumentType]
    metric.update([found], [frame])
    return {name: float(value) for name, value in metric.compute().items()}


def test_all_found() -> None:
    values = measure(make_found([(0.2, 0.9), (10.0, 0.8)]), make_frame([60, 500]))
    # shifted by 0.2 m of 4 m: 3.8 / 4.2
    assert values == pytest.approx(
        {"recall": 1, "objects": 2, "missed": 0, "false_positives": 0, "mean_iou": (3.8 / 4.2 + 1) / 2}, abs=1e-4
    )


def test_the_overlap_has_to_suffice() -> None:
    # a shift of 0.8 m leaves 3.2 / 4.8 = 0.667
    values = measure(make_found([(0.8, 0.9)]), make_frame([60]))
    assert values["recall"] == 0
    assert values["missed"] == 1
    assert values["false_positives"] == 1
    assert measure(make_found([(0.8, 0.9)]), make_frame([60]), iou=0.6)["recall"] == 1


def test_objects_with_few_points_need_not_be_found_but_may() -> None:
    frame = make_frame([49, 50])
    assert measure(make_found([(10.0, 0.9)]), frame)["recall"] == 1
    both = measure(make_found([(0.0, 0.9), (10.0, 0.9)]), frame)
    assert both["objects"] == 1
    assert both["recall"] == 1
    assert both["false_positives"] == 0


def test_low_scores_do_not_count() -> None:
    values = measure(make_found([(0.0, 0.3), (50.0, 0.29), (60.0, 0.31)]), make_frame([60]))
    assert values["recall"] == 0
    assert values["false_positives"] == 1


def test_a_second_detection_of_the_same_object_is_false() -> None:
    values = measure(make_found([(0.0, 0.5), (0.1, 0.9)]), make_frame([60]))
    assert values["recall"] == 1
    assert values["false_positives"] == 1


def test_other_classes_do_not_count() -> None:
    frame = make_frame([60, 60], ["Car", "Pedestrian"])
    assert measure(make_found([(0.0, 0.9)]), frame)["objects"] == 1
    assert measure(make_found([(0.0, 0.9)], label=0), frame)["recall"] == 0
    assert measure(make_found([(0.0, 0.9)], label=0), frame)["false_positives"] == 0


def test_nothing_anywhere() -> None:
    values = measure(make_found([]), make_frame([]))
    assert values == {"recall": 1, "objects": 0, "missed": 0, "false_positives": 0, "mean_iou": 0}


def test_samples_add_up() -> None:
    metric = FoundObjects(class_names=CLASSES)
    metric.update([make_found([(0.0, 0.9)]), make_found([])], [make_frame([60]), make_frame([60, 70])])
    values = metric.compute()
    assert float(values["recall"]) == pytest.approx(1 / 3)
    metric.reset()
    assert float(metric.compute()["objects"]) == 0


def test_greedy_matching() -> None:
    overlap = torch.tensor([[0.75, 0.8], [0.9, 0.85], [0.72, 0.1]])
    assert match_greedily(overlap, 0.7).tolist() == [1, 0, -1]
    assert match_greedily(torch.zeros(2, 0), 0.7).tolist() == [-1, -1]


def test_unknown_class() -> None:
    with pytest.raises(ValueError, match="class_name: found 'Tram'"):
        FoundObjects(class_names=CLASSES, class_name="Tram")
