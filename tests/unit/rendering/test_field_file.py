"""A pruned field survives being written and read, and bad files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from zoo.data.cameras import Cameras
from zoo.models.field_pruning import prune
from zoo.models.hollownerf import HollowNeRF
from zoo.models.layers.occupancy_grid import OccupancyGrid
from zoo.models.saliency import DensityGate, SaliencyGrid
from zoo.rendering.field_file import load_field, save_field
from zoo.rendering.field_renderer import FieldRenderer

MODEL = {
    "_target_": "zoo.models.hollownerf.HollowNeRF",
    "num_levels": 3,
    "log2_table_size": 8,
    "base_resolution": 4,
    "finest_resolution": 16,
    "saliency": {"_target_": "zoo.models.saliency.SaliencyGrid", "resolution": 6},
    "gate": {"_target_": "zoo.models.saliency.DensityGate"},
}
RENDERER = {
    "_target_": "zoo.rendering.field_renderer.FieldRenderer",
    "step_size": 0.05,
    "occupancy": {
        "_target_": "zoo.models.layers.occupancy_grid.OccupancyGrid",
        "roi_aabb": [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0],
        "resolution": 5,
    },
}


def camera() -> Cameras:
    pose = torch.eye(4)[None]
    pose[0, 2, 3] = -3.0
    return Cameras(pose, torch.tensor([[10.0, 10.0, 4.0, 4.0]]), width=8, height=8)


def trained() -> tuple[HollowNeRF, FieldRenderer]:
    torch.manual_seed(0)
    field = HollowNeRF(
        num_levels=3,
        log2_table_size=8,
        base_resolution=4,
        finest_resolution=16,
        saliency=SaliencyGrid(resolution=6),
        gate=DensityGate(),
    )
    assert field.saliency is not None
    with torch.no_grad():
        torch.nn.init.normal_(field.encoding.table)
        field.saliency.values.fill_(-40.0)
        field.saliency.values[2:4, 1:5, 1:5] = 1.0
    renderer = FieldRenderer(occupancy=OccupancyGrid(roi_aabb=[-1, -1, -1, 1, 1, 1], resolution=5), step_size=0.05)
    renderer.occupancy.binaries.fill_(True)
    return field, renderer


def write(path: Path, **config) -> tuple[HollowNeRF, FieldRenderer, int]:
    field, renderer = trained()
    prune(field, renderer.occupancy)
    size = save_field(
        path,
        field,
        renderer,
        config={"model": MODEL, "renderer": RENDERER} | config,
        views=camera(),
        world_to_scene=torch.eye(4, dtype=torch.float64),
        background=(1.0, 1.0, 1.0),
    )
    return field, renderer, size


def test_a_file_renders_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    field, renderer, size = write(path)
    loaded = load_field(path)
    assert size == path.stat().st_size
    for name, value in field.state_dict().items():
        torch.testing.assert_close(loaded.field.state_dict()[name], value, msg=name)
    assert torch.equal(loaded.renderer.occupancy.binaries, renderer.occupancy.binaries)
    background = torch.tensor(loaded.background)
    one = renderer.render_image(field, camera(), background=background)
    other = loaded.renderer.render_image(loaded.field, loaded.views, background=background)
    assert float(one.opacity.max()) > 0.5
    torch.testing.assert_close(one.rgb, other.rgb)


def test_an_unpruned_field_is_refused(tmp_path: Path) -> None:
    field, renderer = trained()
    with pytest.raises(ValueError, match="not pruned"):
        save_field(
            tmp_path / "field.safetensors",
            field,
            renderer,
            config={},
            views=camera(),
            world_to_scene=torch.eye(4),
            background=(1, 1, 1),
        )
    assert not list(tmp_path.iterdir())


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        load_field(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="found format None"):
        load_field(path)


def test_a_file_cannot_name_code_outside_of_the_package(tmp_path: Path) -> None:
    path = tmp_path / "field.safetensors"
    write(path)
    tensors = load_file(path)
    evil = {"model": {"_target_": "os.system", "command": "true"}, "renderer": RENDERER}
    header = {"format": "voxelzoo-field", "version": "1", "config": json.dumps(evil)}
    save_file(tensors, path, metadata=header)
    with pytest.raises(ValueError, match=r"asks for 'os\.system'"):
        load_field(path)
