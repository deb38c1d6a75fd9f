"""DSVT in graphs for other runtimes: what depends on where voxels lie is computed outside and comes in as tensors.

A graph can neither sort nor count, so that voxels, windows, sets and pooling regions are made by `detector_inputs`;
what is left are linear layers, norms, attention, convolutions and gathers. `DetectorGraph` is all of it for
``torch.export``, with any number of points, voxels and sets. For ONNX there are three parts, of sizes that are fixed
beforehand (`GraphSizes`): `PointEncoder`, `SetEncoder` and `MapDetector`. Between the last two,
`DSVTBackbone.to_map` puts the voxels on the map.

Rows that fill up to a fixed size: points of zeros in the last voxel, voxels alone in no set, pooling regions that no
voxel of the scan is in. The last voxel, and the last region of a pooled stage, must therefore be empty.

Axis order: as in `zoo.models.dsvt.detector`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.data.detection import DetectionBatch
from zoo.models.dsvt.backbone import DSVTBackbone, PoolingRegions, StageGeometry, pooling_regions
from zoo.models.dsvt.detector import DSVT
from zoo.models.dsvt.voxel_features import DynamicVoxelFeatures
from zoo.ops import SlotSets, slot_sets


class StageInputs(NamedTuple):
    """Where the voxels of a stage lie, and into which regions they are pooled behind it."""

    inside: tuple[Tensor, Tensor]  # (N, 3) int64 each: coordinates in the windows of shift 0 and 1
    sets: tuple[SlotSets, ...]  # of the shifts that blocks of the stage use, in their order
    regions: PoolingRegions | None  # None behind the last stage


class DetectorInputs(NamedTuple):
    """What `DetectorGraph` takes."""

    points: Tensor  # (P, F + 6), as the first layer of the voxel features sees them
    voxel: Tensor  # (P,) int64
    coords: Tensor  # (N, 4) int32: b, x, y, z
    stages: tuple[StageInputs, ...]


class GraphSizes(NamedTuple):
    """Numbers of rows that a graph of fixed sizes has room for."""

    points: int
    voxels: tuple[int, ...]  # of every stage
    sets: tuple[tuple[int, ...], ...]  # of every stage, for every shift in use

    @classmethod
    def around(cls, inputs: DetectorInputs, room: float = 1.5) -> GraphSizes:
        """Sizes with ``room`` times what these inputs have, and at least one row more."""

        def larger(size: int) -> int:
            return max(size + 1, int(size * room))

        return cls(
            larger(len(inputs.points)),
            tuple(larger(len(stage.inside[0])) for stage in inputs.stages),
            tuple(tuple(larger(sets.slots.shape[1]) for sets in stage.sets) for stage in inputs.stages),
        )


@torch.no_grad()
def detector_inputs(model: DSVT, batch: DetectionBatch, sizes: GraphSizes | None = None) -> DetectorInputs:
    """Group points into voxels, and voxels into windows, sets and pooling regions.

    Args:
        model: The detector.
        batch: Its input.
        sizes: Fill up to these; None: as the batch has them.

    Raises:
        ValueError: The batch needs more room than the sizes give.
    """
    grouped = model.voxel_features.group(batch.points, batch.point_batch, batch.batch_size)
    backbone, coords = model.backbone, grouped.coords
    stages = []
    for number, stage in enumerate(backbone.stages):
        found = stage.partition(coords)  # type: ignore[operator]
        regions = None
        if number < len(backbone.strides):
            regions = pooling_regions(coords, backbone.shapes[number], backbone.strides[number])
        stages.append(_stage_inputs(found, regions, sizes, number))
        if regions is not None:
            coords = regions.coords
    points, voxel, coords = grouped.points, grouped.voxel, grouped.coords
    if sizes is not None:
        points = _filled("points", points, sizes.points, 0)
        voxel = _filled("points", voxel, sizes.points, sizes.voxels[0] - 1)
        coords = _filled("voxels", coords, sizes.voxels[0], 0, spare=1)
    return DetectorInputs(points, voxel, coords, tuple(stages))


def _stage_inputs(
    geometry: StageGeometry, regions: PoolingRegions | None, sizes: GraphSizes | None, number: int
) -> StageInputs:
    if sizes is None:
        return StageInputs(geometry.inside, tuple(slot_sets(sets) for sets in geometry.sets.values()), regions)  # type: ignore[arg-type]
    rows = sizes.voxels[number]
    first, second = (_filled(f"voxels of stage {number}", inside, rows, 0) for inside in geometry.inside)
    sets = tuple(
        slot_sets(some, num_rows=rows, num_sets=room)  # type: ignore[arg-type]
        for some, room in zip(geometry.sets.values(), sizes.sets[number], strict=True)
    )
    if regions is not None:
        pooled = sizes.voxels[number + 1]
        regions = PoolingRegions(
            _filled(f"voxels of stage {number + 1}", regions.coords, pooled, 0, spare=1),
            _filled("voxels", regions.region, rows, pooled - 1),
            _filled("voxels", regions.slot, rows, 0),
        )
    return StageInputs((first, second), sets, regions)


def _filled(what: str, rows: Tensor, size: int, value: int, *, spare: int = 0) -> Tensor:
    """Rows and then such of one value, ``size`` in all."""
    missing = size - len(rows)
    if missing < spare:
        raise ValueError(f"sizes: found {len(rows)} {what} and room for {size - spare}; export with more room")
    return functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, missing), value=value)


class PointEncoder(nn.Module):
    """The layers of the voxel features."""

    def __init__(self, voxel_features: DynamicVoxelFeatures) -> None:
        super().__init__()
        self.voxel_features = voxel_features

    def forward(self, points: Tensor, voxel: Tensor, coords: Tensor) -> Tensor:
        """Described points (P, F + 6) in voxels (P,) to features (N, C) of the voxels (N, 4)."""

        def maximum(hidden: Tensor) -> Tensor:
            empty = hidden.new_zeros(coords.shape[0], hidden.shape[1])  # nothing is below zero behind a ReLU
            return empty.scatter_reduce(0, voxel[:, None].expand_as(hidden), hidden, "amax")

        return self.voxel_features.encode(points, voxel, maximum)


class SetEncoder(nn.Module):
    """The sparse backbone: attention within sets that are given, and pooling between the stages."""

    def __init__(self, backbone: DSVTBackbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, features: Tensor, stages: Sequence[StageInputs]) -> Tensor:
        """Features (N, C) of the first stage's voxels to those of the last one's."""
        for number, (stage, given) in enumerate(zip(self.backbone.stages, stages, strict=True)):
            shifts = sorted({block.shift for block in stage.blocks})  # type: ignore[union-attr]
            geometry = StageGeometry(given.inside, dict(zip(shifts, given.sets, strict=True)))
            features = stage.attend(features, geometry)  # type: ignore[operator]
            if given.regions is not None:
                features = self.backbone.pools[number](features, given.regions)
        return features


class MapDetector(nn.Module):
    """The map's backbone and the head, up to its raw maps."""

    def __init__(self, model: DSVT) -> None:
        super().__init__()
        self.bev_backbone, self.head = model.bev_backbone, model.head

    def forward(self, bird_eye: Tensor) -> Any:
        """A map (B, C, Y, X) to what the head returns."""
        return self.head(self.bev_backbone(bird_eye))


