"""Points and grids of the surface models, whole encoders, and extraction in a narrow band.

The peers are plain torch (`zoo.benchmark.plain_point_grid`) in that one of its ways that is faster, found by a call of
each before. Both sides have the same inputs and weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from zoo.benchmark.harness import Case, close, fastest
from zoo.benchmark.plain_point_grid import SAMPLERS, Sampler, as_plain, plain_attention, plain_cells, plain_sample
from zoo.models.gridformer.network import GridFormerEncoder, Kind, normalized_projections
from zoo.ops import cell_attention, point_cells, rows_to_grid, sample_point_grid
from zoo.ops.marching_cubes import SurfaceMesh, marching_cubes
from zoo.ops.surface_extraction import evaluate_in_chunks, extract_band

THREADS, PADDING = 2, 0.1
CHANNELS, RESOLUTION = 64, 64
POINTS, QUERIES = 100_000, 50_000
SCORES = CHANNELS // 8
CLOUDS: dict[Kind, tuple[int, int]] = {"planes": (4, 3000), "grid": (1, 10_000)}  # batch, points of the recipes
ENCODER_CHANNELS, ENCODER_REPEATS = 32, 3
CORNERS, EXTRACTION_REPEATS = 256, 3
NAMES: dict[Kind, str] = {"planes": "3 planes of {0}^2", "grid": "volume of {0}^3"}
_TUBE, _RING = 0.15, 0.3  # radii of the torus that clouds and fields are made of


def cases() -> Iterator[Case]:
    """Attention, sampling, encoders, extraction."""
    kinds: tuple[Kind, ...] = ("planes", "grid")
    for kind in kinds:
        yield attention_case(kind)
    for kind in kinds:
        yield sampling_case(kind)
    for kind in kinds:
        yield encoder_case(kind)
    yield extraction_case()


def cloud(batch: int, count: int, seed: int = 0) -> Tensor:
    """Points on a torus, with noise, ``(B, N, 3)``."""
    generator = torch.Generator().manual_seed(seed)
    around, about = (2 * torch.pi * torch.rand(2, batch, count, generator=generator)).unbind(0)
    reach = _RING + _TUBE * about.cos()
    points = torch.stack([reach * around.cos(), _TUBE * about.sin(), reach * around.sin()], dim=-1)
    return points + 0.005 * torch.randn(points.shape, generator=generator)


def _places(kind: Kind, points: Tensor) -> list[Tensor]:
    return [projection.coords for projection in normalized_projections(points, kind, PADDING)]


def attention_case(kind: Kind) -> Case:
    """Cells, softmax, weighed sums and interpolation back at the points, with the gradients to scores and values."""
    generator = torch.Generator().manual_seed(1)
    places = _places(kind, cloud(1, POINTS))
    axes = places[0].shape[2]
    values = torch.randn(POINTS, CHANNELS, generator=generator).requires_grad_()
    scores = [torch.randn(POINTS, SCORES, generator=generator).requires_grad_() for _ in places]
    grad = torch.randn(1, POINTS, CHANNELS, generator=generator)

    def with_gradients(sampled: list[Tensor]) -> list[Tensor]:
        result = torch.stack(sampled).sum(0) if len(sampled) > 1 else sampled[0]
        return [result.detach(), *torch.autograd.grad(result, (values, *scores), grad)]

    def ours() -> list[Tensor]:
        sampled = []
        for coords, score in zip(places, scores, strict=True):
            rows = cell_attention(score, values, point_cells(coords, RESOLUTION))
            sampled.append(sample_point_grid(rows_to_grid(rows, 1, RESOLUTION, axes), coords))
        return with_gradients(sampled)

    def plain(sampler: Sampler) -> list[Tensor]:
        sampled = []
        for coords, score in zip(places, scores, strict=True):
            index = plain_cells(coords, RESOLUTION)
            rows = plain_attention(score, values, index, RESOLUTION**axes)
            sampled.append(plain_sample(rows_to_grid(rows, 1, RESOLUTION, axes), coords, sampler))
        return with_gradients(sampled)

    name, peer = _fastest_sampler(lambda sampler: functools.partial(plain, sampler))
    moved = (6 * POINTS * CHANNELS + 4 * POINTS * SCORES + 4 * RESOLUTION**axes * CHANNELS) * 4 * len(places)
    return Case(
        case=NAMES[kind].format(RESOLUTION),
        what=f"attention and sampling back, forward + backward, {POINTS} points, {CHANNELS} channels",
        threads=THREADS,
        ours=ours,
        peer_name=f"plain torch, {name}",
        peer=peer,
        compare=close,
        limit="copy",
        work=moved / 2,  # a copied byte is read and written
    )


def sampling_case(kind: Kind) -> Case:
    """Interpolation at queries with the gradient to the grid."""
    generator = torch.Generator().manual_seed(2)
    places = _places(kind, 1.1 * torch.rand(1, QUERIES, 3, generator=generator) - 0.55)
    axes = places[0].shape[2]
    shape = (1, *(RESOLUTION,) * axes, CHANNELS)
    grids = [torch.randn(shape, generator=generator).movedim(-1, 1) for _ in places]  # as the decoders leave them
    grad = torch.randn(1, QUERIES, CHANNELS, generator=generator)

    def run(sample: Callable[[Tensor, Tensor], Tensor], leaves: list[Tensor]) -> list[Tensor]:
        sampled = torch.stack([sample(grid, at) for grid, at in zip(leaves, places, strict=True)]).sum(0)
        return [sampled.detach(), *torch.autograd.grad(sampled, leaves, grad)]

    def plain(sampler: Sampler) -> Callable[[], list[Tensor]]:
        copies = [grid.clone() for grid in grids]
        if sampler == "grid_sample":
            copies = [grid.contiguous() for grid in copies]
        leaves = [grid.requires_grad_() for grid in copies]
        return functools.partial(run, lambda grid, at: plain_sample(grid, at, sampler), leaves)

    name, peer = _fastest_sampler(plain)
    return Case(
        case=NAMES[kind].format(RESOLUTION),
        what=f"interpolation at {QUERIES} queries, forward + backward, {CHANNELS} channels",
        threads=THREADS,
        ours=functools.partial(run, sample_point_grid, [grid.clone().requires_grad_() for grid in grids]),
        peer_name=f"plain torch, {name}",
        peer=peer,
        compare=close,
    )


def encoder_case(kind: Kind) -> Case:
    """The paper's encoder in training: forward, and backward from one gradient of all maps."""
    batch, count = CLOUDS[kind]
    points = cloud(batch, count)

    def make(sampler: Sampler | None) -> Callable[[], list[Tensor]]:
        torch.manual_seed(0)
        encoder = GridFormerEncoder(
            kind=kind, channels=ENCODER_CHANNELS, resolution=RESOLUTION, padding=PADDING, aggregation="attention"
        ).train()
        if sampler is not None:
            encoder = as_plain(encoder, sampler)

        def run() -> list[Tensor]:
            encoder.zero_grad()
            maps = [grid for level in encoder(points) for grid in level]
            torch.autograd.backward(maps, [torch.full_like(grid, 1e-3) for grid in maps])
            return [grid.detach() for grid in maps]

        return run

    name, peer = _fastest_sampler(make)
    ours = make(None)
    return Case(
        case=f"encoder, {NAMES[kind].format(RESOLUTION)}",
        what=f"forward + backward, batch {batch}, {count} points; kept for the gradient: "
        f"{kept_megabytes(ours):.0f} MB, peer {kept_megabytes(peer):.0f} MB; time: {where_time_goes(ours)}",
        threads=THREADS,
        ours=ours,
        peer_name=f"plain torch, {name}",
        peer=peer,
        compare=functools.partial(close, rtol=1e-2),
        repeats=ENCODER_REPEATS,
    )


