"""Every kind of damage gives an error that names the file; `skip` leaves the view out and counts it."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.unit.data.scenes import edit_json, picture, write_blender, write_colmap, write_ngp, write_picture
from zoo.data.bad_samples import SampleError
from zoo.data.radiance_fields import RadianceFieldData

Damage = Callable[[Path], Path]  # harms a scene, returns the file that the error must name


def load_all(root: Path, **arguments) -> RadianceFieldData:
    data = RadianceFieldData(root=root, **arguments)
    data.setup()
    for views in (data.train, data.val, data.test):
        assert len(views)
    return data


def cut(path: Path, keep: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def harm_pose(path: Path, change: Callable[[list], None], frame: int = 1) -> Path:
    content = json.loads(path.read_text())
    change(content["frames"][frame]["transform_matrix"])
    path.write_text(json.dumps(content))
    return path


def remove(path: Path) -> Path:
    path.unlink()
    return path


def overwrite(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def jpeg_cut(root: Path) -> Path:
    content = json.loads((root / "transforms_train.json").read_text())
    path = root / "train" / "r_1.jpg"
    write_picture(path, picture(0, 3, 64, 48))
    content["frames"][1]["file_path"] = "train/r_1.jpg"
    (root / "transforms_train.json").write_text(json.dumps(content))
    return cut(path)


def not_rigid(matrix: list) -> None:
    matrix[0][0] *= 1.3


def mirrored(matrix: list) -> None:
    for row in range(3):
        matrix[row][0] *= -1


def not_a_number(matrix: list) -> None:
    matrix[1][3] = math.nan


BLENDER: dict[str, tuple[Damage, str]] = {
    "missing image": (lambda root: remove(root / "train" / "r_1.png"), "no such image"),
    "cut PNG": (lambda root: cut(root / "train" / "r_1.png"), "cut short"),
    "cut JPEG": (jpeg_cut, "cut short"),
    "no picture": (lambda root: overwrite(root / "test" / "r_1.png", "hello"), "not a readable image"),
    "empty picture": (lambda root: overwrite(root / "test" / "r_1.png", ""), "not a readable image"),
    "16-bit picture": (
        lambda root: [
            Image.fromarray(np.zeros((8, 12), dtype=np.uint16)).save(root / "test" / "r_1.png"),
            root / "test" / "r_1.png",
        ][1],
        "expected 8 bits a channel",
    ),
    "NaN pose": (lambda root: harm_pose(root / "transforms_train.json", not_a_number), "NaN"),
    "non-rigid pose": (lambda root: harm_pose(root / "transforms_val.json", not_rigid), "not rigid"),
    "mirrored pose": (lambda root: harm_pose(root / "transforms_train.json", mirrored), "mirrors"),
    "short pose": (lambda root: harm_pose(root / "transforms_train.json", lambda m: m.pop(0) and m.pop(0)), "4 x 4"),
    "words in a pose": (
        lambda root: harm_pose(root / "transforms_train.json", lambda m: m.__setitem__(0, "x")),
        "4 x 4",
    ),
    "another size": (
        lambda root: [write_picture(root / "train" / "r_1.png", picture(0, 4, 10, 10)), root / "train" / "r_1.png"][1],
        "the other images of the set",
    ),
}

FATAL: dict[str, tuple[Damage, str]] = {
    "no JSON": (lambda root: overwrite(root / "transforms_train.json", "{frames: "), "not valid JSON"),
    "JSON of another kind": (lambda root: overwrite(root / "transforms_train.json", "[1, 2]"), "list `frames`"),
    "empty split": (
        lambda root: [edit_json(root / "transforms_test.json", frames=[]), root / "transforms_test.json"][1],
        "empty split",
    ),
    "no transforms": (lambda root: [remove(root / "transforms_train.json"), root][1], "holds no scene"),
    "nothing to evaluate on": (
        lambda root: [remove(root / "transforms_val.json"), remove(root / "transforms_test.json"), root][2],
        "to evaluate on",
    ),
}


@pytest.mark.parametrize("kind", BLENDER)
def test_bad_view(tmp_path: Path, kind: str) -> None:
    damage, message = BLENDER[kind]
    named = damage(write_blender(tmp_path, (4, 3, 3)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SampleError, match=message) as caught:
        load_all(tmp_path)
    assert str(named) in str(caught.value)
    skipping = load_all(tmp_path, on_bad_sample="skip")
    assert skipping.num_skipped == 1
    assert len(skipping.train) + len(skipping.val) + len(skipping.test) == 9
    assert sorted(tmp_path.rglob("*")) == before
    report = RadianceFieldData(root=tmp_path).check_data()
    assert len(report.problems) == 1
    assert report.problems[0].startswith(str(named))


@pytest.mark.parametrize("policy", ["error", "skip"])
@pytest.mark.parametrize("kind", FATAL)
def test_nothing_can_be_made_of_it(tmp_path: Path, kind: str, policy) -> None:
    damage, message = FATAL[kind]
    named = damage(write_blender(tmp_path))
    with pytest.raises(SampleError, match=message) as caught:
        load_all(tmp_path, on_bad_sample=policy)
    assert str(caught.value).startswith(str(named))


def test_all_views_bad_is_an_empty_split(tmp_path: Path) -> None:
    write_blender(tmp_path)
    for path in (tmp_path / "test").iterdir():
        cut(path)
    with pytest.raises(SampleError, match="empty split: none of its 2 views"):
        load_all(tmp_path, on_bad_sample="skip")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w": 20, "h": 8}, "not the same picture at another scale"),
        ({"w": "wide"}, "w is 'wide', expected a finite number"),
        ({"fl_x": -11.0}, "fl_x is -11, expected a number above 0"),
        ({"camera_angle_x": 4}, "camera_angle_x is 4, expected a number above 0 and below 3.142"),
        ({"fl_x": None, "fl_y": None}, "neither fl_x nor camera_angle_x"),
        ({"aabb_scale": 3}, "power of two"),
        ({"offset": 0.5}, "three numbers"),
        ({"k4": 0.1}, "without is_fisheye"),
    ],
)
def test_bad_settings_of_instant_ngp(tmp_path: Path, settings: dict, message: str) -> None:
    write_ngp(tmp_path, 9, **settings)
    with pytest.raises(SampleError, match=message) as caught:
        load_all(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_instant_ngp_without_any_picture(tmp_path: Path) -> None:
    write_ngp(tmp_path, 9)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(SampleError, match="none of its 9 frames"):
        load_all(tmp_path)


def test_a_holdout_that_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="nothing is left to train on"):
        load_all(write_ngp(tmp_path, 1))


def test_missing_folder_and_arguments(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="no such folder"):
        load_all(tmp_path / "nowhere")
    for arguments, message in (
        ({"format": "vhs"}, "format"),
        ({"on_bad_sample": "hide"}, "on_bad_sample"),
        ({"downscale": 0}, "downscale"),
        ({"aabb": [0, 0, 0, 1, 1]}, "aabb"),
        ({"aabb": [0, 0, 0, 1, -1, 1]}, "aabb"),
    ):
        with pytest.raises(ValueError, match=message):
            RadianceFieldData(root=tmp_path, **arguments)
    with pytest.raises(RuntimeError, match="setup"):
        _ = RadianceFieldData(root=tmp_path).aabb
    with pytest.raises(ValueError, match="scale"):
        load_all(write_blender(tmp_path / "a"), scene_scale=0.0)
    with pytest.raises(SampleError, match="too few for downscale"):
        load_all(tmp_path / "a", downscale=9)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.95])
def test_binary_colmap_cut_short(tmp_path: Path, name: str, keep: float) -> None:
    write_colmap(tmp_path, 9, binary=True)
    path = cut(tmp_path / "sparse" / "0" / f"{name}.bin", keep)
    with pytest.raises(SampleError, match="cut short") as caught:
        load_all(tmp_path)
    assert str(caught.value).startswith(str(path))


def test_every_cut_of_a_binary_file_is_noticed(tmp_path: Path) -> None:
    write_colmap(tmp_path, 2, binary=True)
    path = tmp_path / "sparse" / "0" / "images.bin"
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(SampleError, match=r"images\.bin"):
            load_all(tmp_path)


def test_colmap_camera_models(tmp_path: Path) -> None:
    write_colmap(tmp_path / "text", 9)
    path = tmp_path / "text" / "sparse" / "0" / "cameras.txt"
    for line, message in (
        ("3 RAD_TAN_THIN_PRISM_FISHEYE 12 8 1 2 3", "unknown camera model RAD_TAN_THIN_PRISM_FISHEYE"),
        ("3 OPENCV 12 8 1 2 3", "has 3 parameters, expected 8"),
        ("3 OPENCV 12", "line 1"),
        ("4 PINHOLE 12 8 11 10 6 4", "names camera 3, which does not exist"),
    ):
        path.write_text(line)
        with pytest.raises(SampleError, match=message):
            load_all(tmp_path / "text")
    write_colmap(tmp_path / "binary", 9, binary=True)
    path = tmp_path / "binary" / "sparse" / "0" / "cameras.bin"
    path.write_bytes(struct.pack("<QiiQQ", 1, 3, 11, 12, 8))
    with pytest.raises(SampleError, match="unknown camera model id 11"):
        load_all(tmp_path / "binary")


@pytest.mark.parametrize("name", ["images", "points3D"])
def test_text_colmap_with_damaged_lines(tmp_path: Path, name: str) -> None:
    write_colmap(tmp_path, 9)
    path = tmp_path / "sparse" / "0" / f"{name}.txt"
    path.write_text(path.read_text() + "12 0.5 oops\n")
    with pytest.raises(SampleError, match="line ") as caught:
        load_all(tmp_path)
    assert str(caught.value).startswith(str(path))


def test_colmap_with_bad_views(tmp_path: Path) -> None:
    write_colmap(tmp_path, 12)
    (tmp_path / "images" / "view 3.png").unlink()
    path = tmp_path / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    lines[1 + 2 * 4] = "5 0 0 0 0 1 2 3 3 view 4.png"
    lines[1 + 2 * 5] = "6 nan 0 0 0 1 2 3 3 view 5.png"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(SampleError, match=r"view 3\.png"):
        load_all(tmp_path)
    assert load_all(tmp_path, on_bad_sample="skip").num_skipped == 3


def test_mixed_lens_families(tmp_path: Path) -> None:
    write_ngp(tmp_path, 9)
    content = edit_json(tmp_path / "transforms.json")
    content["frames"][2].update(is_fisheye=True, k1=0.1)
    edit_json(tmp_path / "transforms.json", frames=content["frames"])
    with pytest.raises(SampleError, match="mixes lens families"):
        load_all(tmp_path)


def test_damage_in_one_split_is_found_when_that_split_is_read(tmp_path: Path) -> None:
    write_blender(tmp_path)
    cut(tmp_path / "test" / "r_0.png")
    data = RadianceFieldData(root=tmp_path)
    data.setup()
    assert torch.is_tensor(data.train.images)
    with pytest.raises(SampleError, match="test/r_0"):
        _ = data.test
