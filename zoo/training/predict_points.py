"""``tools/predict.py`` for networks of voxels: the class of a cloud, or of each of its points."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.formats.cloud_files import find_cloud_files, read_cloud
from zoo.data.formats.ply_files import write_ply_vertices
from zoo.data.point_clouds import PointCloudData
from zoo.data.point_samples import PointSample, collate_points
from zoo.data.point_transforms import apply_transforms, sample_generator
from zoo.data.progress import track
from zoo.data.split_data import EVALUATION_STREAM
from zoo.files import write_json
from zoo.rendering.images import write_png
from zoo.rendering.point_pictures import class_colors, draw_cloud
from zoo.tasks.point_segmentation import PointSegmentationTask
from zoo.tasks.voxel_classification import VoxelClassificationTask
from zoo.training.configuration import load_run
from zoo.training.run_folder import find_checkpoint

__all__ = ["classify", "predict_files", "segment"]

log = logging.getLogger(__name__)

_PICTURE = 480  # pixels


def predict_files(cfg: DictConfig) -> Path:
    """Classify clouds or their points as ``zoo/configs/predict.yaml`` describes and return the folder that was written.

    A classifier writes ``NAME.json`` with the probability of each class. A segmentor writes ``NAME.ply``, the points of
    the file with their class (``label``) and its colour, and ``NAME.json`` with the number of points of each class.
    A file that cannot be read is named and left out; the others are still done.

    Raises:
        ValueError: Nothing was asked for, the run has no such network, or no file could be read.
        FileNotFoundError: ``ckpt`` names nothing.
    """
    if cfg.input is None:
        raise ValueError("input: found none, expected a cloud, or a folder of them")
    checkpoint = find_checkpoint(cfg.ckpt, output_dir=cfg.paths.output_dir, name=cfg.name)
    _, parts = load_run(checkpoint, list(cfg.overrides))
    task, data = parts.task, parts.data
    classifies = isinstance(task, VoxelClassificationTask)
    if not (classifies or isinstance(task, PointSegmentationTask)) or not isinstance(data, PointCloudData):
        raise ValueError(f"ckpt={cfg.ckpt}: holds a {type(task).__name__}, expected a network of clouds")
    task.to(cfg.device)
    folder = Path(cfg.output) if cfg.output else checkpoint.resolve().parents[1] / "predictions"
    files = find_cloud_files(cfg.input, data.feature_names)
    done = 0
    for file in track(files, "clouds", len(files)):
        try:
            cloud = read_cloud(file, data.feature_names, max_points=getattr(data.source, "num_points", None))
            found = classify(task, data, cloud) if classifies else segment(task, data, cloud)
        except SampleError as error:
            log.error("left out: %s", error)
            continue
        content: dict[str, Any] = {"file": str(file)}
        if classifies:
            content |= _named_probabilities(found, task.class_names)
            log.info("%s: %s", file, content["class"])
        else:
            content["points"] = _write_labels(folder / f"{cloud.name}.ply", cloud, found, task.class_names)
            log.info("%s: %s", file, ", ".join(f"{count} {name}" for name, count in content["points"].items()))
        write_json(folder / f"{cloud.name}.json", content)
        if cfg.pictures:
            colors = None if classifies else class_colors(task.num_classes)[found]
            elevation = 25.0 if classifies else 60.0
            write_png(folder / f"{cloud.name}.png", draw_cloud(cloud.coord, colors, size=_PICTURE, elevation=elevation))
        done += 1
    if not done:
        raise ValueError(f"input={cfg.input}: none of {len(files)} files could be read")
    return folder


def classify(task: VoxelClassificationTask, data: PointCloudData, cloud: PointSample) -> Tensor:
    """Probabilities of the classes ``(K,)`` of a cloud that is transformed as those of a test.

    Raises:
        SampleError: The transforms cannot work on the cloud.
    """
    sample = apply_transforms(data.eval_transforms, cloud, _generator(data))
    batch = collate_points([sample], data.feature_names)
    with torch.inference_mode():
        return task.predict_step(task.transfer_batch_to_device(batch, task.device, 0), 0)[0].float().cpu()


def segment(task: PointSegmentationTask, data: PointCloudData, cloud: PointSample) -> Tensor:
    """Class of every point of a cloud ``(N,)``, by the fragments and turns of a test.

    Raises:
        SampleError: The transforms cannot work on the cloud.
        ValueError: The run tests on one point for each voxel.
    """
    if data.test_fragments is None:
        raise ValueError("data.test_fragments: found null, expected fragments, which together hold every point")
    sample = apply_transforms(data.test_transforms, cloud, _generator(data))
    fragments = data.test_fragments(sample, data.feature_names)
    with torch.inference_mode():
        return task.predict_step(task.transfer_batch_to_device(fragments, task.device, 0), 0).cpu()


def _generator(data: PointCloudData) -> torch.Generator:
    """That of the first sample of a test, whichever file it is: a file gets the same answer in every folder."""
    return sample_generator(data.seed + EVALUATION_STREAM, 0)


def _named_probabilities(probabilities: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
    order = torch.argsort(probabilities, descending=True, stable=True).tolist()
    return {
        "class": class_names[order[0]],
        "probabilities": {class_names[number]: float(probabilities[number]) for number in order},
    }


def _write_labels(path: Path, cloud: PointSample, labels: Tensor, class_names: tuple[str, ...]) -> dict[str, int]:
    """Write the coloured cloud and count the classes that occur, the most frequent first."""
    colors = (class_colors(len(class_names))[labels] * 255).round().to(torch.uint8)
    columns = {name: cloud.coord[:, axis].numpy() for axis, name in enumerate("xyz")}
    columns |= {name: colors[:, channel].numpy() for channel, name in enumerate(("red", "green", "blue"))}
    write_ply_vertices(path, {**columns, "label": labels.to(torch.int32).numpy()})
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    pairs = sorted(zip(class_names, counts, strict=True), key=lambda pair: -pair[1])
    return {name: count for name, count in pairs if count}
