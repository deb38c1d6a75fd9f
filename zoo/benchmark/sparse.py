"""Sparse convolution against spconv on LiDAR voxels: kernel maps, forward, backward, strided layers, memory, large N.

spconv runs with one thread, the only setting in which its CPU kernels are right (`zoo.ops.vendor.spconv`), through its
functions rather than its modules, which cost more. Both sides get the same coordinates and weights, and the results are
compared. Without spconv its columns stay empty.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.benchmark.harness import Case, Row, close, measure
from zoo.benchmark.limits import measure_limits
from zoo.data.lidar_scene import lidar_voxels
from zoo.ops import KernelMap, SparseTensor, VoxelGrid, build_kernel_map, sparse_conv, subm_conv
from zoo.ops.vendor.spconv import loaded_spconv
from zoo.ops.voxel_grid import Sites

GROUP = "sparse"
PEER = "spconv, 1 thread"
SIZES = {"60k": 60_000, "200k": 200_000}
WIDTHS = ((16, 32), (64, 64), (128, 128))
THREADS = 2
CURVE = (60_000, 125_000, 250_000, 500_000, 1_000_000)
KERNEL, ONES = [3, 3, 3], [1, 1, 1]


@dataclass
class Layer:
    """One layer's tensors on a grid."""

    x: SparseTensor
    weight: Tensor  # (C_out, 3, 3, 3, C_in)
    grad: Tensor  # (N, C_out)

    @classmethod
    def random(cls, grid: VoxelGrid, channels: tuple[int, int]) -> Layer:
        """Random values of a fixed seed."""
        c_in, c_out = channels
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(grid.num_sites, c_in, generator=generator)
        weight = torch.randn(c_out, 3, 3, 3, c_in, generator=generator) / (27 * c_in) ** 0.5
        return cls(SparseTensor(features, grid), weight, torch.randn(grid.num_sites, c_out, generator=generator))


