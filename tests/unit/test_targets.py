"""A file may name only what the package's configurations name: Hydra would call anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.rendering.test_field_file import RENDERER
from tests.unit.rendering.test_field_file import write as write_field
from zoo.rendering.field_file import load_field
from zoo.targets import check_targets
from zoo.training.configuration import compose, load_run, plain, read_config


@pytest.fixture(autouse=True)
def nobody_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_TRUST")


def evil(trace: Path, target: str) -> dict[str, Any]:
    return {"_target_": target, "_args_": [str(trace)]}


@pytest.mark.parametrize(
    "target",
    [
        "os.mkdir",
        "builtins.open",
        "zoo.files.os.mkdir",  # by way of a module that the package imports
        "zoo.models.hollownerf.torch.hub.load",
        "torch.optim.adam.torch.save",
        "zoo.files.write_text",  # the package's own, but no configuration names it
    ],
)
@pytest.mark.parametrize("place", ["model", "data", "nested"])
def test_a_checkpoint_cannot_name_code(target: str, place: str, tmp_path: Path) -> None:
    trace = tmp_path / "was_here"
    config = plain(compose(["experiment=hollownerf_quickstart"]))
    if place == "nested":
        config["task"]["renderer"]["occupancy"] = [{"deeper": evil(trace, target)}]
    else:
        config[place] = evil(trace, target)
    torch.save({"config": config, "state_dict": {}}, tmp_path / "evil.ckpt")
    for load in (read_config, load_run):
        with pytest.raises(ValueError, match=rf"evil\.ckpt: its configuration asks for '{target}'.*ZOO_TRUST"):
            load(tmp_path / "evil.ckpt")
    assert not trace.exists()


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${oc.decode:'{_target_: os.mkdir}'}"])
def test_a_checkpoint_cannot_make_names_later(text: str, tmp_path: Path) -> None:
    torch.save({"config": {"model": text}, "state_dict": {}}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt: its configuration holds the interpolation"):
        read_config(tmp_path / "evil.ckpt")


def test_a_field_file_cannot_name_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "field.safetensors", tmp_path / "was_here"
    write_field(path)
    header = {
        "format": "voxelzoo-field",
        "version": "1",
        "config": json.dumps({"model": evil(trace, "zoo.rendering.report.os.mkdir"), "renderer": RENDERER}),
    }
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(ValueError, match=r"asks for 'zoo\.rendering\.report\.os\.mkdir'"):
        load_field(path)
    assert not trace.exists()


def test_own_packages_can_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model": {"_target_": "mine.models.Net"}}
    with pytest.raises(ValueError, match="ZOO_TRUST"):
        check_targets(config, "a.ckpt")
    monkeypatch.setenv("ZOO_TRUST", "other, mine")
    check_targets(config, "a.ckpt")
    with pytest.raises(ValueError, match="miner"):
        check_targets({"_target_": "miner.Net"}, "a.ckpt")


@pytest.mark.parametrize("name", ["hollownerf_quickstart", "dsvt_kitti", "spark_pictures_finetune", "spare_gaussians"])
def test_what_the_package_writes_is_known(name: str) -> None:
    check_targets(plain(compose([f"experiment={name}"])), "a.ckpt")
