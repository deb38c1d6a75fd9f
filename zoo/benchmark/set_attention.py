"""DSVT's own steps: sets of windows, attention within them, and the backbone of the Waymo pillar preset on a scan.

Partition and attention stand beside the same computation in plain torch (`zoo.ops.reference`). Sites are drawn at the
density of the 60k case, so that the area grows with their number. The scan has 60,000 points of a generated street.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from zoo.benchmark.harness import Case, Row, close, measure
from zoo.benchmark.limits import measure_limits
from zoo.data.detection import DetectionBatch
from zoo.data.lidar_scene import make_frame
from zoo.models.dsvt import DSVT
from zoo.ops import SetPartition, set_attention, set_partition, use_backend
from zoo.ops.reference.set_attention import padded_set_attention
from zoo.registry import create_model

GROUP = "dsvt"
THREADS = 2
POINTS = 60_000
SIZES = (20_000, 40_000, 80_000, 160_000, 320_000)
DENSITY = 60_000 / 468**2  # sites per cell
WINDOWS = (((12, 12, 1), (0, 0, 0)), ((24, 24, 1), (6, 6, 0)))  # and shifts, of the Waymo pillar preset
SET_SIZE, CHANNELS, HEADS = 36, 192, 8
GEMM_AND_ATTENTION = ("aten::linear", "zoo::set_attention")  # with what they call


def cases() -> Iterator[Case | Row]:
    """Partition, its growth, attention, then the network."""
    yield _partition_case(60_000)
    yield from _growth()
    yield from _attention_cases()
    yield from _network_rows()


def random_sites(count: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Distinct sites (N, 4) in random order on a square of the fixed density, and its shape."""
    side = math.ceil(math.sqrt(count / DENSITY))
    cells = torch.randperm(side * side, generator=torch.Generator().manual_seed(0))[:count]
    zeros = torch.zeros_like(cells)
    return torch.stack([zeros, cells // side, cells % side, zeros], dim=1).int(), (side, side, 1)


def partition_both(coords: Tensor, shape: Sequence[int]) -> list[Tensor]:
    """Sets of both shifts, each in both orders."""
    return [set_partition(coords, shape, window, SET_SIZE, shift=shift).slots for window, shift in WINDOWS]


def _reference_partition(coords: Tensor, shape: Sequence[int]) -> list[Tensor]:
    with use_backend("reference"):
        return partition_both(coords, shape)


def _partition_case(count: int) -> Case:
    coords, shape = random_sites(count)
    return Case(
        case=f"{count // 1000}k voxels",
        what="set partition, both shifts and orders",
        threads=THREADS,
        ours=lambda: partition_both(coords, shape),
        peer_name="plain torch",
        peer=lambda: _reference_partition(coords, shape),
        compare=_equal,
    )


def _equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), "the sets differ from the reference's"


def _growth() -> Iterator[Row]:
    """The partition's time over the number of sites, and the slope of both logarithms."""
    limits = measure_limits(THREADS)
    times = []
    for count in SIZES:
        row = measure(GROUP, _partition_case(count), limits)
        times.append(row.ours_ms)
        yield row
    what = "slope of log time over log voxels of the set partition: not ms"
    yield Row(GROUP, f"{SIZES[0] // 1000}k to {SIZES[-1] // 1000}k voxels", what, THREADS, slope(SIZES, times))


def slope(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Least-squares slope of log time over log size.

    Example:
        >>> round(slope([1, 10, 100], [3, 30, 300]), 3)
        1.0
    """
    x, y = [math.log(size) for size in sizes], [math.log(time) for time in times]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)


@lru_cache(maxsize=1)
def _scan() -> DetectionBatch:
    """60,000 points of a street."""
    points = torch.from_numpy(make_frame(0, "test").sweep.points).float()
    points = torch.cat([points, torch.zeros(len(points), 1)], dim=1)  # Waymo's points have one column more
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:POINTS]]
    box = torch.tensor([[10.0, 0.0, 0.0, 4.0, 1.8, 1.6, 0.0]])
    return DetectionBatch(points, torch.zeros(len(points), dtype=torch.int64), [box], [torch.tensor([0])], ["scan"])


@lru_cache(maxsize=1)
def _network() -> DSVT:
    torch.manual_seed(0)
    net = create_model("dsvt_waymo_pillar")
    assert isinstance(net, DSVT)
    return net.eval()


@lru_cache(maxsize=1)
def _voxels() -> tuple[Tensor, Tensor]:
    scan = _scan()
    with torch.no_grad():
        return tuple(_network().voxel_features(scan.points, scan.point_batch, 1))  # type: ignore[return-value]


def _attention_cases() -> Iterator[Case]:
    """One attention of the preset, forward and with gradients."""
    features, coords = _voxels()
    net = _network().backbone
    sets = set_partition(coords, net.shapes[0], WINDOWS[0][0], SET_SIZE)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(features.shape, generator=generator).requires_grad_() for _ in range(3))
    leaves = [query, key, value]
    weight = torch.randn(features.shape, generator=generator)
    label = f"{len(coords) / 1000:.0f}k pillars of a scan, {CHANNELS} channels"

    def gradients(attended: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((attended * weight).sum(), leaves)

    def common(what: str, with_grad: bool) -> Case:
        def ours() -> Any:
            with torch.set_grad_enabled(with_grad):
                out = set_attention(query, key, value, sets, rotation=0, num_heads=HEADS)
            return gradients(out) if with_grad else out

        def padded() -> Any:
            with torch.set_grad_enabled(with_grad):
                out = _padded(leaves, sets)
            return gradients(out) if with_grad else out

        name = "torch's attention, padded"
        return Case(case=label, what=what, threads=THREADS, ours=ours, peer_name=name, peer=padded, compare=close)

    yield common("set attention, forward", with_grad=False)
    yield common("set attention, forward and backward", with_grad=True)


def _padded(rows: Sequence[Tensor], sets: SetPartition) -> Tensor:
    query, key, value = rows
    return padded_set_attention(query, key, value, sets.slots[0], sets.repeated[0], sets.order[0], HEADS)


def _network_rows() -> Iterator[Case | Row]:
    """The backbone's forward with the share of attention and linear layers, and a training step of the detector."""
    features, coords = _voxels()
    net, scan = _network(), _scan()
    label = f"{POINTS // 1000}k points, {len(coords) / 1000:.0f}k pillars"

    def forward() -> Tensor:
        with torch.no_grad():
            return net.backbone(features, coords)[0]

    def step() -> Tensor:
        net.zero_grad()
        loss = net.loss(scan)["loss"]
        loss.backward()
        return loss.detach()

    yield Case(label, "backbone forward, Waymo pillar preset", THREADS, forward)
    share = 100 * gemm_and_attention_share(forward)
    yield Row(
        GROUP, label, "attention and linear layers in the backbone's forward: % of the time, not ms", THREADS, share
    )
    yield Case(label, "training step of the Waymo pillar preset", THREADS, step, repeats=3)


def gemm_and_attention_share(function: Any) -> float:
    """Share of the operators' time that attention and linear layers take."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        function()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            function()
    finally:
        torch.set_num_threads(before)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    return sum(event.cpu_time_total for event in events if event.key in GEMM_AND_ATTENTION) / total
