"""``tools/render.py`` and ``zoo render``: pictures, depth maps and films of a trained field or scene of Gaussians.

``benchmark=spare track=1`` trains and renders all scenes of a split of the SpaRe benchmark and packs the submission.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.data.cameras import Cameras
    from zoo.training.trained_field import TrainedScene

__all__ = ["main", "render", "run_benchmark"]

log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


@hydra.main(version_base="1.3", config_path="pkg://zoo.configs", config_name="render")
def main(cfg: DictConfig) -> None:
    """Render ``views`` of what ``ckpt`` names, or run ``benchmark``."""
    from zoo.training.signals import RunInterrupted

    try:
        if cfg.benchmark is None:
            render(cfg)
        else:
            run_benchmark(cfg)
    except RunInterrupted as interruption:
        log.info("%s", interruption)
        sys.exit(interruption.exit_code)
    except (ValueError, OSError, ImportError) as error:
        log.error("%s", error)
        sys.exit(1)


def render(cfg: DictConfig) -> Path:
    """Render as ``zoo/configs/render.yaml`` describes and return the folder that was written.

    Raises:
        ValueError: A key has no usable value.
        FileNotFoundError: ``ckpt`` names nothing.
    """
    import torch

    from zoo.rendering.camera_renders import render_cameras, resize_cameras
    from zoo.training.trained_field import open_trained_scene

    if cfg.film not in (None, "gif", "mp4"):
        raise ValueError(f"film: found {cfg.film!r}, expected gif, mp4 or null")
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    trained = open_trained_scene(
        cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name, overrides=list(cfg.overrides)
    )
    cameras, truth = _cameras(cfg, trained)
    if cfg.scale != 1.0:
        cameras, truth = resize_cameras(cameras, cfg.scale), None
    folder = Path(cfg.output) if cfg.output else trained.folder / "renders" / Path(str(cfg.views)).stem
    scores = render_cameras(
        lambda camera: trained.render(camera, cfg.rays_per_chunk),
        cameras,
        folder,
        truth=truth,
        pictures=cfg.pictures,
        depth=cfg.depth,
        film=cfg.film,
        fps=cfg.fps,
    )
    if scores:
        log.info("mean PSNR: %.2f dB", sum(scores) / len(scores))
    log.info("%d views: %s", len(cameras), folder)
    return folder


def run_benchmark(cfg: DictConfig) -> Path:
    """Run ``benchmark`` for ``track`` and return the folder with its results; the same call goes on where it was.

    With ``spare.check`` an archive is examined and nothing is run.

    Raises:
        ValueError: The benchmark is unknown, or a key has no usable value.
        OSError: Files cannot be read or written.
    """
    from zoo.training.spare_benchmark import benchmark_of

    if cfg.benchmark != "spare":
        raise ValueError(f"benchmark: found {cfg.benchmark!r}, expected spare or null")
    settings = {**cfg.spare, "track": cfg.track, "output": cfg.output}
    benchmark = benchmark_of(settings, cfg.paths.output_dir, [str(override) for override in cfg.overrides])
    if cfg.spare.check is None:
        return benchmark.run()
    problems = benchmark.check(cfg.spare.check)
    for problem in problems:
        log.error("%s", problem)
    if problems:
        raise ValueError(f"spare.check={cfg.spare.check}: {len(problems)} faults, see above")
    log.info("%s: would be accepted", cfg.spare.check)
    return Path(cfg.spare.check)


def _cameras(cfg: DictConfig, trained: TrainedScene) -> tuple[Cameras, list[Tensor] | None]:
    """The cameras to render, and the photographs to compare with where there are some."""
    import torch

    from zoo.rendering.backgrounds import composite
    from zoo.rendering.camera_renders import cameras_of_path
    from zoo.rendering.trajectories import orbit_about, spiral, with_poses

    if cfg.views in SPLITS:
        images = trained.images(cfg.views)
        count = len(images) if cfg.max_views is None else min(cfg.max_views, len(images))
        images = images[torch.linspace(0, len(images) - 1, count).round().long().tolist()]
        return images.cameras, [composite(images.rgba(i), trained.background) for i in range(len(images))]
    if cfg.views == "orbit":
        return with_poses(trained.views, orbit_about(trained.views, cfg.num_frames)), None
    if cfg.views == "spiral":
        return with_poses(trained.views, spiral(trained.views, cfg.num_frames)), None
    if not str(cfg.views).endswith(".json"):
        raise ValueError(f"views: found {cfg.views!r}, expected test, val, train, orbit, spiral or a .json camera path")
    return cameras_of_path(cfg.views, trained.views, trained.world_to_scene), None


if __name__ == "__main__":
    main()
