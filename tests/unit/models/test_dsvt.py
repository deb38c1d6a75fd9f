"""DSVT's detectors: parameter counts, shapes from ranges, what they make of bad input, gradients, released weights."""

from __future__ import annotations

import copy
import functools

import pytest
import torch

from zoo.data.detection import DetectionBatch
from zoo.models.dsvt import DSVT, CenterHead, DSVTBackbone, TransFusionHead, remap_upstream
from zoo.models.dsvt.detector import grid_shape
from zoo.registry import create_model

COUNTS = {  # millions of the whole, and thousands of voxel features, backbone, map backbone and head (spec. 0.5)
    "dsvt_waymo_pillar": (8.653, 38.5, 2685, 5480, 450),
    "dsvt_waymo_voxel": (9.102, 38.5, 3134, 5480, 450),
    "dsvt_nuscenes": (7.119, 17.5, 1200, 5005, 896),
}
RANGE, VOXEL = (0.0, -3.84, -2.0, 7.68, 3.84, 2.0), (0.32, 0.32, 4.0)


def small(head: str = "center", **settings) -> DSVT:
    torch.manual_seed(0)
    makers = {
        "center": functools.partial(CenterHead, shared_channels=8, max_objects=8),
        "transfusion": functools.partial(
            TransFusionHead, num_classes=3, num_queries=6, channels=16, num_heads=2, hidden_dim=16, radius=3,
            point_classes=(1, 2), velocity=False, code_weights=(1.0,) * 8,
        ),
    }  # fmt: skip
    layout = {
        "point_range": RANGE,
        "voxel_size": VOXEL,
        "num_point_features": 4,
        "voxel_channels": (16, 16),
        "num_heads": 2,
        "hidden_dim": 32,
        "set_sizes": (6,),
        "num_blocks": (2,),
        "window": (6, 6),
        "bev_blocks": (1, 1),
        "bev_strides": (1, 2),
        "bev_channels": (8, 8),
        "bev_up_strides": (1, 2),
        "bev_up_channels": (8, 8),
    }
    return DSVT(**{**layout, **settings}, head=makers[head])


