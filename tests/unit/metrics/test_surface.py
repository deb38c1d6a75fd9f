"""Surface metrics against formulas written out, Open3D and trimesh."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from tests import samples
from zoo.metrics.mesh_distance import boundary_points, distance_to_mesh
from zoo.metrics.surface import (
    SurfaceScores,
    chamfer_l1,
    chamfer_l1_x10,
    chamfer_l2,
    f_score,
    normal_consistency,
    occupancy_iou,
    surface_distances,
)


def _cloud(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, generator=generator), torch.randn(count, 3, generator=generator)


def test_figures_against_all_pairs() -> None:
    (p, p_normals), (t, t_normals) = _cloud(300, 0), _cloud(200, 1)
    found = surface_distances(p, t, p_normals, t_normals)
    pairs = torch.cdist(p.double(), t.double())
    accuracy, completeness = pairs.amin(1), pairs.amin(0)
    assert chamfer_l1(found).item() == pytest.approx((accuracy.mean() + completeness.mean()).item() / 2)
    assert chamfer_l1_x10(found).item() == pytest.approx(10 * chamfer_l1(found).item())
    assert chamfer_l2(found).item() == pytest.approx(
        (accuracy.square().mean() + completeness.square().mean()).item() / 2
    )
    unit = [torch.nn.functional.normalize(n.double(), dim=1) for n in (p_normals, t_normals)]
    cosines = (unit[0] @ unit[1].T).abs()
    first, second = cosines[torch.arange(300), pairs.argmin(1)], cosines[pairs.argmin(0), torch.arange(200)]
    assert normal_consistency(found).item() == pytest.approx((first.mean() + second.mean()).item() / 2)
    by_component = normal_consistency(surface_distances(p, t, p_normals, t_normals, componentwise=True))
    assert by_component > normal_consistency(found)
    precision, recall = (accuracy <= 0.05).double().mean(), (completeness <= 0.05).double().mean()
    assert f_score(found, 0.05).item() == pytest.approx((2 * precision * recall / (precision + recall)).item())
    assert f_score(found, 1e-9).item() == 0


def test_distances_agree_with_open3d() -> None:
    open3d = samples.open3d()
    p, t = _cloud(500, 2)[0].double(), _cloud(400, 3)[0].double()
    clouds = [open3d.geometry.PointCloud(open3d.utility.Vector3dVector(x.numpy())) for x in (p, t)]
    found = surface_distances(p, t)
    for ours, theirs in (
        (found.accuracy, clouds[0].compute_point_cloud_distance(clouds[1])),
        (found.completeness, clouds[1].compute_point_cloud_distance(clouds[0])),
    ):
        np.testing.assert_allclose(ours.numpy(), np.asarray(theirs), atol=1e-9)


def test_each_figure_agrees_with_open3d() -> None:
    """Its nearest neighbours and distances, put together as Occupancy Networks' evaluation does."""
    open3d = samples.open3d()
    (p, p_normals), (t, t_normals) = ((x.double(), n.double()) for x, n in (_cloud(500, 5), _cloud(400, 6)))
    found = surface_distances(p, t, p_normals, t_normals)
    clouds = [open3d.geometry.PointCloud(open3d.utility.Vector3dVector(x.numpy())) for x in (p, t)]
    for cloud, normals in zip(clouds, (p_normals, t_normals), strict=True):
        cloud.normals = open3d.utility.Vector3dVector(normals.numpy())
        cloud.normalize_normals()
    distances = [np.asarray(a.compute_point_cloud_distance(b)) for a, b in (clouds, clouds[::-1])]
    cosines = []
    for own, other in (clouds, clouds[::-1]):
        tree = open3d.geometry.KDTreeFlann(other)
        rows = [tree.search_knn_vector_3d(point, 1)[1][0] for point in own.points]
        cosines.append(np.abs((np.asarray(own.normals) * np.asarray(other.normals)[rows]).sum(axis=1)).mean())
    assert chamfer_l1(found).item() == pytest.approx((distances[0].mean() + distances[1].mean()) / 2)
    assert chamfer_l2(found).item() == pytest.approx(((distances[0] ** 2).mean() + (distances[1] ** 2).mean()) / 2)
    assert normal_consistency(found).item() == pytest.approx(sum(cosines) / 2)
    precision, recall = ((d <= 0.06).mean() for d in distances)
    assert f_score(found, 0.06).item() == pytest.approx(2 * precision * recall / (precision + recall))


