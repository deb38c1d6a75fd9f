"""Scans of ScanNet: prepared as clouds, read without labels, tested without an intersection over union."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import trimesh

from zoo.data.bad_samples import SampleError
from zoo.data.formats.occupancy import read_cloud
from zoo.data.occupancy_data import OccupancyData
from zoo.data.occupancy_sets import OccupancySet
from zoo.data.scannet import read_alignment

TURN = np.array([[0.0, -1, 0, 3], [1, 0, 0, -2], [0, 0, 1, 5], [0, 0, 0, 1]])


def _scan(folder: Path, name: str) -> Path:
    """A room of 4 x 2 x 1 metres, z up, whose alignment has been undone."""
    room = trimesh.creation.box(bounds=[[0, 0, 0], [4, 2, 1]])
    room.apply_transform(np.linalg.inv(TURN))
    scan = folder / name
    scan.mkdir(parents=True)
    room.export(scan / f"{name}_vh_clean_2.ply")
    numbers = " ".join(f"{x:.6f}" for x in TURN.reshape(-1))
    (scan / f"{name}.txt").write_text(f"appVersionId = 42\naxisAlignment = {numbers}\ncolorHeight = 968\n")
    return scan


@pytest.fixture
def scans(tmp_path: Path) -> OccupancySet:
    for name in ("scene0000_00", "scene0001_00", "scene0002_00"):
        _scan(tmp_path / "scans", name)
    (tmp_path / "scans" / "scene0001_00" / "scene0001_00.txt").write_text("axisAlignment = 1 0 0\n")
    return OccupancySet(root=tmp_path / "ScanNet", labelled=False, scans=tmp_path / "scans", num_surface=3000)


def test_scans_become_clouds_on_the_floor(scans: OccupancySet, caplog: pytest.LogCaptureFixture) -> None:
    data = OccupancyData(source=scans, num_input_points=50, noise=0.0)
    with caplog.at_level(logging.WARNING):
        data.prepare_files()
    assert "scene0001_00.txt" in caplog.text
    assert "sixteen numbers" in caplog.text
    assert [shape.name for shape in scans.shapes("test")] == ["scenes/scene0000_00", "scenes/scene0002_00"]
    cloud, normals = read_cloud(scans.shapes("test")[0].cloud_file(0))
    np.testing.assert_allclose(cloud.min(0), [-0.5, -0.5, -0.25], atol=1e-3)  # y is up, 4 x 1 x 2
    np.testing.assert_allclose(cloud.max(0), [0.5, -0.25, 0.25], atol=1e-3)
    assert ((cloud - [0, -0.375, 0]) * normals).sum(axis=1).min() > 0.1  # normals look out
    (batch, _) = data.test_dataloader()
    assert batch.points.shape == (1, 50, 3)
    assert batch.queries.shape == (1, 0, 3)
    assert batch.surface.shape == batch.normals.shape == (1, 3000, 3)
    report = data.check_data()
    assert report.problems == ()
    assert report.lines[0].startswith("test: 2 shapes, 0 positions")


def test_scans_cannot_be_trained_on(scans: OccupancySet) -> None:
    data = OccupancyData(source=scans)
    data.prepare_files()
    shape = scans.shapes("test")[0].read(np.random.default_rng(0))
    with pytest.raises(SampleError, match="no labelled position"):
        data.sample(shape, np.random.default_rng(0), 10)


def test_bad_scans_are_named(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="found no <scene>"):
        OccupancySet(root=tmp_path / "a", labelled=False, scans=tmp_path).prepare_meshes()
    scan = _scan(tmp_path / "scans", "scene0000_00")
    (scan / "scene0000_00_vh_clean_2.ply").write_bytes(b"ply\n")
    source = OccupancySet(root=tmp_path / "a", labelled=False, scans=tmp_path / "scans")
    with pytest.raises(SampleError, match="none of 1 scans"):
        source.prepare_meshes()
    (scan / "scene0000_00.txt").write_text("colorHeight = 968\n")
    with pytest.raises(SampleError, match=r"scene0000_00\.txt: has no entry axisAlignment"):
        read_alignment(scan / "scene0000_00.txt")
    with pytest.raises(SampleError, match="no such file"):
        read_alignment(scan / "none.txt")
