"""Golden cases of surface extraction and surface metrics, which GridFormer and GridPull share."""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from scipy.spatial import KDTree
from torch import Tensor

from tests.parity.cases import Case, assert_close, sort_rows
from zoo.metrics.surface import chamfer_l1, chamfer_l2, f_score, normal_consistency, occupancy_iou, surface_distances
from zoo.ops.surface_extraction import extract_band, mise

__all__ = ["SURFACE_HANDLERS", "check_mesh_extract", "check_metrics", "check_mise"]


def _torus(points: Tensor, major: float, minor: float) -> Tensor:
    return minor - torch.hypot(torch.hypot(points[:, 0], points[:, 2]) - major, points[:, 1])


def check_mise(case: Case) -> None:
    """Which corners are asked for in each round, and the filled grid."""
    config = case.config
    final = config["resolution_0"] << config["depth"]
    assert final == config["final_resolution"]

    def field(index: Tensor) -> Tensor:
        points = 1.1 * (index.double() / final - 0.5)
        if config["shape"] == "torus":
            return 20 * _torus(points, 0.3, 0.1)
        return 20 * (0.35 - (points - points.new_tensor([0.03, -0.02, 0.01])).norm(dim=-1))

    found = mise(field, config["resolution_0"], config["depth"], config["threshold"])
    assert [len(asked) for asked in found.rounds] == case["output/query_counts"].tolist()
    assert torch.equal(found.rounds[0], case["output/query_round0"])
    expected = case["output/query_round1"]
    assert torch.equal(found.rounds[1], expected[sort_rows(expected)])
    assert_close(found.values, case["output/dense"], atol=1e-5, rtol=1e-5, what="dense")


def check_mesh_extract(case: Case) -> None:
    """How many positions each round asks for, and the mesh."""
    config, points = case.config, case["input/points"]
    step = (points.max() - points.min()) / (config["resolution"] - 1)
    pad = config["padding_cells"]
    origin = points.min() - step
    asked: list[int] = []

    def field(index: Tensor) -> Tensor:
        asked.append(len(index))
        world = index.double() * step.double() + origin.double()
        if config["shape"] == "torus":
            signed = _torus(world, 0.3, 0.12)
        else:
            signed = 0.4 - (world - world.new_tensor([0.01, 0.02, -0.03])).norm(dim=-1)
        return 1 - 2 * torch.sigmoid(40 * signed)

    seeds = ((points - points.min()) / step + pad).floor().long()
    mesh, _ = extract_band(field, seeds, config["resolution"] + 2 * pad, refine_iterations=config["refine_iterations"])
    assert asked == case["output/eval_counts"].tolist()
    vertices = (mesh.vertices.double() * step.double() + origin.double()).numpy()
    expected = case["output/vertices"].double().numpy()
    assert vertices.shape == expected.shape
    for a, b in ((vertices, expected), (expected, vertices)):
        assert KDTree(b).query(a)[0].max() <= case.meta["tolerance"]["vertex_atol"]
    solid = trimesh.Trimesh(vertices, mesh.faces.numpy(), process=False)
    assert solid.is_watertight == config["watertight"]
    np.testing.assert_allclose(abs(solid.volume), config["signed_volume"], rtol=1e-4)


def check_metrics(case: Case) -> None:
    """Each figure under upstream's name."""
    tensors = [case[f"input/{name}"] for name in ("pred_points", "gt_points", "pred_normals", "gt_normals")]
    found = surface_distances(*tensors)
    assert found.accuracy_cosine is not None
    assert found.completeness_cosine is not None
    few = surface_distances(tensors[0][:400], tensors[1][:400])
    figures = {
        "completeness": found.completeness.mean(),
        "accuracy": found.accuracy.mean(),
        "completeness2": found.completeness.square().mean(),
        "accuracy2": found.accuracy.square().mean(),
        "normals_completeness": found.completeness_cosine.mean(),
        "normals_accuracy": found.accuracy_cosine.mean(),
        "normals": normal_consistency(found),
        "chamfer-L1": chamfer_l1(found),
        "chamfer-L2": chamfer_l2(found),
        "f-score": f_score(found, 0.01),
        "f-score-15": f_score(found, 0.015),
        "f-score-20": f_score(found, 0.02),
        "chamfer_sq_batch": 2 * chamfer_l2(few),
        "iou": occupancy_iou(case["input/occ1"], case["input/occ2"]),
    }
    assert set(figures) == set(case.group("output"))
    for name, value in figures.items():
        expected = case[f"output/{name}"]
        assert_close(value.reshape(expected.shape), expected, **case.meta["tolerance"], what=name)


SURFACE_HANDLERS = {"metrics": check_metrics, "mise": check_mise, "mesh_extract": check_mesh_extract}
