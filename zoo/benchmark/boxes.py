"""Rotated boxes and dense maps against every pair by itself and against plain torch, on car boxes and LiDAR voxels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from zoo.benchmark.harness import Case, close
from zoo.data.formats.kitti import KittiLabels
from zoo.metrics.kitti_ap import kitti_average_precision
from zoo.ops import (
    boxes_aligned_iou,
    boxes_iou_3d,
    boxes_iou_bev,
    draw_heatmap,
    nms_rotated,
    points_in_boxes,
    scatter_to_bev,
)
from zoo.ops.dispatch import REFERENCES
from zoo.ops.reference.box_iou import IOU_3D, IOU_BEV

THREADS = 2
CANDIDATES, AREA = 4096, 150.0
PAIRS, ALIGNED, NUM_POINTS, NUM_BOXES, OBJECTS = 1000, 20_000, 200_000, 100, 500
VOXELS, CHANNELS, MAP = 60_000, 192, 468
FRAMES = 500
SHARES = (0.6, 0.2, 0.1, 0.05, 0.05)  # of the classes in random frames
PLAIN, EVERY_PAIR = "plain torch", "every pair (boxes_iou_bev), then in order"


def cars(count: int, area: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Car boxes ``(N, 7)`` with centres uniform over a square of ``area`` metres, and scores ``(N,)``."""
    generator = torch.Generator().manual_seed(seed)
    place = (torch.rand(count, 2, generator=generator) - 0.5) * area
    size = torch.tensor([4.5, 2.0, 1.6]) * (0.85 + 0.3 * torch.rand(count, 3, generator=generator))
    yaw = 2 * math.pi * torch.rand(count, 1, generator=generator)
    boxes = torch.cat([place, torch.zeros(count, 1), size, yaw], 1)
    return boxes, torch.rand(count, generator=generator)