class Spconv:
    """spconv's functions on one set of coordinates; the rulebook of the submanifold layer is made once."""

    def __init__(self, coords: Tensor, shape: tuple[int, ...]) -> None:
        self.coords, self.shape = coords, list(shape)
        _, self.pairs, self.counts = self.rulebook(coords)

    def rulebook(self, coords: Tensor, stride: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Output sites, pairs (2, 27, N) and their numbers (27,)."""
        with loaded_spconv(coords.device) as (ops, algo):
            strides = [stride] * 3
            return ops.get_indice_pairs(
                coords, 1, self.shape, algo, KERNEL, strides, ONES, ONES, [0, 0, 0], stride == 1, False
            )

    def forward(self, layer: Layer) -> Tensor:
        """The submanifold convolution."""
        with loaded_spconv(self.coords.device) as (ops, algo):
            num_out = len(self.coords)
            return ops.indice_conv(
                layer.x.features, layer.weight, self.pairs, self.counts, num_out, False, True, algo=algo
            )

    def backward(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Its gradients with respect to features and weight."""
        with loaded_spconv(self.coords.device) as (ops, algo):
            return ops.indice_conv_backward(
                layer.x.features, layer.weight, layer.grad, self.pairs, self.counts, False, True, algo=algo
            )

    def strided(self, layer: Layer) -> tuple[Tensor, Tensor]:
        """Features and sites of the strided convolution, rulebook included."""
        with loaded_spconv(self.coords.device) as (ops, algo):
            sites, pairs, counts = self.rulebook(self.coords, stride=2)
            features = layer.x.features
            return ops.indice_conv(features, layer.weight, pairs, counts, len(sites), False, False, algo=algo), sites


def cases() -> Iterator[Case | Row]:
    """All comparisons, small scenes first."""
    peer_known = importlib.util.find_spec("spconv") is not None
    for label, count in SIZES.items():
        voxels = lidar_voxels(count)
        grid = VoxelGrid(voxels.coords, voxels.spatial_shape, 1)
        kernel_map = build_kernel_map(grid, grid, 3, padding=1)
        peer = Spconv(grid.coords, grid.spatial_shape) if peer_known else None
        yield _map_case(label, voxels.coords, grid, peer)
        for channels in WIDTHS:
            layer = Layer.random(grid, channels)
            yield from _layer_cases(f"{label} {channels[0]}->{channels[1]}", layer, kernel_map, peer)
    for label, count in SIZES.items():
        for channels in WIDTHS:
            yield _memory_row(label, count, channels, peer_known)
    yield from _curve()


def _fresh(grid: VoxelGrid) -> VoxelGrid:
    """The same sites without cached maps."""
    return VoxelGrid.from_sites(Sites(grid.coords, grid.spatial_shape, grid.batch_size, None))


def _map_case(label: str, coords: Tensor, grid: VoxelGrid, peer: Spconv | None) -> Case:
    def ours() -> tuple[VoxelGrid, KernelMap]:
        made = VoxelGrid(coords, grid.spatial_shape, 1)
        return made, build_kernel_map(made, made, 3, padding=1)

    def compare(found: tuple[VoxelGrid, KernelMap], expected: tuple[Tensor, Tensor, Tensor]) -> None:
        (made, kernel_map), (_, pairs, counts) = found, expected
        rows = made.order
        for k in range(13):  # spconv lists the offsets before the centre; the rest is their mirror image
            begin, end = int(kernel_map.offsets[k]), int(kernel_map.offsets[k + 1])
            joined = (
                rows[kernel_map.pairs_in[begin:end].long()] * len(rows) + rows[kernel_map.pairs_out[begin:end].long()]
            )
            theirs = pairs[:, k, : int(counts[k])].long()
            assert torch.equal(joined.sort()[0], (theirs[0] * len(rows) + theirs[1]).sort()[0]), f"offset {k} differs"

    return Case(
        case=label,
        what="submanifold map from unsorted coordinates",
        threads=THREADS,
        ours=ours,
        peer_name=PEER if peer else "",
        peer=None if peer is None else functools.partial(peer.rulebook, coords),
        peer_threads=1,
        compare=compare,
    )


def _layer_cases(label: str, layer: Layer, kernel_map: KernelMap, peer: Spconv | None) -> Iterator[Case]:
    x, weight = layer.x, layer.weight
    flops = 2.0 * kernel_map.num_pairs * weight.shape[0] * weight.shape[-1]

    def case(
        what: str, threads: int, ours: Callable[[], Any], theirs: Callable[[Spconv], Any], compare: Any, work: float
    ) -> Case:
        return Case(
            case=label,
            what=what,
            threads=threads,
            ours=ours,
            peer_name=PEER if peer else "",
            peer=None if peer is None else functools.partial(theirs, peer),
            peer_threads=1,
            compare=compare,
            limit="flops" if work else "",
            work=work,
        )

    for threads in (1, THREADS):
        yield case(
            "submanifold forward",
            threads,
            lambda: subm_conv(x, weight).features,
            lambda spconv: spconv.forward(layer),
            close,
            flops,
        )
    features = x.features.detach().requires_grad_()
    trained = weight.detach().requires_grad_()
    out = subm_conv(SparseTensor(features, x.grid), trained).features
    yield case(
        "submanifold backward",
        THREADS,
        lambda: torch.autograd.grad(out, (features, trained), layer.grad, retain_graph=True),
        lambda spconv: spconv.backward(layer),
        close,
        2 * flops,
    )

    def strided() -> SparseTensor:
        return sparse_conv(SparseTensor(x.features, _fresh(x.grid)), weight, stride=2, padding=1)

    def compare_strided(found: SparseTensor, expected: tuple[Tensor, Tensor]) -> None:
        values, sites = expected
        rows = found.grid.rows_of(sites)
        assert len(sites) == len(found.features), f"{len(found.features)} output sites, spconv has {len(sites)}"
        assert bool((rows >= 0).all()), "other output sites than spconv's"
        close(found.features[rows], values)

    yield case(
        "strided forward (k3 s2) with output sites and map",
        THREADS,
        strided,
        lambda spconv: spconv.strided(layer),
        compare_strided,
        0.0,
    )


_MEMORY_SCRIPT = """
import sys, torch
from zoo.benchmark.sparse import Layer, Spconv, forward_backward, peak_memory, VoxelGrid
from zoo.data.lidar_scene import lidar_voxels
who, count, c_in, c_out = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads({threads} if who == "ours" else 1)
small = lidar_voxels(100)
for voxels in (small, lidar_voxels(count)):  # the first round loads code and kernels
    grid = VoxelGrid(voxels.coords, voxels.spatial_shape, 1)
    layer = Layer.random(grid, (c_in, c_out))
    peak = peak_memory(lambda: forward_backward(layer, who))
sys.stdout.write(str(peak))
"""


def forward_backward(layer: Layer, who: str) -> Any:
    """One forward and backward pass with its kernel map, as the memory rows run it."""
    if who == "ours":
        features = layer.x.features.requires_grad_()
        weight = layer.weight.requires_grad_()
        return torch.autograd.grad(
            subm_conv(SparseTensor(features, layer.x.grid), weight).features, (features, weight), layer.grad
        )
    peer = Spconv(layer.x.coords, layer.x.spatial_shape)
    return peer.forward(layer), peer.backward(layer)


def peak_memory(function: Callable[[], Any]) -> int:
    """Largest resident memory during a call above that before it, in bytes (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)  # else freed memory that the process still holds would count as before
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts again from here
    before = _status("VmRSS")
    result = function()
    peak = _status("VmHWM") - before
    del result
    return peak


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name + ":"):
                return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {name}")


def _memory_row(label: str, count: int, channels: tuple[int, int], peer_known: bool) -> Row:
    def peak(who: str) -> float:
        arguments = [who, str(count), *map(str, channels)]
        script = _MEMORY_SCRIPT.format(threads=THREADS)
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=600
        )
        return int(done.stdout) / 2**20

    ours = peak("ours")
    theirs = peak("spconv") if peer_known else None
    return Row(
        GROUP,
        f"{label} {channels[0]}->{channels[1]}",
        "peak memory of map, forward and backward: MiB, not ms",
        THREADS,
        ours,
        PEER if peer_known else "",
        theirs,
        None if theirs is None else theirs / ours,
    )


def _curve() -> Iterator[Row]:
    """Cost of one pair (64->64, density of the 60k scene) as the features outgrow the caches."""
    limits = {threads: measure_limits(threads) for threads in (1, THREADS)}
    first: dict[int, float] = {}
    for count in CURVE:
        voxels = lidar_voxels(count)
        grid = VoxelGrid(voxels.coords, voxels.spatial_shape, 1)
        layer = Layer.random(grid, (64, 64))
        pairs = build_kernel_map(grid, grid, 3, padding=1).num_pairs
        for threads, limit in limits.items():
            case = Case(
                case=f"{count // 1000}k 64->64",
                what="submanifold forward",
                threads=threads,
                ours=lambda layer=layer: subm_conv(layer.x, layer.weight).features,
                limit="flops",
                work=2.0 * pairs * 64 * 64,
                repeats=5,
            )
            row = measure(GROUP, case, limit)
            cost = 1e6 * row.ours_ms / pairs
            first.setdefault(threads, cost)
            what = (
                f"forward, {cost:.1f} ns a pair, {cost / first[threads]:.2f} of 60k ({pairs / count:.2f} pairs a voxel)"
            )
            yield dataclasses.replace(row, what=what)
