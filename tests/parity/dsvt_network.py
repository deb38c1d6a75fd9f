"""Golden cases of DSVT's network: partition, backbones, voxel features, bird's-eye view and CenterHead, detectors."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.cases import Case, assert_close
from zoo.models.dsvt import (
    DSVT,
    BirdEyeBackbone,
    CenterHead,
    DSVTBackbone,
    DynamicVoxelFeatures,
    remap_upstream,
)
from zoo.models.dsvt.backbone import pooling_regions
from zoo.ops import scatter_to_bev, window_partition


def to_zyx(coords: Tensor) -> Tensor:
    """Rows (b, x, y, z) as upstream has them, (b, z, y, x)."""
    return coords[:, [0, 3, 2, 1]].long()


def to_xyz(coords: Tensor) -> Tensor:
    return coords[:, [0, 3, 2, 1]].int()


def load(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(remap_upstream(state), strict=True)
    return module.eval()


def backbone_of(config: dict[str, Any], layout: dict[str, Any]) -> DSVTBackbone:
    """The backbone of an upstream configuration; ``layout`` is its INPUT_LAYER."""
    return DSVTBackbone(
        shape=layout["sparse_shape"],
        channels=layout["d_model"][-1],
        num_heads=config.get("nhead", [8])[0],
        hidden_dim=config.get("dim_feedforward", [64])[0],
        set_sizes=[size for size, _ in layout["set_info"]],
        num_blocks=[blocks for _, blocks in layout["set_info"]],
        windows=layout["window_shape"],
        hybrid_factor=layout["hybrid_factor"],
        shifts=layout["shifts_list"],
        strides=layout["downsample_stride"],
        reduction=config.get("reduction_type", "attention"),
        dropout=config.get("dropout", 0.0),
        normalize_positions=layout["normalize_pos"],
    )


def partition(case: Case) -> None:
    """Windows, sets, pooling and position embeddings of every stage."""
    net = backbone_of({}, case.config)
    expected = case.group("output")
    positions = {key: value for key, value in remap_upstream(case.group("state")).items() if ".positions." in key}
    missing = net.load_state_dict(positions, strict=False)
    assert not missing.unexpected_keys
    assert not [key for key in missing.missing_keys if ".positions." in key]
    net.eval()
    coords = to_xyz(case["input/voxel_coords"])
    checked = set()

    def check(name: str, found: Tensor, atol: float | None = None) -> None:
        checked.add(name)
        if atol is None:
            assert torch.equal(found.long(), expected[name]), name
        else:
            assert_close(found, expected[name], atol=atol, what=name)

    for number, stage in enumerate(net.stages):
        check(f"voxel_coors_stage{number}", to_zyx(coords))
        geometry = stage.partition(coords, every_shift=True)
        for shift in range(2):
            at = f"stage{number}_shift{shift}"
            windows = window_ids(net, number, shift, coords)
            check(f"batch_win_inds_{at}", windows)
            check(f"coors_in_win_{at}", geometry.inside[shift].flip(1))
            check(f"set_voxel_inds_{at}", geometry.sets[shift].slots)
            check(f"set_voxel_mask_{at}", geometry.sets[shift].repeated)
            for block, module in enumerate(stage.blocks):
                embedding = module.positions[shift](geometry.inside[shift])
                check(f"pos_embed_stage{number}_block{block}_shift{shift}", embedding, atol=1e-4)
        if number < len(net.strides):
            regions = pooling_regions(coords, net.shapes[number], net.strides[number])
            check(f"pooling_mapping_index_stage{number + 1}", regions.region)
            check(f"pooling_index_in_pool_stage{number + 1}", regions.slot)
            coords = regions.coords
    assert checked == expected.keys()


def window_ids(net: DSVTBackbone, number: int, shift: int, coords: Tensor) -> Tensor:
    stage = net.stages[number]
    return window_partition(coords, stage.shape, stage.windows[shift], shift=stage.shifts[shift]).window


def backbone(case: Case) -> None:
    """Features after every block and pooling, and gradients."""
    net = backbone_of(case.config, case.config["INPUT_LAYER"])
    load(net, case.group("state"))
    found: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[name] = output

    for number, stage in enumerate(net.stages):
        for block, module in enumerate(stage.blocks):
            module.register_forward_hook(functools.partial(record, f"after_stage{number}_block{block}"))
        if number < len(net.pools):
            net.pools[number].register_forward_hook(functools.partial(record, f"after_stage{number}_reduction"))
    features = case["input/voxel_features"].clone().requires_grad_()
    out, coords = net(features, to_xyz(case["input/voxel_coords"]))
    found["voxel_features"] = out
    assert torch.equal(to_zyx(coords), case["output/voxel_coords"])
    expected = case.group("output")
    assert found.keys() == expected.keys() - {"voxel_coords"}
    for name, value in found.items():
        assert_close(value, expected[name], atol=2e-4, rtol=1e-4, what=name)
    ((out * torch.linspace(-1, 1, out.shape[1])) ** 2).sum().backward()
    named = dict(net.named_parameters())
    grads = case.group("grad")
    assert features.grad is not None
    compare_grad(features.grad, grads.pop("input.voxel_features"), "input")
    for name, expected_grad in grads.items():
        (ours,) = remap_upstream({name: expected_grad})
        grad = named[ours].grad
        assert grad is not None, ours
        compare_grad(grad, expected_grad, ours)
    assert all(parameter.grad is not None for parameter in net.parameters()), "parameters without gradient"


def compare_grad(found: Tensor, expected: Tensor, what: str) -> None:
    assert_close(found, expected, atol=2e-3 * float(expected.abs().max()), rtol=2e-3, what=f"grad of {what}")


def voxel_features_of(config: dict[str, Any], whole: dict[str, Any], columns: int) -> DynamicVoxelFeatures:
    return DynamicVoxelFeatures(
        point_range=whole["point_cloud_range"],
        voxel_size=whole["voxel_size"],
        num_point_features=columns,
        channels=config["NUM_FILTERS"],
        absolute_xyz=config["USE_ABSLOTE_XYZ"],
        with_distance=config["WITH_DISTANCE"],
        any_height=config["NAME"] in ("DynamicPillarVFE", "DynPillarVFE"),
    )


def voxel_features(case: Case) -> None:
    points = case["input/points"]
    net = voxel_features_of(case.config, case.config, points.shape[1] - 1)
    load(net, case.group("state"))
    out = net(points[:, 1:].contiguous(), points[:, 0].long(), int(points[:, 0].max()) + 1)
    assert torch.equal(to_zyx(out.coords), case["output/voxel_coords"])
    assert_close(out.features, case["output/voxel_features"], atol=1e-4, what="features")


def bev_of(config: dict[str, Any], in_channels: int) -> BirdEyeBackbone:
    return BirdEyeBackbone(
        in_channels=in_channels,
        blocks=config["LAYER_NUMS"],
        strides=config["LAYER_STRIDES"],
        channels=config["NUM_FILTERS"],
        up_strides=config["UPSAMPLE_STRIDES"],
        up_channels=config["NUM_UPSAMPLE_FILTERS"],
    )


def center_head_of(config: dict[str, Any], names: list[str]) -> functools.partial[CenterHead]:
    target, post = config["TARGET_ASSIGNER_CONFIG"], config["POST_PROCESSING"]
    weights, branches = config["LOSS_CONFIG"]["LOSS_WEIGHTS"], config["SEPARATE_HEAD_CFG"]
    nms = post["NMS_CONFIG"]
    return functools.partial(
        CenterHead,
        groups=[[names.index(name) for name in group] for group in config["CLASS_NAMES_EACH_HEAD"]],
        shared_channels=config["SHARED_CONV_CHANNEL"],
        velocity="vel" in branches["HEAD_ORDER"],
        predict_iou="iou" in branches["HEAD_DICT"],
        iou_regression=config["IOU_REG_LOSS"],
        min_overlap=target["GAUSSIAN_OVERLAP"],
        min_radius=target["MIN_RADIUS"],
        max_objects=target["NUM_MAX_OBJS"],
        heat_weight=weights["cls_weight"],
        box_weight=weights["loc_weight"],
        code_weights=weights["code_weights"],
        center_range=post["POST_CENTER_LIMIT_RANGE"],
        max_detections=post["MAX_OBJ_PER_SAMPLE"],
        score_threshold=post["SCORE_THRESH"],
        iou_exponents=post["IOU_RECTIFIER"] if post["USE_IOU_TO_RECTIFY_SCORE"] else [],
        nms_thresholds=nms["NMS_THRESH"],
        nms_candidates=nms["NMS_PRE_MAXSIZE"][0],
        nms_kept=nms["NMS_POST_MAXSIZE"][0],
        turned_suppression=True,
    )


def bev_and_center_head(case: Case) -> None:
    config, expected = case.config, case.group("output")
    bev = bev_of(config["BACKBONE_2D"], config["input_channels"])
    head = center_head_of(config["DENSE_HEAD"], config["class_names"])(
        in_channels=bev.out_channels,
        point_range=config["point_cloud_range"],
        voxel_size=config["voxel_size"],
        stride=int(bev.out_stride),
    )
    assert head.stride == config["DENSE_HEAD"]["TARGET_ASSIGNER_CONFIG"]["FEATURE_MAP_STRIDE"]
    net = nn.ModuleDict({"bev_backbone": bev, "head": head})
    load(net, case.group("state"))
    dense = scatter_to_bev(case["input/pillar_features"], case["input/voxel_coords"], 2, config["grid"][::-1])
    seen = bev(dense)
    assert_close(dense, expected["spatial_features"], what="dense map")
    raw = {"atol": 5e-4, "rtol": 1e-4}
    assert_close(seen, expected["spatial_features_2d"], **raw, what="bird's-eye map")
    assert_close(torch.relu(head.shared(seen)), expected["shared"], **raw, what="shared")
    maps = head(seen)
    for number, branches in enumerate(maps):
        names = {key.split(".", 1)[1] for key in expected if key.startswith(f"head{number}.")}
        assert names == branches.keys()
        for name, value in branches.items():
            assert_close(value, expected[f"head{number}.{name}"], **raw, what=f"head {number} {name}")
    compare_candidates(head, maps, expected)
    compare_final(head.predict(maps), expected, ordered=True, atol=5e-4, rtol=1e-4)
    compare_targets(head, maps, case)


def compare_candidates(head: CenterHead, maps: list[dict[str, Tensor]], expected: dict[str, Tensor]) -> None:
    for number, samples in enumerate(head.candidates(maps)):
        for sample, found in enumerate(samples):
            at = f"decoded.head{number}.batch{sample}"
            inside = torch.tensor([head.groups[number].index(int(label)) for label in found.labels])
            assert torch.equal(inside, expected[f"{at}.pred_labels"])
            raw = {"atol": 5e-4, "rtol": 1e-4}
            assert_close(found.boxes, expected[f"{at}.pred_boxes"], **raw, what=f"{at} boxes")
            assert_close(found.heat, expected[f"{at}.pred_scores"], **raw, what=f"{at} heat")
            assert found.iou is not None
            assert_close(found.iou, expected[f"{at}.pred_iou"], **raw, what=f"{at} iou")
            assert_close(found.scores, expected[f"{at}.rectified_scores"], **raw, what=f"{at} scores")


def compare_final(
    detections: list[Any], expected: dict[str, Tensor], *, ordered: bool, atol: float, rtol: float
) -> None:
    samples = {key.split(".")[1] for key in expected if key.startswith("final.")}
    assert len(samples) == len(detections)
    for sample, found in enumerate(detections):
        at = f"final.batch{sample}"
        boxes, scores, labels = found
        wanted = [expected[f"{at}.pred_{name}"] for name in ("boxes", "scores", "labels")]
        assert len(boxes) == len(wanted[0]), at
        if not ordered:
            ours, theirs = scores.argsort(descending=True), wanted[1].argsort(descending=True)
            boxes, scores, labels = boxes[ours], scores[ours], labels[ours]
            wanted = [value[theirs] for value in wanted]
        assert torch.equal(labels + 1, wanted[2]), at
        assert_close(boxes, wanted[0], atol=atol, rtol=rtol, what=f"{at} boxes")
        assert_close(scores, wanted[1], atol=atol, rtol=rtol, what=f"{at} scores")


def compare_targets(head: CenterHead, maps: list[dict[str, Tensor]], case: Case) -> None:
    expected, truth = case.group("output"), case["input/gt_boxes"]
    real = truth[..., -1] > 0
    boxes = [some[keep, :-1] for some, keep in zip(truth, real, strict=True)]
    labels = [some[keep, -1].long() - 1 for some, keep in zip(truth, real, strict=True)]
    size = (maps[0]["hm"].shape[2], maps[0]["hm"].shape[3])
    for number, target in enumerate(head.targets(boxes, labels, size)):
        at = f"target.head{number}"
        assert_close(target.heatmap, expected[f"{at}.heatmaps"], atol=1e-5, what=f"{at} heatmap")
        assert torch.equal(target.cells, expected[f"{at}.inds"]), at
        assert torch.equal(target.valid.long(), expected[f"{at}.masks"]), at
        assert_close(target.encoded, expected[f"{at}.target_boxes"], atol=1e-5, what=f"{at} encoded")
        source = expected[f"{at}.target_boxes_src"][..., :-1]
        assert_close(target.boxes[target.valid], source[target.valid], what=f"{at} boxes")
    losses = head.loss(maps, boxes, labels)
    names = {"heat_loss": "hm_loss", "box_loss": "loc_loss", "iou_loss": "iou_loss", "iou_box_loss": "iou_reg_loss"}
    assert losses.keys() == {"loss", *names}
    for ours, theirs in names.items():
        wanted = torch.stack([expected[f"loss.{theirs}_head_{number}"] for number in range(len(maps))]).sum()
        assert_close(losses[ours], wanted, rtol=1e-4, what=ours)
    assert_close(losses["loss"][None], expected["loss.total"], rtol=1e-4, what="loss")
    assert_close(losses["loss"][None], expected["loss.rpn_loss"], rtol=1e-4, what="loss")


def detector_of(config: dict[str, Any], columns: int) -> DSVT:
    """The detector of an upstream configuration, from ranges and sizes; shapes are the detector's own business."""
    sparse, bev = config["BACKBONE_3D"], config["BACKBONE_2D"]
    layout = sparse["INPUT_LAYER"]
    net = DSVT(
        point_range=config["point_cloud_range"],
        voxel_size=config["voxel_size"],
        num_point_features=columns,
        head=center_head_of(config["DENSE_HEAD"], config["class_names"]),
        voxel_channels=config["VFE"]["NUM_FILTERS"],
        any_height=config["VFE"]["NAME"] in ("DynamicPillarVFE", "DynPillarVFE"),
        num_heads=sparse["nhead"][0],
        hidden_dim=sparse["dim_feedforward"][0],
        set_sizes=[size for size, _ in layout["set_info"]],
        num_blocks=[blocks for _, blocks in layout["set_info"]],
        window=layout["window_shape"][0][:2],
        hybrid_factor=layout["hybrid_factor"][:2],
        shift=layout["shifts_list"][0][1][:2],
        height_strides=[stride[2] for stride in layout["downsample_stride"]],
        reduction=sparse.get("reduction_type", "attention"),
        dropout=sparse["dropout"],
        normalize_positions=layout["normalize_pos"],
        bev_blocks=bev["LAYER_NUMS"],
        bev_strides=bev["LAYER_STRIDES"],
        bev_channels=bev["NUM_FILTERS"],
        bev_up_strides=bev["UPSAMPLE_STRIDES"],
        bev_up_channels=bev["NUM_UPSAMPLE_FILTERS"],
    )
    assert list(net.backbone.shapes[0]) == layout["sparse_shape"]
    found = [list(stage.windows[0]) for stage in net.backbone.stages]
    assert found == layout["window_shape"]
    assert net.head.stride == config["DENSE_HEAD"]["TARGET_ASSIGNER_CONFIG"]["FEATURE_MAP_STRIDE"]
    return net


