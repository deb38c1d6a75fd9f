"""``tools/predict.py`` for radiance fields: pictures along a camera path, and a surface."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from zoo.rendering.camera_renders import cameras_of_path, render_cameras
from zoo.rendering.mesh import extract_mesh, write_mesh
from zoo.training.trained_field import TrainedField, open_trained_field

__all__ = ["predict_files"]

log = logging.getLogger(__name__)


def predict_files(cfg: DictConfig) -> Path:
    """Predict as ``zoo/configs/predict.yaml`` describes and return the folder that was written.

    Raises:
        ValueError: A key has no usable value, or nothing was asked for.
        FileNotFoundError: ``ckpt`` names nothing.
    """
    if cfg.input is None and cfg.mesh.file is None:
        raise ValueError("input, mesh.file: nothing to do; give a camera path as input, or a mesh.file to write")
    if cfg.film not in (None, "gif", "mp4"):
        raise ValueError(f"film: found {cfg.film!r}, expected gif, mp4 or null")
    trained = open_trained_field(
        cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name, overrides=list(cfg.overrides)
    )
    folder = Path(cfg.output) if cfg.output else trained.folder / "predictions"
    if cfg.input is not None:
        _render_path(cfg, trained, folder)
    if cfg.mesh.file is not None:
        _write_surface(cfg, trained, folder)
    return folder


def _render_path(cfg: DictConfig, trained: TrainedField, folder: Path) -> None:
    cameras = cameras_of_path(cfg.input, trained.views, trained.world_to_scene)
    render_cameras(
        lambda camera: trained.render(camera, cfg.rays_per_chunk),
        cameras,
        folder,
        depth=cfg.depth,
        film=cfg.film,
        fps=cfg.fps,
    )


def _write_surface(cfg: DictConfig, trained: TrainedField, folder: Path) -> None:
    box = trained.field.aabb if cfg.mesh.box is None else torch.tensor([float(value) for value in cfg.mesh.box])
    if box.shape != (6,):
        raise ValueError(f"mesh.box: found {cfg.mesh.box}, expected xmin, ymin, zmin, xmax, ymax, zmax")
    mesh = extract_mesh(trained.field, box, resolution=cfg.mesh.resolution, threshold=cfg.mesh.threshold)
    path = write_mesh(mesh, folder / cfg.mesh.file)
    log.info("%s: %d vertices, %d faces", path, len(mesh.vertices), len(mesh.faces))
