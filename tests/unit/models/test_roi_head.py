"""The second stage: places in proposals, what it is to learn, pools against brute force, and the detector with it."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from tests.unit.models.test_anchor_detection import CAR, RANGE, boxes, cars, detector
from zoo.data.boxes import box_corners as exact_corners
from zoo.data.detection import DetectionBatch
from zoo.losses.box_corners import box_corners, corner_loss
from zoo.models.e3dsnn import E3DSNNDetector, ProposalLimits, SpikeRoIHead, remap_upstream
from zoo.models.e3dsnn.roi_head import SpikeVoxelPool
from zoo.models.energy import EnergyMeter
from zoo.models.layers.roi_targets import (
    choose_proposals,
    decode_in_proposals,
    encode_in_proposals,
    overlap_targets,
)
from zoo.models.layers.spiking import NeuronSpec, binary_inference
from zoo.ops import SparseTensor, boxes_iou_3d

SMALL = {
    "grid_size": 3,
    "num_neighbors": 4,
    "pool_channels": 8,
    "shared_channels": (16, 16),
    "task_channels": (16,),
    "train_proposals": ProposalLimits(512, 0.8, 64),
    "test_proposals": ProposalLimits(256, 0.7, 20),
    "num_sampled": 16,
}


def two_stages(**options) -> E3DSNNDetector:
    return detector(roi_head=functools.partial(SpikeRoIHead, **{**SMALL, **options}), norm_momentum=0.1)


def head(**options) -> SpikeRoIHead:
    shared = {"in_channels": (8, 8, 8), "point_range": RANGE, "voxel_size": (0.2, 0.2, 0.2), "neuron": NeuronSpec()}
    return SpikeRoIHead(**{**shared, **SMALL, **options})


def random_boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low, size = torch.tensor([0, -8, -2, 1, 1, 1, -3.1]), torch.tensor([25, 16, 2, 4, 2, 1, 6.2])
    return torch.rand(count, 7, generator=generator) * size + low


def test_corners_are_those_of_the_data_s_boxes() -> None:
    some = random_boxes(5)
    expected = torch.as_tensor(exact_corners(some.double().numpy()))
    for ours, theirs in zip(box_corners(some.double()), expected, strict=True):
        assert torch.cdist(ours, theirs).min(dim=1).values.max() < 1e-6
        assert torch.cdist(ours, theirs).min(dim=0).values.max() < 1e-6


def test_corner_loss_by_hand() -> None:
    truth = boxes((0, 0, 0, 4, 2, 1, 0.4)).repeat(3, 1)
    moved = truth.clone()
    moved[0, 0], moved[1, 2], moved[2, 6] = 0.5, 3.0, truth[2, 6] + math.pi
    assert corner_loss(moved, truth).tolist() == pytest.approx([0.125, 2.5, 0.0], abs=1e-5)
    moved.requires_grad_()
    corner_loss(moved, truth).sum().backward()
    assert moved.grad is not None
    assert bool(torch.isfinite(moved.grad).all())
    with pytest.raises(ValueError, match="expected"):
        corner_loss(moved[:, :6], truth[:, :6])


def test_residuals_in_proposals_and_back() -> None:
    proposal = boxes((10, 5, -1, 4, 3, 2, math.pi / 2))
    ahead = boxes((10, 7, -1, 4, 3, 2, math.pi / 2 + 0.1))  # two metres along the proposal's own x
    assert encode_in_proposals(ahead, proposal)[0].tolist() == pytest.approx([0.4, 0, 0, 0, 0, 0, 0.1], abs=1e-6)
    some, others = random_boxes(50), random_boxes(50, seed=1)
    back = decode_in_proposals(encode_in_proposals(some, others), others)
    torch.testing.assert_close(back[:, :6], some[:, :6], atol=1e-4, rtol=1e-4)
    off = torch.remainder(back[:, 6] - some[:, 6] + math.pi / 2, math.pi) - math.pi / 2
    assert off.abs().max() < 1e-4
    assert encode_in_proposals(some, others)[:, 6].abs().max() <= math.pi / 2 + 1e-6


def test_proposals_are_drawn_in_the_wanted_shares() -> None:
    truth = boxes((10, 0, -1, 4, 2, 1.5, 0.0), (20, 3, -1, 4, 2, 1.5, 1.0))
    good = truth[:1].repeat(30, 1) + torch.tensor([0.1, 0, 0, 0, 0, 0, 0]) * torch.linspace(0, 1, 30)[:, None]
    hard = truth[1:].repeat(30, 1) + torch.tensor([1.2, 0, 0, 0, 0, 0, 0])
    easy = random_boxes(30) + torch.tensor([100.0, 0, 0, 0, 0, 0, 0])
    proposals, kinds = torch.cat([easy, hard, good]), torch.zeros(90, dtype=torch.int64)
    chosen = choose_proposals(proposals, kinds, truth, torch.tensor([0, 0]), number=20)
    assert len(chosen.boxes) == 20
    assert int((chosen.overlap >= 0.55).sum()) == 10
    assert int(((chosen.overlap >= 0.1) & (chosen.overlap < 0.55)).sum()) == 8
    assert torch.equal(chosen.truth[chosen.overlap >= 0.55], truth[:1].expand(10, -1))
    exact = boxes_iou_3d(chosen.boxes, truth).max(dim=1).values
    torch.testing.assert_close(chosen.overlap, exact)
    few = choose_proposals(proposals[25:65], kinds[25:65], truth, torch.tensor([0, 0]), number=200)
    assert len(few.boxes) == 40
    other = choose_proposals(proposals, kinds + 1, truth, torch.tensor([0, 0]), number=20)  # no box of the class
    assert other.overlap.max() == 0
    assert torch.equal(other.truth, other.boxes)
    assert len(choose_proposals(easy[:0], kinds[:0], truth, torch.tensor([0, 0]), number=20).boxes) == 0
    assert overlap_targets(torch.tensor([0.25, 0.45, 0.75])).tolist() == pytest.approx([0.0, 0.4, 1.0])


def test_places_fill_the_proposal() -> None:
    places = head(grid_size=2).places(boxes((10, 5, -1, 4, 2, 1, math.pi / 2)))
    assert places.shape == (1, 8, 3)
    assert places[0, 0].tolist() == pytest.approx([10.5, 4.0, -1.25], abs=1e-5)
    assert places[0, 7].tolist() == pytest.approx([9.5, 6.0, -0.75], abs=1e-5)


def test_centres_of_coarse_cells() -> None:
    x = SparseTensor.from_coords(torch.zeros(1, 8), torch.tensor([[0, 1, 2, 3]]), (3, 20, 32), 1)
    assert head().centers(x, 4)[0].tolist() == pytest.approx([2.8, -6.0, -1.8])


def test_pools_against_brute_force() -> None:
    torch.manual_seed(0)
    pool = SpikeVoxelPool(5, 6, radius=1.5, num_neighbors=100, neuron=NeuronSpec()).eval()
    for layers in (pool.mlps_in, pool.mlps_pos):
        layers.get_parameter("1.weight").data.fill_(3.0)
    coords = torch.cat([torch.arange(2).repeat_interleave(20)[:, None], torch.randint(0, 6, (40, 3))], dim=1)
    sites = coords.unique(dim=0)
    x = SparseTensor.from_coords(torch.randn(len(sites), 5), sites, (6, 6, 6), 2)
    centers = x.coords[:, 1:].float()
    places = torch.rand(9, 3) * 12
    offsets = torch.tensor([0, 5, 9])
    actual = pool(x, centers, places, offsets)
    for row, place in enumerate(places):
        near = (centers - place).norm(dim=1) < 1.5
        near &= x.coords[:, 0] == int(row >= 5)
        membrane = pool.mlps_in(x.features[near]) + pool.mlps_pos(centers[near] - place)
        counts = (membrane.clamp(0, 4) + 0.5).floor()
        best = counts.amax(dim=0) if len(counts) else torch.zeros(6)
        torch.testing.assert_close(actual[row], pool.mlps_out(best[None])[0])


def test_both_stages_learn_with_every_parameter_and_binary_spikes_give_the_same() -> None:
    model, batch = two_stages(), cars()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    seen: set[str] = set()
    for _ in range(8):
        losses = model.loss(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        seen |= {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
        optimizer.step()
    total = sum(value for name, value in losses.items() if name != "loss")
    torch.testing.assert_close(losses["loss"], total)
    assert {name for name, _ in model.named_parameters() if name.startswith("roi_head")} <= seen
    model.eval()
    model.score_threshold = 0.0
    found = model.predict(batch)
    with binary_inference(model):
        for actual, expected in zip(model.predict(batch), found, strict=True):
            torch.testing.assert_close(actual.scores, expected.scores.detach(), atol=1e-5, rtol=1e-5)
    with EnergyMeter(model) as meter:
        model.predict(batch)
    layers = {layer.name: layer.max_count for layer in meter.report().layers if layer.name.startswith("roi_head")}
    assert layers["roi_head.roi_grid_pool_layers.0.mlps_in.0"] is None
    assert layers["roi_head.shared_fc_layer.1"] == 4
    assert layers["roi_head.cls_pred_layer"] is None


@pytest.mark.slow
def test_the_second_stage_finds_the_boxes() -> None:
    model, batch = two_stages(), cars()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        losses = model.loss(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    for found, truth in zip(model.eval().predict(batch), batch.boxes, strict=True):
        assert len(found.boxes) == len(truth)
        assert boxes_iou_3d(truth, found.boxes.detach()).amax(dim=1).min() > 0.7


@pytest.mark.parametrize("training", [True, False])
def test_empty_clouds_and_samples_without_boxes_pass(training: bool) -> None:
    model = two_stages().train(training)
    nothing = [torch.zeros(0, dtype=torch.int64)] * 2
    empty = DetectionBatch(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), [boxes()] * 2, nothing, ["a", "b"])
    losses = model.loss(empty)
    losses["loss"].backward()
    assert bool(torch.isfinite(losses["loss"]))
    assert losses["roi_box_loss"] == 0
    assert len(model.predict(empty)) == 2
    assert model.roi_head is not None
    none = model.roi_head([model.backbone_3d(model.voxels(cars()))[index] for index in (1, 2, 3)], [boxes(), boxes()])
    assert none.scores.shape == (0,)
    assert none.residuals.shape == (0, 7)


def test_files_load_with_and_without_the_second_stage() -> None:
    model = two_stages()
    state = {**model.state_dict(), "global_step": torch.zeros(1)}
    assert remap_upstream({"model_state": state}, model).keys() == model.state_dict().keys()
    single = detector()
    assert remap_upstream({"model_state": state}, single).keys() == single.state_dict().keys()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="a radius for each of 3 strides"):
        head(radii=(0.4, 0.8))
    with pytest.raises(ValueError, match="at least 1"):
        head(grid_size=0)
    assert E3DSNNDetector(anchors=[CAR]).roi_head is None
