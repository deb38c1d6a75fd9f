"""Arguments for the ops between points and grids, shared by the tests of every launcher."""

from __future__ import annotations

import torch

from zoo.ops import point_cells
from zoo.ops.dispatch import REFERENCES


def point_grid_arguments(axes: int, resolution: int, dtype: torch.dtype = torch.float64) -> dict[str, tuple]:
    """Arguments of every op; some points lie outside [0, 1] or share their place, most cells are empty."""
    generator = torch.Generator().manual_seed(axes)
    coords = torch.rand(2, 17, axes, generator=generator, dtype=dtype) * 1.2 - 0.1
    coords[0, 1] = coords[0, 0]
    cells = point_cells(coords.clamp(0, 0.99), resolution)
    number = resolution**axes
    nodes = REFERENCES["cell_index"](coords, resolution - 1, max(resolution - 2, 0), resolution)
    order, packed_info = REFERENCES["cell_order"](nodes, 2 * number)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    scores, values = rand(34, 9), rand(34, 36)
    _, weights = REFERENCES["cell_attention"](scores, values, cells.index, cells.order, cells.packed_info)
    rows, grad = rand(2, number, 37), rand(2, 17, 37)
    return {
        "cell_index": (coords, resolution, resolution - 1, resolution),
        "cell_order": (cells.index, 2 * number),
        "cell_attention": (scores, values, cells.index, cells.order, cells.packed_info),
        "cell_attention_backward": (rand(2 * number, 36), weights, values, *cells[:3]),
        "sample_rows": (rows, coords, resolution, order, packed_info),
        "sample_rows_backward": (grad, coords, resolution, order, packed_info),
        "sample_coords_backward": (grad, rows, coords, resolution),
    }
