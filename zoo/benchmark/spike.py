"""Event-driven convolution: its curve over densities beside the dense kernel, and whole E-3DSNN networks beside spconv.

A density is the share of spike counts that are not zero. The networks run with random weights and with normalisations
calibrated on the very scan, so that their densities are those of an untrained network; they are stated in the rows. A
spike is a step, so that a rounding error can grow into another spike. Weights and inputs are therefore rounded to
multiples of powers of two, with which sums of weighted spikes are exact in whatever order: ours and spconv then agree
to rounding errors of the last layer. Both run the same modules in one process that keeps its memory (`KEEP_MEMORY`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.benchmark.harness import Case, Row, close, measure
from zoo.benchmark.limits import measure_limits
from zoo.benchmark.sparse import THREADS
from zoo.data.lidar_scene import lidar_voxels
from zoo.models.e3dsnn import E3DSNNSegmentor, e3dsnn_classifier
from zoo.models.layers.spiking import SpikingNeuron
from zoo.ops import (
    KernelMap,
    SparseTensor,
    VoxelGrid,
    apply_kernel_map,
    break_even_density,
    build_kernel_map,
    spike_conv,
    spike_counts,
    use_backend,
)
from zoo.ops.dispatch import REFERENCES
from zoo.ops.kernel_map import ConvGeometry, strided_grid
from zoo.ops.voxel_grid import Sites

GROUP = "spike"
DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
SUBMANIFOLD_WIDTHS = (16, 32, 64, 128, 256)
STRIDED_WIDTHS = (64, 128)
SCAN = 60_000
WIDE_SCAN = 15_000  # wide layers work on coarse levels
Network = Literal["classifier L", "segmentor"]
NETWORKS: tuple[Network, ...] = ("classifier L", "segmentor")
SHIFTS = (0.0, -0.2, -0.25, -0.5)  # of all normalisations: the lower, the fewer spikes
# glibc returns large blocks to the system, whose page faults then cost a network up to a third of its time on CPU.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(8 << 30), "MALLOC_TOP_PAD_": str(256 << 20)}
WEIGHT_STEP, INPUT_STEP = 2.0**-12, 2.0**-6


def cases() -> Iterator[Case | Row]:
    """The curves, one width after the other, then the networks."""
    for channels in SUBMANIFOLD_WIDTHS:
        grid = _scan(SCAN if channels < 256 else WIDE_SCAN)
        kernel_map = build_kernel_map(grid, grid, 3, padding=1)
        yield from _curve(
            f"{len(grid) // 1000}k {channels}->{channels}, submanifold k3", channels, kernel_map, len(grid)
        )
    for channels in STRIDED_WIDTHS:
        grid = _scan(SCAN)
        coarse, kernel_map = strided_grid(grid, ConvGeometry.of(3, 2, 2))
        yield from _curve(f"60k {channels}->{channels}, strided k2 s2", channels, kernel_map, len(grid), len(coarse))
    yield _counts_row()
    for network in NETWORKS:
        for shift in SHIFTS:
            yield _network_row(network, shift)


def _scan(count: int) -> VoxelGrid:
    voxels = lidar_voxels(count)
    return VoxelGrid(voxels.coords, voxels.spatial_shape, 1)


def _curve(label: str, channels: int, kernel_map: KernelMap, num_in: int, num_out: int | None = None) -> Iterator[Row]:
    """One thread, events only, beside the dense kernel, and the density where both take as long."""
    limits = measure_limits(1)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, kernel_map.volume, channels, generator=generator)
    weight /= (kernel_map.volume * channels) ** 0.5
    rows = num_in if num_out is None else num_out
    ratios = []
    for density in DENSITIES:
        events = torch.rand(num_in, channels, generator=generator) < density
        counts = torch.randint(1, 5, events.shape, generator=generator) * events
        features = counts.float()
        row = measure(
            GROUP,
            Case(
                case=label,
                what=f"events at density {density:.0%}",
                threads=1,
                ours=lambda x=features: spike_conv(x, weight, kernel_map, rows, density=1.0),
                peer_name="our dense kernel",
                peer=lambda x=features: apply_kernel_map(x, weight, kernel_map, rows),
                compare=lambda found, expected: close(found, expected, rtol=1e-5),
            ),
            limits,
        )
        assert row.ratio is not None
        ratios.append(row.ratio)
        yield row
    used = break_even_density(channels, channels, kernel_map.num_pairs / num_in)
    what = f"break-even density, where the dense kernel is as fast ({100 * used:.0f} % is used): %, not ms"
    yield Row(GROUP, label, what, 1, 100 * crossing(DENSITIES, ratios))


def _counts_row() -> Row:
    membrane = torch.randn(SCAN, 256, generator=torch.Generator().manual_seed(0))
    case = Case(
        case=f"{SCAN // 1000}k x 256",
        what="counts of membranes",
        threads=THREADS,
        ours=lambda: spike_counts(membrane, 4, half_up=True),
        peer_name="plain torch",
        peer=lambda: REFERENCES["spike_counts"](membrane, 4, True),
        compare=lambda found, expected: close(found, expected, rtol=0),
        limit="copy",
        work=2 * membrane.numel() * membrane.element_size(),
    )
    return measure(GROUP, case, measure_limits(THREADS))


def crossing(densities: Sequence[float], ratios: Sequence[float]) -> float:
    """The density at which the ratio falls below 1, interpolated; 0 or the last density where it is beyond them."""
    if ratios[0] < 1:
        return 0.0
    for k in range(1, len(ratios)):
        if ratios[k] < 1:
            share = (ratios[k - 1] - 1) / (ratios[k - 1] - ratios[k])
            return densities[k - 1] + share * (densities[k] - densities[k - 1])
    return densities[-1]


# ---------------------------------------------------------------------------------------------------- networks

_NETWORK_SCRIPT = """
import dataclasses, json, sys
from zoo.benchmark.spike import compare_network
sys.stdout.write(json.dumps(dataclasses.asdict(compare_network(sys.argv[1], float(sys.argv[2])))))
"""


def _network_row(network: Network, shift: float) -> Row:
    """Measured in a process of its own, since memory is managed by its environment."""
    done = subprocess.run(
        [sys.executable, "-c", _NETWORK_SCRIPT, network, str(shift)],
        env={**os.environ, **KEEP_MEMORY},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=600,
    )
    return Row(**json.loads(done.stdout))


def compare_network(network: Network, shift: float, count: int = SCAN) -> Row:
    """Forward of a network on a scan with its maps, ours beside spconv through the same modules."""
    model, x = calibrated(network, shift, _scan(count))
    densities = spike_densities(model, x)
    mean = sum(densities) / len(densities)

    def run() -> Tensor:
        with torch.no_grad():
            return model(_fresh(x))

    def peer() -> Tensor:
        with use_backend("spconv"):
            return run()

    known = importlib.util.find_spec("spconv") is not None
    case = Case(
        case=f"{count // 1000}k, E-3DSNN {network}",
        what=f"forward with maps, densities {min(densities):.0%} to {max(densities):.0%}, mean {mean:.0%}",
        threads=THREADS,
        ours=run,
        peer_name="spconv, 1 thread" if known else "",
        peer=peer if known else None,
        peer_threads=1,
        compare=lambda found, expected: close(found, expected, rtol=1e-4),
    )
    return measure(GROUP, case, measure_limits(THREADS))


def calibrated(network: Network, shift: float, grid: VoxelGrid) -> tuple[nn.Module, SparseTensor]:
    """A network in eval mode whose normalisations fit the given scan, and its input, exact as the module says."""
    torch.manual_seed(0)
    if network == "segmentor":
        widths = {"enc_channels": (64, 128, 128, 256), "dec_channels": (256,) * 4}  # the published size
        model: nn.Module = E3DSNNSegmentor(**widths, enc_depths=(2, 2, 2, 2))
        channels = 4
    else:
        model, channels = e3dsnn_classifier("L"), 6
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_((parameter / WEIGHT_STEP).round() * WEIGHT_STEP)
        for norm in norms:
            norm.bias.fill_(shift)
            norm.momentum = 1.0
        features = (torch.randn(len(grid), channels) / INPUT_STEP).round() * INPUT_STEP
        x = SparseTensor(features, grid)
        model.train()(_fresh(x))
    return model.eval(), x


def spike_densities(model: nn.Module, x: SparseTensor) -> list[float]:
    """Share of counts other than zero that each neuron passes on."""
    densities: list[float] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        densities.append(float((output != 0).double().mean()))

    handles = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, SpikingNeuron)]
    with torch.no_grad():
        model(_fresh(x))
    for handle in handles:
        handle.remove()
    return densities


def _fresh(x: SparseTensor) -> SparseTensor:
    """The same sites without cached maps."""
    grid = x.grid
    return SparseTensor(x.features, VoxelGrid.from_sites(Sites(grid.coords, grid.spatial_shape, grid.batch_size, None)))
