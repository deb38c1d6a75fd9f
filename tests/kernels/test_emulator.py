"""CUDA sources on the fibre emulator against the references."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.emulation import emulated_ops
from zoo.ops import dispatch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_spherical_harmonics(count, dtype):
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)
    grad = torch.randn(count, 25, generator=generator, dtype=dtype)
    ops = emulated_ops()
    for name, inputs in (
        ("spherical_harmonics", (directions, 5, True)),
        ("spherical_harmonics_backward", (grad, directions, 5, False)),
    ):
        torch.testing.assert_close(getattr(ops, name)(*inputs), dispatch.REFERENCES[name](*inputs))
