"""Marching cubes, MISE and the narrow band."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import Tensor

from zoo.ops.marching_cubes import SurfaceMesh, largest_component, marching_cubes
from zoo.ops.surface_extraction import evaluate_in_chunks, extract_band, march_band, mise


def _ball(points: Tensor, edge: int, radius: float = 0.31) -> Tensor:
    """Signed distance in units of the cube's edge."""
    return (points.double() / (edge - 1) - torch.tensor([0.5, 0.48, 0.53]).double()).norm(dim=-1) - radius


def _corners(edge: int) -> Tensor:
    axis = torch.arange(edge)
    return torch.cartesian_prod(axis, axis, axis)


def _dense(edge: int) -> Tensor:
    return _ball(_corners(edge), edge).float().view(edge, edge, edge)


def _solid(mesh: SurfaceMesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


@pytest.mark.parametrize("inside", ["above", "below"])
def test_orientation_and_normals(inside: str) -> None:
    volume = _dense(24) if inside == "below" else -_dense(24)
    mesh = marching_cubes(volume, 0.0, inside=inside)
    solid = _solid(mesh)
    assert solid.is_watertight
    assert solid.volume > 0
    outward = torch.nn.functional.normalize(mesh.vertices - torch.tensor([0.5, 0.48, 0.53]) * 23, dim=-1)
    assert (mesh.normals * outward).sum(-1).min() > 0.95


def test_an_empty_level_set_is_an_empty_mesh() -> None:
    for volume in (torch.ones(4, 4, 4), torch.full((4, 4, 4), float("nan"))):
        mesh = marching_cubes(volume, 0.0)
        assert mesh.vertices.shape == mesh.normals.shape == (0, 3)
        assert mesh.faces.shape == (0, 3)
    assert len(largest_component(SurfaceMesh.empty()).faces) == 0
    mesh, band = extract_band(lambda points: torch.ones(len(points)), torch.tensor([[4, 4, 4]]), 9)
    assert len(mesh.faces) == 0
    assert band.evaluated == (64,)


def test_unknown_cells_hold_no_surface() -> None:
    volume = _dense(24)
    whole = marching_cubes(volume, 0.0, inside="below")
    volume[volume.abs() > 0.15] = float("nan")
    part = marching_cubes(volume, 0.0, inside="below")
    assert torch.equal(part.vertices, whole.vertices)
    assert torch.equal(part.faces, whole.faces)
    assert part.normals.isfinite().all()


def test_bad_volumes() -> None:
    with pytest.raises(ValueError, match="volume"):
        marching_cubes(torch.zeros(1, 4, 4), 0.0)
    with pytest.raises(ValueError, match="inside"):
        marching_cubes(torch.zeros(2, 4, 4), 0.0, inside="left")


def test_mise_finds_the_dense_mesh() -> None:
    edge = 65
    found = mise(lambda index: _ball(index, edge), 8, 3, 0.0)
    asked = torch.cat(found.rounds)
    assert len(asked.unique(dim=0)) == len(asked)
    assert len(asked) < edge**3 / 5
    ours, dense = (marching_cubes(v, 0.0, inside="below") for v in (found.values, _dense(edge)))
    assert torch.equal(ours.faces, dense.faces)
    torch.testing.assert_close(ours.vertices, dense.vertices)


def test_mise_without_a_surface_asks_once() -> None:
    found = mise(lambda index: torch.ones(len(index)), 4, 2, 0.0)
    assert [len(asked) for asked in found.rounds] == [125]
    assert bool((found.values == 1).all())
    with pytest.raises(ValueError, match="resolution, depth"):
        mise(lambda index: torch.ones(len(index)), 0, 2, 0.0)


@pytest.mark.parametrize(("edge", "share"), [(96, 0.4), pytest.param(256, 0.15, marks=pytest.mark.slow)])
def test_the_band_asks_for_few_corners_and_finds_the_same_mesh(edge: int, share: float) -> None:
    asked = 0

    def evaluate(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        return _ball(points, edge).float()

    directions = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    on_surface = torch.nn.functional.normalize(directions, dim=1) * 0.31 + torch.tensor([0.5, 0.48, 0.53])
    seeds = on_surface * (edge - 1)
    mesh, band = extract_band(evaluate, seeds.floor().long(), edge)
    assert asked == sum(band.evaluated)
    assert asked <= share * edge**3
    solid = _solid(mesh)
    assert solid.is_watertight
    dense = marching_cubes(_dense(edge), 0.0, inside="below")
    assert torch.equal(mesh.vertices, dense.vertices)
    assert torch.equal(mesh.faces, dense.faces)


def test_refinement_comes_nearer_to_the_zero() -> None:
    edge = 24

    def steep(points: Tensor) -> Tensor:
        return torch.tanh(60 * _ball(points, edge)).float()

    seed = torch.tensor([[int((0.5 + 0.31) * 23), 11, 12]])
    rough, _ = extract_band(steep, seed, edge)
    fine, _ = extract_band(steep, seed, edge, refine_iterations=12)
    errors = [_ball(mesh.vertices, edge).abs().max().item() for mesh in (rough, fine)]
    assert errors[1] < 0.2 * errors[0]


def test_seeds_are_checked() -> None:
    for seeds in (torch.zeros(0, 3, dtype=torch.int64), torch.tensor([[9, 0, 0]])):
        with pytest.raises(ValueError, match="seeds"):
            march_band(lambda corners: corners[:, 0].float(), seeds, 9)


def test_chunks() -> None:
    points = torch.arange(30.0).view(10, 3)
    assert torch.equal(evaluate_in_chunks(lambda p: p.sum(1), points, 3), points.sum(1))
    assert len(evaluate_in_chunks(lambda p: p.sum(1), points[:0])) == 0