def suppress_every_pair(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The keep list by comparing every box with every other one."""
    order = torch.argsort(scores, descending=True, stable=True)
    over = boxes_iou_bev(boxes[order], boxes[order]) > threshold
    gone = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for row in range(len(boxes)):
        if not gone[row]:
            kept.append(row)
            gone |= over[row]
    return order[kept]


def plain_heatmap(cells: Tensor, radius: int, channels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """All cells of all objects at once, merged by ``scatter_reduce``; all objects have one radius."""
    offset = torch.arange(-radius, radius + 1)
    down, along = torch.meshgrid(offset, offset, indexing="ij")
    sigma = (2 * radius + 1) / 6
    values = torch.exp(-(along**2 + down**2).float() / (2 * sigma * sigma)).expand(len(cells), -1, -1)
    x, y = cells[:, 0, None, None] + along, cells[:, 1, None, None] + down
    inside = (x >= 0) & (x < shape[2]) & (y >= 0) & (y < shape[1])
    place = (channels[:, None, None] * shape[1] + y) * shape[2] + x
    flat = torch.zeros(math.prod(shape))
    return flat.scatter_reduce_(0, place[inside], values[inside], "amax").view(shape)


def plain_scatter(features: Tensor, coords: Tensor, size: int) -> Tensor:
    """One sample's features copied to rows of zeros: a map with channels last."""
    flat = features.new_zeros(size * size, features.shape[1])
    flat.index_copy_(0, coords[:, 2].long() * size + coords[:, 3], features)
    return flat.view(1, size, size, -1).permute(0, 3, 1, 2)


def gradient_of(iou: Callable[[Tensor, Tensor], Tensor], found: Tensor, truth: Tensor) -> Tensor:
    """The gradient of the sum of overlaps in the boxes that were found."""
    leaf = found.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(iou(leaf, truth).sum(), leaf)
    return gradient


def label_frames(count: int, objects: int = 8, false_alarms: int = 22) -> tuple[list[KittiLabels], list[KittiLabels]]:
    """Frames of KITTI labels with random objects, and detections of which some match."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for _ in range(count):
        total = objects + false_alarms
        names = tuple(
            rng.choice(["Car", "Pedestrian", "Cyclist", "Van", "DontCare"], total, p=[0.6, 0.2, 0.1, 0.05, 0.05])
        )
        corner = rng.uniform((0, 100), (1100, 250), (total, 2))
        labels = KittiLabels(
            names,
            rng.choice([0.0, 0.2, 0.4], total),
            rng.integers(0, 3, total),
            rng.uniform(-3, 3, total),
            np.concatenate([corner, corner + rng.uniform(20, 120, (total, 2))], 1),
            rng.uniform((1.4, 1.5, 3.5), (1.6, 1.8, 4.5), (total, 3)),
            rng.uniform((-20, 1, 5), (20, 2, 60), (total, 3)),
            rng.uniform(-3, 3, total),
            rng.random(total),
        )
        truth.append(labels.select(np.arange(objects)))
        found.append(labels.select(np.array([name != "DontCare" for name in names])))
    return truth, found


def _same(actual: Tensor, expected: Tensor) -> None:
    assert torch.equal(actual, expected), "ours differs from the peer's result"


def cases() -> Iterator[Case]:
    """All comparisons."""
    yield from _suppression_cases()
    yield from _box_cases()
    yield from _map_cases()
    truth, found = label_frames(FRAMES)
    yield Case(
        f"{FRAMES} frames",
        "KITTI AP, all classes, kinds and difficulties",
        THREADS,
        lambda: kitti_average_precision(truth, found),
        repeats=3,
    )


def _suppression_cases() -> Iterator[Case]:
    for what, area, threshold, repeats in (
        (f"NMS over {AREA:g} x {AREA:g} m at 0.1", AREA, 0.1, 9),
        ("NMS, all within 1.5 m, at 0.1", 1.5, 0.1, 5),
        ("NMS, all within 1.5 m, at 0.95 (nearly all stay)", 1.5, 0.95, 5),
    ):
        boxes, scores = cars(CANDIDATES, area)
        yield Case(
            f"{CANDIDATES} cars",
            what,
            THREADS,
            functools.partial(nms_rotated, boxes, scores, threshold),
            EVERY_PAIR,
            functools.partial(suppress_every_pair, boxes, scores, threshold),
            compare=_same,
            repeats=repeats,
        )


def _box_cases() -> Iterator[Case]:
    a, b = cars(PAIRS, 30.0, 1)[0], cars(PAIRS, 30.0, 2)[0]
    for what, iou, measure in (("BEV", boxes_iou_bev, IOU_BEV), ("3D", boxes_iou_3d, IOU_3D)):
        yield Case(
            f"{PAIRS} x {PAIRS} cars",
            f"{what} IoU over 30 x 30 m",
            THREADS,
            functools.partial(iou, a, b),
            PLAIN,
            functools.partial(REFERENCES["boxes_iou_pairs"], a, b, measure),
            compare=functools.partial(close, rtol=1e-3),
            repeats=5,
        )
    near, _ = cars(ALIGNED, AREA, 4)
    found = near + 0.2 * torch.randn(near.shape, generator=torch.Generator().manual_seed(5))
    yield Case(
        f"{ALIGNED // 1000}k pairs of cars",
        "3D IoU row by row, forward and gradient",
        THREADS,
        lambda: gradient_of(boxes_aligned_iou, found, near),
        PLAIN,
        lambda: gradient_of(lambda x, y: REFERENCES["boxes_iou_aligned"](x, y, IOU_3D), found, near),
        compare=functools.partial(close, rtol=1e-3),
        repeats=5,
    )
    generator = torch.Generator().manual_seed(0)
    points = (torch.rand(NUM_POINTS, 3, generator=generator) - 0.5) * torch.tensor([AREA, AREA, 2.0])
    boxes = cars(NUM_BOXES, AREA, 3)[0]
    yield Case(
        f"{NUM_POINTS // 1000}k points, {NUM_BOXES} cars",
        "first box of each point",
        THREADS,
        lambda: points_in_boxes(points, boxes),
        PLAIN,
        lambda: REFERENCES["points_in_boxes"](points, boxes),
        compare=_same,
    )


def _map_cases() -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    cells, classes = torch.randint(MAP, (OBJECTS, 2), generator=generator), torch.arange(OBJECTS) % 3
    radii, shape = torch.full((OBJECTS,), 4), (3, MAP, MAP)
    yield Case(
        f"{OBJECTS} objects",
        f"heat-map of {shape[0]} x {MAP} x {MAP}",
        THREADS,
        lambda: draw_heatmap(cells, radii, classes, shape),
        PLAIN,
        lambda: plain_heatmap(cells, 4, classes, shape),
        compare=close,
    )
    places = torch.randperm(MAP * MAP, generator=generator)[:VOXELS].sort().values
    zero = torch.zeros_like(places)
    coords = torch.stack([zero, zero, places // MAP, places % MAP], 1).int()
    features = torch.randn(VOXELS, CHANNELS, generator=generator)
    yield Case(
        f"{VOXELS // 1000}k x {CHANNELS}",
        f"scatter to {MAP} x {MAP}",
        THREADS,
        lambda: scatter_to_bev(features, coords, 1, (1, MAP, MAP)),
        PLAIN,
        lambda: plain_scatter(features, coords, MAP),
        compare=_same,
        limit="copy",
        work=4.0 * CHANNELS * (MAP * MAP + VOXELS),
    )
