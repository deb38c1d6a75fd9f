"""Encodings of coordinates and directions as modules."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from zoo.ops.frequency_encoding import frequency_encode
from zoo.ops.spherical_harmonics import spherical_harmonics


class FrequencyEncoding(nn.Module):
    """`zoo.ops.frequency_encode` with fixed settings.

    Args:
        in_dim: D, number of coordinates.
        num_frequencies: K, number of octaves.
        variant: Order and factor of the columns, ``nerf`` or ``tcnn``.
        include_input: Whether the coordinates themselves come first; None is the variant's own choice.
    """

    def __init__(
        self,
        in_dim: int,
        num_frequencies: int,
        *,
        variant: Literal["nerf", "tcnn"] = "nerf",
        include_input: bool | None = None,
    ) -> None:
        super().__init__()
        self.in_dim, self.num_frequencies = in_dim, num_frequencies
        self.variant: Literal["nerf", "tcnn"] = variant
        self.include_input = variant == "nerf" if include_input is None else include_input
        self.output_dim = in_dim * (2 * num_frequencies + int(self.include_input))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, D)`` to ``(N, output_dim)``."""
        return frequency_encode(x, self.num_frequencies, variant=self.variant, include_input=self.include_input)


class DirectionEncoding(nn.Module):
    """Spherical harmonics of directions.

    Args:
        degree: Number of bands; the output has ``degree**2`` columns.
        sign: ``tcnn`` with the Condon-Shortley phase (tiny-cuda-nn, torch-ngp), ``nerfstudio`` without.
        unit_input: Whether directions come as ``(d + 1) / 2`` in [0, 1], as tiny-cuda-nn's own encoding takes them.
    """

    def __init__(
        self, degree: int = 4, *, sign: Literal["tcnn", "nerfstudio"] = "tcnn", unit_input: bool = False
    ) -> None:
        super().__init__()
        self.degree, self.sign, self.unit_input, self.output_dim = degree, sign, unit_input, degree * degree

    def forward(self, directions: Tensor) -> Tensor:
        """Map unit vectors ``(N, 3)`` to ``(N, degree^2)``."""
        if self.unit_input:
            directions = directions * 2 - 1
        return spherical_harmonics(directions, self.degree, condon_shortley=self.sign == "tcnn")
