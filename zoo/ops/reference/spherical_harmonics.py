"""Real spherical harmonics in plain torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp


def spherical_harmonics(directions: Tensor, degree: int, condon_shortley: bool) -> Tensor:
    """Bands 0..degree-1 of the real spherical harmonics at directions (N, 3); returns (N, degree^2)."""
    x, y, z = directions.unbind(-1)
    columns: list[Tensor] = [x] * (degree * degree)
    cosine, sine = torch.ones_like(x), torch.zeros_like(x)  # Re, Im of (x + iy)^m
    diagonal = 1.0  # D_m^m = (2m - 1)!!
    for m in range(degree):
        two_below, one_below = torch.zeros_like(z), torch.full_like(z, diagonal)
        for l in range(m, degree):  # noqa: E741 - the field's name of the band
            if l > m:
                here = ((2 * l - 1) * z * one_below - (l + m - 1) * two_below) / (l - m)
                two_below, one_below = one_below, here
            norm = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - m) / math.factorial(l + m))
            norm *= (math.sqrt(2) if m else 1.0) * (-1 if condon_shortley and m % 2 else 1)
            columns[l * l + l + m] = norm * one_below * cosine
            if m:
                columns[l * l + l - m] = norm * one_below * sine
        diagonal *= 2 * m + 1
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine
    return torch.stack(columns, dim=-1)


def spherical_harmonics_backward(grad_output: Tensor, directions: Tensor, degree: int, condon_shortley: bool) -> Tensor:
    """Gradient of the directions, by differentiating the forward."""
    return vjp(lambda d: spherical_harmonics(d, degree, condon_shortley), [directions], grad_output)[0]
