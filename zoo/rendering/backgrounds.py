"""What stands behind a scene: the colour that rays see where the field is transparent."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["BackgroundKind", "background_colors", "composite"]

BackgroundKind = Literal["white", "black", "random_per_ray", "random_per_batch"]


def background_colors(kind: BackgroundKind, num_rays: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Background colours ``(num_rays, 3)`` in [0, 1] on the CPU.

    ``white`` and ``black`` are constant; ``random_per_ray`` draws a colour for every ray, that is for every training
    pixel; ``random_per_batch`` draws one for all rays.

    Raises:
        ValueError: ``kind`` is unknown, or random without a ``generator``.
    """
    if kind in ("white", "black"):
        return torch.full((num_rays, 3), 1.0 if kind == "white" else 0.0)
    if kind not in ("random_per_ray", "random_per_batch"):
        raise ValueError(f"kind: found {kind!r}, expected 'white', 'black', 'random_per_ray' or 'random_per_batch'")
    if generator is None:
        raise ValueError(f"generator: none was given, but kind={kind!r} draws colours; pass a torch.Generator")
    if kind == "random_per_ray":
        return torch.rand(num_rays, 3, generator=generator)
    return torch.rand(1, 3, generator=generator).expand(num_rays, 3)


def composite(rgba: Tensor, background: Tensor) -> Tensor:
    """Colours ``(N, 3)`` of straight-alpha pixels ``(N, 4)`` over ``background`` ``(N, 3)``: ``rgb a + bg (1 - a)``."""
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + background * (1 - alpha)
