"""A finished run as a weight of the zoo: its network in safetensors, and a card with the figures that it measured."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from zoo.files import atomic_path, write_text
from zoo.hub import Card
from zoo.hub.catalogue import read_card
from zoo.hub.resuming import file_sha256
from zoo.training.run_folder import RunFolder
from zoo.training.weights import TASK_PREFIX

__all__ = ["MAX_PACKAGED_BYTES", "export_card", "find_override"]

log = logging.getLogger(__name__)

MAX_PACKAGED_BYTES = 40_000_000  # of all weights that come with the package
_MODEL = "model."
_MEASURES = ("scores.", "object_scores.", "metrics.", "val_metric.", "test_metric.")  # of a task: not learnt
_NOT_OF_THE_WEIGHT = ("experiment", "name", "weights", "ckpt", "train", "test", "threads", "checkpoint_every", "expect")
_NOT_OF_THE_WEIGHT_GROUPS = ("paths.", "logger", "hydra", "debug")


def export_card(
    run: Path,
    name: str,
    *,
    experiment: str,
    model: str,
    summary: str,
    metrics: Sequence[str],
    tolerance: float = 0.01,
    measured_by: Path | None = None,
    license_name: str = "Apache-2.0",
    folder: Path,
    overwrite: bool = False,
) -> Card:
    """Write ``folder/files/NAME.safetensors`` and ``folder/cards/NAME.yaml`` from a finished run.

    The weights are those that the run's test measured: averages where it kept averages. What the task keeps beside
    its network (an occupancy grid) goes along. Every figure comes from a ``metrics.json``: the run's, or that of
    another run that only measured its weights, perhaps on fewer samples than the training's test had.

    Args:
        run: The run's folder.
        name: ``system-variant.tag``.
        experiment: Its recipe.
        model: The recipe's network.
        summary: One line for people.
        metrics: Names in ``metrics.json``, the most telling one first.
        tolerance: How far another measurement may lie from a figure, relative to it.
        measured_by: Folder of a run ``train=false weights=RUN/checkpoints/last.ckpt``; None: ``run`` itself.
        license_name: Of the weights.
        folder: Has ``cards`` and ``files``.
        overwrite: Replace a weight of that name.

    Raises:
        FileNotFoundError: The run is not finished.
        FileExistsError: There is a weight of that name.
        ValueError: An unknown metric, a name that is none, too many bytes for the package, or ``measured_by`` is a
            run of other weights.
    """
    parts = RunFolder(run)
    for needed in (parts.metrics, parts.last):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} is missing: {run} is not the folder of a finished run with a checkpoint")
    made = json.loads(parts.metrics.read_text())
    measured = made if measured_by is None else _measured(measured_by, parts.last, experiment)
    unknown = [metric for metric in metrics if not math.isfinite(measured.get(metric, math.nan))]
    if unknown or not metrics:
        raise ValueError(f"metric: found {unknown or 'none'}, expected some of {', '.join(sorted(measured))}")
    file, card = folder / "files" / f"{name}.safetensors", folder / "cards" / f"{name}.yaml"
    if card.exists() and not overwrite:
        raise FileExistsError(f"{card} exists; say --overwrite to replace it")
    content = torch.load(parts.last, map_location="cpu", weights_only=True)
    class_names = content.get("class_names") or content["config"].get("task", {}).get("class_names") or []
    _write_tensors(_tensors(content["state_dict"]), file, name, class_names)
    trained, measuring = _lines(run / "overrides.txt"), _lines((measured_by or run) / "overrides.txt")
    environment = dict(line.split(": ", 1) for line in _lines(run / "environment.txt") if ": " in line)
    facts = {
        "name": name,
        "summary": summary,
        "status": "available",
        "model": model,
        "experiment": experiment,
        "overrides": [override for override in measuring if _belongs_to_the_weight(override)],
        "layout": "zoo",
        "file": file.name,
        "sources": [{"package": file.name}],
        "sha256": file_sha256(file),
        "size": file.stat().st_size,
        "license": license_name,
        "origin": "trained by this project",
        "class_names": [str(entry) for entry in class_names],
        "measured": {
            metric: {"value": float(measured[metric]), "tolerance": _allowed(measured[metric], tolerance)}
            for metric in metrics
        },
        "trained": {
            "command": " ".join(["python tools/train.py", *(_shortened(line) for line in trained if _is_told(line))]),
            "commit": environment.get("commit", "unknown"),
            "steps": int(made.get("steps", 0)),
            "seconds": round(float(made.get("train_seconds", 0.0)), 1),
            "processor": environment.get("processor", "unknown"),
            "torch": environment.get("torch", "unknown"),
        },
    }
    write_text(card, yaml.safe_dump(facts, sort_keys=False, width=120, allow_unicode=True))
    return read_card(card)


def _measured(run: Path, weights: Path, experiment: str) -> dict[str, float]:
    """Figures of a run that measured those weights and did nothing else."""
    parts = RunFolder(run)
    if not parts.metrics.is_file():
        raise FileNotFoundError(f"{parts.metrics} is missing: {run} is not the folder of a finished run")
    wanted = {"experiment": experiment, "train": "false", "weights": str(weights.resolve())}
    found = {key: find_override(run, key) for key in wanted}
    found["weights"] = str(Path(found["weights"] or "").resolve())
    if found != wanted:
        raise ValueError(f"measured: {run} was started with {found}, expected {wanted}")
    return json.loads(parts.metrics.read_text())


def _tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network under its own names, what the task keeps beside it under ``task/``."""
    tensors = {}
    for name, value in state.items():
        if name.startswith(_MODEL):
            tensors[name.removeprefix(_MODEL)] = value
        elif not name.startswith(_MEASURES):
            tensors[f"{TASK_PREFIX}{name}"] = value
    return tensors


