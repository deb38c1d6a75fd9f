"""Kernel maps (which input row meets which output row at what kernel offset) and the grids that strided layers make."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.ops.checks import check_dtype, check_shape
from zoo.ops.dispatch import define_op
from zoo.ops.grid_keys import check_extent
from zoo.ops.reference import kernel_map as reference
from zoo.ops.voxel_grid import Origin, Sites, VoxelGrid

INT32_MAX = 2**31 - 1
IntOrAxes = int | Sequence[int]


@dataclass(frozen=True, eq=False)
class KernelMap:
    r"""Pairs of rows (i, o) that a kernel joins, with :math:`c_i = s\,c_o - p + d\,k` on every axis.

    Pairs are grouped by kernel offset k (row-major, last axis fastest); inside a group both rows ascend.

    Attributes:
        pairs_in: Input rows (P,), int32.
        pairs_out: Output rows (P,), int32.
        offsets: (K + 1,) int64; offset k owns pairs ``offsets[k]`` to ``offsets[k + 1]``.
        kernel_size: Extent of the kernel on each axis.
    """

    pairs_in: Tensor
    pairs_out: Tensor
    offsets: Tensor
    kernel_size: tuple[int, ...]

    @property
    def volume(self) -> int:
        """Number of kernel offsets K."""
        return math.prod(self.kernel_size)

    @property
    def num_pairs(self) -> int:
        """Number of pairs P."""
        return self.pairs_in.shape[0]

    def swapped(self) -> KernelMap:
        """The same pairs with input and output exchanged, as transposed and inverse convolutions use them."""
        return KernelMap(self.pairs_out, self.pairs_in, self.offsets, self.kernel_size)


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel size, stride, padding and dilation, one int for each axis."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @classmethod
    def of(
        cls,
        ndim: int,
        kernel_size: IntOrAxes,
        stride: IntOrAxes = 1,
        padding: IntOrAxes = 0,
        dilation: IntOrAxes = 1,
    ) -> ConvGeometry:
        """Spread single ints over the axes and check every value."""
        return cls(
            axes("kernel_size", kernel_size, ndim, 1),
            axes("stride", stride, ndim, 1),
            axes("padding", padding, ndim, 0),
            axes("dilation", dilation, ndim, 1),
        )

    @classmethod
    def submanifold(cls, ndim: int, kernel_size: IntOrAxes, dilation: IntOrAxes = 1) -> ConvGeometry:
        """Stride 1 and the padding ``(k // 2) * dilation`` that centres an odd kernel."""
        geometry = cls.of(ndim, kernel_size, dilation=dilation)
        if any(size % 2 == 0 for size in geometry.kernel_size):
            raise ValueError(
                f"kernel_size: found {geometry.kernel_size}, expected odd sizes for a submanifold convolution"
            )
        padding = tuple(size // 2 * step for size, step in zip(geometry.kernel_size, geometry.dilation, strict=True))
        return cls(geometry.kernel_size, geometry.stride, padding, geometry.dilation)

    def output_shape(self, spatial_shape: Sequence[int]) -> tuple[int, ...]:
        """``floor((n + 2p - d (k - 1) - 1) / s) + 1`` on each axis."""
        zipped = zip(spatial_shape, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        shape = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zipped)
        if any(size < 1 for size in shape):
            raise ValueError(
                f"spatial_shape: {tuple(spatial_shape)} is smaller than kernel {self.kernel_size} (dilation "
                f"{self.dilation}, padding {self.padding}); expected at least one output cell; pad or enlarge the grid"
            )
        return shape

    def transposed_shape(self, spatial_shape: Sequence[int], output_padding: Sequence[int]) -> tuple[int, ...]:
        """``(n - 1) s - 2p + d (k - 1) + output_padding + 1`` on each axis."""
        zipped = zip(
            spatial_shape, self.kernel_size, self.stride, self.padding, self.dilation, output_padding, strict=True
        )
        shape = tuple((n - 1) * s - 2 * p + d * (k - 1) + extra + 1 for n, k, s, p, d, extra in zipped)
        if any(size < 1 for size in shape):
            raise ValueError(
                f"padding: {self.padding} leaves nothing of the transposed output {shape} of spatial_shape "
                f"{tuple(spatial_shape)}; expected smaller padding"
            )
        return shape


def axes(name: str, value: IntOrAxes, ndim: int, minimum: int) -> tuple[int, ...]:
    """One int for each axis; a single int is repeated."""
    values = (value,) * ndim if isinstance(value, int) else tuple(int(item) for item in value)
    if len(values) != ndim:
        raise ValueError(f"{name}: found {len(values)} values {values}, expected 1 or {ndim}")
    if any(item < minimum for item in values):
        raise ValueError(f"{name}: found {values}, expected values of at least {minimum}")
    return values


def build_kernel_map(
    in_grid: VoxelGrid,
    out_grid: VoxelGrid,
    kernel_size: IntOrAxes,
    *,
    stride: IntOrAxes = 1,
    padding: IntOrAxes = 0,
    dilation: IntOrAxes = 1,
) -> KernelMap:
    """The kernel map from one grid to another; cached on ``in_grid`` as long as ``out_grid`` lives.

    Args:
        in_grid: Sites that are read.
        out_grid: Sites that are written; any grid of the same batch size, not only one that a layer made.
        kernel_size: Kernel cells on each axis, one int or D.
        stride: Input cells between neighbouring output cells.
        padding: Input cells that the first kernel cell lies before the grid.
        dilation: Input cells between neighbouring kernel cells.

    Raises:
        ValueError: Grids of different batch size, dimension or device, or a bad geometry.

    Example:
        >>> import torch
        >>> grid = VoxelGrid(torch.tensor([[0, 1], [0, 2], [0, 5]]), (8,), 1)
        >>> kernel_map = build_kernel_map(grid, grid, 3, padding=1)
        >>> kernel_map.offsets.tolist(), kernel_map.pairs_in.tolist(), kernel_map.pairs_out.tolist()
        ([0, 1, 4, 5], [0, 0, 1, 2, 1], [1, 0, 1, 2, 0])
    """
    geometry = ConvGeometry.of(in_grid.ndim, kernel_size, stride, padding, dilation)
    return find_map(in_grid, out_grid, geometry)


def find_map(in_grid: VoxelGrid, out_grid: VoxelGrid, geometry: ConvGeometry) -> KernelMap:
    """The cached map of ``geometry`` between two grids; made where there is none."""
    if in_grid is out_grid:
        found = in_grid.maps.submanifold.get(geometry)
        if found is None:
            found = in_grid.maps.submanifold[geometry] = make_map(in_grid, in_grid, geometry)
        return found
    entries = in_grid.maps.explicit.get(geometry, [])
    for grid, kernel_map in entries:
        if grid() is out_grid:
            return kernel_map
    kernel_map = make_map(in_grid, out_grid, geometry)
    alive = [entry for entry in entries if entry[0]() is not None]
    in_grid.maps.explicit[geometry] = [*alive, (weakref.ref(out_grid), kernel_map)]
    return kernel_map


def strided_grid(grid: VoxelGrid, geometry: ConvGeometry) -> tuple[VoxelGrid, KernelMap]:
    """Every output site whose receptive field holds an input site, and the map to it; cached on ``grid``."""
    return _made_grid(
        grid, ("strided", geometry), geometry, geometry.output_shape(grid.spatial_shape), transposed=False
    )


def transposed_grid(
    grid: VoxelGrid, geometry: ConvGeometry, output_padding: Sequence[int]
) -> tuple[VoxelGrid, KernelMap]:
    """Every site that an input site reaches in a transposed convolution, and the map to it; cached on ``grid``."""
    shape = geometry.transposed_shape(grid.spatial_shape, output_padding)
    return _made_grid(grid, ("transposed", geometry, tuple(output_padding)), geometry, shape, transposed=True)


def downsample(grid: VoxelGrid, factor: IntOrAxes) -> VoxelGrid:
    """The grid of the cells ``floor(c / factor)`` that hold a site; cached on ``grid``.

    Unlike a strided convolution, which drops the sites beyond its last full window, the shape is rounded up and every
    site is kept: ``S' = ceil(S / factor)``.

    Args:
        grid: Fine sites.
        factor: Fine cells in a coarse cell on each axis, one int or D.

    Example:
        >>> import torch
        >>> coarse = downsample(VoxelGrid(torch.tensor([[0, 0], [0, 1], [0, 4]]), (5,), 1), 2)
        >>> coarse.coords.tolist(), coarse.spatial_shape
        ([[0, 0], [0, 2]], (3,))
    """
    steps = axes("factor", factor, grid.ndim, 1)
    geometry = ConvGeometry.of(grid.ndim, steps, steps)
    shape = tuple(-(-size // step) for size, step in zip(grid.spatial_shape, steps, strict=True))
    return _made_grid(grid, ("downsample", geometry), geometry, shape, transposed=False)[0]


def _made_grid(
    grid: VoxelGrid, cache_key: object, geometry: ConvGeometry, shape: tuple[int, ...], *, transposed: bool
) -> tuple[VoxelGrid, KernelMap]:
    made = grid.maps.strided.get(cache_key)
    if made is None:
        shape = check_extent(shape, grid.batch_size)
        coords = _conv_output_coords(
            grid.coords, grid.spatial_shape, shape, grid.batch_size, *_lists(geometry), transposed
        )
        made = VoxelGrid.from_sites(Sites(coords, shape, grid.batch_size, None))
        # A transposed convolution has the pairs of the convolution from its output sites to its input sites.
        kernel_map = make_map(made, grid, geometry).swapped() if transposed else make_map(grid, made, geometry)
        made._sites.origin = Origin(grid._sites, kernel_map, weakref.ref(grid))
        grid.maps.strided[cache_key] = made
    origin = made._sites.origin
    assert origin is not None
    return made, origin.kernel_map


def make_map(in_grid: VoxelGrid, out_grid: VoxelGrid, geometry: ConvGeometry) -> KernelMap:
    """The map of ``geometry`` from one grid to another, never from a cache."""
    if in_grid.batch_size != out_grid.batch_size or in_grid.ndim != out_grid.ndim:
        raise ValueError(
            f"out_grid: found batch_size {out_grid.batch_size} and {out_grid.ndim} axes, expected "
            f"{in_grid.batch_size} and {in_grid.ndim} as in in_grid"
        )
    if in_grid.device != out_grid.device:
        raise ValueError(
            f"out_grid: found on device {out_grid.device}, expected {in_grid.device}, the device of in_grid"
        )
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"kernel map of {geometry}: not on the grid; a compiled or exported region takes grids with prebuilt "
            "maps: call zoo.ops.build_maps(model, x) or run the model once on this grid before it"
        )
    if max(in_grid.num_sites, out_grid.num_sites) > INT32_MAX:
        raise ValueError(f"grid: found {max(in_grid.num_sites, out_grid.num_sites)} sites, expected at most 2^31 - 1")
    pairs = _kernel_map(
        in_grid.coords,
        out_grid.coords,
        in_grid.spatial_shape,
        out_grid.spatial_shape,
        in_grid.batch_size,
        *_lists(geometry),
    )
    return KernelMap(pairs[0], pairs[1], pairs[2], geometry.kernel_size)


def check_map(kernel_map: KernelMap) -> None:
    """Raise ValueError unless the map's tensors have the right shapes and dtypes."""
    check_shape("kernel_map.pairs_in", kernel_map.pairs_in, ("P",))
    check_shape("kernel_map.pairs_out", kernel_map.pairs_out, (kernel_map.pairs_in.shape[0],))
    check_shape("kernel_map.offsets", kernel_map.offsets, (kernel_map.volume + 1,))
    check_dtype("kernel_map.pairs_in", kernel_map.pairs_in, torch.int32)
    check_dtype("kernel_map.pairs_out", kernel_map.pairs_out, torch.int32)
    check_dtype("kernel_map.offsets", kernel_map.offsets, torch.int64)


def _lists(geometry: ConvGeometry) -> tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int]]:
    return geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation


def _fake_kernel_map(
    in_coords: Tensor,
    out_coords: Tensor,
    in_shape: Sequence[int],
    out_shape: Sequence[int],
    batch_size: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    num_pairs = torch.library.get_ctx().new_dynamic_size()
    pairs = in_coords.new_empty(num_pairs, dtype=torch.int32)
    return pairs, torch.empty_like(pairs), in_coords.new_empty(math.prod(kernel_size) + 1, dtype=torch.int64)


def _fake_conv_output_coords(in_coords: Tensor, *geometry: object) -> Tensor:
    return in_coords.new_empty(torch.library.get_ctx().new_dynamic_size(), in_coords.shape[1])


_kernel_map = define_op(
    "kernel_map(Tensor in_coords, Tensor out_coords, int[] in_shape, int[] out_shape, int batch_size, int[] "
    "kernel_size, int[] stride, int[] padding, int[] dilation) -> (Tensor pairs_in, Tensor pairs_out, Tensor offsets)",
    reference=reference.kernel_map,
    fake=_fake_kernel_map,
)
_conv_output_coords = define_op(
    "conv_output_coords(Tensor in_coords, int[] in_shape, int[] out_shape, int batch_size, int[] kernel_size, "
    "int[] stride, int[] padding, int[] dilation, bool transposed) -> Tensor",
    reference=reference.conv_output_coords,
    fake=_fake_conv_output_coords,
)
