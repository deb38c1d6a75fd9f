"""``tools/export.py`` for detectors: graphs of DSVT for ``torch.export`` and ONNX, checked on a scan."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from zoo.data.detection import DetectionBatch, collate_detection
from zoo.data.detection_data import DetectionData
from zoo.files import atomic_path, write_json
from zoo.models.dsvt.deployment import (
    GraphSizes,
    MapDetector,
    PointEncoder,
    SetEncoder,
    detector_inputs,
    export_detector,
    last_coords,
    plain,
)
from zoo.models.dsvt.detector import DSVT
from zoo.models.dsvt.transfusion_head import QueryPredictions
from zoo.tasks.detection import DetectionTask
from zoo.training.configuration import load_run
from zoo.training.predict_boxes import read_cloud_frame
from zoo.training.query_agreement import comparable_queries
from zoo.training.run_folder import find_checkpoint

__all__ = [
    "GraphPart",
    "detector_parts",
    "export_files",
    "largest_difference",
    "run_onnx",
    "write_onnx",
    "write_program",
]

log = logging.getLogger(__name__)


class GraphPart(NamedTuple):
    """A module with inputs of the sizes that its graph has, and the rows of the output that say something."""

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    outputs: list[str]  # names
    rows: int | None  # of the outputs' first axis; None: all


def export_files(cfg: DictConfig) -> Path:
    """Export as ``zoo/configs/export.yaml`` describes and return the folder that was written.

    Raises:
        ValueError: No scan, no DSVT, or a graph that does not agree with the model.
        FileNotFoundError: ``ckpt`` names nothing.
        ImportError: ONNX was asked for and the extra ``export`` is not installed.
    """
    if cfg.input is None:
        raise ValueError("input: found nothing, expected a .bin, .ply or .pcd file to check the graphs on")
    checkpoint = find_checkpoint(cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name)
    _, parts = load_run(checkpoint, list(cfg.overrides))
    task, data = parts.task, parts.data
    model = getattr(task, "model", None)
    if not isinstance(task, DetectionTask) or not isinstance(data, DetectionData) or not isinstance(model, DSVT):
        raise ValueError(f"ckpt={cfg.ckpt}: holds a {type(model).__name__}, expected a DSVT; others have no export yet")
    frame = read_cloud_frame(Path(cfg.input), data)
    batch = collate_detection([data.evaluated(frame).sample(frame.frame_id)])
    folder = Path(cfg.output) if cfg.output else checkpoint.resolve().parents[1] / "export"
    described: dict[str, Any] = {"checked_on": str(cfg.input), "tolerance": cfg.tolerance}
    if cfg.program:
        described["program"] = {"detector.pt2": write_program(model, batch, folder / "detector.pt2", cfg.tolerance)}
    if cfg.onnx:
        sizes = GraphSizes.around(detector_inputs(model, batch), cfg.room)
        described["sizes"] = sizes._asdict()
        described["onnx"] = {
            f"{part.name}.onnx": write_onnx(part, folder / f"{part.name}.onnx", cfg.opset, cfg.tolerance)
            for part in detector_parts(model, batch, sizes)
        }
    write_json(folder / "export.json", described)
    return folder


def write_program(model: DSVT, batch: DetectionBatch, path: Path, tolerance: float) -> dict[str, Any]:
    """Write the whole forward pass for ``torch.export.load`` and compare what was written with the model.

    Raises:
        ValueError: They do not agree.
    """
    program = export_detector(model, batch)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file)
    loaded = torch.export.load(path).module()
    with torch.no_grad():
        found, wanted = loaded(*plain(detector_inputs(model, batch))), model(batch)
    return _agreeing(path.name, pytree.tree_leaves(found), wanted, tolerance)


@torch.no_grad()
def detector_parts(model: DSVT, batch: DetectionBatch, sizes: GraphSizes) -> list[GraphPart]:
    """The parts that become ONNX graphs, with inputs made of a batch of one sample.

    Raises:
        ValueError: More samples, or sizes too small for this one.
    """
    if batch.batch_size != 1:
        raise ValueError(f"batch: found {batch.batch_size} samples, expected 1")
    exact = detector_inputs(model, batch)
    inputs = detector_inputs(model, batch, sizes)
    points, sets = PointEncoder(model.voxel_features).eval(), SetEncoder(model.backbone).eval()
    features = points(inputs.points, inputs.voxel, inputs.coords)
    coords = last_coords(exact.coords, exact.stages)
    encoded = sets(features, inputs.stages)[: len(coords)]
    bird_eye = model.backbone.to_map(encoded, coords, 1).contiguous()
    detector = MapDetector(model).eval()
    maps = pytree.tree_flatten_with_path(plain(detector(bird_eye)))[0]
    names = ["_".join(re.findall(r"\w+", pytree.keystr(path))) for path, _ in maps]  # [0]['hm'] becomes 0_hm
    return [
        GraphPart("points", points, (inputs.points, inputs.voxel, inputs.coords), ["features"], len(exact.coords)),
        GraphPart("sets", sets, (features, inputs.stages), ["encoded"], len(coords)),
        GraphPart("map", detector, (bird_eye,), names, None),
    ]


def write_onnx(part: GraphPart, path: Path, opset: int, tolerance: float) -> dict[str, Any]:
    """Write a part as ONNX, run it with onnxruntime and compare it with the module.

    Returns:
        Names and shapes of inputs and outputs, the largest relative difference, and of queries how many were compared.

    Raises:
        ImportError: The extra ``export`` is not installed.
        ValueError: They do not agree.
    """
    try:
        import onnxruntime  # noqa: F401 # asked for here, so that nothing is written without a check
        import onnxscript  # noqa: F401 # torch's exporter needs it
    except ImportError as error:
        raise ImportError(f"{error.name}: not installed; pip install 'voxelzoo[export]', or onnx=false") from error
    with torch.no_grad():
        wanted = part.module(*part.inputs)
        program = torch.onnx.export(
            part.module,
            part.inputs,
            dynamo=True,
            opset_version=opset,
            output_names=part.outputs,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        program.save(temporary, external_data=False)
    names, outputs = run_onnx(path, part.inputs)
    found = [torch.from_numpy(value) for value in outputs.values()]
    agreement = _agreeing(path.name, found, wanted, tolerance, part.rows)
    return {"inputs": names, "outputs": {name: list(value.shape) for name, value in outputs.items()}, **agreement}


def run_onnx(path: Path, inputs: Sequence[Any]) -> tuple[dict[str, list[int]], dict[str, Any]]:
    """Shapes of the graph's inputs and arrays of its outputs by name, from nested tensors in the module's order.

    Raises:
        ValueError: The graph has another number of inputs.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tensors = [leaf for leaf in pytree.tree_leaves(tuple(inputs)) if isinstance(leaf, Tensor)]
    expected = session.get_inputs()
    if len(expected) != len(tensors):
        raise ValueError(f"{path.name}: found {len(expected)} inputs, expected {len(tensors)}")
    feed = {node.name: tensor.numpy() for node, tensor in zip(expected, tensors, strict=True)}
    names = [node.name for node in session.get_outputs()]
    arrays = dict(zip(names, session.run(names, feed), strict=True))
    return {name: list(value.shape) for name, value in feed.items()}, arrays


def largest_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Largest difference of an output, relative to its largest value or to 1; infinite where not finite."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        if not one.numel():
            continue
        difference = (one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1.0)
        worst = max(worst, float(difference.nan_to_num(torch.inf)))
    return worst


def _agreeing(
    name: str, found: Sequence[Tensor], wanted: Any, tolerance: float, rows: int | None = None
) -> dict[str, Any]:
    """The largest difference of a graph's outputs from what the module gives, and how many queries were compared."""
    agreement: dict[str, Any] = {}
    leaves, structure = pytree.tree_flatten(wanted)
    if isinstance(wanted, QueryPredictions):
        found, leaves = comparable_queries(pytree.tree_unflatten(found, structure), wanted, tolerance)
        agreement["queries_compared"] = [leaves[-1].numel(), wanted.query_labels.numel()]
    difference = largest_difference([part[:rows] for part in found], [part[:rows] for part in leaves])
    if difference > tolerance:
        raise ValueError(f"{name}: differs from the model by {difference:.2e}, expected at most tolerance={tolerance}")
    log.info("%s: differs from the model by %.1e at most", name, difference)
    return {"largest_difference": difference, **agreement}
