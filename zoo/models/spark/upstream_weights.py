"""Key names of upstream's checkpoints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["remap_convnext", "remap_upstream"]

_UNUSED = {"imn_m", "imn_s", "norm_black", "config"}
_PREFIXES = (
    ("sparse_encoder.sp_cnn.", "encoder.backbone."),
    ("dense_decoder.", "decoder."),
    ("densify_norms.", "norms."),
    ("densify_projs.", "projections."),
)
_TO_TIMM = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^head\.", "head.fc."),
    (r"^norm\.", "head.norm."),
)


def remap_upstream(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of ``SparK`` from a checkpoint with decoder, or keys of the backbone from one without.

    The dictionary may be wrapped as ``{"module": ...}`` (checkpoints of a run) or bare (released files); the entry
    ``config`` and three unused buffers are dropped.
    """
    state = state_dict.get("module", state_dict)
    remapped = {}
    for key, value in state.items():
        if key in _UNUSED:
            continue
        for old, new in _PREFIXES:
            if key.startswith(old):
                key = new + key[len(old) :]
                break
        remapped[key] = value
    return remapped


def remap_convnext(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of timm's ConvNeXt from those of its authors, which ``zoo.models.spark.convnext`` and released files use."""
    remapped = {}
    for key, value in state_dict.get("module", state_dict).items():
        for pattern, new in _TO_TIMM:
            key = re.sub(pattern, new, key)
        remapped[key] = value
    return remapped
