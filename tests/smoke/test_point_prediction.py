"""Clouds of one's own get what a test gives them: the class of a cloud, or of every point."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.smoke.runs import train_here
from tests.smoke.twins import twin
from zoo.data.bad_samples import SampleError
from zoo.data.formats.cloud_files import find_cloud_files, read_cloud
from zoo.data.formats.ply_files import read_ply_vertices, write_ply_vertices
from zoo.predict import predict
from zoo.training.configuration import compose, load_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("point_prediction")


def test_a_classifier_names_the_class_of_a_file(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = train_here(folder / "outputs", *twin("e3dsnn_shapes", folder / "data", 2))
    _, parts = load_run(run / "checkpoints" / "last.ckpt")
    batch = next(iter(parts.data.test_dataloader()))
    with torch.inference_mode():
        expected = parts.task.predict_step(batch, 0)
    name = batch.names[0]
    clouds = folder / "clouds"
    clouds.mkdir()
    shutil.copy(next((folder / "data").rglob(f"{name}.txt")), clouds / "mine.txt")
    trimesh.creation.box().export(clouds / "box.off")
    trimesh.PointCloud(np.random.default_rng(0).normal(size=(9, 3))).export(clouds / "no_normals.ply")
    predict(compose((f"ckpt={run}", f"input={clouds}"), config_name="predict"))
    out = run / "predictions"
    assert {path.name for path in out.iterdir()} == {"box.json", "box.png", "mine.json", "mine.png"}
    assert "no_normals.ply: has no normals" in caplog.text
    found = json.loads((out / "mine.json").read_text())
    names = parts.data.class_names  # pyright: ignore[reportAttributeAccessIssue]
    assert found["class"] == names[int(expected[0].argmax())]
    values = torch.tensor([found["probabilities"][label] for label in names])
    assert torch.allclose(values, expected[0].float(), atol=1e-6)
    assert list(found["probabilities"].values()) == sorted(found["probabilities"].values(), reverse=True)
    with pytest.raises(ValueError, match="input: found none"):
        predict(compose((f"ckpt={run}",), config_name="predict"))
    with pytest.raises(ValueError, match="none of 1 files could be read"):
        predict(compose((f"ckpt={run}", f"input={clouds / 'no_normals.ply'}"), config_name="predict"))


def test_a_segmentor_names_the_class_of_every_point(folder: Path) -> None:
    run = train_here(folder / "outputs", *twin("e3dsnn_street", folder / "data", 2))
    _, parts = load_run(run / "checkpoints" / "last.ckpt")
    cloud = next(iter(parts.data.test_dataloader()))
    with torch.inference_mode():
        expected = parts.task.predict_step(cloud, 0)
    file = folder / "data" / "tiny_street" / "sequences" / cloud.name.replace("/", "/velodyne/")
    scan = file.with_suffix(".bin")
    predict(compose((f"ckpt={run}", f"input={scan}", f"output={folder / 'labels'}"), config_name="predict"))
    columns = read_ply_vertices(folder / "labels" / f"{scan.stem}.ply")
    assert list(columns) == ["x", "y", "z", "red", "green", "blue", "label"]
    np.testing.assert_array_equal(columns["label"], expected.numpy())
    points = np.fromfile(scan, dtype="<f4").reshape(-1, 4)
    np.testing.assert_array_equal(np.stack([columns[axis] for axis in "xyz"], axis=1), points[:, :3])
    counted = json.loads((folder / "labels" / f"{scan.stem}.json").read_text())["points"]
    assert sum(counted.values()) == len(points)
    assert (folder / "labels" / f"{scan.stem}.png").is_file()


def test_clouds_have_what_the_network_reads(tmp_path: Path) -> None:
    normals = np.tile(np.array([[0, 0, 1]], dtype=np.float32), (6, 1))
    coord = np.arange(18, dtype=np.float32).reshape(6, 3)
    columns = dict(zip(("x", "y", "z", "nx", "ny", "nz"), np.concatenate([coord, normals], axis=1).T, strict=True))
    write_ply_vertices(tmp_path / "cloud.ply", columns)
    cloud = read_cloud(tmp_path / "cloud.ply", ["coord", "normal"])
    assert torch.equal(cloud.coord, torch.from_numpy(coord))
    assert torch.equal(cloud.features["normal"], torch.from_numpy(normals))
    assert len(read_cloud(tmp_path / "cloud.ply", ["coord"], max_points=4)) == 4
    trimesh.creation.box().export(tmp_path / "box.stl")
    box = read_cloud(tmp_path / "box.stl", ["coord", "normal"], max_points=500)
    assert len(box) == 500
    facing = (box.coord * box.features["normal"]).sum(dim=1)
    assert torch.allclose(facing, torch.full((500,), 0.5), atol=1e-5)  # every side of a unit cube
    assert find_cloud_files(tmp_path, ["coord"]) == [tmp_path / "box.stl", tmp_path / "cloud.ply"]
    assert find_cloud_files(tmp_path, ["coord", "strength"]) == [tmp_path / "cloud.ply"]
    with pytest.raises(ValueError, match="feature_names: found coord, color"):
        read_cloud(tmp_path / "cloud.ply", ["coord", "color"])
    with pytest.raises(SampleError, match="no such file or folder"):
        find_cloud_files(tmp_path / "nowhere", ["coord"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SampleError, match="holds no cloud"):
        find_cloud_files(tmp_path / "empty", ["coord"])
