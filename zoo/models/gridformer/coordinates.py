"""From positions in the padded unit cube to coordinates of planes and volumes.

The plane named xz holds x along its last axis and z along the one before; a volume's last axes are z, y, x. Planes and
volumes shrink the cube by different amounts, which released weights depend on.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "PLANES",
    "crop_cell_index",
    "divisible_resolution",
    "flat_cell_index",
    "lattice",
    "normalize_in_crop",
    "normalize_to_plane",
    "normalize_to_volume",
]

PLANES: dict[str, tuple[int, int]] = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}  # in the order of the batch norms
_PLANE_MARGIN = 1e-5
_VOLUME_MARGIN = 1e-3


def _into_unit(points: Tensor, padding: float, margin: float) -> Tensor:
    u = points / (1 + padding + margin) + 0.5
    u = torch.where(u >= 1, 1 - margin, u)
    return torch.where(u < 0, 0.0, u)


def normalize_to_plane(points: Tensor, plane: str, padding: float = 0.1) -> Tensor:
    """Positions ``(..., 3)`` in the cube of side 1 + padding as coordinates in [0, 1) of a plane, ``(..., 2)``."""
    return _into_unit(points[..., PLANES[plane]], padding, _PLANE_MARGIN)


def normalize_to_volume(points: Tensor, padding: float = 0.1) -> Tensor:
    """Positions ``(..., 3)`` in the cube of side 1 + padding as coordinates in [0, 1), ``(..., 3)``."""
    return _into_unit(points, padding, _VOLUME_MARGIN)


def flat_cell_index(coords: Tensor, resolution: int) -> Tensor:
    """``c0 + R (c1 + R c2)`` with ``c = floor(R coords)``, ``(..., D)`` to ``(...)`` int64."""
    cells = (coords * resolution).long()
    flat = cells[..., -1]
    for axis in reversed(range(cells.shape[-1] - 1)):
        flat = flat * resolution + cells[..., axis]
    return flat


def normalize_in_crop(points: Tensor, low: Sequence[float], high: Sequence[float]) -> Tensor:
    """Positions ``(..., D)`` relative to a window from ``low`` to ``high``; outside it they leave [0, 1)."""
    lower, upper = points.new_tensor(low), points.new_tensor(high)
    return (points - lower) / (upper - lower)


def crop_cell_index(coords: Tensor, resolution: int) -> Tensor:
    """Like `flat_cell_index`; an index beyond the window's cells becomes their number."""
    return flat_cell_index(coords, resolution).clamp(max=resolution ** coords.shape[-1])


def divisible_resolution(resolution: int, depth: int) -> int:
    """The smallest resolution from the given one on that ``depth - 1`` halvings divide.

    Example:
        >>> divisible_resolution(65, 4)
        72
    """
    unit = 1 << (depth - 1)
    return -(-resolution // unit) * unit


def lattice(low: Sequence[float], high: Sequence[float], shape: Sequence[int]) -> Tensor:
    """Positions of a lattice with nodes on its corners, last axis fastest, ``(prod(shape), 3)``."""
    axes = [torch.linspace(a, b, n) for a, b, n in zip(low, high, shape, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
