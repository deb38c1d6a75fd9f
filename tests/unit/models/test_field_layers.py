"""Hash grid, perceptron, encodings and the flat vectors of tiny-cuda-nn."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.models.layers.encodings import DirectionEncoding
from zoo.models.layers.hash_grid import HashGrid
from zoo.models.layers.mlp import ACTIVATIONS, MLP
from zoo.models.tcnn_parameters import (
    join_network_parameters,
    network_parameter_count,
    network_shapes,
    split_network_parameters,
    table_from_parameters,
)
from zoo.ops import HashGridLayout, hash_encode


def layout(**settings) -> HashGridLayout:
    return HashGridLayout.build(**{"num_levels": 3, "base_resolution": 4, "log2_table_size": 8, **settings})


def test_grid_encodes_with_its_table():
    torch.manual_seed(0)
    grid = HashGrid(layout(), init_scale=1.0)
    x = torch.rand(7, 3)
    assert torch.equal(grid(x), hash_encode(x, grid.table, grid.layout))
    assert grid.output_dim == 6
    assert "3 levels x 2 features" in repr(grid)
    assert sum(parameter.numel() for parameter in grid.parameters()) == grid.layout.num_parameters


@pytest.mark.parametrize(("convention", "scale"), [("tcnn", 1e-4), ("torch_ngp", 1e-4), ("nerfstudio", 1e-3)])
def test_table_starts_as_upstreams(convention, scale):
    torch.manual_seed(0)
    table = HashGrid(layout(convention=convention)).table
    assert 0.95 * scale < table.abs().max() <= scale


@pytest.mark.parametrize(
    ("convention", "key"), [("tcnn", "params"), ("torch_ngp", "embeddings"), ("nerfstudio", "hash_table")]
)
def test_grid_loads_upstreams_keys(convention, key):
    source, target = HashGrid(layout(convention=convention)), HashGrid(layout(convention=convention))
    table = source.table.detach()
    state = {key: table.flatten() if key == "params" else table}
    if convention == "torch_ngp":
        state["offsets"] = source.offsets.int()
    holder = torch.nn.ModuleDict({"encoder": target})
    holder.load_state_dict({f"encoder.{name}": value for name, value in state.items()}, strict=True)
    assert torch.equal(target.table, source.table)
    target.load_state_dict(source.state_dict(), strict=True)


def test_grid_refuses_other_sizes_and_other_conventions():
    grid = HashGrid(layout(convention="torch_ngp"))
    before = grid.layout
    with pytest.raises(RuntimeError, match="offsets: found sizes"):
        grid.load_state_dict({"embeddings": grid.table.detach(), "offsets": grid.offsets + 8})
    assert grid.layout == before
    with pytest.raises(RuntimeError, match=r"Unexpected key.*hash_table"):
        grid.load_state_dict({"hash_table": grid.table.detach()})
    with pytest.raises(RuntimeError, match="size mismatch for table"):
        HashGrid(layout()).load_state_dict({"params": torch.zeros(10)})


def test_stored_sizes_win():
    grid = HashGrid(layout(base_resolution=4))
    state = grid.state_dict()
    state["resolutions"] = torch.tensor([4, 8, 17])
    grid.load_state_dict(state)
    assert [level.resolution for level in grid.layout.levels] == [4, 8, 17]


def test_grid_survives_copies_and_files():
    grid = HashGrid(layout())
    x = torch.rand(3, 3)
    assert torch.equal(copy.deepcopy(grid)(x), grid(x))
    buffer = io.BytesIO()
    torch.save(grid, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), grid(x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_perceptron_is_its_formula(activation):
    torch.manual_seed(0)
    mlp = MLP(4, [8], 3, bias=False, activation=activation, output_activation="tanh")
    x = torch.rand(5, 4)
    first, last = mlp.weights()
    torch.testing.assert_close(mlp(x), torch.tanh(ACTIVATIONS[activation](x @ first.T) @ last.T))
    assert sum(parameter.numel() for parameter in mlp.parameters()) == 4 * 8 + 8 * 3


def test_perceptron_without_hidden_layers_and_without_rows():
    mlp = MLP(4, [], 2)
    assert mlp(torch.zeros(0, 4)).shape == (0, 2)
    assert mlp.layers[0].bias is not None
    with pytest.raises(ValueError, match="widths: found"):
        MLP(4, [0], 2)
    with pytest.raises(ValueError, match="activation: found 'gelu'"):
        MLP(4, [2], 2, activation="gelu")
    with pytest.raises(ValueError, match="weights: found shapes"):
        mlp.load_weights([torch.zeros(3, 4)])


@given(
    in_dim=st.integers(1, 40),
    hidden_dim=st.sampled_from([16, 24, 64]),
    num_hidden_layers=st.integers(0, 3),
    out_dim=st.integers(1, 20),
    padding=st.sampled_from(["ones", "zeros"]),
)
def test_flat_vector_computes_what_upstream_computes(in_dim, hidden_dim, num_hidden_layers, out_dim, padding):
    shape = {
        "in_dim": in_dim,
        "hidden_dim": hidden_dim,
        "num_hidden_layers": num_hidden_layers,
        "out_dim": out_dim,
    }
    torch.manual_seed(0)
    params = torch.randn(network_parameter_count(**shape) + 5)
    weights, rest = split_network_parameters(params, **shape, padding=padding)
    assert torch.equal(rest, params[-5:])
    x = torch.randn(3, in_dim)
    mlp = MLP(weights[0].shape[1], [hidden_dim] * num_hidden_layers, out_dim, bias=False)
    mlp.load_weights(weights)
    constant = x.new_ones(3, mlp.in_dim - in_dim)
    value = x.new_full((3, network_shapes(**shape)[0][1] - in_dim), 1.0 if padding == "ones" else 0.0)
    expected, start = torch.cat([x, value], dim=1), 0
    for rows, columns in network_shapes(**shape):  # on the padded matrices, as they lie in the vector
        matrix = params[start : start + rows * columns].view(rows, columns)
        start += rows * columns
        expected = expected @ matrix.T
        expected = torch.relu(expected) if start < network_parameter_count(**shape) else expected
    torch.testing.assert_close(mlp(torch.cat([x, constant], dim=1)), expected[:, :out_dim], rtol=1e-4, atol=1e-3)
    again, _ = split_network_parameters(join_network_parameters(weights, in_dim=in_dim), **shape, padding=padding)
    for value, weight in zip(again, weights, strict=True):
        torch.testing.assert_close(value, weight)


def test_vectors_that_do_not_fit():
    shape = {"in_dim": 32, "hidden_dim": 64, "num_hidden_layers": 1, "out_dim": 16}
    assert network_parameter_count(**shape) == 3072
    with pytest.raises(ValueError, match="params: found 10 numbers, expected at least 3072"):
        split_network_parameters(torch.zeros(10), **shape)
    with pytest.raises(ValueError, match=r"params: found shape \(2, 5\), expected one flat vector"):
        split_network_parameters(torch.zeros(2, 5), **shape)
    with pytest.raises(ValueError, match="params: found 10 numbers, expected 1152: 576 rows of 2"):
        table_from_parameters(torch.zeros(10), layout())
    with pytest.raises(ValueError, match=r"weights\[1\]: found shape \(3, 8\)"):
        join_network_parameters([torch.zeros(16, 4), torch.zeros(3, 8)])
    with pytest.raises(ValueError, match="expected positive widths"):
        network_shapes(0, 16, 1, 1)


def test_field_of_nerfacc_has_its_length():
    grid = HashGridLayout.build(per_level_scale=1.447269237440378)
    base = network_parameter_count(grid.output_dim, 64, 1, 16) + grid.num_parameters
    assert (base, network_parameter_count(31, 64, 2, 3)) == (12_602_992, 7_168)


def test_joined_vector_holds_the_table_last():
    table = torch.arange(6.0).view(3, 2)
    flat = join_network_parameters([torch.ones(16, 16)], encoding=table)
    assert torch.equal(flat[-6:], torch.arange(6.0))


def test_directions_in_the_unit_cube():
    unit = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    encoding = DirectionEncoding(3, unit_input=True)
    torch.testing.assert_close(encoding((unit + 1) / 2), DirectionEncoding(3)(unit))
    assert encoding.output_dim == 9
