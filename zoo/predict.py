"""``tools/predict.py`` and ``zoo predict``: a trained model on your own files.

What is predicted depends on the task that the model was trained for: each task has a module with a function
``predict_files(cfg)``, which reads ``input``, writes into ``output`` and returns that folder.
"""

from __future__ import annotations

import importlib
import logging
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

__all__ = ["PREDICTORS", "main", "predict"]

log = logging.getLogger(__name__)

PREDICTORS = {  # the task of a run, and the module that predicts with what it trained
    "zoo.tasks.radiance_field.RadianceFieldTask": "zoo.training.predict_field",
    "zoo.tasks.detection.DetectionTask": "zoo.training.predict_boxes",
    "zoo.tasks.grid_pull.GridPullTask": "zoo.training.predict_surface",
    "zoo.tasks.occupancy.OccupancyTask": "zoo.training.predict_occupancy",
    "zoo.tasks.voxel_classification.VoxelClassificationTask": "zoo.training.predict_points",
    "zoo.tasks.point_segmentation.PointSegmentationTask": "zoo.training.predict_points",
}


@hydra.main(version_base="1.3", config_path="pkg://zoo.configs", config_name="predict")
def main(cfg: DictConfig) -> None:
    """Predict for ``input`` with the model that ``ckpt`` names."""
    try:
        predict(cfg)
    except (ValueError, OSError, ImportError) as error:
        log.error("%s", error)
        sys.exit(1)


def predict(cfg: DictConfig) -> Path:
    """Predict as ``zoo/configs/predict.yaml`` describes and return the folder that was written.

    Raises:
        ValueError: A key has no usable value, or nothing was asked for.
        FileNotFoundError: ``ckpt`` names nothing.
    """
    import torch

    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    module = importlib.import_module(_predictor(cfg))
    folder: Path = module.predict_files(cfg)
    log.info("written: %s", folder)
    return folder


def _predictor(cfg: DictConfig) -> str:
    """The module for the task that the checkpoint was trained with; a file of weights alone is a pruned field's."""
    from zoo.training.configuration import read_config
    from zoo.training.run_folder import find_checkpoint

    if str(cfg.ckpt).endswith(".safetensors"):
        return "zoo.training.predict_field"
    path = find_checkpoint(cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name)
    task = read_config(path).get("task", {}).get("_target_")
    if task not in PREDICTORS:
        raise ValueError(f"ckpt={cfg.ckpt}: was trained by {task}, which has no prediction on files yet")
    return PREDICTORS[task]


if __name__ == "__main__":
    main()
