"""Loads checkpoints of the upstream code: its fork of Pointcept (classifier, segmentor) and of OpenPCDet (detector)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from zoo.models.layers.spconv_weights import convert_spconv_state

__all__ = ["remap_upstream"]

_LISTS = ("state_dict", "model_state")  # where Pointcept's and OpenPCDet's files keep the tensors
_STEP_COUNTER = "global_step"  # a buffer of OpenPCDet's detectors
_SECOND_STAGE = "roi_head."


def remap_upstream(checkpoint: Mapping[str, Any], model: nn.Module, *, layout: str = "auto") -> dict[str, Tensor]:
    """An upstream checkpoint as a state dict that ``model`` loads strictly.

    Taken are the whole file (``state_dict`` of Pointcept, ``model_state`` of OpenPCDet) or the tensors in it, with or
    without ``module.`` (distributed training) and ``backbone.`` (Pointcept). Single backbones of a detector are found
    below ``backbone_3d.`` and ``backbone_2d.``; the second stage of Voxel R-CNN (``roi_head.``) is left out
    for a detector without one.
    Convolutions may have the layout of spconv 1.x or 2.x; kernels of one cell are converted as
    `zoo.models.layers.spconv_weights` explains.

    Args:
        checkpoint: The file's content, or its tensors.
        model: The network that will load the result.
        layout: ``KRSC`` (spconv 2.x), ``RSCK`` (1.x), ``RSKC``, or ``auto``: what fits the shapes.

    Raises:
        ValueError: Keys that the model lacks or lacks in the file, a wrong shape, or a layout that does not fit.
    """
    tensors: Mapping[str, Any] = checkpoint
    for name in _LISTS:
        if isinstance(tensors.get(name), Mapping):
            tensors = tensors[name]
    state = {key.removeprefix("module."): value for key, value in tensors.items() if isinstance(value, Tensor)}
    wanted = model.state_dict()
    state.pop(_STEP_COUNTER, None)
    if not any(key.startswith(_SECOND_STAGE) for key in wanted):
        state = {key: value for key, value in state.items() if not key.startswith(_SECOND_STAGE)}
    state = _best_prefix(state, wanted)
    missing, surplus = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing or surplus:
        raise ValueError(
            f"checkpoint: lacks {len(missing)} keys {missing[:3]} and has {len(surplus)} unknown keys {surplus[:3]}; "
            f"expected those of {type(model).__name__} of the same size (a network with ReLU has other keys)"
        )
    state = convert_spconv_state(model, state, layout)
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise ValueError(f"{key}: found shape {tuple(value.shape)}, expected {tuple(wanted[key].shape)}")
    return state


def _best_prefix(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries below the prefix that knows most of the wanted keys, without it."""
    best: dict[str, Tensor] = state
    for prefix in ("backbone.", "backbone_3d.", "backbone_2d.", "dense_head."):
        below = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if len(below.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
            best = below
    return best
