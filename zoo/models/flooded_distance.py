"""Signed distances to a cloud without normals: what a flood from the border does not reach is inside."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from zoo.ops import PointTree, knn

__all__ = ["flooded_distance"]

_REACHES = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # thickness of the wall in cells, as tried


def flooded_distance(cells: Tensor, resolution: int) -> Tensor | None:
    r"""Distance of every corner of a grid to the nearest point of a cloud, negative inside, in cells.

    Corners farther from the cloud than a reach :math:`\tau` are flooded from the outermost layer. With o the flooded
    corner nearest to c, the sign is that of :math:`\tau - |c - o|`: a corner within the wall is inside if it is deeper
    than the wall's outer half. The reach is the smallest that closes the cloud's gaps: the first of 1 to 12 cells that
    leaves at least half as many dry corners beyond it as any other. Holes wider than twice the reach let the flood in.

    Args:
        cells: The cloud in units of cells, ``(N, 3)``.
        resolution: Corners along each axis.

    Returns:
        ``(R, R, R)`` float32 on the device of the cloud, or None where nothing stays dry.
    """
    axis = torch.arange(resolution, dtype=torch.float32, device=cells.device)
    corners = torch.cartesian_prod(axis, axis, axis)
    tree = PointTree.from_points(cells.float())
    squared = torch.cat([knn(tree, part, 1).squared_distances[:, 0] for part in corners.split(1 << 19)])
    distance = squared.sqrt().view((resolution,) * 3)
    array = distance.cpu().numpy()
    found = _flood(array)
    if found is None:
        return None
    flooded, reach = found
    sign = np.where(_distance_to(flooded) > reach, -1.0, 1.0)
    return distance * torch.from_numpy(sign).to(distance)


def _flood(distance: NDArray[np.float32]) -> tuple[NDArray[np.bool_], float] | None:
    """Corners that the flood reaches, and the reach; None where nothing stays dry."""
    floods, dry = [], []
    for reach in _REACHES:
        if reach > max(1.0, len(distance) / 8):
            break
        beyond = distance > reach
        labelled: Any = ndimage.label(beyond)
        pieces = labelled[0]
        border = np.ones_like(beyond)
        border[1:-1, 1:-1, 1:-1] = False
        flooded = np.isin(pieces, np.unique(pieces[border & beyond]))
        floods.append((flooded & beyond, reach))
        dry.append(int((beyond & ~flooded).sum()))
    if max(dry) == 0:
        return None
    first = next(place for place, count in enumerate(dry) if count > 0 and 2 * count >= max(dry))
    return floods[first]


def _distance_to(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    found: Any = ndimage.distance_transform_edt(~mask)
    return found
