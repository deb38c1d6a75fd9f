"""A weight of the zoo as a checkpoint, so that all that takes a run's takes it by name: predict, render, export."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from zoo.files import write_bytes
from zoo.hub import find_card
from zoo.training.configuration import build_parts, compose, plain
from zoo.training.weights import find_weights

__all__ = ["card_checkpoint"]


def card_checkpoint(name: str, output_dir: str | Path) -> Path:
    """Write ``output_dir/NAME/pretrained/checkpoints/pretrained.ckpt``, unless it is there and newer than the weight.

    Raises:
        ValueError: No weight has the name, or none of the zoo's experiments runs it.
        OSError: It could not be fetched.
    """
    card = find_card(name)
    if not card.experiment:
        raise ValueError(
            f"ckpt={name}: the weight is to be trained further, no experiment runs it as it is; "
            f"take it as weights={name} of an experiment with the model {card.model or '(none of the zoo)'}"
        )
    weights = find_weights(name)
    path = Path(output_dir) / name / "pretrained" / "checkpoints" / "pretrained.ckpt"
    if path.is_file() and path.stat().st_mtime_ns > weights.path.stat().st_mtime_ns:
        return path
    cfg = compose([*card.config_overrides, "train=false", f"weights={name}"])
    task = build_parts(cfg).task
    content = {"config": plain(cfg), "state_dict": task.state_dict(), "class_names": list(card.class_names) or None}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes(path, buffer.getbuffer())
    return path
