"""The CUDA sources of encodings and spike counts on the fibre emulator against the references."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.emulation import emulated_ops
from zoo.ops import HashGridLayout, dispatch
from zoo.ops.hash_encoding import _settings

GRIDS = [
    {"num_dims": 2, "features_per_level": 4, "interpolation": "smoothstep"},
    {"num_dims": 3, "features_per_level": 2},
    {"num_dims": 3, "features_per_level": 1, "interpolation": "nearest"},
    {"num_dims": 3, "features_per_level": 8, "convention": "torch_ngp"},
    {"num_dims": 4, "features_per_level": 2, "grid_type": "tiled"},
    {"convention": "nerfstudio"},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 70])
@pytest.mark.parametrize("grid", range(len(GRIDS)))
def test_hash_encoding(grid, count, dtype):
    layout = HashGridLayout.build(
        num_levels=3, base_resolution=3, per_level_scale=1.7, log2_table_size=6, **GRIDS[grid]
    )
    generator = torch.Generator().manual_seed(grid)
    x = torch.rand(count, layout.num_dims, generator=generator, dtype=dtype) * 1.2 - 0.1
    table = torch.randn(layout.num_rows, layout.features_per_level, generator=generator, dtype=dtype)
    grad = torch.randn(count, layout.output_dim, generator=generator, dtype=dtype)
    tables, settings, ops = (layout.scale_table, layout.level_table), _settings(layout), emulated_ops()
    for name, inputs in (
        ("hash_encode", (x, table, *tables, *settings)),
        ("hash_encode_table_grad", (grad, x, *tables, layout.num_rows, *settings)),
        ("hash_encode_input_grad", (grad, x, table, *tables, *settings)),
    ):
        torch.testing.assert_close(
            getattr(ops, name)(*inputs), dispatch.REFERENCES[name](*inputs), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("settings", [(4, 1.0, True, False), (3, 3.14, False, True)])
def test_frequency_encoding(settings, count):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, generator=generator)
    grad = torch.rand(count, 3 * (2 * settings[0] + settings[2]), generator=generator)
    ops = emulated_ops()
    for name, inputs in (
        ("frequency_encode", (x, *settings)),
        ("frequency_encode_backward", (grad, x, *settings)),
    ):
        torch.testing.assert_close(
            getattr(ops, name)(*inputs), dispatch.REFERENCES[name](*inputs), rtol=1e-5, atol=1e-4
        )


@pytest.mark.parametrize("half_up", [True, False])
@pytest.mark.parametrize("count", [0, 1, 700])
def test_spike_counts(count, half_up):
    membrane = 3 * torch.randn(count, generator=torch.Generator().manual_seed(0))
    found = emulated_ops().spike_counts(membrane, 4, half_up)
    assert torch.equal(found, dispatch.REFERENCES["spike_counts"](membrane, 4, half_up))
