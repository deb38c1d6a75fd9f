"""Frequency encoding: values, gradients, threads, bad input."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.models.layers.encodings import FrequencyEncoding
from zoo.ops import frequency_encode, use_backend

SETTINGS = [(0, "nerf", True), (4, "nerf", True), (3, "tcnn", False), (2, "nerf", False)]


def points(count: int, dims: int = 3, dtype=torch.float32):
    return torch.rand(count, dims, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) * 2 - 1


def test_columns_of_nerf():
    x = points(3, 2, torch.float64)
    encoded = frequency_encode(x, 2)
    expected = torch.cat([x, x.sin(), x.cos(), (2 * x).sin(), (2 * x).cos()], dim=1)
    torch.testing.assert_close(encoded, expected)


def test_columns_of_tcnn():
    x = points(3, 2, torch.float64)
    encoded = frequency_encode(x, 2, variant="tcnn")
    columns = [f(2**k * math.pi * x[:, axis]) for axis in range(2) for k in range(2) for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(encoded, torch.stack(columns, dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 1500])
@pytest.mark.parametrize("settings", SETTINGS)
def test_native_agrees_with_reference(settings, count, dtype):
    x = points(count, dtype=dtype)
    results = []
    for backend in ("native", "reference"):
        with use_backend(backend):
            leaf = x.clone().requires_grad_()
            frequencies, variant, include = settings
            encoded = frequency_encode(leaf, frequencies, variant=variant, include_input=include)
            encoded.backward(torch.ones_like(encoded).cumsum(1))
            results.append((encoded.detach(), leaf.grad))
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("variant", ["nerf", "tcnn"])
def test_gradient_and_opcheck(variant):
    x = points(4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: frequency_encode(x, 3, variant=variant), (x,))
    torch.library.opcheck(torch.ops.zoo.frequency_encode, (x, 3, 1.0, True, variant == "tcnn"))
    grad = torch.ones(4, 21, dtype=torch.float64)
    torch.library.opcheck(torch.ops.zoo.frequency_encode_backward, (grad, x.detach(), 3, 1.0, True, variant == "tcnn"))


def test_any_number_of_threads_gives_the_same_bits():
    x, before, results = points(5000), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(frequency_encode(x, 6))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_strided_points():
    x = points(10)
    assert torch.equal(frequency_encode(x.T.contiguous().T, 3), frequency_encode(x, 3))


def test_autocast_leaves_the_op_in_float32():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert frequency_encode(points(3), 2).dtype == torch.float32


def test_module():
    module = FrequencyEncoding(3, 4, variant="tcnn")
    assert module(points(2)).shape == (2, module.output_dim) == (2, 24)
    assert FrequencyEncoding(3, 4).output_dim == 27


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"x: found shape \(3,\), expected \(N, D\)"):
        frequency_encode(torch.zeros(3), 2)
    with pytest.raises(ValueError, match="x: found dtype int64"):
        frequency_encode(torch.zeros(3, 2, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="num_frequencies: found 33, expected 0 to 32"):
        frequency_encode(torch.zeros(3, 2), 33)
    with pytest.raises(ValueError, match="variant: found 'ngp'"):
        frequency_encode(torch.zeros(3, 2), 2, variant="ngp")
