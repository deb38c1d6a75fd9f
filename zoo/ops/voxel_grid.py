"""The geometry of sparse voxels: unique integer sites in canonical order, and the kernel maps that live on them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.ops.checks import check_dtype
from zoo.ops.grid_keys import check_extent, linear_keys, sort_keys, unique_keys, unravel_keys

if TYPE_CHECKING:
    from zoo.ops.kernel_map import KernelMap


@dataclass
class Origin:
    """Where a strided grid came from: the sites it was made of and the map between both."""

    sites: Sites
    kernel_map: KernelMap
    grid: weakref.ref[VoxelGrid] | None


@dataclass
class Sites:
    """What a grid is, without its caches; several grid objects may share it."""

    coords: Tensor  # (N, 1 + D) int32, ascending linear key
    spatial_shape: tuple[int, ...]
    batch_size: int
    order: Tensor | None  # sorted row -> caller's row; None: the caller's rows were sorted
    origin: Origin | None = None


@dataclass
class MapCache:
    """Kernel maps and strided grids made from one grid, by geometry."""

    submanifold: dict[Any, KernelMap] = field(default_factory=dict)
    strided: dict[Any, VoxelGrid] = field(default_factory=dict)
    explicit: dict[Any, list[tuple[weakref.ref[VoxelGrid], KernelMap]]] = field(default_factory=dict)
    vendor: dict[Any, Any] = field(default_factory=dict)  # what a third-party back-end keeps


class VoxelGrid:
    """Unique integer sites of a batch of sparse samples, sorted by linear key.

    Rows are ``(b, c_0, ..., c_{D-1})``, D = 1 to 3, in the caller's axis order; the grid never renames axes. Rows are
    kept sorted by the int64 key :math:`((b S_0 + c_0) S_1 + c_1) S_2 + c_2`. A grid built from unsorted rows remembers
    the
    permutation: ``order`` maps sorted rows to the caller's, ``inverse`` the other way.

    Kernel maps and strided grids are found on the grid by the layers that need them, and are made at first use. They
    die with the grid, and are not copied by ``to``, pickling or ``copy.deepcopy``.

    Args:
        coords: Sites (N, 1 + D), int32 or int64, in any order, without duplicates.
        spatial_shape: Extent of the D axes; site coordinates lie in ``[0, size)``.
        batch_size: Number of samples; samples may be empty.

    Raises:
        ValueError: Wrong shape or dtype, a coordinate outside the shape, a batch index outside the batch, a row that
            occurs twice, or an extent whose keys do not fit int64. Values are checked once, here.

    Example:
        >>> import torch
        >>> grid = VoxelGrid(torch.tensor([[0, 3, 1], [0, 0, 2]]), spatial_shape=(4, 4), batch_size=1)
        >>> grid.coords.tolist(), grid.order.tolist()
        ([[0, 0, 2], [0, 3, 1]], [1, 0])
    """

    def __init__(self, coords: Tensor, spatial_shape: Sequence[int], batch_size: int) -> None:
        shape = check_extent(spatial_shape, batch_size)
        _check_coords(coords, shape, batch_size)
        keys = linear_keys(coords, shape)
        order = None
        if not bool((keys[1:] > keys[:-1]).all()):
            keys, order = sort_keys(keys)
            _check_distinct(keys, order, coords)
            coords = coords.index_select(0, order)
        self._bind(Sites(coords.to(torch.int32).contiguous(), shape, int(batch_size), order), keys)

    def _bind(self, sites: Sites, keys: Tensor | None = None) -> None:
        self._sites = sites
        self._keys = keys
        self._inverse: Tensor | None = None
        self._sample_offsets: Tensor | None = None
        self.maps = MapCache()

    @classmethod
    def from_sites(cls, sites: Sites) -> VoxelGrid:
        """Wrap sites that are known to be sorted, distinct and in range; nothing is checked."""
        grid = cls.__new__(cls)
        grid._bind(sites)
        return grid

    @classmethod
    def from_sorted(cls, coords: Tensor, spatial_shape: Sequence[int], batch_size: int) -> VoxelGrid:
        """Wrap int32 rows that an op made sorted, distinct and in range; only the extent is checked."""
        return cls.from_sites(Sites(coords, check_extent(spatial_shape, batch_size), batch_size, None))

    @classmethod
    def unique(cls, coords: Tensor, spatial_shape: Sequence[int], batch_size: int) -> tuple[VoxelGrid, Tensor]:
        """The grid of the distinct rows of ``coords``, and the grid row of every given row, int64 ``(P,)``."""
        shape = check_extent(spatial_shape, batch_size)
        _check_coords(coords, shape, batch_size)
        keys, rows, _ = unique_keys(linear_keys(coords, shape))
        return cls.from_sorted(unravel_keys(keys, shape), shape, batch_size), rows

    @property
    def coords(self) -> Tensor:
        """Sites (N, 1 + D), int32, ascending linear key."""
        return self._sites.coords

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Extent of the D axes."""
        return self._sites.spatial_shape

    @property
    def batch_size(self) -> int:
        """Number of samples, empty ones included."""
        return self._sites.batch_size

    @property
    def num_sites(self) -> int:
        """Number of sites N."""
        return self._sites.coords.shape[0]

    @property
    def ndim(self) -> int:
        """Number of spatial axes D."""
        return len(self._sites.spatial_shape)

    @property
    def device(self) -> torch.device:
        """The device of the coordinates."""
        return self._sites.coords.device

    @property
    def keys(self) -> Tensor:
        """Linear keys (N,), int64, strictly ascending."""
        if self._keys is None:
            self._keys = linear_keys(self.coords, self.spatial_shape)
        return self._keys

    @property
    def order(self) -> Tensor:
        """The caller's row of every sorted row, int64 (N,): ``coords = caller_coords[order]``."""
        if self._sites.order is None:
            return torch.arange(self.num_sites, device=self.device)
        return self._sites.order

    @property
    def inverse(self) -> Tensor:
        """The sorted row of every row of the caller, int64 (N,): ``caller_coords = coords[inverse]``."""
        if self._sites.order is None:
            return self.order
        if self._inverse is None:
            self._inverse = torch.empty_like(self._sites.order)
            self._inverse[self._sites.order] = torch.arange(self.num_sites, device=self.device)
        return self._inverse

    @property
    def is_caller_order(self) -> bool:
        """Whether the grid was built from rows that were already sorted."""
        return self._sites.order is None

    @property
    def sample_offsets(self) -> Tensor:
        """int64 (B + 1,): sample b owns rows ``sample_offsets[b]`` to ``sample_offsets[b + 1]``."""
        if self._sample_offsets is None:
            samples = torch.arange(self.batch_size + 1, device=self.device, dtype=torch.int32)
            self._sample_offsets = torch.searchsorted(self.coords[:, 0].contiguous(), samples)
        return self._sample_offsets

    def to_caller_order(self, values: Tensor) -> Tensor:
        """Rows of ``values`` (N, ...), given in the grid's order, in the order of the rows the grid was built from."""
        return values if self._sites.order is None else _PermuteRows.apply(values, self.inverse, self._sites.order)

    def from_caller_order(self, values: Tensor) -> Tensor:
        """Rows of ``values`` (N, ...), given in the caller's order, in the grid's order."""
        return values if self._sites.order is None else _PermuteRows.apply(values, self._sites.order, self.inverse)

    def rows_of(self, coords: Tensor) -> Tensor:
        """The row of every given site (P, 1 + D), int64 (P,); -1 where the grid has no such site."""
        if self.num_sites == 0:
            return coords.new_full((len(coords),), -1, dtype=torch.int64)
        limit = coords.new_tensor([self.batch_size, *self.spatial_shape], dtype=torch.int64)
        inside = ((coords >= 0) & (coords < limit)).all(dim=1)
        keys = linear_keys(coords, self.spatial_shape)
        rows = torch.searchsorted(self.keys, keys).clamp_(max=self.num_sites - 1)
        return torch.where(inside & (self.keys[rows] == keys), rows, -1)

    def same_sites(self, other: VoxelGrid) -> bool:
        """Whether both grids have the same sites, shape and batch size."""
        if self is other or self._sites is other._sites:
            return True
        same = self.spatial_shape == other.spatial_shape and self.batch_size == other.batch_size
        return same and torch.equal(self.coords, other.coords)

    def paired_input(self) -> tuple[VoxelGrid, KernelMap]:
        """The grid that this one was made of by a strided layer, and the map from it to this one.

        Raises:
            ValueError: The grid was not made by a strided layer, or was copied since.
        """
        origin = self._sites.origin
        if origin is None:
            raise ValueError(
                "grid: found no strided layer that made it, expected the output of a sparse_conv, "
                "sparse_conv_transpose or pooling (copies made by pickling, deepcopy or `to` forget it)"
            )
        grid = origin.grid() if origin.grid is not None else None
        if grid is None:
            grid = VoxelGrid.from_sites(origin.sites)
            origin.grid = weakref.ref(grid)
        return grid, origin.kernel_map

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> VoxelGrid:
        """The grid on another device, without its maps; the grid itself where it is there already."""
        if self.device == torch.device(device):
            return self
        coords = self.coords.to(device, non_blocking=non_blocking)
        order = None if self._sites.order is None else self._sites.order.to(device, non_blocking=non_blocking)
        return VoxelGrid.from_sites(Sites(coords, self.spatial_shape, self.batch_size, order))

    def enlarged(self, spatial_shape: Sequence[int]) -> VoxelGrid:
        """The same sites, rows and caller's order in a larger shape; made once, the grid itself if nothing changes.

        Raises:
            ValueError: An axis is shorter than it was.
        """
        shape = check_extent(spatial_shape, self.batch_size)
        if shape == self.spatial_shape:
            return self
        if len(shape) != self.ndim or any(new < old for new, old in zip(shape, self.spatial_shape, strict=True)):
            raise ValueError(f"spatial_shape: found {shape}, expected at least {self.spatial_shape} on every axis")
        made = self.maps.strided.get(("enlarged", shape))
        if made is None:
            made = VoxelGrid.from_sites(Sites(self.coords, shape, self.batch_size, self._sites.order))
            self.maps.strided["enlarged", shape] = made
        return made

    def __len__(self) -> int:
        return self.num_sites

    def __bool__(self) -> bool:
        return True  # an empty grid is still a grid

    def __repr__(self) -> str:
        return (
            f"VoxelGrid(num_sites={self.num_sites}, spatial_shape={self.spatial_shape}, batch_size={self.batch_size}, "
            f"device={self.device})"
        )

    def __getstate__(self) -> Sites:
        sites = self._sites
        return Sites(sites.coords, sites.spatial_shape, sites.batch_size, sites.order)

    def __setstate__(self, state: Sites) -> None:
        self._bind(state)


