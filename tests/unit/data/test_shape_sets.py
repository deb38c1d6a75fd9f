"""ModelNet in both layouts, its prepared files, generated shapes, packed voxels, and SemanticKITTI as clouds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.samples import sample_data
from zoo.data import shape_meshes
from zoo.data.bad_samples import SampleError
from zoo.data.formats.modelnet import read_off, read_resampled, sample_surface, write_lists, write_resampled
from zoo.data.formats.semantic_kitti import read_point_labels
from zoo.data.lidar_sensor import LidarSensor
from zoo.data.lidar_street import StreetSpec
from zoo.data.lidar_writer import SemanticKittiSettings
from zoo.data.modelnet import ModelNet
from zoo.data.semantic_kitti_points import SemanticKittiPoints, SubmissionWriter
from zoo.data.shape_families import FAMILIES
from zoo.data.synthetic_shapes import ShapeSettings, shape_points
from zoo.data.voxel_shapes import VoxelShapes

CUBE = "OFF\n8 6 0\n" + "".join(
    f"{x} {y} {z}\n" for x in (0, 1) for y in (0, 1) for z in (0, 1)
) + "4 0 1 3 2\n4 4 6 7 5\n4 0 4 5 1\n4 2 3 7 6\n4 0 2 6 4\n4 1 5 7 3\n"  # fmt: skip
TINY = ShapeSettings(num_train=2, num_test=1, num_points=64)


def test_off_meshes_with_glued_counts_and_larger_faces(tmp_path: Path) -> None:
    for number, text in enumerate((CUBE, CUBE.replace("OFF\n", "OFF"), CUBE.replace("8 6 0", "8 6 0 # counts"))):
        path = tmp_path / f"{number}.off"
        path.write_text(text)
        vertices, triangles = read_off(path)
        assert (len(vertices), len(triangles)) == (8, 12)
    points = sample_surface(vertices, triangles, 6000, np.random.default_rng(0))
    assert np.abs(np.abs(points[:, 3:]).max(axis=1) - 1).max() < 1e-6
    outside = np.abs(points[:, :3] - 0.5).max(axis=1)
    assert np.allclose(outside, 0.5, atol=1e-6)
    sides = [(np.abs(points[:, axis] - end) < 1e-6).mean() for axis in range(3) for end in (0, 1)]
    assert min(sides) > 0.14  # each side has a sixth of the area
    assert ((points[:, :3] - 0.5) * points[:, 3:]).sum(axis=1).min() > 0.49  # normals look out


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("PLY\n", "expected OFF"),
        (CUBE[: len(CUBE) // 2], "cut short"),
        (CUBE[:-6], "cut short"),
        ("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "without faces"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", "names the vertex 9"),
        ("OFF\n3 1 0\nnan 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "NaN"),
    ],
)
def test_damaged_meshes(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "bad.off"
    path.write_text(text)
    with pytest.raises(SampleError, match=rf"bad\.off: .*{match}"):
        read_off(path)


@pytest.mark.parametrize(
    ("text", "match"), [("", "empty"), ("1,2,3\n", "line 1"), ("1,2,3,4,5,x\n", "numbers"), ("1,2,nan,0,0,1\n", "NaN")]
)
def test_damaged_clouds(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(SampleError, match=rf"bad\.txt: .*{match}"):
        read_resampled(path)


def write_set(root: Path, count: int = 40) -> None:
    rng = np.random.default_rng(0)
    names = {"train": ["night_stand_0001", "cup_0001", "cup_0002"], "test": ["cup_0003"]}
    for name in (*names["train"], *names["test"]):
        folder = root / name.rpartition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        write_resampled(folder / f"{name}.txt", rng.normal(size=(count, 6)))
    write_lists(root, "modelnet40", ["cup", "night_stand"], names)


def test_resampled_clouds_are_thinned_by_farthest_points_once(tmp_path: Path) -> None:
    write_set(tmp_path)
    source = ModelNet(root=tmp_path, num_points=16)
    assert source.class_names == ("cup", "night_stand")
    samples = source.open_split("train")
    assert [(len(sample), sample.category) for sample in samples] == [(16, 1), (16, 0), (16, 0)]
    whole = read_resampled(tmp_path / "night_stand" / "night_stand_0001.txt")
    kept = samples[0].coord.numpy()
    assert (kept[0] == whole[0, :3]).all()  # the first point, then the farthest from it
    assert np.allclose(kept[1], whole[np.linalg.norm(whole[:, :3] - whole[0, :3], axis=1).argmax(), :3])
    assert len(ModelNet(root=tmp_path, num_points=99).open_split("train")[0]) == 40  # all of a smaller cloud


def test_stale_and_damaged_prepared_files_name_the_remedy(tmp_path: Path) -> None:
    write_set(tmp_path)
    source = ModelNet(root=tmp_path, num_points=16)
    source.ensure()
    path = source.prepared_file("train")
    with pytest.raises(SampleError, match=r"class_names .*action=prepare"):
        ModelNet(root=tmp_path, num_points=16, class_names=["night_stand", "cup"]).open_split("train")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SampleError, match=r"not a readable prepared file .*action=prepare"):
        source.open_split("train")


def test_bad_shapes_are_errors_or_counted(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "cup" / "cup_0001.txt").write_text("1,2\n")
    source = ModelNet(root=tmp_path, num_points=16)
    for _ in range(2):  # also when it was prepared before
        with pytest.raises(SampleError, match=r"cup_0001\.txt: line 1"):
            source.open_split("train")
        assert len(source.open_split("train", "skip").bad_samples) == 1
    assert len(source.open_split("train", "skip")) == 2


def test_meshes_in_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("box", "crate"):
            (tmp_path / name / split).mkdir(parents=True)
            (tmp_path / name / split / f"{name}_0001.off").write_text(CUBE)
    samples = ModelNet(root=tmp_path, num_points=32).open_split("test")
    assert [(sample.name, len(sample), sample.category) for sample in samples] == [
        ("box_0001", 32, 0), ("crate_0001", 32, 1),
    ]  # fmt: skip


def test_missing_sets_say_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"modelnet40_train\.txt.*set data\.source\.root"):
        _ = ModelNet(root=tmp_path).class_names
    with pytest.raises(SampleError, match="no such file"):
        VoxelShapes(root=tmp_path).ensure()


def test_generated_shapes_have_their_layout_and_share_nothing_between_splits(tmp_path: Path) -> None:
    root = tmp_path / "shapes"
    source = ModelNet(root=root, num_points=64, generate=True, generator=TINY)
    source.ensure()
    assert source.class_names == tuple(FAMILIES)
    assert len(FAMILIES) >= 12
    train, test = source.open_split("train"), source.open_split("test")
    assert (len(train), len(test)) == (2 * len(FAMILIES), len(FAMILIES))
    for sample in train:
        assert sample.features["normal"].norm(dim=1).sub(1).abs().max() < 1e-4
    assert not np.array_equal(shape_points("cup", "train", 0, TINY), shape_points("cup", "test", 0, TINY))
    assert np.array_equal(shape_points("cup", "train", 1, TINY), shape_points("cup", "train", 1, TINY))
    with pytest.raises(SampleError, match="with other settings"):
        ModelNet(root=root, generate=True, generator=ShapeSettings()).ensure()
    with pytest.raises(FileExistsError):
        source.generate_files(overwrite=False)


def test_every_family_makes_sound_meshes() -> None:
    for name in FAMILIES:
        for partial in (0.0, 1.0):
            for number in range(3):
                settings = ShapeSettings(num_points=200, partial=partial)
                points = shape_points(name, "train", number, settings)
                assert np.isfinite(points).all()
                assert 100 < len(points) <= 200
                assert np.linalg.norm(points[:, :3], axis=1).max() < 1.1


def test_points_behind_a_wall_are_hidden() -> None:
    side = np.linspace(-1, 1, 20)
    wall = np.stack([np.full(400, 0.5), *(grid.reshape(-1) for grid in np.meshgrid(side, side))], axis=1)
    behind = np.random.default_rng(0).uniform(-0.3, 0.3, (50, 3))
    hidden = shape_meshes.hidden_points(np.concatenate([wall, behind]), np.array([1.0, 0.0, 0.0]))
    assert hidden[400:].all()
    assert hidden[:400].mean() < 0.1


def test_packed_voxels(tmp_path: Path) -> None:
    dense = np.zeros((2, 8, 8, 8), dtype=np.uint8)
    dense[0, 1, 2, 3] = 1
    packed = np.packbits(dense.reshape(2, -1), axis=1)
    np.savez(tmp_path / "v.npz", a_train=packed, b_train=packed[:1], a_test=packed[:1], b_test=packed[:0])
    source = VoxelShapes(root=tmp_path, file="v.npz", class_names=["a", "b"])
    samples = source.open_split("train", "skip")
    assert samples[0].coord.tolist() == [[1.5, 2.5, 3.5]]
    assert [samples[number].category for number in (0, 2)] == [0, 1]
    with pytest.raises(SampleError, match=r"v\.npz \(a_train\[1\]\): an empty cloud"):
        source.open_split("train")[1]
    with pytest.raises(SampleError, match="no array 'c_train'"):
        VoxelShapes(root=tmp_path, file="v.npz", class_names=["c"]).open_split("train")
    (tmp_path / "v.npz").write_bytes(b"nothing")
    with pytest.raises(SampleError, match="not a readable npz"):
        source.open_split("train")


def test_the_real_voxels() -> None:
    source = VoxelShapes(root=sample_data("modelnet10_voxels"))
    assert [len(source.open_split(split)) for split in ("train", "test")] == [949, 202]
    assert all(len(sample) > 8 for sample in source.open_split("test"))


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streets") / "street"
    settings = SemanticKittiSettings(
        frames={"00": 2, "08": 1},
        sensor=LidarSensor(beams=16, azimuth_steps=120),
        street=StreetSpec(half_length=40),
    )
    SemanticKittiPoints(root=root, generate=True, generator=settings).ensure()
    return root


def test_sweeps_have_strength_and_training_labels(street: Path) -> None:
    source = SemanticKittiPoints(root=street)
    sample = source.open_split("train")[1]
    assert sample.name == "00/000001"
    assert sample.features["strength"].shape == (len(sample), 1)
    assert sample.segment is not None
    assert -1 <= int(sample.segment.min()) < int(sample.segment.max()) < 19


def test_cut_sweeps_and_labels_are_errors_or_counted(street: Path, tmp_path: Path) -> None:
    import shutil

    for kind, name, match in (
        ("velodyne", "000000.bin", "no whole number of rows"),
        ("labels", "000000.label", "expected"),
    ):
        root = tmp_path / kind
        shutil.copytree(street, root)
        path = root / "sequences" / "00" / kind / name
        path.write_bytes(path.read_bytes()[:-6])
        source = SemanticKittiPoints(root=root)
        with pytest.raises(SampleError, match=rf"{name}: .*{match}"):
            source.open_split("train")[0]
        skipping = source.open_split("train", "skip")
        assert [sample.name for sample in skipping] == ["00/000001", "00/000001"]
        assert len(skipping.bad_samples) == 1


def test_result_files_hold_raw_ids(tmp_path: Path) -> None:
    write = SubmissionWriter(folder=tmp_path)
    path = write("11/000004", torch.tensor([0, 8, 18, -1]))
    assert path == tmp_path / "sequences" / "11" / "predictions" / "000004.label"
    assert read_point_labels(path, 4)[0].tolist() == [10, 40, 81, 0]
    with pytest.raises(ValueError, match="<sequence>/<frame>"):
        write("000004", torch.tensor([0]))
