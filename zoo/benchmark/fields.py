"""Encodings of field coordinates against vectorised plain torch.

The hash grid is Instant-NGP's: 16 levels of 2 features, 2^19 rows, 16 to 2048 vertices, random points. Its limit counts
the cache lines that random points read on the hashed levels, 4.5 of 64 bytes a point and level (along axis 0 the two
corners are neighbours, and mostly share a line), as if all came from memory; a table's gradient reads and writes each
of them once more. Shares above 100 % mean that the tables stayed in the last-level cache.

The plain torch forward is the faster of two formulations, ``embedding_bag`` with weights; forward and backward together
are faster by indexing and autograd, which is the reference of the op. Both loop over the levels only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.benchmark.harness import Case, close
from zoo.ops import HashGridLayout, frequency_encode, hash_encode, spherical_harmonics, use_backend
from zoo.ops.hash_grid_layout import INTERPOLATIONS
from zoo.ops.reference import hash_encoding as reference

THREADS = 2
SIZES = {"1M": 1_000_000, "65k": 65_536}
LINE_BYTES, LINES_PER_POINT = 64, 4.5


@dataclass
class Grid:
    """One problem: points, table and output gradient of fixed seeds."""

    layout: HashGridLayout
    x: Tensor  # (N, 3)
    table: Tensor  # (rows, 2)
    grad: Tensor  # (N, 32)

    @classmethod
    def random(cls, count: int) -> Grid:
        """The grid of the Instant-NGP paper under uniform points."""
        layout = HashGridLayout.build(num_levels=16, features_per_level=2, per_level_scale=1.3819128799677762)
        generator = torch.Generator().manual_seed(0)
        x = torch.rand(count, 3, generator=generator)
        table = torch.randn(layout.num_rows, 2, generator=generator).requires_grad_()
        return cls(layout, x, table, torch.randn(count, layout.output_dim, generator=generator))

    @property
    def line_bytes(self) -> float:
        """What one pass over the hashed levels reads, in whole cache lines."""
        return LINE_BYTES * LINES_PER_POINT * len(self.x) * sum(level.hashed for level in self.layout.levels)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """Ours."""
        return hash_encode(self.x, self.table, self.layout)

    @torch.no_grad()
    def plain_forward(self) -> Tensor:
        """Plain torch."""
        layout, parts = self.layout, []
        settings = layout.shift, INTERPOLATIONS.index(layout.interpolation), layout.bounded, layout.ceil_corners
        for scale, level in zip(layout.scale_table.tolist(), layout.level_table.tolist(), strict=True):
            rows, weights = reference.place(self.x, scale, level, *settings)
            parts.append(F.embedding_bag(rows + level[0], self.table, mode="sum", per_sample_weights=weights))
        return torch.cat(parts, dim=1)

    def train(self) -> Tensor:
        """Forward and the table's gradient."""
        return torch.autograd.grad(hash_encode(self.x, self.table, self.layout), self.table, self.grad)[0]

    def plain_train(self) -> Tensor:
        """The same in plain torch."""
        layout = self.layout
        settings = layout.shift, INTERPOLATIONS.index(layout.interpolation), layout.bounded, layout.ceil_corners
        encoded = reference.hash_encode(self.x, self.table, layout.scale_table, layout.level_table, *settings)
        return torch.autograd.grad(encoded, self.table, self.grad)[0]

    def input_grad(self) -> Tensor:
        """Forward and the positions' gradient."""
        x = self.x.detach().requires_grad_()
        return torch.autograd.grad(hash_encode(x, self.table.detach(), self.layout), x, self.grad)[0]


def _hash_cases(name: str, count: int) -> Iterator[Case]:
    grid = Grid.random(count)
    case = f"hash grid, {name} points"

    def compare(actual: Tensor, expected: Tensor) -> None:
        close(actual, expected, rtol=2e-4)

    yield Case(
        case=case,
        what="forward",
        threads=THREADS,
        ours=grid.forward,
        peer_name="plain torch, embedding_bag",
        peer=grid.plain_forward,
        compare=compare,
        limit="copy",
        work=grid.line_bytes,
    )
    yield Case(
        case=case,
        what="forward + backward (table)",
        threads=THREADS,
        ours=grid.train,
        peer_name="plain torch, autograd",
        peer=grid.plain_train,
        compare=compare,
        limit="copy",
        work=3 * grid.line_bytes,
    )
    yield Case(case=case, what="forward + backward (positions)", threads=THREADS, ours=grid.input_grad)


def _with_reference(function: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with use_backend("reference"):
            return function()

    return run


def _small_cases() -> Iterator[Case]:
    directions = F.normalize(torch.randn(SIZES["1M"], 3, generator=torch.Generator().manual_seed(0)), dim=1)
    encodings: dict[str, tuple[Callable[[], Tensor], int]] = {
        "spherical harmonics, degree 4": (lambda: spherical_harmonics(directions, 4), 16),
        "frequencies, 10 octaves": (lambda: frequency_encode(directions, 10), 63),
    }
    for name, (function, width) in encodings.items():
        yield Case(
            case=f"{name}, 1M points",
            what="forward",
            threads=THREADS,
            ours=function,
            peer_name="plain torch",
            peer=_with_reference(function),
            compare=lambda actual, expected: close(actual, expected, rtol=1e-4),
            limit="copy",
            work=4.0 * len(directions) * (3 + width),
        )


def cases() -> Iterator[Case]:
    """All comparisons of this module."""
    for name, count in SIZES.items():
        yield from _hash_cases(name, count)
    yield from _small_cases()