def detector(case: Case) -> None:
    points, expected = case["input/points"], case.group("output")
    net = detector_of(case.config, points.shape[1] - 1)
    load(net, case.group("state"))
    samples = int(points[:, 0].max()) + 1
    voxels = net.voxel_features(points[:, 1:].contiguous(), points[:, 0].long(), samples)
    assert torch.equal(to_zyx(voxels.coords), expected["vfe.voxel_coords"])
    assert_close(voxels.features, expected["vfe.voxel_features"], atol=5e-4, what="voxel features")
    features, coords = net.backbone(voxels.features, voxels.coords)
    assert torch.equal(to_zyx(coords), expected["backbone_3d.coords"])
    assert_close(features, expected["backbone_3d.features"], atol=5e-4, what="backbone")
    seen = net.bev_backbone(net.backbone.to_map(features, coords, samples))
    maps = {"atol": 2e-3, "rtol": 1e-3}
    assert_close(seen, expected["spatial_features_2d"], **maps, what="bird's-eye map")
    (branches,) = net.head(seen)
    assert branches.keys() == {key.split(".")[1] for key in expected if key.startswith("head.")}
    for name, value in branches.items():
        assert_close(value, expected[f"head.{name}"], **maps, what=name)
    compare_final(net.head.predict([branches]), expected, ordered=False, atol=5e-3, rtol=0.0)


HANDLERS = {
    "a": partition,
    "b": backbone,
    "c": backbone,
    "d": voxel_features,
    "e": bev_and_center_head,
    "f": detector,
}
