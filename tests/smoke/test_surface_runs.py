"""GridPull and GridFormer from the command line's functions: runs, meshes of files, and bad clouds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from tests.samples import sample_data
from tests.smoke.runs import train_here
from tests.smoke.twins import twin
from zoo.data.bad_samples import SampleError
from zoo.predict import predict
from zoo.training.configuration import compose

FEW = (
    "experiment=gridpull",
    "model.resolution=24",
    "task.level=4",
    "task.num_queries=500",
    "trainer.max_steps=150",
    "optim.scheduler.step_size=20",
    "threads=1",
)


def _cloud(path: Path, scale: tuple[float, float, float] = (2.0, 1.0, 1.0)) -> Path:
    points = np.random.default_rng(0).normal(size=(1500, 3))
    np.save(path, points / np.linalg.norm(points, axis=1, keepdims=True) * scale + 5)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    return train_here(folder, *FEW, f"mesh_or_points={_cloud(folder / 'egg.npy')}")


def test_a_cloud_becomes_a_watertight_mesh(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/watertight"] == 1
    assert metrics["test/cloud_distance"] < 0.02
    mesh = trimesh.load_mesh(run / "mesh.ply")
    np.testing.assert_allclose(mesh.bounds, [[3, 4, 4], [7, 6, 6]], atol=0.15)
    assert mesh.volume > 0
    assert (run / "report.html").read_text().count("data:image/") >= 3


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_the_mesh_in_another_format(run: Path, suffix: str, tmp_path: Path) -> None:
    settings = (f"ckpt={run}", f"output={tmp_path}", f"mesh.file=egg{suffix}")
    predict(compose(settings, config_name="predict"))
    mesh = trimesh.load_mesh(tmp_path / f"egg{suffix}", process=False)
    assert mesh.is_watertight
    marker = {".ply": b"nx", ".obj": b"\nvn ", ".glb": b"NORMAL"}[suffix]
    assert marker in (tmp_path / f"egg{suffix}").read_bytes()
    outward = (mesh.vertices - 5) / np.array([4, 1, 1])
    assert ((mesh.vertex_normals * outward).sum(axis=1) > 0).mean() > 0.99
    assert (tmp_path / "egg.png").is_file()


def test_another_cloud_is_fitted_anew(run: Path, tmp_path: Path) -> None:
    cloud = _cloud(tmp_path / "ball.npy", (1.0, 1.0, 1.0))
    predict(compose((f"ckpt={run}", f"input={cloud}", f"output={tmp_path / 'out'}"), config_name="predict"))
    mesh = trimesh.load_mesh(tmp_path / "out" / "mesh.ply")
    np.testing.assert_allclose(mesh.bounds, [[4, 4, 4], [6, 6, 6]], atol=0.3)  # a few coarse steps


def test_wishes_that_cannot_be_met(run: Path) -> None:
    with pytest.raises(ValueError, match="nothing to do"):
        predict(compose((f"ckpt={run}",), config_name="predict"))
    with pytest.raises(ValueError, match=r"mesh\.file: found"):
        predict(compose((f"ckpt={run}", "mesh.file=egg.stl"), config_name="predict"))


def test_a_grid_does_not_go_on_with_another_cloud(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another cloud"):
        train_here(tmp_path, *FEW, f"mesh_or_points={_cloud(tmp_path / 'b.npy', (1, 1, 2))}", f"ckpt={run}")


def test_bad_clouds_are_named(tmp_path: Path) -> None:
    (tmp_path / "few.xyz").write_text("0 0 0\n")
    with pytest.raises(SampleError, match=r"few\.xyz.*1 finite points"):
        train_here(tmp_path, *FEW, f"mesh_or_points={tmp_path / 'few.xyz'}")


def test_coplanar_points_end_in_the_documented_way(tmp_path: Path) -> None:
    flat = np.random.default_rng(0).random((500, 3)) * [1, 1, 0]
    np.save(tmp_path / "flat.npy", flat)
    metrics = json.loads(
        (train_here(tmp_path, *FEW, f"mesh_or_points={tmp_path / 'flat.npy'}") / "metrics.json").read_text()
    )
    assert metrics["test/watertight"] in (0, 1)
    assert np.isfinite(metrics["test/chamfer_l1"])
    assert metrics["test/watertight"] == 1 or metrics["test/faces"] == 0


def test_an_empty_level_set_ends_in_the_documented_way(tmp_path: Path) -> None:
    """The field stays the distance to a point between corners, which is nowhere 0, and the band has no inside."""
    start = ("model.start=ball", "model.radius=0", "task.level=12", "optim.optimizer.lr=0", "trainer.max_steps=2")
    cloud = _cloud(tmp_path / "egg.npy")
    run = train_here(tmp_path, *FEW, *start, "task.mesh_file=nothing.ply", f"mesh_or_points={cloud}")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/faces"] == metrics["test/vertices"] == metrics["test/watertight"] == 0
    assert metrics["test/chamfer_l1"] == pytest.approx(3**0.5)
    assert metrics["test/f_score_0.005"] == 0
    assert (run / "nothing.ply").read_bytes().startswith(b"ply")
    report = (run / "report.html").read_text()
    assert "input: 1,500 points" in report
    assert "triangles" not in report


def test_a_cloud_far_from_the_unit_cube(tmp_path: Path) -> None:
    """No point is outside of the grid: the frame is put onto the cloud, in the double precision that maps need."""
    points = np.load(_cloud(tmp_path / "egg.npy")) * 20 + [500_000, 5_000_000, 0]
    np.save(tmp_path / "egg.npy", points)
    run = train_here(tmp_path, *FEW, f"mesh_or_points={tmp_path / 'egg.npy'}", "task.mesh_file=far.obj")
    assert json.loads((run / "metrics.json").read_text())["test/watertight"] == 1
    mesh = trimesh.load_mesh(run / "far.obj", process=False)
    middle = np.array([500_100, 5_000_100, 100])
    np.testing.assert_allclose(mesh.bounds - middle, [[-40, -20, -20], [40, 20, 20]], atol=3)


@pytest.mark.slow
def test_the_bunny(tmp_path: Path) -> None:
    file = sample_data("meshes") / "bunny.obj"
    run = train_here(tmp_path, "experiment=gridpull", f"mesh_or_points={file}", "data.num_points=20000")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test/mesh_distance"] < 0.002
    assert metrics["test/f_score_0.005"] > 0.95
    assert metrics["test/watertight"] == 1
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 400


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of training; then the decoder is made to say |x| + |y| + |z| < 0.5 of every cloud."""
    folder = tmp_path_factory.mktemp("networks")
    run = train_here(folder, *twin("gridformer_solids", folder / "data", 2), "task.max_pictures=1")
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    decoder = {name: value for name, value in content["state_dict"].items() if name.startswith("model.decoder.")}
    for value in decoder.values():
        value.zero_()
    decoder["model.decoder.fc_p.weight"][:6] = torch.cat([torch.eye(3), -torch.eye(3)])
    decoder["model.decoder.fc_out.weight"][:, :6] = -10
    decoder["model.decoder.fc_out.bias"][:] = 5
    torch.save(content, run / "checkpoints" / "last.ckpt")
    return run


