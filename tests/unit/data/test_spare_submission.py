"""Submissions: written, accepted, and refused for each thing that can be wrong."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo.data.bad_samples import SampleError
from zoo.data.formats.spare import SpareScene
from zoo.data.spare_submission import SpareSubmission, check_submission, write_submission

SIZE = (16, 12)
SCENES = {
    "Toy": SpareScene("Toy", (0, 1, 2), (3, 13), "Synthetic"),
    "scan63": SpareScene("scan63", (0, 1, 2), (13,), "DTU"),
}


def write_renders(folder: Path) -> Path:
    for name in ("Toy/cam_004_3_0000.png", "Toy/cam_014_3_0000.png", "scan63/rect_014_3_r5000.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((SIZE[1], SIZE[0], 3), 51, np.uint8)).save(folder / name)
    return folder


def test_a_complete_submission_is_accepted(tmp_path: Path) -> None:
    renders = write_renders(tmp_path / "renders")
    path = write_submission(tmp_path / "a.zip", SCENES, renders, size=SIZE)
    assert check_submission(path, SCENES, size=SIZE) == []
    assert path.read_bytes() == write_submission(tmp_path / "b.zip", SCENES, renders, size=SIZE).read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert "scan63/rect_014_3_r5000.png" in archive.namelist()
    assert float(SpareSubmission(path).picture(SCENES["Toy"], 13).mean()) == pytest.approx(0.2)
    with pytest.raises(SampleError, match="missing"):
        SpareSubmission(path).picture(SCENES["Toy"], 14)
    only_dtu = write_submission(tmp_path / "dtu.zip", {"scan63": SCENES["scan63"]}, renders, size=SIZE)
    assert check_submission(only_dtu, SCENES, size=SIZE) == []
    assert len(check_submission(only_dtu, SCENES, size=SIZE, one_family=False)) == 2


def test_an_incomplete_one_is_not_written(tmp_path: Path) -> None:
    renders = write_renders(tmp_path / "renders")
    (renders / "Toy" / "cam_014_3_0000.png").unlink()
    with pytest.raises(SampleError, match="not complete"):
        write_submission(tmp_path / "a.zip", SCENES, renders, size=SIZE)
    write_renders(tmp_path / "renders")
    with pytest.raises(SampleError, match=r"would not be accepted: .*has 16 x 12 pixels, expected 1600 x 1200"):
        write_submission(tmp_path / "a.zip", SCENES, renders)
    assert not (tmp_path / "a.zip").exists()


def packed(path: Path, renders: Path, rename: dict[str, str]) -> list[str]:
    with zipfile.ZipFile(path, "w") as archive:
        for source in sorted(renders.rglob("*.*")):
            name = source.relative_to(renders).as_posix()
            archive.write(source, rename.get(name, name))
    return check_submission(path, SCENES, size=SIZE)


@pytest.mark.parametrize(
    ("rename", "problems"),
    [
        ({"Toy/cam_014_3_0000.png": "Toy/cam_013_3_0000.png"}, ["files count from 1", "is missing"]),
        ({"Toy/cam_014_3_0000.png": "Toy/cam_014_2_0000.png"}, ["belongs to no test view", "is missing"]),
        ({"Toy/cam_014_3_0000.png": "out/Toy/cam_014_3_0000.png"}, ["at the root of the archive", "is missing"]),
        ({"Toy/cam_014_3_0000.png": "Toy/cam_004_3_0000.png"}, ["is there 2 times", "is missing"]),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_wrong_names(tmp_path: Path, rename: dict[str, str], problems: list[str]) -> None:
    found = packed(tmp_path / "a.zip", write_renders(tmp_path / "renders"), rename)
    assert len(found) == len(problems)
    assert all(expected in problem for expected, problem in zip(problems, found, strict=True))


def test_wrong_pictures(tmp_path: Path) -> None:
    renders = write_renders(tmp_path / "renders")
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(renders / "Toy" / "cam_004_3_0000.png")
    Image.fromarray(np.zeros((12, 16, 4), np.uint8)).save(renders / "Toy" / "cam_014_3_0000.png")
    (renders / "scan63" / "rect_014_3_r5000.png").write_text("text")
    found = packed(tmp_path / "a.zip", renders, {})
    for expected in ("8 x 6 pixels, expected 16 x 12", "channels RGBA", "no readable picture"):
        assert any(expected in problem for problem in found)
    (tmp_path / "b.zip").write_text("text")
    assert "no readable ZIP" in check_submission(tmp_path / "b.zip", SCENES)[0]
    with pytest.raises(SampleError, match="no readable ZIP"):
        SpareSubmission(tmp_path / "b.zip")
