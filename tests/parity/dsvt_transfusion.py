"""Golden cases of the TransFusion head: queries, matching, losses and boxes."""

from __future__ import annotations

import torch
from torch import nn

from tests.parity.cases import Case, assert_close
from tests.parity.dsvt_network import compare_final, load
from zoo.models.dsvt import TransFusionHead

RAW = {"atol": 1e-3, "rtol": 1e-3}


def head_of(case: Case) -> TransFusionHead:
    config = case.config
    target, post = config["TARGET_ASSIGNER_CONFIG"], config["POST_PROCESSING"]
    weights, costs = config["LOSS_CONFIG"]["LOSS_WEIGHTS"], target["HUNGARIAN_ASSIGNER"]
    branches = config["SEPARATE_HEAD_CFG"]
    names = config["class_names"]
    return TransFusionHead(
        in_channels=config["input_channels"],
        point_range=config["point_cloud_range"],
        voxel_size=config["voxel_size"],
        stride=target["FEATURE_MAP_STRIDE"],
        num_classes=config["NUM_CLASSES"],
        num_queries=config["NUM_PROPOSALS"],
        channels=config["HIDDEN_CHANNEL"],
        num_heads=config["NUM_HEADS"],
        hidden_dim=config["FFN_CHANNEL"],
        dropout=config["DROPOUT"],
        velocity="vel" in branches["HEAD_ORDER"],
        predict_iou="iou" in branches["HEAD_DICT"],
        point_classes=[names.index(name) for name in ("pedestrian", "traffic_cone")],
        min_overlap=target["GAUSSIAN_OVERLAP"],
        min_radius=target["MIN_RADIUS"],
        heat_weight=weights["hm_weight"],
        class_weight=weights["cls_weight"],
        box_weight=weights["bbox_weight"],
        iou_weight=weights["loss_iou_rescore_weight"],
        code_weights=weights["code_weights"],
        match_costs=[costs[f"{name}_cost"]["weight"] for name in ("cls", "reg", "iou")],
        center_range=post["POST_CENTER_RANGE"],
        score_threshold=post["SCORE_THRESH"],
        iou_exponent=post["IOU_RECTIFIER"][0] if post["USE_IOU_TO_RECTIFY_SCORE"] else 0.0,
    )


def transfusion(case: Case) -> None:
    expected = case.group("output")
    head = head_of(case)
    load(nn.ModuleDict({"head": head}), case.group("state"))
    found = head(case["input/spatial_features_2d"])
    raw = {**found.branches, "query_heatmap_score": found.query_heat, "dense_heatmap": found.dense_heatmap}
    assert raw.keys() == {key.removeprefix("raw.") for key in expected if key.startswith("raw.")}
    for name, value in raw.items():
        assert_close(value, expected[f"raw.{name}"], **RAW, what=name)
    assert torch.equal(found.query_labels, expected["query_labels"])
    compare_final(head.predict(found), expected, ordered=True, **RAW)
    truth = case["input/gt_boxes"]
    real = truth[..., -1] > 0
    boxes = [some[keep, :-1] for some, keep in zip(truth, real, strict=True)]
    labels = [some[keep, -1].long() - 1 for some, keep in zip(truth, real, strict=True)]
    target = head.targets(found, boxes, labels)
    assert torch.equal(target.labels, expected["target.labels"])
    assert torch.equal(torch.ones_like(target.labels), expected["target.label_weights"])
    assert_close(target.encoded, expected["target.bbox_targets"], atol=1e-5, what="targets")
    matched = target.matched[..., None].expand_as(target.encoded)
    assert_close(matched.float(), expected["target.bbox_weights"], what="weights")
    assert_close(target.heatmap, expected["target.heatmap"], atol=1e-5, what="heatmap")
    losses = head.loss(found, boxes, labels)
    names = {
        "heat_loss": "loss_heatmap",
        "class_loss": "loss_cls",
        "box_loss": "loss_bbox",
        "iou_loss": "loss_iou",
        "loss": "total",
    }
    assert losses.keys() == names.keys()
    for ours, theirs in names.items():
        assert_close(losses[ours][None], expected[f"loss.{theirs}"], rtol=1e-3, what=ours)


HANDLERS = {"h": transfusion}
