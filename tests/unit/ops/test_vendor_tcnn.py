"""The tiny-cuda-nn adapter: what a machine without a GPU can check, and (marked gpu) the comparison with ours."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from zoo.models.layers.hash_grid import HashGrid
from zoo.models.layers.mlp import MLP
from zoo.ops import HashGridLayout, hash_encode, use_backend
from zoo.ops.vendor import tcnn

LAYOUT = HashGridLayout.build(num_levels=4, log2_table_size=12, per_level_scale=1.5, interpolation="smoothstep")


def test_configuration_of_a_grid():
    assert tcnn.encoding_config(LAYOUT) == {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": 4,
        "n_features_per_level": 2,
        "log2_hashmap_size": 12,
        "base_resolution": 16,
        "per_level_scale": 1.5,
        "interpolation": "Smoothstep",
        "hash": "CoherentPrime",
    }
    with pytest.raises(ValueError, match="layout: found convention 'torch_ngp', expected 'tcnn'"):
        tcnn.encoding_config(HashGridLayout.build(convention="torch_ngp"))


def test_configuration_of_a_network():
    assert tcnn.network_config([64, 64], "relu", "none") == {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": 64,
        "n_hidden_layers": 2,
    }
    assert tcnn.network_config([48], "relu", "exp")["otype"] == "CutlassMLP"
    with pytest.raises(ValueError, match=r"hidden_dims: found \[64, 32\]"):
        tcnn.network_config([64, 32], "relu", "none")


def test_missing_package_is_named():
    if importlib.util.find_spec("tinycudann") is not None:
        pytest.skip("tiny-cuda-nn is installed")
    with pytest.raises(ImportError, match="tinycudann"), use_backend("tcnn"):
        pass
    with pytest.raises(ImportError, match="ops=tcnn needs tiny-cuda-nn and a CUDA GPU"):
        tcnn._package()


def test_cpu_tensors_are_refused():
    with pytest.raises(ValueError, match="x: found device cpu"):
        tcnn.hash_encode(torch.rand(2, 3), torch.zeros(LAYOUT.num_rows, 2), LAYOUT)


class StandIn(torch.nn.Module):
    """Has the parameters and the call of a tiny-cuda-nn module."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.params = torch.nn.Parameter(torch.zeros(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim=1, keepdim=True) * self.params.sum()


def test_parameters_stay_ours(monkeypatch):
    """The native module computes with the caller's tensors and hands gradients back to them."""
    made = StandIn(6)
    monkeypatch.setattr(tcnn, "_network", lambda *key: made)
    params = torch.arange(6.0).requires_grad_()
    tcnn.fused_mlp(torch.ones(2, 3), params, out_dim=1, hidden_dims=[16]).sum().backward()
    assert torch.equal(params.grad, torch.full((6,), 6.0))
    assert made.params.grad is None


@pytest.mark.gpu
def test_same_results_as_ours():
    torch.manual_seed(0)
    grid, mlp = HashGrid(LAYOUT, init_scale=1.0).cuda(), MLP(8, [64], 16, bias=False).cuda()
    x = torch.rand(1000, 3, device="cuda")
    expected = hash_encode(x, grid.table, LAYOUT)
    with use_backend("tcnn"):
        encoded = grid(x)
        decoded = mlp(encoded)
    torch.testing.assert_close(encoded, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(decoded, mlp(expected), rtol=2e-2, atol=2e-2)
