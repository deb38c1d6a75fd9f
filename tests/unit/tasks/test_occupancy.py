"""Meshes of an analytic network: figures that are known, files, pictures, surfaces that are not found."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.data.occupancy_data import OccupancyBatch
from zoo.metrics.surface import SurfaceScores
from zoo.models.gridformer import occupancy_surface, occupancy_surface_near
from zoo.rendering.mesh import as_trimesh
from zoo.rendering.surface_pictures import UpAxis
from zoo.tasks.occupancy import OccupancyTask
from zoo.tasks.surface_scores import draw_to_compare
from zoo.training.predict_occupancy import surface_of_object, surface_of_scene


class Ball(nn.Module):
    """Finds a ball that is larger than the cloud by ``excess``."""

    padding = 0.1

    def __init__(self, excess: float = 0.0) -> None:
        super().__init__()
        self.excess = excess

    def encode(self, points: Tensor) -> Tensor:
        return points.norm(dim=-1).mean() + self.excess

    def decode(self, maps: Tensor, queries: Tensor) -> Tensor:
        return 40 * (maps - queries.norm(dim=-1))


def _directions(count: int) -> Tensor:
    """Spread evenly over the sphere (Fibonacci's lattice)."""
    place = (torch.arange(count) + 0.5).double()
    height, turn = 1 - 2 * place / count, place * torch.pi * (3 - 5**0.5)
    ring = (1 - height.square()).sqrt()
    return torch.stack([ring * turn.cos(), ring * turn.sin(), height], dim=1).float()


def _batch(name: str, radius: float = 0.3, count: int = 10_000) -> OccupancyBatch:
    normals, queries = _directions(count), torch.rand(1, 500, 3) - 0.5
    surface = (radius * normals)[None]
    return OccupancyBatch((name,), surface[:, ::50], queries, queries.norm(dim=-1) < radius, surface, normals[None])


def _tested(folder: Path, model: nn.Module, batches: list[OccupancyBatch], **options: Any) -> dict[str, float]:
    task = OccupancyTask(model=model, optimizer=partial(torch.optim.SGD, lr=0.1), mesh_samples=5_000, **options)
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    loader: Any = DataLoader(batches, batch_size=None)  # pyright: ignore[reportArgumentType]
    trainer.test(task, loader, verbose=False)
    (section,) = task.report_sections()
    return {name: float(value) for name, value in trainer.callback_metrics.items()} | {
        "pictures": len(section.pictures)
    }


def test_a_surface_too_large_by_a_known_distance(tmp_path: Path) -> None:
    figures = _tested(tmp_path, Ball(0.02), [_batch("balls/a")], mesh_resolution=48)
    assert figures["test/chamfer_l1"] == pytest.approx(0.02, abs=1e-3)
    assert figures["test/chamfer_l1_x10"] == pytest.approx(10 * figures["test/chamfer_l1"])
    assert figures["test/normal_consistency"] > 0.99
    assert figures["test/f_score_0.01"] == 0
    assert figures["test/empty_meshes"] == 0
    assert figures["pictures"] == 1
    mesh = trimesh.load_mesh(tmp_path / "meshes" / "balls" / "a.ply", process=False)
    assert mesh.is_watertight
    assert torch.from_numpy(mesh.vertices).norm(dim=1).numpy() == pytest.approx(0.32, abs=1e-3)
    assert b"nx" in (tmp_path / "meshes" / "balls" / "a.ply").read_bytes()
    assert (mesh.vertex_normals * mesh.vertices).sum(axis=1).min() > 0


def test_figures_are_means_of_class_means_and_count_what_is_not_found(tmp_path: Path) -> None:
    batches = [_batch("balls/a"), _batch("balls/b"), _batch("holes/c")]
    nothing = batches[2]._replace(points=torch.zeros(1, 4, 3))  # a ball of radius 0
    figures = _tested(tmp_path, Ball(), [*batches[:2], nothing], mesh_resolution=48, max_pictures=2)
    assert figures["test/empty_meshes"] == 1
    recall = 1 - math.exp(-5_000 * math.pi * 0.01**2 / (4 * math.pi * 0.3**2))  # that a drawn point is that near
    assert figures["test/f_score_0.01"] == pytest.approx(0.5 * 2 * recall / (1 + recall), abs=0.01)
    assert figures["test/normal_consistency"] == pytest.approx((1 - 1) / 2, abs=0.01)
    assert figures["test/chamfer_l1"] == pytest.approx(3**0.5 / 2, abs=0.01)
    assert {path.name for path in (tmp_path / "meshes").rglob("*.ply")} == {"a.ply", "b.ply"}


def test_without_a_resolution_no_mesh_is_made(tmp_path: Path) -> None:
    figures = _tested(tmp_path, Ball(), [_batch("balls/a")], threshold=0.5)
    assert figures.keys() == {"test/iou", "pictures"}
    assert figures["test/iou"] == 1
    assert not (tmp_path / "meshes").exists()


def test_meshes_need_points_of_the_truth(tmp_path: Path) -> None:
    batch = _batch("balls/a")._replace(surface=None)
    with pytest.raises(ValueError, match="no points of the true surface"):
        _tested(tmp_path, Ball(), [batch], mesh_resolution=16)


def test_the_surface_of_a_steep_function_and_its_refinement() -> None:
    def steep(places: Tensor) -> Tensor:
        return 20 * torch.tanh(80 * (0.41 - places.norm(dim=1))) - 1.0

    level = 1 / (1 + 2.718281828459045)  # logit -1, where the tanh is 0
    errors = []
    for refinements in (0, 12):
        mesh = occupancy_surface(steep, 48, level=level, refinements=refinements, chunk_size=10_000)
        errors.append(float((mesh.vertices.norm(dim=1) - 0.41).abs().max()))
    assert errors[1] < 1e-4 < errors[0] < 0.5 * 1.1 / 48


def test_a_solid_that_leaves_the_cube_is_closed_at_its_border() -> None:
    for refinements in (0, 5):
        surface = occupancy_surface(lambda places: 10 * (places[:, 0] + 0.2), 32, refinements=refinements)
        mesh = trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)
        assert mesh.is_watertight
        assert mesh.bounds == pytest.approx(torch.tensor([[-0.2, -0.55, -0.55], [0.55, 0.55, 0.55]]).numpy(), abs=1e-3)
    assert len(occupancy_surface(lambda places: -torch.ones(len(places)), 33).faces) == 0
    for options in ({"resolution": 0}, {"resolution": 8, "side": 0.0}, {"resolution": 8, "level": 1.0}):
        with pytest.raises(ValueError, match=r"resolution=|level: found"):
            occupancy_surface(lambda places: places[:, 0], **options)


