"""Splits, names and calibration of the SpaRe benchmark, and what is wrong with bad ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.data.bad_samples import SampleError
from zoo.data.formats.spare import read_calibration, read_split
from zoo.data.projection_matrix import compose_projection, decompose_projection

GOOD: dict[str, Any] = {"input_views": [0, 1, 2], "test_views": [3, 4], "dataset": "Synthetic"}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({**GOOD, "input_views": [0, -1]}, "count from 0"),
        ({**GOOD, "input_views": [0, True]}, "count from 0"),
        ({**GOOD, "test_views": []}, "test_views"),
        ({**GOOD, "test_views": [3, 3]}, "twice"),
        ({**GOOD, "test_views": [2, 3]}, "both input and test"),
        ({"input_views": [0], "test_views": [1]}, "dataset"),
        ([1], "dataset"),
    ],
)
def test_bad_splits(tmp_path: Path, entry: Any, problem: str) -> None:
    path = tmp_path / "Track1_split_test.json"
    path.write_text(json.dumps({"Toy": entry}))
    with pytest.raises(SampleError, match=problem) as caught:
        read_split(path)
    assert str(path) in str(caught.value)
    assert "Toy" in str(caught.value)


def test_a_split_is_read_in_order_and_written_back(tmp_path: Path) -> None:
    content = {"Toy": GOOD, "scan8": {**GOOD, "dataset": "DTU"}}
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    scenes = read_split(path)
    assert [scene.family for scene in scenes.values()] == ["synth", "dtu"]
    assert {name: scene.as_json() for name, scene in scenes.items()} == content
    assert scenes["Toy"].picture_name(8, light=0) == "cam_009_0_0000.png"
    for text, problem in (
        ("{", "not valid JSON"),
        ("[]", "mapping"),
        ("{}", "at least one"),
        ('{"../up": 1}', "plain"),
    ):
        path.write_text(text)
        with pytest.raises(SampleError, match=problem):
            read_split(path)


def test_matrices_that_do_not_decompose(tmp_path: Path) -> None:
    path = tmp_path / "pos_001.txt"
    for text, problem in (
        ("1 2 3", "3 numbers, expected the 12"),
        ("a " * 12, "expected 12 numbers"),
        ("1 0 0 0  0 1 0 0  0 0 0 1", "singular"),
        ("1 0 0 0  0 1 0 0  0 0 nan 1", "NaN"),
    ):
        path.write_text(text)
        with pytest.raises(SampleError, match=problem):
            read_calibration(tmp_path)
    with pytest.raises(SampleError, match=r"pos_005\.txt: no such"):
        read_calibration(tmp_path, [4])
    with pytest.raises(SampleError, match="prepare"):
        read_calibration(tmp_path / "none")


def test_dtus_first_camera(tmp_path: Path) -> None:
    (tmp_path / "pos_001.txt").write_text(
        "2607.429996 -3.844898 1498.178098 -533936.661373\n"
        "-192.076910 2862.552532 681.798177 23434.686572\n"
        "-0.241605 -0.030951 0.969881 22.540121\n"
    )
    projection = read_calibration(tmp_path)[0]
    found = decompose_projection(projection)
    expected = torch.tensor([[2892.3305, 0, 823.205], [0, 2883.1753, 619.071], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(found.intrinsics, expected, atol=2e-2, rtol=0)
    assert torch.allclose(found.center, torch.tensor([190.833, -1.160, 24.261], dtype=torch.float64), atol=1e-2)
    torch.testing.assert_close(
        compose_projection(found.intrinsics, found.camera_to_world), projection, rtol=1e-6, atol=0
    )