def kept_megabytes(run: Callable[[], object]) -> float:
    """Memory that a call keeps for its gradient: all different storages that autograd saves."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return sum(kept.values()) / 1e6


def where_time_goes(run: Callable[[], object]) -> str:
    """Shares of a call's time in convolutions, linear layers, points and grids, and the rest."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    spent: dict[str, float] = dict.fromkeys(("convolutions", "linear layers", "points and grids", "rest"), 0.0)
    for event in profiler.key_averages():
        spent[_kind_of(event.key)] += event.self_cpu_time_total
    total = sum(spent.values())
    return ", ".join(f"{name} {value / total:.0%}" for name, value in spent.items())


def _kind_of(operator: str) -> str:
    if "conv" in operator:
        return "convolutions"
    if operator in ("aten::addmm", "aten::mm", "aten::bmm"):
        return "linear layers"
    return "points and grids" if operator.startswith("zoo::") else "rest"


def torus_field() -> Callable[[Tensor], Tensor]:
    """Distance to the torus, read by interpolation from a volume of features as decoders do; in units of corners."""
    axis = torch.linspace(-0.55, 0.55, RESOLUTION)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distance = (((x**2 + z**2).sqrt() - _RING) ** 2 + y**2).sqrt() - _TUBE
    mix = torch.linspace(0.5, 1.5, ENCODER_CHANNELS)
    volume = rows_to_grid(distance.reshape(-1, 1) * mix, 1, RESOLUTION, 3)

    def evaluate(corners: Tensor) -> Tensor:
        coords = corners.float() / (CORNERS - 1)
        return sample_point_grid(volume, coords[None])[0].mean(-1)

    return evaluate


