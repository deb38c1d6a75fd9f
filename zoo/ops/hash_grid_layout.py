"""How the levels of a hash grid lie in one table: sizes, strides and the conventions of three code bases."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.ops.checks import check_option

Convention = Literal["tcnn", "torch_ngp", "nerfstudio"]
GridType = Literal["hash", "dense", "tiled"]
Interpolation = Literal["linear", "smoothstep", "nearest"]
HashName = Literal["coherent_prime", "prime", "reversed_prime"]

CONVENTIONS = ("tcnn", "torch_ngp", "nerfstudio")
GRID_TYPES = ("hash", "dense", "tiled")
INTERPOLATIONS = ("linear", "smoothstep", "nearest")
FEATURES_PER_LEVEL = (1, 2, 4, 8)
MAX_LEVELS = 32

_PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437, 2165219737)
_HASHES: dict[str, tuple[int, ...]] = {
    "coherent_prime": _PRIMES,
    "prime": (1958374283, *_PRIMES[1:]),
    "reversed_prime": _PRIMES[::-1],
}


class Level(NamedTuple):
    """One level of a hash grid."""

    scale: float  # grid units per unit of x; a float32 number
    resolution: int  # vertices along an axis
    rows: int
    hashed: bool  # cells are hashed (XOR of products) or linear (sum of products)
    multipliers: tuple[int, ...]  # factor of each axis in that XOR or sum


@dataclass(frozen=True)
class HashGridLayout:
    r"""The geometry of a multi-level grid of features, computed once and stored.

    Level ``l`` places a point :math:`x \in [0, 1]^D` at :math:`p = \operatorname{fma}(s_l, x, h)` (one rounding), in
    the cell :math:`\lfloor p \rfloor`. The vertex :math:`g` has the row
    :math:`o_l + (\sum_d g_d m_{ld} \text{ or } \bigoplus_d g_d m_{ld}) \bmod r_l`, in 32-bit unsigned arithmetic.
    Build one with `build`; the conventions differ in the scales :math:`s_l`, the shift :math:`h`, the rows :math:`r_l`
    and the multipliers :math:`m_{ld}`:

    ========================  ==============================  ==============================  ===================
    ..                        tcnn                            torch_ngp                       nerfstudio
    ========================  ==============================  ==============================  ===================
    scale                     b s^l - 1                       b s^l - 1                       floor(b s^l)
    shift                     0.5                             0.5 (0 with align_corners)      0
    rows                      round to 8, then at most 2^T    at most 2^T, then round to 8    2^T
    stride of dense levels    vertices                        vertices + 1 (not if aligned)   all are hashed
    x outside of [0, 1]       wraps                           output 0, gradient 0            wraps
    upper corner              floor + 1                       floor + 1                       ceil
    ========================  ==============================  ==============================  ===================

    Sizes follow float32 arithmetic where upstream's do: ``16 -> 1024`` over 16 levels ends at 1025 vertices.

    Sources: tiny-cuda-nn (grid encoding), torch-ngp (GridEncoder), nerfstudio 1.1 (HashEncoding).

    Example:
        >>> from zoo.ops import HashGridLayout
        >>> layout = HashGridLayout.build(num_levels=16, log2_table_size=19, per_level_scale=1.3819128799677762)
        >>> layout.num_rows * layout.features_per_level
        12196240
    """

    convention: Convention
    grid_type: GridType
    num_dims: int
    features_per_level: int
    log2_table_size: int
    base_resolution: int
    per_level_scale: float
    interpolation: Interpolation
    align_corners: bool
    hash_name: HashName
    levels: tuple[Level, ...]

    @classmethod
    def build(
        cls,
        *,
        num_levels: int = 16,
        features_per_level: int = 2,
        log2_table_size: int = 19,
        base_resolution: int = 16,
        per_level_scale: float = 2.0,
        num_dims: int = 3,
        convention: Convention = "tcnn",
        grid_type: GridType = "hash",
        interpolation: Interpolation = "linear",
        align_corners: bool = False,
        hash_name: HashName = "coherent_prime",
    ) -> HashGridLayout:
        """Compute the sizes of every level.

        Args:
            num_levels: L, 1 to 32.
            features_per_level: F, one of 1, 2, 4, 8.
            log2_table_size: T; a level has at most ``2**T`` rows.
            base_resolution: Resolution of level 0.
            per_level_scale: Growth of the resolution from level to level.
            num_dims: D, 2 to 4.
            convention: Whose sizes and indices are reproduced, see the table above.
            grid_type: ``hash``, ``dense`` (tables as large as their grids) or ``tiled`` (small grids repeated).
            interpolation: ``linear``, ``smoothstep`` (zero slope at the vertices) or ``nearest``.
            align_corners: Whether the outermost vertices lie at 0 and 1; torch_ngp only.
            hash_name: The constants of the hash; all but ``coherent_prime`` belong to tcnn.

        Raises:
            ValueError: A value is out of range, or the convention does not know it.
        """
        _check_numbers(num_levels, features_per_level, log2_table_size, base_resolution, per_level_scale, num_dims)
        check_option("convention", convention, CONVENTIONS)
        check_option("grid_type", grid_type, GRID_TYPES)
        check_option("interpolation", interpolation, INTERPOLATIONS)
        check_option("hash_name", hash_name, tuple(_HASHES))
        _check_convention(convention, num_dims, grid_type, interpolation, align_corners, hash_name)
        primes = _HASHES[hash_name][:num_dims]
        make: dict[str, Callable[[], list[Level]]] = {
            "tcnn": lambda: _tcnn_levels(
                num_levels, log2_table_size, base_resolution, per_level_scale, grid_type, primes
            ),
            "torch_ngp": lambda: _torch_ngp_levels(
                num_levels, log2_table_size, base_resolution, per_level_scale, grid_type, primes, align_corners
            ),
            "nerfstudio": lambda: _nerfstudio_levels(
                num_levels, log2_table_size, base_resolution, per_level_scale, primes
            ),
        }
        return cls(
            convention=convention,
            grid_type=grid_type,
            num_dims=num_dims,
            features_per_level=features_per_level,
            log2_table_size=log2_table_size,
            base_resolution=base_resolution,
            per_level_scale=per_level_scale,
            interpolation=interpolation,
            align_corners=align_corners,
            hash_name=hash_name,
            levels=tuple(make[convention]()),
        )

    def with_sizes(self, offsets: Sequence[int], resolutions: Sequence[int]) -> HashGridLayout:
        """The same grid with the sizes that were stored when it was trained.

        Another machine's ``exp2`` may differ in the last digit, and a size with it; stored features fit stored sizes.

        Raises:
            ValueError: Another number of levels or of rows than this layout has.
        """
        found, expected = (len(offsets) - 1, len(resolutions), offsets[-1]), (*[self.num_levels] * 2, self.num_rows)
        if found != expected:
            raise ValueError(f"found sizes (levels, levels, rows) {found}, expected {expected}")
        border = 1 if self.convention == "torch_ngp" and not self.align_corners else 0
        levels = []
        for level, first, after, resolution in zip(self.levels, offsets, offsets[1:], resolutions, strict=False):
            rows, hashed, multipliers = after - first, level.hashed, level.multipliers
            if self.convention != "nerfstudio":
                primes = _HASHES[self.hash_name][: self.num_dims]
                hashed, multipliers = _multipliers(resolution + border, rows, self.grid_type, primes)
            levels.append(Level(level.scale, resolution, rows, hashed, multipliers))
        return dataclasses.replace(self, levels=tuple(levels))

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.levels)

    @property
    def output_dim(self) -> int:
        """L F, the width of the encoding."""
        return self.num_levels * self.features_per_level

    @property
    def num_rows(self) -> int:
        """Rows of the table, all levels together."""
        return self.offsets[-1]

    @property
    def num_parameters(self) -> int:
        """Trainable numbers: rows times F."""
        return self.num_rows * self.features_per_level

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """First row of each level, and the number of all rows: L + 1 numbers."""
        return tuple(np.cumsum([0, *(level.rows for level in self.levels)]).tolist())

    @property
    def shift(self) -> float:
        """What is added to the scaled position."""
        return 0.0 if self.convention == "nerfstudio" or self.align_corners else 0.5

    @property
    def bounded(self) -> bool:
        """Whether points outside of [0, 1] are encoded as zeros."""
        return self.convention == "torch_ngp"

    @property
    def ceil_corners(self) -> bool:
        """Whether the upper corner is ``ceil(p)``: the lower one where ``p`` is an integer."""
        return self.convention == "nerfstudio"

    @functools.cached_property
    def scale_table(self) -> Tensor:
        """The scales as the kernels read them: float64 ``(L,)`` on the CPU."""
        return torch.tensor([level.scale for level in self.levels], dtype=torch.float64)

    @functools.cached_property
    def level_table(self) -> Tensor:
        """The rest of the levels as the kernels read them: int64 ``(L, 3 + D)`` on the CPU.

        Columns: first row, rows, hashed, multipliers.
        """
        rows = [
            [first, level.rows, int(level.hashed), *level.multipliers]
            for first, level in zip(self.offsets, self.levels, strict=False)
        ]
        return torch.tensor(rows, dtype=torch.int64)


def _check_numbers(
    num_levels: int, features: int, log2_table_size: int, base_resolution: int, per_level_scale: float, num_dims: int
) -> None:
    if not 1 <= num_levels <= MAX_LEVELS:
        raise ValueError(f"num_levels: found {num_levels}, expected 1 to {MAX_LEVELS}")
    if features not in FEATURES_PER_LEVEL:
        raise ValueError(f"features_per_level: found {features}, expected one of 1, 2, 4, 8")
    if not 3 <= log2_table_size <= 31:
        raise ValueError(f"log2_table_size: found {log2_table_size}, expected 3 to 31")
    if base_resolution < 1:
        raise ValueError(f"base_resolution: found {base_resolution}, expected at least 1")
    if not (math.isfinite(per_level_scale) and per_level_scale > 0):
        raise ValueError(f"per_level_scale: found {per_level_scale}, expected a positive number")
    if not 2 <= num_dims <= 4:
        raise ValueError(f"num_dims: found {num_dims}, expected 2, 3 or 4")


def _check_convention(
    convention: str, num_dims: int, grid_type: str, interpolation: str, align_corners: bool, hash_name: str
) -> None:
    if align_corners and convention != "torch_ngp":
        raise ValueError(f"align_corners: the {convention} convention has no such option, only torch_ngp has")
    if hash_name != "coherent_prime" and convention != "tcnn":
        raise ValueError(f"hash_name: found {hash_name!r}, the {convention} convention knows 'coherent_prime' only")
    if convention == "nerfstudio" and (num_dims, grid_type, interpolation) != (3, "hash", "linear"):
        raise ValueError(
            f"convention: nerfstudio's grid is 3D, hashed and linear, found num_dims={num_dims}, "
            f"grid_type={grid_type!r}, interpolation={interpolation!r}"
        )
    if convention == "torch_ngp" and (grid_type == "dense" or interpolation == "nearest"):
        raise ValueError(
            "convention: torch_ngp's grid is hash or tiled and linear or smoothstep, "
            f"found grid_type={grid_type!r}, interpolation={interpolation!r}"
        )


def _float32_scale(level: int, log2_growth: np.float32, base_resolution: int) -> np.float32:
    """``exp2(level * log2(growth)) * base - 1`` with float32 roundings; exp2 itself is correctly rounded."""
    power = np.float32(2.0 ** float(np.float32(level) * log2_growth))
    return power * np.float32(base_resolution) - np.float32(1)


def _multipliers(stride: int, rows: int, grid_type: str, primes: tuple[int, ...]) -> tuple[bool, tuple[int, ...]]:
    """Strides of a grid, as far as they stay below the table's rows; the hash where they do not (hash grids only)."""
    strides, reach = [], 1
    for _ in primes:
        strides.append(reach if reach <= rows else 0)
        if reach <= rows:
            reach *= stride
    if grid_type == "hash" and reach > rows:
        return True, primes
    return False, tuple(strides)


