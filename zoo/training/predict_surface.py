"""``tools/predict.py`` for surfaces: a cloud becomes a mesh, with a picture of both."""

from __future__ import annotations

import logging
from pathlib import Path

import trimesh
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from zoo.rendering.images import write_png
from zoo.rendering.mesh import MESH_SUFFIXES, write_mesh
from zoo.rendering.surface_pictures import UpAxis, mesh_points, turntable, turntable_sheet
from zoo.tasks.grid_pull import GridPullTask
from zoo.training.configuration import load_run, name_run, read_config
from zoo.training.run_folder import find_checkpoint
from zoo.training.session import run_session

__all__ = ["predict_files", "write_surface"]

log = logging.getLogger(__name__)


def predict_files(cfg: DictConfig) -> Path:
    """Turn ``input`` into a mesh as ``zoo/configs/predict.yaml`` describes and return the folder that was written.

    A grid of distances belongs to one cloud. Another ``input`` is fitted anew with the settings of the run; without
    ``input`` the run's own surface is written once more, as ``mesh.file``.

    Raises:
        ValueError: Nothing was asked for, or a name that is no mesh file's.
        FileNotFoundError: ``ckpt`` names nothing.
    """
    name = cfg.mesh.file
    if cfg.input is None and name is None:
        raise ValueError("input, mesh.file: nothing to do; give a cloud as input, or a mesh.file to write")
    if name is not None and Path(name).suffix.lower() not in MESH_SUFFIXES:
        raise ValueError(f"mesh.file: found {name!r}, expected a name that ends with one of {list(MESH_SUFFIXES)}")
    checkpoint = find_checkpoint(cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name)
    folder = Path(cfg.output) if cfg.output else checkpoint.resolve().parents[1] / "predictions"
    if cfg.input is not None:
        _fit(checkpoint, cfg, folder)
        return folder
    _, parts = load_run(checkpoint, list(cfg.overrides))
    task, data = parts.task, parts.data
    if not isinstance(task, GridPullTask):
        raise ValueError(f"ckpt={cfg.ckpt}: holds a {type(task).__name__}, expected a surface")
    points: Tensor = data.points  # pyright: ignore[reportAttributeAccessIssue]
    write_surface(folder / str(name), task.extract(points), points, up=task.up, picture=cfg.pictures)
    return folder


def _fit(checkpoint: Path, cfg: DictConfig, folder: Path) -> None:
    """A run of its own in ``folder``, with the settings of the former one."""
    settings = OmegaConf.create(read_config(checkpoint))
    assert isinstance(settings, DictConfig)
    for override in cfg.overrides:
        settings.merge_with(OmegaConf.from_dotlist([override]))
    settings.data.file = str(cfg.input)
    settings.ckpt, settings.weights, settings.train, settings.test = None, None, True, True
    settings.paths.run_dir = str(folder)
    if cfg.mesh.file is not None:
        settings.task.mesh_file = cfg.mesh.file
    run_session(name_run(settings, "gridpull"), overrides=[f"data.file={cfg.input}", *cfg.overrides])


def write_surface(path: Path, mesh: trimesh.Trimesh, cloud: Tensor, *, up: UpAxis = "z", picture: bool = True) -> None:
    """Write a mesh, and a picture of the cloud above the mesh beside it (``NAME.png``).

    Args:
        path: ``.ply``, ``.obj`` or ``.glb``.
        mesh: In the units of the cloud's file; without triangles it is written as it is, and a warning says so.
        cloud: ``(N, 3)``.
        up: Axis that points up in the picture.
        picture: Whether to draw.
    """
    write_mesh(mesh, path)
    if len(mesh.faces) == 0:
        log.warning("%s: no surface was found, so the mesh has no triangles", path)
    else:
        log.info("%s: %d vertices, %d triangles", path, len(mesh.vertices), len(mesh.faces))
    if picture:
        rows = [turntable(cloud, up=up)]
        if len(mesh.faces):
            rows.append(turntable(*mesh_points(mesh), up=up))
        write_png(path.with_suffix(".png"), turntable_sheet(rows))
