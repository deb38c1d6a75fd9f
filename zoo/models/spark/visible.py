"""Which cells of an image are visible, and the rows that hold nothing but those cells.

The layers of one encoder share a ``VisibleCells`` object; there is no global variable, so several encoders can run
side by side. Masks are ``(B, 1, f, f)``, maps ``(B, C, H, W)``. Rows of the visible cells of a map travel as
``(1, C, N, 1)``, in memory ``(N, C)``: for code that was written for maps they are a map of one sample, one column
wide, so that batch norms, layer norms, 1x1 products, activations and sums need no change. Their number names their map.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops import SparseTensor, VoxelGrid

__all__ = ["VisibleCells", "as_rows", "as_strip"]


def as_rows(strip: Tensor) -> Tensor:
    """``(1, C, N, 1)`` as ``(N, C)``."""
    return strip.permute(0, 2, 3, 1).reshape(strip.shape[2], strip.shape[1]).contiguous()


def as_strip(rows: Tensor) -> Tensor:
    """``(N, C)`` as ``(1, C, N, 1)``, with the strides of channels last in the axes of length 1 too.

    Strides of 1 there are as good to torch as these, except to its batch norm, whose gradients are then wrong.
    """
    return rows.contiguous().view(1, rows.shape[0], 1, rows.shape[1]).permute(0, 3, 1, 2)


class VisibleCells:
    """Which cells of the coarsest grid are visible, and their repetition at the size of every finer map."""

    def __init__(self) -> None:
        self._mask: Tensor | None = None
        self._scaled: dict[tuple[int, int], Tensor] = {}
        self._grids: dict[tuple[int, int], VoxelGrid] = {}
        self._index: dict[tuple[int, int], Tensor] = {}
        self._shapes: dict[int, tuple[int, int]] = {}  # number of rows -> height and width of their map

    def show(self, mask: Tensor) -> None:
        """Set the mask ``(B, 1, f, f)`` (True is visible) of the next forward pass."""
        if mask.dim() != 4 or mask.shape[1] != 1 or mask.dtype != torch.bool:
            raise ValueError(f"mask: found {mask.dtype} {tuple(mask.shape)}; expected bool (B, 1, rows, columns)")
        if not bool(mask.any()):
            raise ValueError("mask: found no visible cell in the whole batch; expected at least one")
        self._mask = mask
        self._scaled, self._grids, self._index, self._shapes = {}, {}, {}, {}

    def coarse(self, layer: str = "image") -> Tensor:
        """The mask ``(B, 1, f, f)`` of this pass."""
        if self._mask is None:
            raise RuntimeError(f"{layer}: a masked layer ran before a mask was set; run it through its SparseEncoder")
        return self._mask

    def at(self, height: int, width: int, *, layer: str = "image") -> Tensor:
        """The mask repeated to ``(B, 1, height, width)``."""
        mask = self.coarse(layer)
        if (height, width) not in self._scaled:
            rows, columns = mask.shape[2:]
            if height % rows or width % columns:
                raise ValueError(
                    f"{layer}: map of {height} x {width} is no multiple of the mask's {rows} x {columns} cells; "
                    "global pooling and strides beyond the backbone's own cannot be masked"
                )
            self._scaled[height, width] = mask.repeat_interleave(height // rows, 2).repeat_interleave(
                width // columns, 3
            )
        return self._scaled[height, width]

    def grid(self, height: int, width: int, *, layer: str = "image") -> VoxelGrid:
        """The visible cells of a map, as sites (sample, row, column); its kernel maps live as long as the mask."""
        size = height, width
        if size not in self._grids:
            where = self.at(*size, layer=layer)[:, 0]
            coords = where.nonzero()
            known = self._shapes.setdefault(len(coords), size)
            if known != size:
                raise ValueError(
                    f"{layer}: maps of {known} and {size} have {len(coords)} visible cells each, so their rows cannot "
                    "be told apart; expected strides that shrink both sides alike"
                )
            self._grids[size] = VoxelGrid.from_sorted(coords.to(torch.int32), size, len(where))
        return self._grids[size]

    def index(self, height: int, width: int) -> Tensor:
        """The place of every visible cell in a map of ``B height width`` cells, int64 (N,)."""
        if (height, width) not in self._index:
            self._index[height, width] = self.grid(height, width).keys
        return self._index[height, width]

    def gather(self, maps: Tensor) -> Tensor:
        """The visible cells of ``(B, C, H, W)`` as ``(1, C, N, 1)``."""
        batch, channels, height, width = maps.shape
        cells = maps.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
        return as_strip(cells.index_select(0, self.index(height, width)))

    def scatter(self, strip: Tensor, *, fill: Tensor | None = None, layer: str = "feature map") -> Tensor:
        """The map ``(B, C, H, W)``, channels last in memory, of rows ``(1, C, N, 1)``.

        Masked cells hold ``fill`` (C,), or zeros.
        """
        x = self.sparse(strip, layer=layer)
        batch, (height, width), channels = x.batch_size, x.spatial_shape, x.features.shape[1]
        filling = x.features.new_zeros(channels) if fill is None else fill
        cells = filling.expand(batch * height * width, channels)
        cells = cells.index_copy(0, self.index(height, width), x.features)
        return cells.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def sparse(self, strip: Tensor, *, layer: str) -> SparseTensor:
        """Rows ``(1, C, N, 1)`` with their sites."""
        self.coarse(layer)
        size = self._shapes.get(strip.shape[2]) if strip.dim() == 4 and strip.shape[0] == strip.shape[3] == 1 else None
        if size is None:
            raise ValueError(
                f"{layer}: found a tensor of shape {tuple(strip.shape)}; expected the rows of visible cells, shape "
                f"(1, C, N, 1) with N of {sorted(self._shapes)}. Layers in front of it must keep the rows as they are: "
                "no reshaping, pooling, padding or resizing by functions; backend='masked_dense' takes maps"
            )
        return SparseTensor(as_rows(strip), self._grids[size])
