"""Warm-up and cosine of the learning rate, cosine of the weight decay, and who gets them (SparK's recipes)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["AnnealedDecay", "annealed", "convnext_layer", "decay_groups", "layer_scales", "resnet_layer"]

_UNDECAYED = ("cls_token", "pos_embed", "mask_token", "gamma")


def annealed(step: int, *, total_steps: int, warmup_steps: int = 0) -> float:
    """Learning rate as a share of the peak: 0.005 to 1 in the warm-up, then by a cosine to 0.001."""
    if step < warmup_steps:
        return 0.005 + 0.995 * step / warmup_steps
    share = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    return 0.001 + 0.999 * (0.5 + 0.5 * math.cos(math.pi * min(1.0, share)))


class AnnealedDecay(LRScheduler):
    """``annealed`` for the rate, and a cosine from ``weight_decay`` to ``weight_decay_end`` over all steps.

    Groups may hold ``lr_scale`` and ``weight_decay_scale`` (default 1), as ``decay_groups`` makes them.

    Args:
        optimizer: Its groups' ``lr`` are peak rates.
        total_steps: of the run.
        warmup_steps: of the rate.
        warmup_share: of all steps, instead of ``warmup_steps``: a run of another length keeps the shape.
        weight_decay: at the first step.
        weight_decay_end: at the last step; None: constant.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        total_steps: int,
        warmup_steps: int = 0,
        weight_decay: float = 0.04,
        weight_decay_end: float | None = 0.2,
        warmup_share: float | None = None,
    ) -> None:
        if warmup_share is not None:
            warmup_steps = round(warmup_share * total_steps)
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(
                f"warmup_steps, total_steps: found {warmup_steps}, {total_steps}; expected fewer of warm-up"
            )
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self.weight_decay = weight_decay
        self.weight_decay_end = weight_decay if weight_decay_end is None else weight_decay_end
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Any]:
        """Rates of the groups at this step; sets their weight decay as well."""
        share = min(1.0, self.last_epoch / max(1, self.total_steps - 1))
        start, end = self.weight_decay, self.weight_decay_end
        decay = end + (start - end) * (0.5 + 0.5 * math.cos(math.pi * share))
        factor = annealed(self.last_epoch, total_steps=self.total_steps, warmup_steps=self.warmup_steps)
        rates = []
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["weight_decay"] = decay * group.get("weight_decay_scale", 1.0)
            rates.append(base * factor * group.get("lr_scale", 1.0))
        return rates


def decay_groups(
    parameters: Iterable[tuple[str, Tensor]], lr_scales: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Groups by learning-rate scale and by decay: none for 1-D tensors, biases, tokens and layer scales.

    Raises:
        ValueError: If ``lr_scales`` lacks a parameter.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        if lr_scales is not None and name not in lr_scales:
            raise ValueError(f"lr_scales: lacks {name!r}; expected every parameter")
        undecayed = parameter.ndim == 1 or name.endswith(".bias") or any(word in name for word in _UNDECAYED)
        key = (1.0 if lr_scales is None else lr_scales[name], 0.0 if undecayed else 1.0)
        group = groups.setdefault(key, {"params": [], "names": [], "lr_scale": key[0], "weight_decay_scale": key[1]})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def resnet_layer(name: str, depths: Sequence[int]) -> tuple[int, int]:
    """Layer of a ResNet's parameter, and the number of layers, for layer-wise decay."""
    group2, group3 = (4, 4) if depths[1] > 4 or depths[2] > 23 else (2, 3)
    layers2, layers3 = math.ceil(depths[1] / group2), math.ceil(depths[2] / group3)
    last = 2 + layers2 + layers3
    match = re.match(r"layer(\d)\.(\d+)", name)
    if match is None:
        return (last + 1 if name.startswith("fc") else 0), last
    stage, block = int(match[1]), int(match[2])
    return {1: 1, 2: 2 + block // group2, 3: 2 + layers2 + block // group3, 4: last}[stage], last


def convnext_layer(name: str, depths: Sequence[int]) -> tuple[int, int]:
    """Layer of a ConvNeXt's parameter (its authors' names), and the number of layers."""
    last = 12 if depths[2] > 9 else 6
    match = re.match(r"(downsample_layers|stages)\.(\d)(?:\.(\d+))?", name)
    if match is None:
        return last + 1, last
    stage = int(match[2])
    if match[1] == "downsample_layers":
        return (0, 2, 3, last)[stage], last
    return (1, 2, 3 + int(match[3] or 0) // 3, last)[stage], last


def layer_scales(layers: Mapping[str, tuple[int, int]], decay: float) -> dict[str, float]:
    """``decay ** (N + 1 - layer)`` for every name."""
    return {name: decay ** (last + 1 - layer) for name, (layer, last) in layers.items()}
