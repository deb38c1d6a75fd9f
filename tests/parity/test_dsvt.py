"""Golden cases of DSVT: rotated boxes, detection metrics, and the network from points to boxes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tests.parity import dsvt_network, dsvt_transfusion
from tests.parity.cases import Case, assert_close, dispatch, find_cases
from zoo.data.boxes import box_corners
from zoo.data.formats.kitti import KittiLabels
from zoo.losses.center_heatmap import distance_iou
from zoo.metrics.kitti_ap import kitti_average_precision
from zoo.ops import (
    boxes_aligned_iou,
    boxes_iou_3d,
    boxes_iou_bev,
    boxes_overlap_bev,
    nms_rotated,
    nms_rotated_per_class,
)

KITTI_FIELDS = ("name", "truncated", "occluded", "alpha", "bbox", "dimensions", "location", "rotation_y")
IOU_ATOL = {torch.float64: 1e-6, torch.float32: 2e-4}


def boxes_and_nms(case: Case) -> None:
    for dtype, atol in IOU_ATOL.items():
        a, b = case["input/boxes_a"].to(dtype), case["input/boxes_b"].to(dtype)
        assert_close(boxes_overlap_bev(a, b), case["output/bev_overlap_f64"], atol=atol, what="BEV overlap")
        assert_close(boxes_iou_bev(a, b), case["output/bev_iou_f64"], atol=atol, what="BEV IoU")
        assert_close(boxes_iou_3d(a, b), case["output/iou3d_f64"], atol=atol, what="3D IoU")
        assert_close(boxes_aligned_iou(a, b, "bev"), case["output/paired_bev_iou_f64"], atol=atol, what="BEV by rows")
        assert_close(boxes_aligned_iou(a, b), case["output/paired_iou3d_f64"], atol=atol, what="3D IoU by rows")
    corners = torch.from_numpy(box_corners(case["input/boxes_a"].numpy()))
    assert_close(corners, case["output/corners_a"], atol=2e-4, what="corners")
    apart = distance_iou(case["input/boxes_a"], case["input/boxes_b"])
    assert_close(apart, case["output/paired_diou_axis_aligned"], atol=IOU_ATOL[torch.float32], what="DIoU by rows")
    keep_lists(case)


def keep_lists(case: Case) -> None:
    scores, labels = case["input/nms_scores"], case["input/nms_labels"]
    thresholds = case.config["classwise_thresholds"]
    for dtype in IOU_ATOL:
        boxes = case["input/nms_boxes"].to(dtype)
        agnostic = {key: value for key, value in case.group("output").items() if key.startswith("nms_keep_agnostic_")}
        assert agnostic
        for key, expected in agnostic.items():
            threshold, *limits = key.removeprefix("nms_keep_agnostic_").split("_")
            before = next((int(text[3:]) for text in limits if text.startswith("pre")), None)
            after = next((int(text[4:]) for text in limits if text.startswith("post")), None)
            kept = nms_rotated(boxes, scores, float(threshold), max_candidates=before, max_kept=after)
            assert torch.equal(kept, expected), key
        kept = nms_rotated_per_class(boxes, scores, labels, thresholds)
        assert torch.equal(kept, case["output/nms_keep_classwise_true"])
        turned = boxes - boxes.new_tensor([0, 0, 0, 0, 0, 0, math.pi / 2])
        kept = nms_rotated_per_class(turned, scores, labels, thresholds)
        assert torch.equal(kept, case["output/nms_keep_classwise_upstream_rot90"])


def kitti_labels(case: Case, prefix: str) -> list[KittiLabels]:
    """The frames of a case; dimensions are l, h, w there."""
    names = case.config["name_index"]
    fields = {key: case[f"input/{prefix}.{key}"].double().numpy() for key in KITTI_FIELDS}
    score = case[f"input/{prefix}.score"].double().numpy() if f"input/{prefix}.score" in case else None
    frames, start = [], 0
    for count in case[f"input/{prefix}.count"].tolist():
        rows = slice(start, start + count)
        frames.append(
            KittiLabels(
                tuple(names[int(number)] for number in fields["name"][rows]),
                fields["truncated"][rows],
                fields["occluded"][rows].astype("int64"),
                fields["alpha"][rows],
                fields["bbox"][rows],
                fields["dimensions"][rows][:, [1, 2, 0]],
                fields["location"][rows],
                fields["rotation_y"][rows],
                None if score is None else score[rows],
            )
        )
        start += count
    return frames


def kitti_precision(case: Case) -> None:
    truth, found = kitti_labels(case, "gt"), kitti_labels(case, "dt")
    atol = float(case.meta["tolerance"].split()[0])
    figures = kitti_average_precision(truth, found)
    for name, expected in case.meta["result"].items():
        assert abs(figures[name] - expected) <= atol, f"{name}: {figures[name]}, expected {expected}"
    kinds, classes = ("image", "bev", "3d"), ("Car", "Pedestrian", "Cyclist")
    for number, table in enumerate(case.config["min_overlap_sets"]):  # [kind][class]
        overlaps = {name: {kind: table[k][c] for k, kind in enumerate(kinds)} for c, name in enumerate(classes)}
        figures = kitti_average_precision(truth, found, overlaps)
        for ours, theirs in (("image", "bbox"), ("bev", "bev"), ("3d", "3d"), ("aos", "aos")):
            for c, name in enumerate(classes):
                for d, difficulty in enumerate(("easy", "moderate", "hard")):
                    for points, suffix in (("R11", ""), ("R40", "_R40")):
                        key = f"{name}_{ours}/{difficulty}_{points}"
                        expected = float(case[f"output/AP_{theirs}{suffix}_f64"][c, d, number])
                        assert abs(figures[key] - expected) <= atol, f"{key}: {figures[key]}, expected {expected}"


HANDLERS: dict[str, Callable[[Case], None]] = {
    "g": boxes_and_nms,
    "k": kitti_precision,
    **dsvt_network.HANDLERS,  # of zoo.models.dsvt
    **dsvt_transfusion.HANDLERS,
}


@pytest.mark.parametrize("case", find_cases("dsvt"))
def test_golden(case):
    dispatch(case, HANDLERS)
