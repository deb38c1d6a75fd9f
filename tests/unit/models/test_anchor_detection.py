"""Anchors, their losses and head, and the spiking detector made of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from zoo.data.detection import DetectionBatch
from zoo.losses.anchor_boxes import box_residual_loss, direction_target
from zoo.losses.focal import sigmoid_focal_loss
from zoo.models.e3dsnn import E3DSNNDetector, remap_upstream
from zoo.models.energy import EnergyMeter
from zoo.models.layers.anchor_head import AnchorHead, AnchorHeadOutput
from zoo.models.layers.anchors import (
    BACKGROUND,
    IGNORED,
    AnchorSpec,
    assign_anchors,
    decode_boxes,
    encode_boxes,
    make_anchors,
    nearest_bev_iou,
)
from zoo.models.layers.spiking import SpikingNeuron, binary_inference

CAR = AnchorSpec(size=(3.9, 1.6, 1.56), bottom=-1.78)
PERSON = AnchorSpec(size=(0.8, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35)
RANGE = (0.0, -8.0, -3.0, 25.6, 8.0, 1.0)


def boxes(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 7)


def test_anchors_stand_on_the_corners_of_the_range() -> None:
    anchors = make_anchors([CAR, PERSON], RANGE, (5, 9))
    assert anchors.shape == (5, 9, 4, 7)
    assert anchors[0, 0, 0].tolist() == pytest.approx([0.0, -8.0, -1.0, 3.9, 1.6, 1.56, 0.0])
    assert anchors[4, 8, 3].tolist() == pytest.approx([25.6, 8.0, 0.265, 0.8, 0.6, 1.73, 1.57])
    assert anchors[2, 3, 1, :2].tolist() == pytest.approx([9.6, 0.0])


def test_residuals_by_their_formulas_and_back() -> None:
    anchor = boxes((1.0, 2.0, 3.0, 3.0, 4.0, 2.0, 0.5))
    box = boxes((2.0, 1.0, 4.0, 6.0, 2.0, 3.0, -0.7))
    expected = [0.2, -0.2, 0.5, math.log(2), math.log(0.5), math.log(1.5), -1.2]
    assert encode_boxes(box, anchor)[0].tolist() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(decode_boxes(encode_boxes(box, anchor), anchor), box)


def test_overlap_of_footprints_turned_to_the_nearest_axis() -> None:
    one = boxes((0, 0, 0, 4, 2, 1, 0.0))
    others = boxes(
        (0, 0, 9, 4, 2, 1, 0.2),  # height does not matter, nor a small turn
        (0, 0, 0, 4, 2, 1, math.pi / 2),  # a square of 2 is common
        (0, 0, 0, 2, 4, 1, -1.5),
        (2, 0, 0, 4, 2, 1, math.pi),
        (9, 0, 0, 4, 2, 1, 0.0),
    )
    assert nearest_bev_iou(one, others)[0].tolist() == pytest.approx([1.0, 4 / 12, 1.0, 4 / 12, 0.0])


def test_anchors_find_boxes_of_their_class_or_are_nearest_or_do_not_count() -> None:
    anchors = boxes(
        (0, 0, 0, 4, 2, 1, 0),  # IoU 1 with the first box
        (1, 0, 0, 4, 2, 1, 0),  # 3 / 5: matched
        (1.25, 0, 0, 4, 2, 1, 0),  # 2.75 / 5.25 = 0.52: between
        (2, 0, 0, 4, 2, 1, 0),  # 1 / 3: background
        (20, 0, 0, 4, 2, 1, 0),  # IoU 1 / 7 with the second box, but nothing is nearer to it
        (50, 0, 0, 4, 2, 1, 0),
        (0, 0, 0, 4, 2, 1, 0),  # of another class
    )
    spec = AnchorSpec(size=(4, 2, 1), bottom=0, matched=0.6, unmatched=0.45)
    kinds = torch.tensor([0, 0, 0, 0, 0, 0, 1])
    found = boxes((0, 0, 0, 4, 2, 1, 0), (23, 0, 0, 4, 2, 1, 0), (90, 0, 0, 4, 2, 1, 0))
    targets = assign_anchors(anchors, kinds, [spec, spec], found, torch.tensor([0, 0, 0]))
    assert targets.labels.tolist() == [0, 0, IGNORED, BACKGROUND, 0, BACKGROUND, BACKGROUND]
    assert targets.matched[[0, 1, 4]].tolist() == [0, 0, 1]
    nothing = assign_anchors(anchors, kinds, [spec, spec], boxes(), torch.zeros(0, dtype=torch.int64))
    assert nothing.labels.unique().tolist() == [BACKGROUND]


def test_focal_loss_against_its_formula() -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64)
    p = logits.sigmoid()
    ones, zeros = torch.ones_like(logits), torch.zeros_like(logits)
    torch.testing.assert_close(sigmoid_focal_loss(logits, ones), -0.25 * (1 - p) ** 2 * p.log())
    torch.testing.assert_close(sigmoid_focal_loss(logits, zeros), -0.75 * p**2 * (1 - p).log())
    with pytest.raises(ValueError, match="shape"):
        sigmoid_focal_loss(logits, ones[:3])


def test_residual_loss_is_smooth_and_blind_to_half_turns() -> None:
    predicted, target = torch.zeros(2, 7), torch.zeros(2, 7)
    predicted[0, 0], predicted[1, 1], predicted[1, 6] = 0.05, -1.0, math.pi
    loss = box_residual_loss(predicted, target)
    assert loss[0].tolist() == pytest.approx([0.5 * 0.05**2 * 9, 0, 0, 0, 0, 0, 0])
    assert loss[1].tolist() == pytest.approx([0, 1 - 0.5 / 9, 0, 0, 0, 0, 0], abs=1e-6)


def test_heading_comes_back_from_residual_and_direction() -> None:
    head = AnchorHead(4, specs=[CAR], point_range=RANGE, shape=(2, 2))
    for yaw in torch.linspace(-3.1, 3.1, 37).tolist():
        box = boxes((3, 1, -1, 4, 2, 1.5, yaw))
        anchor = head.anchors[:1]
        half_turned = encode_boxes(box + torch.tensor([0, 0, 0, 0, 0, 0, math.pi]), anchor)
        direction = nn.functional.one_hot(direction_target(box[:, 6], offset=head.direction_offset), 2).float()
        decoded = head._decode(half_turned, anchor, direction)
        torch.testing.assert_close(decoded, box, atol=1e-4, rtol=1e-4)


def detector(**options) -> E3DSNNDetector:
    torch.manual_seed(0)
    small = {
        "anchors": [CAR],
        "voxel_size": (0.2, 0.2, 0.2),
        "point_range": RANGE,
        "channels": (4, 8, 8, 8),
        "depth": 1,
        "out_channels": 8,
        "bev_layers": (1, 1),
        "bev_channels": (8, 8),
        "bev_up_channels": (8, 8),
        "max_voxels": (2000, 2000),
    }
    return E3DSNNDetector(**{**small, **options})


def cars(seed: int = 0, count: int = 400) -> DetectionBatch:
    """Two samples of points on boxes above a flat ground."""
    generator = torch.Generator().manual_seed(seed)
    rows = [
        boxes((6, -3, -1, 3.9, 1.6, 1.5, 0.1), (15, 2, -1, 4.1, 1.7, 1.6, -1.5)),
        boxes((10, 0, -1, 3.8, 1.6, 1.5, 3.0)),
    ]
    clouds = []
    for row in rows:
        parts = [
            torch.rand(count, 3, generator=generator) * torch.tensor([25.6, 16, 0.05]) + torch.tensor([0, -8, -1.78])
        ]
        for box in row:
            local = (torch.rand(count // 4, 3, generator=generator) - 0.5) * box[3:6]
            cos, sin = box[6].cos(), box[6].sin()
            turned = torch.stack(
                [local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos, local[:, 2]], 1
            )
            parts.append(turned + box[:3])
        cloud = torch.cat(parts)
        clouds.append(torch.cat([cloud, torch.rand(len(cloud), 1, generator=generator)], dim=1))
    batch = torch.repeat_interleave(torch.arange(2), torch.tensor([len(cloud) for cloud in clouds]))
    labels = [torch.zeros(len(row), dtype=torch.int64) for row in rows]
    return DetectionBatch(torch.cat(clouds), batch, rows, labels, ["a", "b"])


def test_shapes_follow_from_voxels_and_range() -> None:
    model = detector()
    assert model.spatial_shape == (21, 80, 128)
    x = model.voxels(cars())
    assert x.spatial_shape == (21, 80, 128)
    output = model(cars())
    assert output.classes.shape == (2, 10 * 16 * 2, 1)
    assert output.residuals.shape == (2, 10 * 16 * 2, 7)
    assert len(model.dense_head.anchors) == 10 * 16 * 2
    with torch.device("meta"):
        full = E3DSNNDetector(anchors=[CAR])
    assert full.spatial_shape == (41, 1600, 1408)
    assert len(full.dense_head.anchors) == 200 * 176 * 2
    assert sum(p.numel() for p in full.backbone_3d.parameters()) == 1722368
    assert sum(p.numel() for p in full.backbone_2d.parameters()) == 1219328


def test_voxels_are_means_at_their_place() -> None:
    points = torch.tensor([[0.1, -7.9, -2.9, 1.0], [0.15, -7.95, -2.95, 3.0], [25.5, 7.9, 0.9, 5.0], [99.0, 0, 0, 0]])
    batch = DetectionBatch(points, torch.zeros(4, dtype=torch.int64), [boxes()], [torch.zeros(0).long()], [""])
    x = detector().voxels(batch)
    assert x.coords.tolist() == [[0, 0, 0, 0], [0, 19, 79, 127]]
    assert x.features[:, 3].tolist() == [2.0, 5.0]


@pytest.mark.slow
def test_losses_fall_and_every_parameter_learns() -> None:
    model, batch = detector(), cars()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    values = []
    for _ in range(25):
        losses = model.loss(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        if not values:
            assert not [name for name, p in model.named_parameters() if p.grad is None]
        optimizer.step()
        values.append(float(losses["loss"].detach()))
    torch.testing.assert_close(losses["loss"], losses["class_loss"] + losses["box_loss"] + losses["direction_loss"])
    assert values[-1] < 0.5 * values[0]


def test_a_head_that_is_right_finds_the_boxes() -> None:
    model, batch = detector(), cars()
    head = model.dense_head
    classes = torch.full((2, len(head.anchors), 1), -9.0)
    residuals, directions = torch.zeros(2, len(head.anchors), 7), torch.zeros(2, len(head.anchors), 2)
    for index, row in enumerate(batch.boxes):
        for box in row:
            overlap = nearest_bev_iou(head.anchors, box[None])[:, 0]
            best = int(overlap.argmax())
            classes[index, best] = 5.0
            residuals[index, best] = encode_boxes(box, head.anchors[best])
            directions[index, best, direction_target(box[6], offset=head.direction_offset)] = 4.0
    found = head.predict(AnchorHeadOutput(classes, residuals, directions), score_threshold=0.3, nms_threshold=0.1)
    for index, row in enumerate(batch.boxes):
        order = found[index].boxes[:, 0].argsort()
        torch.testing.assert_close(found[index].boxes[order], row, atol=1e-4, rtol=1e-4)
        assert found[index].labels.tolist() == [0] * len(row)
        assert bool((found[index].scores > 0.9).all())


@pytest.mark.parametrize("training", [True, False])
def test_empty_clouds_and_samples_without_boxes_pass(training: bool) -> None:
    model = detector().train(training)
    nothing = [torch.zeros(0, dtype=torch.int64)] * 2
    empty = DetectionBatch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), [boxes()] * 2, nothing, ["a", "b"])
    one = DetectionBatch(
        torch.tensor([[3.0, 0, -1, 0.5]]), torch.ones(1, dtype=torch.int64), [boxes()] * 2, nothing, ["", ""]
    )
    for batch in (empty, one):
        losses = model.loss(batch)
        losses["loss"].backward()
        assert bool(torch.isfinite(losses["loss"]))
        assert losses["box_loss"] == 0
        assert [len(found.scores) for found in model.predict(batch)] == [0, 0]


def test_points_that_are_nowhere_change_nothing_and_many_in_one_voxel_are_one() -> None:
    model, batch = detector().eval(), cars()
    expected = model(batch)
    junk = torch.tensor([[torch.nan, 0, -1, 0.5], [3, torch.inf, -1, 0.5], [3, 0, -torch.inf, 0.5], [400, 0, -1, 0.5]])
    batch.points = torch.cat([batch.points, junk])
    batch.point_batch = torch.cat([batch.point_batch, torch.ones(4, dtype=torch.int64)])
    for actual, wanted in zip(model(batch), expected, strict=True):
        torch.testing.assert_close(actual, wanted)
    heap = torch.tensor([[3.1, 0.1, -1.1, 0.5]]).repeat(300, 1)
    rows, labels = [boxes((3, 0, -1, 3.9, 1.6, 1.5, 0.1))], [torch.zeros(1, dtype=torch.int64)]
    one = DetectionBatch(heap, torch.zeros(300, dtype=torch.int64), rows, labels, ["heap"])
    assert len(model.voxels(one)) == 1
    for training in (True, False):
        assert bool(torch.isfinite(model.train(training).loss(one)["loss"]))
        assert all(bool(torch.isfinite(found.boxes).all()) for found in model.predict(one))


def test_binary_spikes_the_artificial_twin_and_operations() -> None:
    model, batch = detector(), cars()
    for _ in range(3):
        model.loss(batch)
    model.eval()
    output = model(batch)
    with binary_inference(model):
        for actual, expected in zip(model(batch), output, strict=True):
            torch.testing.assert_close(actual, expected.detach(), atol=1e-5, rtol=1e-5)
    with EnergyMeter(model) as meter:
        model.predict(batch)
    report = meter.report()
    assert report.num_samples == 2
    assert {layer.name for layer in report.layers if layer.max_count is None} == {
        "backbone_3d.conv_input.0",
        "backbone_3d.conv_out.0",
        "dense_head.conv_cls",
        "dense_head.conv_box",
        "dense_head.conv_dir_cls",
    }
    twin = detector(activation="relu")
    assert twin.state_dict().keys() == model.state_dict().keys()
    assert not [module for module in twin.modules() if isinstance(module, SpikingNeuron)]
    assert bool(torch.isfinite(twin.loss(batch)["loss"]))


def test_openpcdet_files_load_without_their_second_stage() -> None:
    model, other = detector(), detector()
    nn.init.zeros_(other.dense_head.conv_cls.weight)
    state = {"module." + key: value for key, value in model.state_dict().items()}
    state |= {"module.roi_head.reg_layers.0.weight": torch.zeros(3), "module.global_step": torch.zeros(1)}
    other.load_state_dict(remap_upstream({"model_state": state, "epoch": 1}, other), strict=True)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"voxel_size": (0.3, 0.2, 0.2)}, "axis x spans 25.6 m"),
        ({"point_range": (0, -8, -3, 25.6, 7.2, 1)}, "multiples of 16"),
        ({"voxel_size": (0.2, 0.2, 0.4)}, "flatter voxels"),
        ({"bev_up_strides": (1, 1)}, "do not meet"),
        ({"bev_layers": (1,)}, "levels"),
        ({"anchors": []}, "specs"),
        ({"voxel_size": (0.2, 0.2)}, "three"),
    ],
)
def test_geometry_that_does_not_fit(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        detector(**options)


def test_bad_samples() -> None:
    model, batch = detector(), cars()
    batch.labels[0] = batch.labels[0] + 3
    with pytest.raises(ValueError, match="other classes"):
        model.loss(batch)
    batch.points[5, 3] = torch.nan
    with pytest.raises(ValueError, match="row 5 of the batch"):
        model.predict(batch)
    narrow = DetectionBatch(batch.points[:, :3], batch.point_batch, batch.boxes, batch.labels, batch.frame_ids)
    with pytest.raises(ValueError, match="columns"):
        model.predict(narrow)
    with pytest.raises(ValueError, match="size"):
        AnchorSpec(size=(1, 0, 1), bottom=0)
    with pytest.raises(ValueError, match="unmatched"):
        AnchorSpec(size=(1, 1, 1), bottom=0, matched=0.3)