def test_scans_have_figures_of_meshes_only(tmp_path: Path) -> None:
    """Nobody knows what lies inside: there is no intersection over union, not one of nothing."""
    scan = _batch("scenes/a")._replace(queries=torch.zeros(1, 0, 3), occupancy=torch.zeros(1, 0, dtype=torch.bool))
    metrics = _tested(tmp_path, Ball(), [scan], mesh_resolution=32)
    assert "test/iou" not in metrics
    assert metrics["test/chamfer_l1"] < 0.01


def test_far_sides_of_walls_do_not_count() -> None:
    """A room's floor is stored from above; the reconstruction has an underside, and a wall's back."""
    axis = torch.linspace(-0.4, 0.4, 200)
    floor = torch.cartesian_prod(axis, torch.zeros(1), axis)
    slab = trimesh.creation.box(bounds=[[-0.4, -0.05, -0.4], [0.4, 0.0, 0.4]])
    figures = []
    for margin in (None, 0.007):
        scores = SurfaceScores(thresholds=(0.01,))
        drawn, drawn_normals = draw_to_compare(slab, floor, samples=20_000, margin=margin)
        assert drawn.shape == drawn_normals.shape == (20_000, 3)
        scores.update(drawn, floor)
        figures.append(scores.compute())
    assert figures[0]["accuracy"] > 0.02
    assert figures[1]["accuracy"] < 3e-3
    far = slab.copy().apply_translation([0, -3, 0])
    assert len(draw_to_compare(far, floor, samples=100, margin=0.007)[0]) == 0


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_a_cloud_of_any_size_place_and_axis_gets_its_surface_there(up: UpAxis) -> None:
    """The network finds a ball; the cube's frame is undone, and the hat that points up stays up."""
    hat = torch.zeros(3).index_fill_(0, torch.tensor("xyz".index(up)), 1.0)
    seen: list[Tensor] = []

    class Hat(Ball):
        def encode(self, points: Tensor) -> Tensor:
            seen.append(points[0])
            return torch.tensor(0.4)

        def decode(self, maps: Tensor, queries: Tensor) -> Tensor:
            return super().decode(maps, queries - torch.tensor([0.0, 0.1, 0.0]))

    task = OccupancyTask(model=Hat(), optimizer=partial(torch.optim.SGD, lr=0.1), mesh_resolution=32)
    shift = torch.tensor([7.0, -3.0, 50.0])
    cloud = 20 * _directions(4000) + shift
    mesh = surface_of_object(task, cloud, max_points=1000, up=up)
    assert len(seen[0]) == 1000
    assert seen[0].abs().max() == pytest.approx(0.5, abs=0.01)
    middle = shift + 4 * hat  # a tenth of the cloud's longest side
    distance = (torch.from_numpy(mesh.vertices) - middle).norm(dim=1)
    assert distance.numpy() == pytest.approx(16, abs=0.1)
    assert mesh.volume > 0
    assert ((mesh.vertices - middle.numpy()) * mesh.vertex_normals).sum(axis=1).min() > 0
    surface_of_object(task, cloud[cloud[:, 1] < -3], max_points=9999, on_floor=True)
    assert seen[1][:, 1].min() == pytest.approx(-0.5, abs=1e-5)
    assert seen[1][:, 0].mean() == pytest.approx(0.0, abs=0.01)