def _write_tensors(tensors: Mapping[str, Tensor], file: Path, name: str, class_names: Sequence[str]) -> None:
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    others = sum(path.stat().st_size for path in file.parent.glob("*.safetensors") if path != file)
    if size + others > MAX_PACKAGED_BYTES:
        raise ValueError(
            f"{file}: {size / 1e6:.1f} MB beside {others / 1e6:.1f} MB of others; expected at most "
            f"{MAX_PACKAGED_BYTES / 1e6:.0f} MB in all"
        )
    header = {"format": "pt", "card": name, "class_names": json.dumps([str(entry) for entry in class_names])}
    with atomic_path(file) as temporary:
        save_file({key: value.detach().contiguous().clone() for key, value in tensors.items()}, temporary, header)


def _belongs_to_the_weight(override: str) -> bool:
    """Whether an override changes what is measured; where files lie on one machine is not told on."""
    key, _, value = override.lstrip("+").partition("=")
    if key in _NOT_OF_THE_WEIGHT or key.startswith(_NOT_OF_THE_WEIGHT_GROUPS):
        return False
    if value.startswith("/"):
        log.warning("left out of the card, since it names a place on this machine: %s", override)
        return False
    return True


def _is_told(override: str) -> bool:
    return not override.startswith(("paths.", "threads="))


def _shortened(override: str) -> str:
    """``weights=/some/where/experiment/time/checkpoints/last.ckpt`` without what is of one machine."""
    key, _, value = override.partition("=")
    return f"{key}={'/'.join(Path(value).parts[-4:])}" if value.startswith("/") else override


def _allowed(value: float, tolerance: float) -> float:
    """The tolerance as an absolute number, with two digits, rounded up."""
    width = max(abs(float(value)) * tolerance, 1e-6)
    unit = 10.0 ** (math.floor(math.log10(width)) - 1)
    return float(f"{math.ceil(width / unit - 1e-9) * unit:.2g}")


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line] if path.is_file() else []


def find_override(run: Path, key: str) -> str | None:
    """The value of an override that the run was started with, or None."""
    found = [line.partition("=")[2] for line in _lines(run / "overrides.txt") if line.partition("=")[0] == key]
    return found[-1] if found else None
