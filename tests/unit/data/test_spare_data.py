"""The SpaRe layout: generated scenes, reading them, DTU's protocol, and what is wrong with bad ones."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.bad_samples import SampleError
from zoo.data.formats.spare import picture_name
from zoo.data.silhouettes import foreground_of_dark_backdrop
from zoo.data.spare_data import SpareData
from zoo.data.spare_generator import SpareSettings, generate_spare_scenes, rig_poses
from zoo.data.spare_scene import DTU_TEST_VIEWS, dtu_scene, unpack_archives
from zoo.data.unseen_poses import unseen_poses

TINY = SpareSettings(width=80, height=60, samples=1, num_scenes=2, num_test=3)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate_spare_scenes(tmp_path_factory.mktemp("spare") / "set", TINY)


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "set"))


def opened(root: Path, **options) -> SpareData:
    data = SpareData(root=root, **{"scene": "House", **options})
    data.setup()
    return data


def test_a_generated_scene_is_read(root: Path) -> None:
    data = opened(root, silhouette="dark_backdrop")
    assert [len(part) for part in (data.train, data.val, data.test)] == [3, 3, 3]
    assert data.train.has_alpha
    assert not data.test.has_alpha
    distance = data.train.cameras.camera_to_world[:, :3, 3].norm(dim=-1)
    assert torch.allclose(distance, torch.ones(3), atol=1e-5)
    assert torch.allclose(data.aabb, 0.35 * torch.tensor([-1.0, -1, -1, 1, 1, 1]), atol=1e-5)
    masks = data.masks_of("test")
    assert masks is not None
    assert masks.shape == (3, 60, 80)
    alpha = data.train.images[..., 3] > 0
    train_masks = data.masks_of("train")
    assert train_masks is not None
    assert bool(alpha[train_masks].float().mean() > 0.99), "the object lies in the silhouette"
    assert not bool(alpha[:, 0].any())
    assert data.test_cameras((400, 300)).width == 400
    assert len(opened(root, track=2).train) == 9
    assert len(opened(root, track=2, leave_out=4).train) == 8
    report = SpareData(root=root, scene="House").check_data()
    assert not report.problems
    assert "train: 3 masks" in report.lines


def test_the_same_seed_gives_the_same_bytes(pristine: Path, tmp_path: Path) -> None:
    again = generate_spare_scenes(tmp_path / "again", TINY)
    files = sorted(path.relative_to(pristine) for path in pristine.rglob("*") if path.is_file())
    assert all((pristine / name).read_bytes() == (again / name).read_bytes() for name in files)
    with pytest.raises(FileExistsError):
        generate_spare_scenes(again, TINY)
    with pytest.raises(ValueError, match="1600 : 1200"):
        SpareSettings(width=80, height=80)
    with pytest.raises(SampleError, match="other settings"):
        opened(again, generate=True)


def test_a_split_that_names_a_missing_view(root: Path) -> None:
    path = root / "Track1_split_test.json"
    content = json.loads(path.read_text())
    content["House"]["input_views"][2] = 70
    path.write_text(json.dumps(content))
    with pytest.raises(SampleError, match=r"no pos_071\.txt for the view 70 .*views count from 0"):
        opened(root)
    free = next(view for view in range(64) if not list(root.rglob(f"House/{picture_name(view, is_dtu=False)}")))
    content["House"]["input_views"][2] = free
    path.write_text(json.dumps(content))
    with pytest.raises(SampleError, match="no such image"):
        opened(root)
    with pytest.raises(SampleError, match="no scene 'Teapot'"):
        opened(root, scene="Teapot")


def test_a_matrix_that_does_not_decompose(root: Path) -> None:
    (root / "synth_calibration" / "pos_001.txt").write_text("1 0 0 0\n0 1 0 0\n0 0 0 1\n")
    with pytest.raises(SampleError, match=r"pos_001\.txt: projection: its left 3 x 3 block is singular"):
        opened(root)


def test_two_cameras_in_one_place_and_one_view_alone(root: Path) -> None:
    data = opened(root)
    first, second = data.scene.input_views[:2]
    calibration = root / "synth_calibration"
    shutil.copy(calibration / f"pos_{first + 1:03d}.txt", calibration / f"pos_{second + 1:03d}.txt")
    with pytest.raises(SampleError, match=f"input views {first} and {second} stand in one place"):
        opened(root)
    with pytest.raises(SampleError, match="1 usable input view; at least 2"):
        opened(root, views=[first])
    one = (calibration / f"pos_{first + 1:03d}.txt").read_text()
    for path in calibration.glob("pos_*.txt"):
        path.write_text(one)
    with pytest.raises(SampleError, match="64 cameras stand in one point"):
        opened(root)


def test_black_pictures_and_masks_of_another_size(root: Path) -> None:
    mask = root / "masks" / "House" / f"{opened(root).scene.test_views[0]:03d}.png"
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(mask)
    with pytest.raises(SampleError, match="the mask has 10 x 10 pixels, its picture 80 x 60"):
        opened(root).masks_of("test")
    assert any("10 x 10" in problem for problem in SpareData(root=root, scene="House").check_data().problems)
    mask.unlink()
    with pytest.raises(SampleError, match="no such mask"):
        opened(root).masks_of("test")
    paths = sorted((root / "synth_test_3views" / "House").glob("*.png"))
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(paths[0])
    with pytest.raises(SampleError, match="black all over"):
        _ = opened(root, silhouette="dark_backdrop").train
    for path in paths:
        Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(path)
    with pytest.raises(SampleError, match=r"all 3 pictures of House .* are black"):
        _ = opened(root).train


def test_hidden_test_views_have_cameras_only(root: Path) -> None:
    shutil.rmtree(root / "truth")
    data = opened(root)
    assert len(data.train) == 3
    assert len(data.test_cameras()) == 3
    with pytest.raises(SampleError, match="keeps its test views"):
        _ = data.test
    lines = SpareData(root=root, scene="House").check_data().lines
    assert "test: 3 views to render, their pictures are not known" in lines


def test_archives_are_unpacked_and_may_not_leave_their_folder(root: Path) -> None:
    with zipfile.ZipFile(root / "synth_development_3views.zip", "w") as archive:
        archive.writestr("House/cam_001_3_0000.png", b"x")
    assert [path.name for path in unpack_archives(root)] == ["synth_development_3views"]
    assert unpack_archives(root) == []
    with zipfile.ZipFile(root / "bad.zip", "w") as archive:
        archive.writestr("../../bad.png", b"x")
    with pytest.raises(SampleError, match="outside of its folder"):
        unpack_archives(root)
    (root / "bad.zip").write_text("no zip")
    with pytest.raises(SampleError, match="download it again"):
        unpack_archives(root)


def test_dtu_by_regnerfs_protocol(root: Path, tmp_path: Path) -> None:
    assert DTU_TEST_VIEWS == (
        1, 2, 9, 10, 11, 12, 14, 15, 23, 24, 26, 27, 29, 30, 31, 32, 33, 34, 35, 41, 42, 43, 45, 46, 47,
    )  # fmt: skip
    with pytest.raises(ValueError, match="scan: found 1"):
        dtu_scene(1, 3)
    dtu = tmp_path / "dtu"
    (dtu / "Calibration").mkdir(parents=True)
    shutil.copytree(root / "synth_calibration", dtu / "Calibration" / "cal18")
    (dtu / "Rectified" / "scan8").mkdir(parents=True)
    source = next((root / "truth" / "House").glob("*.png"))
    for view in range(49):
        shutil.copy(source, dtu / "Rectified" / "scan8" / picture_name(view, is_dtu=True))
    data = opened(dtu, scene=None, dtu_scan=8, downscale=4, frame="regnerf")
    assert (len(data.train), len(data.test), data.train.cameras.width) == (3, 25, 20)
    assert data.train.names[0] == "scan8/rect_026_3_r5000.png"
    positions = torch.stack(list(data.rig.poses.values()))[:, :3, 3]
    assert float(positions.abs().max()) == pytest.approx(1)
    assert torch.allclose(positions.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9)


def test_shadows_under_something_bright_stay_in_the_silhouette() -> None:
    picture = torch.zeros(1, 60, 4, 3, dtype=torch.uint8)
    picture[0, 10, 1] = 200
    found = foreground_of_dark_backdrop(picture, threshold=30, column=5)
    assert found[0, :, 1].nonzero()[:, 0].tolist() == list(range(10, 16))
    assert not bool(found[0, :, 0].any())


def test_what_lies_under_the_object_can_be_left_out_of_the_silhouette() -> None:
    picture = torch.zeros(1, 20, 3, 3, dtype=torch.uint8)
    picture[0, 4, 1] = picture[0, 9, 1] = 200  # dark from 5 to 8, enclosed; nothing below 9
    open_below = foreground_of_dark_backdrop(picture, threshold=30, column=5)
    enclosed = foreground_of_dark_backdrop(picture, threshold=30, column=5, enclosed=True)
    assert open_below[0, :, 1].nonzero()[:, 0].tolist() == list(range(4, 15))
    assert enclosed[0, :, 1].nonzero()[:, 0].tolist() == list(range(4, 10))
    assert not bool(enclosed[0, :, [0, 2]].any())


def test_unseen_poses_look_where_the_cameras_look() -> None:
    poses = rig_poses()[:9]
    found = unseen_poses(poses, 50, generator=torch.Generator().manual_seed(0), jitter=0.0)
    rotation = found[:, :3, :3]
    assert torch.allclose(rotation.transpose(1, 2) @ rotation, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    target = torch.tensor([0.0, 0.0, 0.45 * 95], dtype=torch.float64)
    assert torch.allclose(torch.nn.functional.normalize(target - found[:, :3, 3], dim=-1), found[:, :3, 2], atol=1e-6)
    assert float((found[:, :3, 1] * poses[0, :3, 1]).sum(-1).min()) > 0, "no picture hangs upside down"
    with pytest.raises(ValueError, match="at least 2"):
        unseen_poses(poses[:1], 1, generator=torch.Generator())
