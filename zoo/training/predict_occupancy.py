"""``tools/predict.py`` for networks of occupancy: clouds become meshes, with a picture of both."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import torch
import trimesh
from omegaconf import DictConfig
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.formats.surface_files import SURFACE_SUFFIXES, read_surface
from zoo.data.occupancy_data import OccupancyData
from zoo.data.progress import track
from zoo.models.gridformer import SlidingWindow, occupancy_surface_near
from zoo.rendering.mesh import MESH_SUFFIXES, as_trimesh
from zoo.rendering.surface_pictures import UpAxis
from zoo.tasks.occupancy import OccupancyTask
from zoo.training.configuration import load_run
from zoo.training.predict_surface import write_surface
from zoo.training.run_folder import find_checkpoint

__all__ = ["predict_files", "surface_of_object", "surface_of_scene"]

log = logging.getLogger(__name__)

_UPRIGHT = {"x": [2, 0, 1], "y": [0, 1, 2], "z": [1, 2, 0]}  # turns that bring the axis that points up to y
_CACHED = 8  # cubes of a scene whose maps are kept


def predict_files(cfg: DictConfig) -> Path:
    """Turn ``input`` into meshes as ``zoo/configs/predict.yaml`` describes and return the folder that was written.

    A file that cannot be read is named and left out; the others are still done.

    Raises:
        ValueError: Nothing was asked for, a name that is no mesh file's, or no file could be read.
        FileNotFoundError: ``ckpt`` or ``input`` names nothing.
    """
    if cfg.input is None:
        raise ValueError("input: found none, expected a cloud or a mesh, or a folder of them")
    files = _find_files(Path(cfg.input).expanduser())
    name = cfg.mesh.file
    if name is not None and (Path(name).suffix.lower() not in MESH_SUFFIXES or len(files) > 1):
        raise ValueError(
            f"mesh.file: found {name!r} for {len(files)} files, expected a name that ends with one of "
            f"{list(MESH_SUFFIXES)}, and one file"
        )
    checkpoint = find_checkpoint(cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name)
    _, parts = load_run(checkpoint, list(cfg.overrides))
    task, data = parts.task, parts.data
    if not isinstance(task, OccupancyTask) or not isinstance(data, OccupancyData):
        raise ValueError(f"ckpt={cfg.ckpt}: holds a {type(task).__name__}, expected a network of occupancy")
    task.to(cfg.device)
    task.mesh_resolution = int(cfg.mesh.resolution)
    folder = Path(cfg.output) if cfg.output else checkpoint.resolve().parents[1] / "predictions"
    done = 0
    for file in track(files, "surfaces", len(files)):
        try:
            points = torch.from_numpy(read_surface(file).points)
        except SampleError as error:
            log.error("left out: %s", error)
            continue
        options = {"up": cfg.mesh.up, "max_points": data.num_input_points}
        if cfg.mesh.window is None:
            mesh = surface_of_object(task, points, on_floor=data.source.num_files > 1, **options)
        else:
            mesh = surface_of_scene(task, points, window=float(cfg.mesh.window), **options)
        path = folder / (name or f"{file.stem}.ply")
        write_surface(path, mesh, points, up=cast(UpAxis, cfg.mesh.up), picture=cfg.pictures)
        done += 1
    if not done:
        raise ValueError(f"input={cfg.input}: none of {len(files)} files could be read")
    return folder


def _find_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SURFACE_SUFFIXES)
    if not files:
        raise FileNotFoundError(f"input={path}: found no file with one of the endings {', '.join(SURFACE_SUFFIXES)}")
    return files


def surface_of_object(
    task: OccupancyTask, points: Tensor, *, max_points: int, up: str = "y", on_floor: bool = False
) -> trimesh.Trimesh:
    """The surface of a cloud that is scaled into the cube of training as a whole.

    Args:
        task: With ``mesh_resolution``, cells along the cube.
        points: ``(N, 3)`` in any units; the longest side of their box becomes 1.
        max_points: As many at most are used, as in training; the same random ones each time.
        up: The axis of the file that points up.
        on_floor: Puts the lowest point onto the cube's floor, as rooms are trained, instead of the box into its middle.

    Returns:
        The mesh in the units of the points.
    """
    axes = _UPRIGHT[up]
    upright = points.double()[:, axes]
    low, high = upright.amin(0), upright.amax(0)
    centre, scale = (low + high) / 2, (high - low).amax()
    if on_floor:
        centre[1] = low[1] + scale / 2
    if len(points) > max_points:
        upright = upright[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:max_points]]
    mesh = task.reconstruct(((upright - centre) / scale).float())
    return _placed(mesh, centre, float(scale), axes)


def surface_of_scene(
    task: OccupancyTask, points: Tensor, *, window: float, max_points: int, up: str = "y"
) -> trimesh.Trimesh:
    """The surface of a scene that is larger than what training had in its cube, see `SlidingWindow`.

    Args:
        task: With ``mesh_resolution``, cells along the padded cube.
        points: ``(N, 3)`` in any units.
        window: Edge in these units of what training scaled to 1.
        max_points: Of a cube.
        up: The axis of the file that points up.

    Returns:
        The mesh in the units of the points.
    """
    if not window > 0 or task.mesh_resolution is None:
        raise ValueError(f"window={window}, mesh_resolution={task.mesh_resolution}: expected both, and above 0")
    axes, model = _UPRIGHT[up], cast(Any, task.model)
    upright = points.double()[:, axes]
    centre = (upright.amin(0) + upright.amax(0)) / 2
    cloud = ((upright - centre) / window).float()
    scene = SlidingWindow(model, cloud.to(task.device), window=1.0, max_points=max_points, cached=_CACHED)
    surface = occupancy_surface_near(
        lambda places: scene.logits(places.to(task.device)),
        cloud,
        (1 + model.padding) / task.mesh_resolution,
        level=task.mesh_level,
        refinements=task.mesh_refinements,
        chunk_size=task.chunk_size,
    )
    return _placed(as_trimesh(surface), centre, window, axes)


def _placed(mesh: trimesh.Trimesh, centre: Tensor, scale: float, axes: list[int]) -> trimesh.Trimesh:
    """Back to the units and axes of the file."""
    back = [axes.index(axis) for axis in range(3)]
    vertices = (mesh.vertices * scale + centre.numpy())[:, back]
    return trimesh.Trimesh(vertices, mesh.faces, vertex_normals=mesh.vertex_normals[:, back], process=False)
