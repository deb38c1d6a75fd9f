"""Clouds and labelled positions from meshes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh

from zoo.data.bad_samples import SampleError
from zoo.data.formats.occupancy import read_cloud, read_points
from zoo.data.mesh_occupancy import inside_mesh, prepare_mesh, split_names
from zoo.data.occupancy_data import OccupancyData
from zoo.data.occupancy_sets import OccupancySet


def test_inside_against_closed_forms() -> None:
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (3000, 3))
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    clear = np.abs(np.linalg.norm(points, axis=1) - 0.5) > 2e-3
    found = inside_mesh(np.asarray(ball.vertices), np.asarray(ball.faces), points)
    assert (found == (np.linalg.norm(points, axis=1) < 0.5))[clear].all()
    ring = trimesh.creation.torus(0.35, 0.13, major_sections=64, minor_sections=32)
    distance = np.hypot(np.hypot(points[:, 0], points[:, 1]) - 0.35, points[:, 2]) - 0.13
    found = inside_mesh(np.asarray(ring.vertices), np.asarray(ring.faces), points)
    assert (found == (distance < 0))[np.abs(distance) > 4e-3].all()


def test_a_folder_of_meshes_becomes_a_set(tmp_path: Path) -> None:
    for number in range(3):
        mesh = trimesh.creation.icosphere(subdivisions=2, radius=1.0 + number)
        mesh.apply_translation([5, 0, 0])
        (tmp_path / "meshes" / "balls").mkdir(parents=True, exist_ok=True)
        mesh.export(tmp_path / "meshes" / "balls" / f"ball{number}.obj")
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(tmp_path / "meshes" / "balls" / "open.obj")
    source = OccupancySet(root=tmp_path / "set", meshes=tmp_path / "meshes", num_points=2000, num_surface=500)
    OccupancyData(source=source).prepare_files()
    (shape,) = source.shapes("train")
    assert shape.name == "balls/ball0"
    points, occupancy, _ = read_points(shape.points_file(0))
    assert (occupancy == (np.linalg.norm(points, axis=1) < 0.5))[
        np.abs(np.linalg.norm(points, axis=1) - 0.5) > 0.02
    ].all()
    assert np.ptp(read_cloud(shape.cloud_file(0))[0], axis=0).max() == pytest.approx(1.0, abs=0.02)
    assert shape.boundary_file(0).is_file()
    assert len(source.shapes("test")) == 1


def test_unusable_meshes_are_named(tmp_path: Path) -> None:
    path = tmp_path / "open.obj"
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(path)
    with pytest.raises(SampleError, match="not watertight") as error:
        prepare_mesh(path, tmp_path / "out")
    assert str(path) in str(error.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="at least 3"):
        split_names(["a"])
