"""``tools/export.py`` and ``zoo export``: a trained model as graphs for other runtimes.

What is exported depends on the task that the model was trained for: each task has a module with a function
``export_files(cfg)``, which writes into ``output``, checks what it wrote and returns that folder.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

__all__ = ["EXPORTERS", "export", "main"]

log = logging.getLogger(__name__)

EXPORTERS = {  # the task of a run, and the module that exports what it trained
    "zoo.tasks.detection.DetectionTask": "zoo.training.export_boxes",
}


@hydra.main(version_base="1.3", config_path="pkg://zoo.configs", config_name="export")
def main(cfg: DictConfig) -> None:
    """Export the model that ``ckpt`` names."""
    try:
        export(cfg)
    except (ValueError, OSError, ImportError) as error:
        log.error("%s", error)
        sys.exit(1)


def export(cfg: DictConfig) -> Path:
    """Export as ``zoo/configs/export.yaml`` describes and return the folder that was written.

    Raises:
        ValueError: A key has no usable value, the model cannot be exported, or a graph does not agree with the model.
        FileNotFoundError: ``ckpt`` names nothing.
        ImportError: The extra ``export`` is not installed.
    """
    import torch

    from zoo.training.configuration import read_config
    from zoo.training.run_folder import find_checkpoint

    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    path = find_checkpoint(cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name)
    task = read_config(path).get("task", {}).get("_target_")
    if task not in EXPORTERS:
        raise ValueError(f"ckpt={cfg.ckpt}: was trained by {task}, which has no export yet")
    folder: Path = importlib.import_module(EXPORTERS[task]).export_files(cfg)
    log.info("written: %s", folder)
    return folder


if __name__ == "__main__":
    main()
