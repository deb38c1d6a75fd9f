"""Spherical harmonics: textbook values, orthogonality, gradients, threads, bad input."""

from __future__ import annotations

import math

import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.models.layers.encodings import DirectionEncoding
from zoo.ops import spherical_harmonics, use_backend


def directions(count: int, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=1).to(
        dtype
    )


def textbook(unit: torch.Tensor, degree: int) -> torch.Tensor:
    """Real harmonics from associated Legendre functions (scipy's, with the Condon-Shortley phase) and angles."""
    phi, columns = torch.atan2(unit[:, 1], unit[:, 0]), []
    for band in range(degree):
        for order in range(-band, band + 1):
            m = abs(order)
            legendre = torch.from_numpy(scipy.special.lpmv(m, band, unit[:, 2].numpy()))
            norm = (2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m)
            wave = (m * phi).sin() if order < 0 else (m * phi).cos()
            columns.append(math.sqrt(norm * (2 if m else 1)) * legendre * wave)
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("degree", range(1, 9))
def test_values_are_the_textbooks(degree, backend):
    unit = directions(40, torch.float64)
    with use_backend(backend):
        torch.testing.assert_close(spherical_harmonics(unit, degree), textbook(unit, degree), rtol=1e-9, atol=1e-9)


def test_sign_without_phase():
    unit = directions(10, torch.float64)
    signs = torch.tensor([(-1.0) ** abs(m) for band in range(5) for m in range(-band, band + 1)], dtype=torch.float64)
    plain = spherical_harmonics(unit, 5, condon_shortley=False)
    torch.testing.assert_close(plain, spherical_harmonics(unit, 5) * signs)
    torch.testing.assert_close(DirectionEncoding(5, sign="nerfstudio")(unit), plain)


@given(st.integers(1, 8))
def test_addition_theorem(degree):
    """The squares of a band sum to (2 l + 1) / (4 pi) in every direction."""
    values = spherical_harmonics(directions(20, torch.float64), degree)
    for band in range(degree):
        total = values[:, band * band : (band + 1) ** 2].square().sum(dim=1)
        torch.testing.assert_close(total, torch.full_like(total, (2 * band + 1) / (4 * math.pi)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 1500])
def test_native_agrees_with_reference(count, dtype):
    results = []
    for backend in ("native", "reference"):
        with use_backend(backend):
            leaf = directions(count, dtype).requires_grad_()
            values = spherical_harmonics(leaf, 5)
            values.backward(torch.ones_like(values).cumsum(1))
            results.append((values.detach(), leaf.grad))
    exact = {"rtol": 1e-5, "atol": 2e-4} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-10}
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, **exact)


@pytest.mark.parametrize("condon_shortley", [True, False])
def test_gradient_and_opcheck(condon_shortley):
    unit = directions(4, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda d: spherical_harmonics(d, 5, condon_shortley=condon_shortley), (unit,))
    torch.library.opcheck(torch.ops.zoo.spherical_harmonics, (unit, 4, condon_shortley))
    grad = torch.ones(4, 16, dtype=torch.float64)
    torch.library.opcheck(torch.ops.zoo.spherical_harmonics_backward, (grad, unit.detach(), 4, condon_shortley))


def test_any_number_of_threads_gives_the_same_bits():
    unit, before, results = directions(5000), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            leaf = unit.clone().requires_grad_()
            values = spherical_harmonics(leaf, 4)
            values.backward(torch.ones_like(values).cumsum(1))
            results.append((values.detach(), leaf.grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_strided_directions():
    unit = directions(10)
    assert torch.equal(spherical_harmonics(unit.T.contiguous().T), spherical_harmonics(unit))


def test_autocast_leaves_the_op_in_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert spherical_harmonics(directions(3)).dtype == torch.float32


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"directions: found shape \(3, 2\), expected \(N, 3\)"):
        spherical_harmonics(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="directions: found dtype float16"):
        spherical_harmonics(torch.zeros(3, 3).half())
    with pytest.raises(ValueError, match="degree: found 9, expected 1 to 8"):
        spherical_harmonics(torch.zeros(3, 3), 9)
