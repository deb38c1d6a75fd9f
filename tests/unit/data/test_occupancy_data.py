"""Shapes with labelled positions: both layouts, bad files, batches as functions of seed and step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zoo.data.bad_samples import SampleError
from zoo.data.formats.occupancy import read_boundary, read_cloud, read_points, write_points
from zoo.data.implicit_solids import block, difference, normals_of, ring, sample_field_surface, sphere, union
from zoo.data.occupancy_boundary import boundary_flags
from zoo.data.occupancy_data import OccupancyData
from zoo.data.occupancy_sets import OccupancySet
from zoo.data.synthetic_solids import CLASSES, SolidSettings, check_generated, make_room

SMALL: dict[str, Any] = {
    "num_train": 2,
    "num_val": 1,
    "num_test": 1,
    "num_points": 3000,
    "num_surface": 500,
    "num_test_surface": 700,
}


def settings_of(**changes: Any) -> dict[str, Any]:
    return {**SMALL, **changes}


@pytest.fixture(scope="module")
def solids(tmp_path_factory: pytest.TempPathFactory) -> OccupancySet:
    root = tmp_path_factory.mktemp("sets") / "solids"
    found = OccupancySet(root=root, generate=True, generator=SolidSettings(**SMALL))
    found.ensure()
    return found


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> OccupancySet:
    root = tmp_path_factory.mktemp("sets") / "rooms"
    settings = SolidSettings(kind="rooms", num_files=2, **settings_of(num_train=1))
    found = OccupancySet(root=root, num_files=2, generate=True, generator=settings)
    found.ensure()
    return found


def test_test_shapes_have_surface_points_of_their_own_number(solids: OccupancySet, rooms: OccupancySet) -> None:
    for source in (solids, rooms):
        counts = {
            split: {len(shape.read(np.random.default_rng(0)).cloud) for shape in source.shapes(split)}
            for split in ("train", "val", "test")
        }
        assert counts == {"train": {500}, "val": {500}, "test": {700}}


def test_surface_points_lie_on_the_surface_evenly() -> None:
    rng = np.random.default_rng(0)
    points, normals = sample_field_surface(sphere([0.1, 0, 0], 0.4), [-1] * 3, [1] * 3, 4000, rng)
    away = points - [0.1, 0, 0]
    assert np.abs(np.linalg.norm(away, axis=1) - 0.4).max() < 1e-3
    assert np.abs((normals * away / 0.4).sum(axis=1) - 1).max() < 1e-3
    assert abs(float((away[:, 2] > 0.2).mean()) - 0.25) < 0.03  # Archimedes: area goes with height
    with pytest.raises(ValueError, match="found 0 points"):
        sample_field_surface(sphere([9, 9, 9], 0.1), [-1] * 3, [1] * 3, 10, rng)


def test_set_operations() -> None:
    ball, hole = sphere([0, 0, 0], 0.5), sphere([0, 0, 0.4], 0.3)
    places = np.array([[0.0, 0, 0], [0, 0, 0.4], [0, 0, 0.9]])
    assert (difference(ball, hole)(places) < 0).tolist() == [True, False, False]
    assert (union([ball, sphere([0, 0, 0.9], 0.1)])(places) < 0).tolist() == [True, True, True]
    assert np.allclose(ring([0, 0, 0], 0.4, 0.1)(np.array([[0.4, 0, 0.0]])), -0.1)
    assert np.allclose(normals_of(block([0, 0, 0], [1, 1, 1]), np.array([[1.2, 0, 0.0]])), [[1, 0, 0]])


def test_the_shapenet_layout(solids: OccupancySet) -> None:
    shapes = solids.shapes("train")
    assert [shape.name.split("/")[0] for shape in shapes[::2]] == sorted(CLASSES)
    with np.load(shapes[0].points_file(0)) as file:
        assert file["points"].dtype == np.float16
        assert file["occupancies"].shape == (375,)
    points, occupancy, is_half = read_points(shapes[0].points_file(0))
    assert is_half
    assert 0.02 < occupancy.mean() < 0.8
    assert np.abs(points).max() <= 0.551
    cloud, normals = read_cloud(shapes[0].cloud_file(0))
    assert np.ptp(cloud, axis=0).max() == pytest.approx(1.0, abs=2e-3)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1.0, abs=2e-3)
    flags = read_boundary(shapes[0].boundary_file(0), len(points))
    assert (flags == boundary_flags(points, occupancy)).all()
    assert not solids.check().problems


def test_the_rooms_layout(rooms: OccupancySet) -> None:
    (first, _) = rooms.shapes("train")
    assert first.name == "rooms_04/00000000"
    assert first.points_file(1).name == "points_iou_01.npz"
    shape = first.read(np.random.default_rng(0), boundary=True)
    assert shape.boundary is not None
    assert 0 < shape.boundary.mean() < 1
    assert shape.cloud[:, 1].min() == pytest.approx(-0.5, abs=2e-3)
    assert not rooms.check().problems


def test_a_room_is_a_function_of_its_seed() -> None:
    places = np.random.default_rng(3).uniform(-0.5, 0.5, (2000, 3))
    first, second = (make_room(4, np.random.default_rng(1))(places) for _ in range(2))
    assert (first == second).all()


def test_batches_are_functions_of_seed_and_step(solids: OccupancySet) -> None:
    def data(**options: Any) -> OccupancyData:
        return OccupancyData(
            source=solids, num_input_points=50, num_queries=40, batch_size=3, max_steps=4, boundary=True, **options
        )

    first, again = list(data().train_dataloader()), list(data(num_workers=2).train_dataloader())
    assert len(first) == 4
    for one, other in zip(first, again, strict=True):
        assert one.names == other.names
        assert torch.equal(one.points, other.points)
        assert torch.equal(one.queries, other.queries)
        assert one.occupancy.shape == (3, 40)
    assert not torch.equal(first[0].points, next(iter(data(seed=1).train_dataloader())).points)
    (val, *_) = data().val_dataloader()
    assert val.points.shape == (1, 50, 3)
    assert val.queries.shape == (1, 3000, 3)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"points": np.zeros((8, 2)), "occupancies": np.zeros(1, np.uint8)}, "expected numbers \\(N, 3\\)"),
        ({"points": np.full((8, 3), np.nan), "occupancies": np.zeros(1, np.uint8)}, "8 rows that are NaN"),
        ({"points": np.zeros((8, 3)), "occupancies": np.zeros(3, np.uint8)}, "one label or one bit"),
        ({"points": np.zeros((8, 3))}, "has no array 'occupancies'"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = tmp_path / "points.npz"
    np.savez(path, **arrays)
    with pytest.raises(SampleError, match=message) as error:
        read_points(path)
    assert str(path) in str(error.value)


def test_missing_and_stale_files_are_named(tmp_path: Path, solids: OccupancySet) -> None:
    path = tmp_path / "points.npz"
    write_points(path, np.zeros((9, 3)), np.ones(9, dtype=bool))
    assert read_points(path)[1].sum() == 9
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(SampleError, match="not a readable npz"):
        read_points(path)
    with pytest.raises(SampleError, match="action=prepare"):
        read_boundary(tmp_path / "none.npz", 9)
    with pytest.raises(SampleError, match="no such list"):
        OccupancySet(root=solids.root, classes=["chairs"]).shapes("train")
    with pytest.raises(SampleError, match="other settings"):
        check_generated(solids.root, SolidSettings(**settings_of(num_train=3)))