def extraction_case() -> Case:
    """The zero level of a field: in a band grown from a cloud, and from all corners."""
    evaluate = torus_field()
    seeds = ((cloud(1, 10_000)[0] / 1.1 + 0.5).clamp(0, 1) * (CORNERS - 1)).round().long()

    def ours() -> SurfaceMesh:
        return extract_band(evaluate, seeds, CORNERS)[0]

    def dense() -> SurfaceMesh:
        steps = torch.arange(CORNERS)
        values = evaluate_in_chunks(evaluate, torch.cartesian_prod(steps, steps, steps))
        return marching_cubes(values.view(CORNERS, CORNERS, CORNERS), 0.0, inside="below")

    asked = sum(extract_band(evaluate, seeds, CORNERS)[1].evaluated)
    return Case(
        case=f"extraction at {CORNERS}^3",
        what=f"narrow band from a cloud: {asked / CORNERS**3:.1%} of the dense queries",
        threads=THREADS,
        ours=ours,
        peer_name="all corners, marching cubes",
        peer=dense,
        compare=same_mesh,
        repeats=EXTRACTION_REPEATS,
    )


def same_mesh(actual: SurfaceMesh, expected: SurfaceMesh) -> None:
    """The same triangles, vertices within a thousandth of a cell."""
    assert actual.faces.shape == expected.faces.shape, (
        f"faces: found {len(actual.faces)}, the peer has {len(expected.faces)}"
    )
    one, other = (_corner_positions(mesh) for mesh in (actual, expected))
    worst = float((one - other).abs().max()) if len(one) else 0.0
    assert worst <= 1e-3, f"vertices: ours differ from the peer's by {worst:.3g} cells"


def _corner_positions(mesh: SurfaceMesh) -> Tensor:
    """Vertices of the triangles in their order."""
    return mesh.vertices[mesh.faces.flatten()]


def _fastest_sampler(make: Callable[[Sampler], Callable[[], list[Tensor]]]) -> tuple[str, Callable[[], list[Tensor]]]:
    return fastest({name: functools.partial(make, name) for name in SAMPLERS}, THREADS)
