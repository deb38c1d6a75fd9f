"""DSVT as graphs: whole for scans of any size, in ONNX parts of fixed sizes, and by the command line."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree

from tests.samples import ROOT, sample_data
from tests.unit.models.test_dsvt import scene, small
from zoo.data.detection import DetectionBatch
from zoo.models.dsvt import DSVT, deployment
from zoo.training.export_boxes import GraphPart, detector_parts, largest_difference, run_onnx, write_onnx
from zoo.training.query_agreement import comparable_queries

TWO_STAGES = {  # voxels, pooled into pillars by attention
    "voxel_size": (0.32, 0.32, 0.5),
    "set_sizes": (6, 6),
    "num_blocks": (1, 1),
    "height_strides": (8,),
    "num_heads": 8,
}


ONE_BLOCK = {
    "num_blocks": (1,),
    "bev_blocks": (0,),
    "bev_strides": (1,),
    "bev_channels": (8,),
    "bev_up_strides": (1,),
    "bev_up_channels": (8,),
}


@functools.cache
def voxel_model() -> DSVT:
    model = small(**TWO_STAGES).eval()
    for module in model.modules():  # statistics that are not those of the start
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    return model


def agree(found, wanted, atol: float = 1e-5) -> None:
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(wanted), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


@torch.no_grad()
def test_the_whole_graph_takes_scans_of_any_size(tmp_path):
    model = voxel_model()
    program = deployment.export_detector(model, scene((300, 200)))
    torch.export.save(program, tmp_path / "detector.pt2")
    loaded = torch.export.load(tmp_path / "detector.pt2").module()
    for batch in (scene((300, 200)), scene((90, 700), seed=1)):
        inputs = deployment.plain(deployment.detector_inputs(model, batch))
        agree(loaded(*inputs), model(batch))


@torch.no_grad()
def test_filling_up_changes_nothing():
    model, batch = voxel_model(), scene((250,))
    exact = deployment.detector_inputs(model, batch)
    sizes = deployment.GraphSizes.around(exact, 1.4)
    inputs = deployment.detector_inputs(model, batch, sizes)
    assert [len(stage.inside[0]) for stage in inputs.stages] == list(sizes.voxels)
    assert inputs.stages[0].sets[0].slots.shape[1] == sizes.sets[0][0] > exact.stages[0].sets[0].slots.shape[1]
    features = deployment.PointEncoder(model.voxel_features)(inputs.points, inputs.voxel, inputs.coords)
    voxels = model.voxel_features(batch.points, batch.point_batch, 1)
    agree(features[: len(voxels.coords)], voxels.features)
    encoded = deployment.SetEncoder(model.backbone)(features, inputs.stages)
    wanted = model.backbone(voxels.features, voxels.coords)[0]
    assert torch.isfinite(encoded).all()
    agree(encoded[: len(wanted)], wanted)


def test_scans_that_do_not_fit_are_refused():
    model = voxel_model()
    sizes = deployment.GraphSizes.around(deployment.detector_inputs(model, scene((50,))), 1.0)
    with pytest.raises(ValueError, match=r"(export with|make) more room"):
        deployment.detector_inputs(model, scene((300,)), sizes)
    with pytest.raises(ValueError, match="expected 1"):
        detector_parts(model, scene((20, 20)), sizes)


def test_onnx_parts_agree_on_another_scan(tmp_path):
    model, batch = small(**ONE_BLOCK).eval(), scene((300,))
    sizes = deployment.GraphSizes.around(deployment.detector_inputs(model, batch), 2.0)
    others = detector_parts(model, scene((340,), seed=3), sizes)
    for part, other in zip(detector_parts(model, batch, sizes), others, strict=True):
        path = tmp_path / f"{part.name}.onnx"
        assert write_onnx(part, path, 18, 1e-4)["largest_difference"] < 1e-4
        with torch.no_grad():
            wanted = pytree.tree_leaves(other.module(*other.inputs))
        found = run_onnx(path, other.inputs)[1]
        assert list(found) == other.outputs
        for value, good in zip(found.values(), wanted, strict=True):
            agree(torch.from_numpy(value)[: other.rows], good[: other.rows], atol=1e-4)


def query_model() -> tuple[DSVT, DetectionBatch]:
    """A TransFusion head, and a scan of which half is empty: most of its peaks are equally hot."""
    model, batch = small("transfusion", **ONE_BLOCK).eval(), scene((60,))
    batch.points[:, 1] = -3.8 + 0.2 * (batch.points[:, 1] + 3.84)
    return model, batch


def test_queries_agree_whatever_decides_between_equal_peaks(tmp_path):
    model, batch = query_model()
    part = detector_parts(model, batch, deployment.GraphSizes.around(deployment.detector_inputs(model, batch), 2.0))[2]
    described = write_onnx(part, tmp_path / "map.onnx", 18, 1e-4)
    compared, all_queries = described["queries_compared"]
    assert 0 < compared <= all_queries == 6
    assert described["largest_difference"] < 1e-4


@torch.no_grad()
def test_queries_are_compared_by_their_peaks():
    model, batch = query_model()
    wanted = model(batch)
    turned = torch.arange(5, -1, -1)
    other = wanted._replace(
        branches={name: value[..., turned] for name, value in wanted.branches.items()},
        query_heat=wanted.query_heat[..., turned],
        query_labels=wanted.query_labels[:, turned],
        query_cells=wanted.query_cells[:, turned],
    )
    found, same = comparable_queries(other, wanted, 1e-4)
    assert largest_difference(found, same) == 0
    assert found[-1].numel() == 6
    other.branches["dim"][0, 0, 2] += 1.0
    assert largest_difference(*comparable_queries(other, wanted, 1e-4)) > 0.1
    peak = wanted.dense_heatmap.clone()
    peak[0, int(wanted.query_labels[0, 0]), *divmod(int(wanted.query_cells[0, 0]), peak.shape[3])] = 9.0
    hot = wanted._replace(dense_heatmap=peak, query_heat=wanted.query_heat.clone())
    hot.query_heat[0, int(wanted.query_labels[0, 0]), 0] = 0.999
    elsewhere = wanted._replace(query_cells=wanted.query_cells.roll(1, 1) + 1)
    with pytest.raises(ValueError, match="is of one runtime only; the other's weakest has"):
        comparable_queries(hot, elsewhere, 1e-4)


def test_a_graph_that_differs_is_refused(tmp_path):
    part = GraphPart("line", torch.nn.Linear(2, 2).eval(), (torch.ones(1, 2),), ["y"], None)
    with pytest.raises(ValueError, match=r"line\.onnx: differs from the model by .*, expected at most tolerance=-1"):
        write_onnx(part, tmp_path / "line.onnx", 18, -1.0)
    assert largest_difference([torch.tensor([torch.nan])], [torch.zeros(1)]) == float("inf")


@pytest.mark.slow
def test_the_tool_on_a_real_frame(tmp_path):
    """Train a step, export, and let the tool compare graphs and model on the frame."""
    frame = sample_data("kitti_frame")

    def tool(name: str, *arguments: str) -> str:
        line = [sys.executable, str(ROOT / "tools" / name), f"paths.output_dir={tmp_path}", *arguments]
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    tool("train.py", "experiment=dsvt_kitti_frame", f"data.source.root={frame}", "trainer.max_steps=1", "test=false")
    scan = next((frame / "training" / "velodyne").glob("*.bin"))
    tool("export.py", "ckpt=last", f"input={scan}", f"output={tmp_path / 'graphs'}")
    described = json.loads((tmp_path / "graphs" / "export.json").read_text())
    assert {path.name for path in (tmp_path / "graphs").iterdir()} == {
        "detector.pt2", "points.onnx", "sets.onnx", "map.onnx", "export.json",
    }  # fmt: skip
    differences = [part["largest_difference"] for kind in ("program", "onnx") for part in described[kind].values()]
    assert len(differences) == 4
    assert max(differences) < 1e-3