class DetectorGraph(nn.Module):
    """The whole forward pass of a detector on `DetectorInputs`, for ``torch.export``.

    Args:
        model: The detector.
        batch_size: Samples of a batch, the one number that is fixed.
    """

    def __init__(self, model: DSVT, batch_size: int = 1) -> None:
        super().__init__()
        self.points, self.sets, self.map = (
            PointEncoder(model.voxel_features),
            SetEncoder(model.backbone),
            MapDetector(model),
        )
        self.batch_size = batch_size

    def forward(self, points: Tensor, voxel: Tensor, coords: Tensor, stages: tuple[Any, ...]) -> Any:
        """The fields of `DetectorInputs`, as `plain` makes them, to what the head returns."""
        stages = tuple(_stage_from_plain(stage) for stage in stages)
        features = self.sets(self.points(points, voxel, coords), stages)
        bird_eye = self.sets.backbone.to_map(features, last_coords(coords, stages), self.batch_size)
        return plain(self.map(bird_eye))


def plain(nest: Any) -> Any:
    """Named tuples as tuples, at any depth: a saved graph loads without this package."""
    if isinstance(nest, dict):
        return {name: plain(value) for name, value in nest.items()}
    if isinstance(nest, list):
        return [plain(value) for value in nest]
    return tuple(plain(value) for value in nest) if isinstance(nest, tuple) else nest


def _stage_from_plain(stage: tuple[Any, ...]) -> StageInputs:
    inside, sets, regions = stage
    return StageInputs(
        inside, tuple(SlotSets(*some) for some in sets), None if regions is None else PoolingRegions(*regions)
    )


def last_coords(coords: Tensor, stages: Sequence[StageInputs]) -> Tensor:
    """Coordinates of the last stage's voxels."""
    for stage in stages:
        coords = coords if stage.regions is None else stage.regions.coords
    return coords


def dynamic_shapes(inputs: DetectorInputs) -> tuple[Any, ...]:
    """Which sizes of `DetectorInputs` vary from scan to scan, for ``torch.export``: rows, slots and sets."""
    rows = {0: torch.export.Dim.DYNAMIC}
    sets = {1: torch.export.Dim.DYNAMIC}
    stages = tuple(
        StageInputs(
            (rows, rows),  # type: ignore[arg-type]
            tuple(SlotSets(sets, sets, sets) for _ in stage.sets),  # type: ignore[arg-type]
            None if stage.regions is None else PoolingRegions(rows, rows, rows),  # type: ignore[arg-type]
        )
        for stage in inputs.stages
    )
    return rows, rows, rows, stages


def export_detector(model: DSVT, batch: DetectionBatch) -> torch.export.ExportedProgram:
    """The whole forward pass on `DetectorInputs` as a graph, for scans of any size and as many samples as here.

    Args:
        model: The detector, in evaluation.
        batch: Any input with at least two voxels in two sets: sizes of 0 and 1 are not general.
    """
    inputs = detector_inputs(model, batch)
    graph = DetectorGraph(model, batch.batch_size).eval()
    with torch.no_grad():
        return torch.export.export(graph, plain(inputs), dynamic_shapes=plain(dynamic_shapes(inputs)))
