"""A pruned field in one safetensors file: the rows that are needed, open saliency cells, occupied cells, networks.

Layout (version 1): ``rows`` ``(kept, F)`` float32 and ``row_mask``, ``saliency_values`` ``(open vertices,)`` float32
and ``cell_mask``, ``occupancy_mask``; every mask is packed, 8 bits a byte, first bit highest. All other tensors of
field and renderer stand under ``field/`` and ``renderer/``. The header holds the configuration that rebuilds both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.files import atomic_path
from zoo.models.field_pruning import CLOSED, open_vertices
from zoo.models.hollownerf import HollowNeRF
from zoo.rendering.field_renderer import FieldRenderer
from zoo.targets import check_targets

__all__ = ["LoadedField", "load_field", "save_field"]

VERSION = "1"
_FORMAT = "voxelzoo-field"
_LARGE = {"encoding.table", "saliency.values", "saliency.open_cells"}


class LoadedField(NamedTuple):
    """What a field file holds."""

    field: HollowNeRF
    renderer: FieldRenderer
    views: Cameras  # of the pictures it was trained on, without lens distortion
    world_to_scene: Tensor  # (4, 4) float64, from the world of the capture's files to the field's
    background: tuple[float, float, float]


def save_field(
    path: Path,
    field: HollowNeRF,
    renderer: FieldRenderer,
    *,
    config: Mapping[str, Any],
    views: Cameras,
    world_to_scene: Tensor,
    background: Sequence[float],
) -> int:
    """Write a pruned field and return the size of the file in bytes.

    Args:
        path: Ends in ``.safetensors``.
        field: Pruned by ``zoo.models.field_pruning.prune``.
        renderer: Its occupancy grid is stored as bits; running averages of densities are not stored.
        config: Plain containers: ``model`` and ``renderer`` rebuild the two with their ``_target_``.
        views: Cameras of the training pictures.
        world_to_scene: Similarity ``(4, 4)`` from the world of the capture's files.
        background: Colour behind pictures, three numbers in [0, 1].

    Raises:
        ValueError: The field was not pruned.
    """
    grid = field.saliency
    if grid is None or grid.open_cells is None:
        raise ValueError("field: it was not pruned; call zoo.models.field_pruning.prune first")
    table = field.encoding.table.detach().cpu()
    rows = (table != 0).any(dim=1)
    cells = grid.open_cells.cpu()
    tensors = {
        "rows": table[rows],
        "row_mask": _pack(rows),
        "saliency_values": grid.values.detach().cpu()[open_vertices(cells)],
        "cell_mask": _pack(cells),
        "occupancy_mask": _pack(renderer.occupancy.binaries.cpu()),
        "views/camera_to_world": views.camera_to_world.cpu(),
        "views/intrinsics": views.intrinsics.cpu(),
        "world_to_scene": world_to_scene.cpu(),
    }
    tensors |= {f"field/{name}": value.cpu() for name, value in field.state_dict().items() if name not in _LARGE}
    large = {f"occupancy.{name}" for name in ("binaries", "occs")}
    tensors |= {f"renderer/{name}": value.cpu() for name, value in renderer.state_dict().items() if name not in large}
    facts = {"size": [views.width, views.height], "background": [float(value) for value in background]}
    header = {"format": _FORMAT, "version": VERSION, "config": json.dumps({**config, **facts})}
    with atomic_path(path) as draft:
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, draft, metadata=header)
    return path.stat().st_size


def load_field(path: Path) -> LoadedField:
    """Rebuild a field and its renderer from a file of ``save_field``.

    Raises:
        ValueError: The file is none, is damaged, or asks for classes outside of this package.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as safetensors ({error})") from error
    if header.get("format") != _FORMAT or header.get("version") != VERSION:
        raise ValueError(
            f"{path}: found format {header.get('format')!r} {header.get('version')!r}, expected {_FORMAT} {VERSION}"
        )
    try:
        config = json.loads(header["config"])
        check_targets(config, str(path))
        _check_sizes(config, tensors)
        return _rebuild(config, tensors)
    except Exception as error:  # constructors raise whatever a configuration of another form makes them raise
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: configuration and tensors do not fit together ({error})") from error


def _rebuild(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LoadedField:
    field, renderer = _build(config)
    _fill(field, renderer, tensors)
    views = Cameras(tensors["views/camera_to_world"], tensors["views/intrinsics"], *config["size"])
    red, green, blue = config["background"]
    return LoadedField(field.eval(), renderer.eval(), views, tensors["world_to_scene"], (red, green, blue))


def _fill(field: HollowNeRF, renderer: FieldRenderer, tensors: Mapping[str, Tensor]) -> None:
    grid = field.saliency
    assert grid is not None
    cells = _unpack(tensors["cell_mask"], (grid.resolution - 1,) * 3)
    values = torch.full_like(grid.values, CLOSED)
    values[open_vertices(cells)] = tensors["saliency_values"]
    rows = _unpack(tensors["row_mask"], (len(field.encoding.table),))
    table = torch.zeros_like(field.encoding.table)
    table[rows] = tensors["rows"]
    state = {name.removeprefix("field/"): value for name, value in tensors.items() if name.startswith("field/")}
    field.load_state_dict(state | {"encoding.table": table, "saliency.values": values, "saliency.open_cells": cells})
    occupancy = renderer.occupancy
    state = {name.removeprefix("renderer/"): value for name, value in tensors.items() if name.startswith("renderer/")}
    occupied = _unpack(tensors["occupancy_mask"], tuple(occupancy.binaries.shape))
    state |= {"occupancy.binaries": occupied, "occupancy.occs": occupied.flatten().to(occupancy.occs.dtype)}
    renderer.load_state_dict(state)


def _build(config: Mapping[str, Any]) -> tuple[HollowNeRF, FieldRenderer]:
    """Instantiate a checked configuration."""
    from hydra.utils import instantiate

    field, renderer = instantiate(config["model"]), instantiate(config["renderer"])
    if not isinstance(field, HollowNeRF) or field.saliency is None or not isinstance(renderer, FieldRenderer):
        raise ValueError(f"it describes {type(field).__name__} and {type(renderer).__name__}, expected a pruned field")
    return field, renderer


def _check_sizes(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compare the tables that a configuration asks for with the masks in the file, before any is made."""
    from hydra.utils import instantiate

    with torch.device("meta"):
        field = instantiate(config["model"])
    if not isinstance(field, HollowNeRF) or field.saliency is None:
        raise ValueError(f"it describes {type(field).__name__}, expected a pruned field")
    cells = config["renderer"]["occupancy"].get("resolution", 1)
    sizes = {
        "row_mask": len(field.encoding.table),
        "cell_mask": (field.saliency.resolution - 1) ** 3,
        "occupancy_mask": math.prod(cells) if isinstance(cells, list) else cells**3,
    }
    for name, count in sizes.items():
        if not 0 < count <= 8 * len(tensors[name]):
            raise ValueError(f"{name}: found {len(tensors[name])} bytes, expected bits for {count} cells")


def _pack(mask: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(mask.numpy().reshape(-1)))


def _unpack(bits: Tensor, shape: tuple[int, ...]) -> Tensor:
    count = int(np.prod(shape))
    if bits.dtype != torch.uint8 or len(bits) != -(-count // 8):
        raise ValueError(
            f"bits: found {len(bits)} bytes {bits.dtype}, expected {-(-count // 8)} for a mask of shape {shape}"
        )
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(bool)).reshape(shape)