def _tcnn_levels(
    num_levels: int,
    log2_table_size: int,
    base_resolution: int,
    per_level_scale: float,
    grid_type: str,
    primes: tuple[int, ...],
) -> list[Level]:
    log2_growth = np.float32(math.log2(float(np.float32(per_level_scale))))  # numpy's own float32 log2 is an ulp off
    levels = []
    for index in range(num_levels):
        scale = _float32_scale(index, log2_growth, base_resolution)
        resolution = math.ceil(scale) + 1
        full = min(resolution ** len(primes), 2**31)
        rows = -(-full // 8) * 8
        if grid_type == "hash":
            rows = min(rows, 2**log2_table_size)
        elif grid_type == "tiled":
            rows = min(rows, base_resolution ** len(primes))
        levels.append(Level(float(scale), resolution, rows, *_multipliers(resolution, rows, grid_type, primes)))
    return levels


def _torch_ngp_levels(
    num_levels: int,
    log2_table_size: int,
    base_resolution: int,
    per_level_scale: float,
    grid_type: str,
    primes: tuple[int, ...],
    align_corners: bool,
) -> list[Level]:
    log2_growth = np.float32(math.log2(per_level_scale))
    border = 0 if align_corners else 1
    levels = []
    for index in range(num_levels):
        sized = math.ceil(base_resolution * per_level_scale**index) + border  # float64, for the table only
        rows = -(-min(2**log2_table_size, sized ** len(primes)) // 8) * 8
        scale = _float32_scale(index, log2_growth, base_resolution)
        resolution = math.ceil(scale) + 1
        hashed, multipliers = _multipliers(resolution + border, rows, grid_type, primes)
        levels.append(Level(float(scale), resolution, rows, hashed, multipliers))
    return levels


def _nerfstudio_levels(
    num_levels: int, log2_table_size: int, base_resolution: int, per_level_scale: float, primes: tuple[int, ...]
) -> list[Level]:
    powers = torch.pow(per_level_scale, torch.arange(num_levels))  # float32
    scales = torch.floor(base_resolution * powers).tolist()
    return [Level(scale, int(scale) + 1, 2**log2_table_size, True, primes) for scale in scales]