def scene(counts=(300, 200), seed: int = 0) -> DetectionBatch:
    """Random points, two boxes in every sample that has points."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(sum(counts), 4, generator=generator) * torch.tensor([7.68, 7.68, 4.0, 1.0])
    points[:, :3] += torch.tensor([0.0, -3.84, -2.0])
    boxes = torch.tensor([[2.0, 1.0, 0.0, 3.9, 1.6, 1.5, 0.3], [5.0, -1.0, 0.0, 0.8, 0.6, 1.7, -2.0]])
    labels = torch.tensor([0, 1])
    some = [slice(0, 2 if count else 0) for count in counts]
    return DetectionBatch(
        points,
        torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)),
        [boxes[part] for part in some],
        [labels[part] for part in some],
        [str(number) for number in range(len(counts))],
    )


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    with torch.device("meta"):
        net = create_model(name)
    parts = (net, net.voxel_features, net.backbone, net.bev_backbone, net.head)
    found = [sum(parameter.numel() for parameter in part.parameters()) for part in parts]
    whole, *thousands = COUNTS[name]
    assert round(found[0] / 1e6, 3) == whole
    for count, expected in zip(found[1:], thousands, strict=True):
        assert abs(count / 1e3 - expected) < 0.6


@pytest.mark.parametrize("head", ["center", "transfusion"])
@pytest.mark.parametrize("voxels", [False, True])
def test_learns_with_every_parameter(head, voxels):
    layout = {"voxel_size": (0.32, 0.32, 0.5), "set_sizes": (6, 6), "num_blocks": (1, 1), "height_strides": (8,)}
    net = small(head, **(layout if voxels else {}))
    terms = net.loss(scene())
    assert terms["loss"].item() == pytest.approx(
        sum(float(v.detach()) for k, v in terms.items() if k != "loss"), rel=1e-5
    )
    terms["loss"].backward()
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["center", "transfusion"])
def test_overfits_and_predicts(head):
    net, batch = small(head), scene()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = net.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    found = net.predict(batch)
    assert len(found) == 2
    for some in found:
        assert some.boxes.shape[1] == 7
        assert len(some.boxes) == len(some.scores) == len(some.labels)


@pytest.mark.parametrize("head", ["center", "transfusion"])
@pytest.mark.parametrize("counts", [(0, 50), (50, 0), (0, 0), (1, 0)])
@pytest.mark.parametrize("training", [False, True])
def test_empty_samples(head, counts, training):
    net = small(head).train(training)
    batch = scene(counts)
    assert torch.isfinite(net.loss(batch)["loss"])
    assert len(net.predict(batch)) == 2
    for name, value in net.named_buffers():
        assert torch.isfinite(value).all(), name


def test_points_out_of_range_and_nan_change_nothing():
    net, batch = small().eval(), scene()
    expected = net(batch)[0]["hm"]
    junk = torch.tensor([[100.0, 0.0, 0.0, 0.0], [1.0, torch.nan, 0.0, 0.0], [1.0, 1.0, 0.0, torch.inf]])
    batch.points = torch.cat([batch.points, junk])
    batch.point_batch = torch.cat([batch.point_batch, torch.ones(3, dtype=torch.int64)])
    torch.testing.assert_close(net(batch)[0]["hm"], expected)


def test_all_points_out_of_range():
    batch = scene()
    batch.points = batch.points + 1000.0
    net = small()
    assert torch.isfinite(net.loss(batch)["loss"])
    assert torch.isfinite(net.voxel_features.layers[0].norm.running_var).all()


@pytest.mark.parametrize("head", ["center", "transfusion"])
def test_boxes_of_zero_size_and_outside(head):
    net, batch = small(head).eval(), scene()
    extra = torch.tensor([[3.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]])
    with_zero = copy.deepcopy(batch)
    with_zero.boxes[0] = torch.cat([with_zero.boxes[0], extra])
    with_zero.labels[0] = torch.cat([with_zero.labels[0], torch.tensor([0])])
    torch.testing.assert_close(net.loss(with_zero)["loss"], net.loss(batch)["loss"])


def test_unknown_velocity_is_no_loss():
    head = CenterHead(
        in_channels=4, point_range=RANGE, voxel_size=VOXEL, groups=[[0]], shared_channels=4, velocity=True,
        iou_exponents=[0.5], nms_thresholds=[0.5], code_weights=[1.0] * 10, max_objects=4,
    )  # fmt: skip
    box = torch.tensor([[2.0, 1.0, 0.0, 3.9, 1.6, 1.5, 0.3, torch.nan, torch.nan]])
    loss = head.loss(head(torch.randn(1, 4, 24, 24)), [box], [torch.tensor([0])])["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_pairing_of_positions_is_an_option():
    plain, paired = small().eval(), small(paired_positions=True).eval()
    paired.load_state_dict(plain.state_dict())
    batch = scene()
    difference = plain(batch)[0]["hm"] - paired(batch)[0]["hm"]
    assert difference.abs().max() > 1e-4


def test_training_and_looked_up_positions_agree():
    net = small().eval()
    embedding = net.backbone.stages[0].blocks[0].positions[0]
    inside = torch.randint(6, (200, 3)) * torch.tensor([1, 1, 0])
    torch.testing.assert_close(embedding(inside), embedding._embed(inside))


@pytest.mark.parametrize("reduction", ["attention", "linear", "maxpool"])
def test_reductions(reduction):
    layout = {"windows": [(4, 4, 4), (4, 4, 1)], "shifts": [((0, 0, 0), (2, 2, 0))] * 2, "strides": [(1, 1, 4)]}
    net = DSVTBackbone(
        shape=(8, 8, 4), channels=8, num_heads=8, hidden_dim=8, set_sizes=(4, 4), num_blocks=(1, 1),
        reduction=reduction, **layout,
    )  # fmt: skip
    coords = torch.cartesian_prod(*(torch.arange(size) for size in (1, 8, 8, 4))).int()[::3]
    features, pooled = net(torch.randn(len(coords), 8), coords)
    assert torch.equal(pooled, torch.cat([coords[:, :3], torch.zeros(len(coords), 1)], 1).int().unique(dim=0))
    assert features.shape == (len(pooled), 8)


def test_checkpointed_blocks_have_the_same_gradients():
    plain, saving = small(), small(checkpoint_activations=True)
    batch = scene()
    for net in (plain, saving):
        net.loss(batch)["loss"].backward()
    for (name, ours), (_, theirs) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_bfloat16():
    net, batch = small(), scene()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net.loss(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_heights_become_channels():
    coords = torch.tensor([[1, 2, 0, 1], [0, 1, 1, 0]], dtype=torch.int32)
    backbone = DSVTBackbone(shape=(3, 2, 2), channels=2, num_heads=1, windows=((2, 2, 2),), shifts=(((0, 0, 0),) * 2,))
    dense = backbone.to_map(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), coords, batch_size=2)
    assert dense.shape == (2, 4, 2, 3)
    assert dense.is_contiguous(memory_format=torch.channels_last)
    assert dense[1, :, 0, 2].tolist() == [0, 1, 0, 2]
    assert dense[0, :, 1, 1].tolist() == [3, 0, 4, 0]
    assert dense.sum() == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voxel_size": (0.31, 0.32, 4.0)}, "voxels along x"),
        ({"point_range": (0.0, -3.84, -2.0, 8.0, 3.84, 2.0)}, "multiples of 2"),
        ({"set_sizes": (6, 6)}, "one entry for each stage"),
        ({"any_height": True, "voxel_size": (0.32, 0.32, 2.0)}, "any_height"),
        ({"bev_up_strides": (1, 1)}, "different resolutions"),
        ({"num_heads": 3}, "num_heads: found 3"),
        ({"shift": (12, 0)}, "shift: found"),
        ({"reduction": "mean", "voxel_size": (0.32, 0.32, 2.0), "set_sizes": (6, 6), "num_blocks": (1, 1),
          "height_strides": (2,)}, "reduction: found 'mean'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change)(scene())


def test_wrong_points():
    with pytest.raises(ValueError, match="num_point_features"):
        small(num_point_features=5)(scene())


def test_grid_shape_of_the_published_ranges():
    assert grid_shape((-74.88, -74.88, -2, 74.88, 74.88, 4.0), (0.32, 0.32, 0.1875)) == (468, 468, 32)
    assert grid_shape((-54.0, -54.0, -5.0, 54.0, 54.0, 3.0), (0.3, 0.3, 8)) == (360, 360, 1)


def test_unknown_upstream_names_are_refused():
    with pytest.raises(ValueError, match="roi_head"):
        remap_upstream({"roi_head.weight": torch.zeros(1)})
    assert remap_upstream({"global_step": torch.zeros(1)}) == {}