def test_distance_to_a_mesh_agrees_with_trimesh() -> None:
    ring = trimesh.creation.torus(0.35, 0.13, major_sections=24, minor_sections=12)
    points = _cloud(100, 7)[0].double() - 0.5
    places, expected, _ = trimesh.proximity.closest_point_naive(ring, points.numpy())
    distance, found = distance_to_mesh(points, ring, samples=40_000)
    np.testing.assert_allclose(distance.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(found.numpy(), places, atol=1e-6)


def test_distance_to_a_mesh_agrees_with_open3d_and_a_formula() -> None:
    open3d = samples.open3d()
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    points = _cloud(400, 4)[0].double() * 2 - 1
    distance, places = distance_to_mesh(points, ball, samples=40_000)
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        open3d.core.Tensor(np.asarray(ball.vertices, dtype=np.float32)),
        open3d.core.Tensor(np.asarray(ball.faces, dtype=np.uint32)),
    )
    expected = scene.compute_distance(open3d.core.Tensor(points.numpy().astype(np.float32))).numpy()
    np.testing.assert_allclose(distance.numpy(), expected, atol=2e-6)
    np.testing.assert_allclose((places - points).norm(dim=1).numpy(), distance.numpy())
    assert (distance - (points.norm(dim=1) - 0.5).abs()).abs().max() < 0.01


def test_rims_are_found() -> None:
    assert len(boundary_points(trimesh.creation.box())) == 0
    triangle = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    rim = boundary_points(triangle, per_edge=5)
    assert len(rim) == 15
    assert distance_to_mesh(rim, triangle, samples=1000)[0].max() < 1e-12


def test_iou() -> None:
    first, second = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]).bool(), torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    assert occupancy_iou(first, second).tolist() == pytest.approx([1 / 3, 1.0])
    with pytest.raises(ValueError, match="predicted, target"):
        occupancy_iou(first, second[0])


def test_iou_of_boxes_agrees_with_trimesh_volumes() -> None:
    a, b = trimesh.creation.box(), trimesh.creation.box().apply_translation([0.25, 0, 0])
    axis = (torch.arange(64) + 0.5) / 64 * 2 - 1
    points = torch.cartesian_prod(axis, axis, axis)
    inside = [((points - torch.tensor(box.centroid)).abs() <= 0.5).all(1) for box in (a, b)]
    shared = trimesh.creation.box(extents=[0.75, 1, 1]).volume
    expected = shared / (a.volume + b.volume - shared)
    assert occupancy_iou(*inside).item() == pytest.approx(expected, abs=0.02)


def test_scores_are_means_of_class_means() -> None:
    scores = SurfaceScores(thresholds=(0.5,))
    here = torch.zeros(1, 3)
    scores.update(here, here, category=0)
    scores.update(here, here, category=0)
    scores.update(here, torch.tensor([[0.0, 0.0, 2.0]]), category=1)
    values = scores.compute()
    assert values["chamfer_l1"].item() == pytest.approx(1.0)
    assert values["f_score_0.5"].item() == pytest.approx(0.5)
    assert math.isnan(values["normal_consistency"].item())


def test_a_missing_surface_counts() -> None:
    scores = SurfaceScores(thresholds=(0.5,))
    scores.update(torch.zeros(0, 3), torch.zeros(4, 3))
    values = scores.compute()
    assert values["chamfer_l1"].item() == pytest.approx(3**0.5)
    assert values["normal_consistency"].item() == -1
    assert values["f_score_0.5"].item() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(0, 3), torch.zeros(1, 3)), "predicted"),
        ((torch.zeros(1, 3), torch.zeros(1, 2)), "target"),
        ((torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(2, 3)), "predicted_normals"),
        ((torch.full((1, 3), float("nan")), torch.zeros(1, 3)), "finite"),
    ],
)
def test_bad_input(arguments: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        surface_distances(*arguments)