@pytest.mark.slow
def test_a_network_makes_meshes_of_files(network: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "clouds"
    folder.mkdir()
    _cloud(folder / "egg.npy")
    np.savez(folder / "ball.npz", points=np.load(_cloud(tmp_path / "ball.npy", (1.0, 1.0, 1.0))))
    (folder / "broken.xyz").write_text("1 2\n")
    settings = (f"ckpt={network}", f"input={folder}", f"output={tmp_path / 'out'}", "mesh.resolution=32")
    predict(compose(settings, config_name="predict"))
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["ball.ply", "ball.png", "egg.ply", "egg.png"]
    assert "broken.xyz" in caplog.text
    mesh = trimesh.load_mesh(tmp_path / "out" / "egg.ply", process=False)
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.bounds, [[3, 3, 3], [7, 7, 7]], atol=0.15)  # half of the longest side to each side
    np.testing.assert_allclose(np.abs(mesh.vertices - 5).sum(axis=1), 2, atol=0.05)


@pytest.mark.slow
def test_a_network_makes_the_mesh_of_a_scene(network: Path, tmp_path: Path) -> None:
    cloud = _cloud(tmp_path / "long.npy", (3.0, 1.0, 1.0))
    settings = (f"ckpt={network}", f"input={cloud}", f"output={tmp_path}", "mesh.resolution=24")
    predict(compose((*settings, "mesh.window=2", "mesh.file=long.obj", "mesh.up=z"), config_name="predict"))
    mesh = trimesh.load_mesh(tmp_path / "long.obj", process=False)
    assert len(mesh.faces) > 0
    assert np.ptp(mesh.vertices[:, 0]) > 2


@pytest.mark.slow
def test_wishes_that_a_network_cannot_meet(network: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.xyz").write_text("1 2\n")
    for settings, message in (
        ((), "input: found none"),
        ((f"input={tmp_path / 'broken.xyz'}",), "none of 1 files"),
        ((f"input={tmp_path / 'broken.xyz'}", "mesh.file=a.stl"), r"mesh\.file: found"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(compose((f"ckpt={network}", f"output={tmp_path}", *settings), config_name="predict"))
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no file with one of the endings"):
        predict(compose((f"ckpt={network}", f"input={tmp_path / 'none'}"), config_name="predict"))
