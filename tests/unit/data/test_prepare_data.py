"""Checking and generating through the configuration, as tools/prepare_data.py does."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.unit.data.scenes import write_blender, write_ngp
from zoo.prepare_data import prepare
from zoo.training.configuration import build, compose

TINY = [f"data.generator.{name}" for name in ("image_size=16", "samples=1", "num_train=2", "num_val=1", "num_test=1")]


def configured(*overrides: str):
    return compose(list(overrides), config_name="prepare_data")


def test_generate_then_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    overrides = ["data=synthetic_scene", f"data.root={tmp_path / 'scene'}", *TINY]
    assert prepare(configured("action=generate", *overrides))
    with pytest.raises(FileExistsError, match="overwrite=true"):
        prepare(configured("action=generate", *overrides))
    assert prepare(configured("action=generate", "overwrite=true", *overrides))
    assert prepare(configured("action=prepare", *overrides))
    with caplog.at_level(logging.INFO):
        assert prepare(configured(*overrides))
    assert "train: 2 pictures of 16 x 16 pixels with alpha" in caplog.text
    assert "aabb: [-1.25" in caplog.text


def test_check_lists_all_that_is_bad(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_blender(tmp_path)
    (tmp_path / "train" / "r_0.png").write_text("")
    (tmp_path / "train" / "r_2.png").unlink()
    with caplog.at_level(logging.INFO):
        assert not prepare(configured("data=blender", f"data.root={tmp_path}"))
    assert caplog.text.count("bad: ") == 2


@pytest.mark.parametrize("name", ["instant_ngp", "fox"])
def test_captures(tmp_path: Path, name: str) -> None:
    write_ngp(tmp_path, 9)
    assert prepare(configured(f"data={name}", f"data.root={tmp_path}", "data.downscale=2"))


def test_questions_without_an_answer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing chosen"):
        prepare(configured())
    with pytest.raises(ValueError, match="action"):
        prepare(configured("data=blender", "action=guess"))


def test_every_field_data_set_can_be_built() -> None:
    for name in ("blender", "colmap", "fox", "instant_ngp", "synthetic_scene"):
        cfg = configured(f"data={name}", "data.root=somewhere")
        assert len(build(cfg.data)._box) == 6