def test_the_surface_of_a_scene_is_followed_through_all_cubes() -> None:
    """A bar of three cubes' length: each cube sees its part of it."""

    class Bar(nn.Module):
        padding = 0.1

        def encode(self, points: Tensor) -> Tensor:
            return points.mean(dim=1)[0]

        def decode(self, maps: Tensor, queries: Tensor) -> Tensor:
            return 40 * (0.15 - (queries[..., 1:] - maps[1:]).norm(dim=-1))

    task = OccupancyTask(model=Bar(), optimizer=partial(torch.optim.SGD, lr=0.1), mesh_resolution=32)
    along, around = torch.rand(6000, generator=torch.Generator().manual_seed(0)) * 30, torch.arange(6000) * 2.4
    cloud = torch.stack([along, 1.5 * around.cos(), 1.5 * around.sin()], dim=1) + 100
    mesh = surface_of_scene(task, cloud, window=10.0, max_points=5000)
    assert np.ptp(mesh.vertices[:, 0]) > 30
    sides = mesh.vertices[(mesh.vertices[:, 0] > 101) & (mesh.vertices[:, 0] < 129)]
    assert np.hypot(sides[:, 1] - 100, sides[:, 2] - 100) == pytest.approx(1.5, abs=0.1)
    with pytest.raises(ValueError, match="window=0"):
        surface_of_scene(task, cloud, window=0.0, max_points=10)


def test_the_surface_near_a_cloud() -> None:
    def logits(places: Tensor) -> Tensor:
        nearest = torch.minimum((places - 3).norm(dim=1), (places + 3).norm(dim=1))  # two balls of radius 1
        return 9 * (1 - nearest)

    cloud = _directions(500) + 3
    mesh = as_trimesh(occupancy_surface_near(logits, cloud, 0.1, refinements=8))
    assert mesh.is_watertight
    assert mesh.body_count == 1  # no point is near the other
    assert np.linalg.norm(mesh.vertices - 3, axis=1) == pytest.approx(1, abs=1e-3)
    assert len(occupancy_surface_near(lambda places: -torch.ones(len(places)), cloud, 0.1).faces) == 0
    for bad in ({"cloud": cloud[:0], "cell": 0.1}, {"cloud": cloud, "cell": 0.0}, {"cloud": cloud, "cell": 1e-4}):
        with pytest.raises(ValueError, match="cell"):
            occupancy_surface_near(logits, **bad)