class _PermuteRows(torch.autograd.Function):
    """Rows in another order; the gradient is a gather too, by the inverse permutation."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return values.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _PermuteRows.apply(grads[0], inverse, order), None, None  # type: ignore[return-value]


def _check_coords(coords: Tensor, shape: tuple[int, ...], batch_size: int) -> None:
    if coords.dim() != 2 or coords.shape[1] != 1 + len(shape):
        raise ValueError(
            f"coords: found shape {tuple(coords.shape)}, expected (N, {1 + len(shape)}): batch index and "
            f"{len(shape)} spatial columns for spatial_shape {shape}"
        )
    check_dtype("coords", coords, (torch.int32, torch.int64))
    if len(coords) == 0:
        return
    lowest, highest = (bound.tolist() for bound in torch.aminmax(coords, dim=0))
    limits = [batch_size, *shape]
    for column, (low, high, limit) in enumerate(zip(lowest, highest, limits, strict=True)):
        if low >= 0 and high < limit:
            continue
        values = coords[:, column]
        row = int(((values < 0) | (values >= limit)).nonzero()[0])
        if column == 0:
            wanted = f"a batch index from 0 to {limit - 1} (batch_size {batch_size})"
        else:
            wanted = f"0 to {limit - 1} on axis {column - 1} (spatial_shape {shape})"
        raise ValueError(f"coords: found {coords[row].tolist()} in row {row}, expected {wanted}")


def _check_distinct(sorted_keys: Tensor, order: Tensor, coords: Tensor) -> None:
    repeated = (sorted_keys[1:] == sorted_keys[:-1]).nonzero()
    if len(repeated):
        first, second = (int(row) for row in order[repeated[0, 0] : repeated[0, 0] + 2])
        raise ValueError(
            f"coords: found {coords[first].tolist()} in rows {first} and {second} ({len(repeated)} repeated rows in "
            "all), expected distinct rows; merge them with VoxelGrid.unique or dynamic_voxelize"
        )
