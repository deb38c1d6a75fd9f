"""The hash encoding: reference against brute force, native against reference, gradients, threads, bad input."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.ops import HashGridLayout, grid_rows, hash_encode, use_backend
from zoo.ops.hash_encoding import _hash_encode, _input_grad, _settings, _table_grad

LAYOUTS = {
    "tcnn_3d": {"num_dims": 3, "log2_table_size": 9, "features_per_level": 2},
    "tcnn_2d_f4_smoothstep": {
        "num_dims": 2,
        "log2_table_size": 8,
        "features_per_level": 4,
        "interpolation": "smoothstep",
    },
    "tcnn_3d_f1": {"num_dims": 3, "log2_table_size": 10, "features_per_level": 1},
    "tcnn_3d_f8_dense": {"num_dims": 3, "grid_type": "dense", "features_per_level": 8},
    "tcnn_3d_tiled": {"num_dims": 3, "grid_type": "tiled"},
    "tcnn_2d_prime": {"num_dims": 2, "log2_table_size": 7, "hash_name": "prime"},
    "tcnn_4d": {"num_dims": 4, "log2_table_size": 9, "hash_name": "reversed_prime"},
    "tcnn_3d_nearest": {"num_dims": 3, "log2_table_size": 9, "interpolation": "nearest"},
    "torch_ngp_3d": {"num_dims": 3, "log2_table_size": 9, "convention": "torch_ngp"},
    "torch_ngp_2d_aligned": {
        "num_dims": 2,
        "log2_table_size": 8,
        "convention": "torch_ngp",
        "align_corners": True,
        "interpolation": "smoothstep",
    },
    "torch_ngp_3d_tiled": {"num_dims": 3, "log2_table_size": 8, "convention": "torch_ngp", "grid_type": "tiled"},
    "nerfstudio": {"log2_table_size": 8, "convention": "nerfstudio"},
}


def build(name: str) -> HashGridLayout:
    return HashGridLayout.build(num_levels=3, base_resolution=4, per_level_scale=1.7, **LAYOUTS[name])


def build_small(name: str) -> HashGridLayout:
    """For finite differences, which call the op once for every number in the table."""
    settings = {**LAYOUTS[name], "log2_table_size": 4}
    return HashGridLayout.build(num_levels=2, base_resolution=2, per_level_scale=1.6, **settings)


def sample(layout: HashGridLayout, count: int, dtype=torch.float32, seed: int = 0, spread: float = 1.0):
    """Points (some outside of the unit cube if spread > 1), a table and an output gradient."""
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(count, layout.num_dims, generator=generator, dtype=torch.float64) - 0.5) * spread + 0.5
    table = torch.randn(layout.num_rows, layout.features_per_level, generator=generator, dtype=torch.float64)
    grad = torch.randn(count, layout.output_dim, generator=generator, dtype=torch.float64)
    return x.to(dtype), table.to(dtype), grad.to(dtype)


def gradients(x, table, grad, layout):
    x, table = x.detach().requires_grad_(), table.detach().requires_grad_()
    encoded = hash_encode(x, table, layout)
    grad_x, grad_table = torch.autograd.grad(encoded, (x, table), grad, allow_unused=True)
    return encoded.detach(), torch.zeros_like(x) if grad_x is None else grad_x, grad_table


def brute_force(point, table, layout):
    """One point, corner by corner, in Python's own integers."""
    result = []
    for level, first in zip(layout.levels, layout.offsets, strict=False):
        total = [0.0] * layout.features_per_level
        outside = layout.bounded and any(not 0 <= value <= 1 for value in point)
        positions = [value * level.scale + layout.shift for value in point]
        cells = [math.floor(position) for position in positions]
        fractions = [position - cell for position, cell in zip(positions, cells, strict=True)]
        if layout.interpolation == "smoothstep":
            fractions = [f * f * (3 - 2 * f) for f in fractions]
        corners = [(0,) * len(point)]
        if layout.interpolation != "nearest":
            corners = itertools.product((0, 1), repeat=len(point))
        for corner in () if outside else corners:
            row, weight = 0, 1.0
            for cell, side, fraction, factor in zip(cells, corner, fractions, level.multipliers, strict=True):
                term = (cell + side) * factor % 2**32
                row = row ^ term if level.hashed else (row + term) % 2**32
                if layout.interpolation != "nearest":
                    weight *= fraction if side else 1 - fraction
            features = table[first + row % level.rows].tolist()
            total = [value + weight * feature for value, feature in zip(total, features, strict=True)]
        result += total
    return result


@pytest.mark.parametrize("name", LAYOUTS)
def test_reference_agrees_with_brute_force(name):
    layout = build(name)
    x, table, _ = sample(layout, 12, torch.float64, spread=1.5)
    with use_backend("reference"):
        encoded = hash_encode(x, table, layout)
    expected = torch.tensor([brute_force(point, table, layout) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(encoded, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 33, 2500])
@pytest.mark.parametrize("name", LAYOUTS)
def test_native_agrees_with_reference(name, count, dtype):
    layout = build(name)
    inputs = sample(layout, count, dtype, spread=1.2)
    native = gradients(*inputs, layout)
    with use_backend("reference"):
        expected = gradients(*inputs, layout)
    exact = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-4}
    for value, reference in zip(native, expected, strict=True):
        torch.testing.assert_close(value, reference, **exact)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_in_float64(name, backend):
    layout = build_small(name)
    x, table, _ = sample(layout, 3, torch.float64, seed=3)
    positions = x[:, None, :] * layout.scale_table[:, None] + layout.shift
    assert (positions - positions.round()).abs().min() > 1e-4  # no derivative at a border of cells
    is_nearest = layout.interpolation == "nearest"
    with use_backend(backend):
        inputs = x.requires_grad_(not is_nearest), table.requires_grad_()
        assert torch.autograd.gradcheck(lambda x, table: hash_encode(x, table, layout), inputs)


@pytest.mark.parametrize("name", ["tcnn_2d_f4_smoothstep", "torch_ngp_3d"])
def test_second_derivatives_in_float64(name):
    layout = build_small(name)
    x, table, _ = sample(layout, 2, torch.float64, seed=3)
    inputs = x.requires_grad_(), table.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, table: hash_encode(x, table, layout), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["tcnn_3d", "tcnn_4d", "tcnn_3d_nearest", "tcnn_2d_f4_smoothstep", "torch_ngp_3d"])
def test_any_number_of_threads_gives_the_same_bits(name, dtype):
    layout = build(name)
    inputs = sample(layout, 7001, dtype)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(gradients(*inputs, layout))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_points_do_not_depend_on_how_many_are_encoded_together(features):
    """From 2^14 points on, fine levels are gone through one by one, at most 2^19 points at a time."""
    layout = HashGridLayout.build(num_levels=4, features_per_level=features, base_resolution=16, log2_table_size=17)
    x, table, _ = sample(layout, (1 << 19) + 300 if features == 2 else 20_000)
    together = hash_encode(x, table, layout)
    assert torch.equal(together, torch.cat([hash_encode(part, table, layout) for part in x.split(9_000)]))


def test_more_points_than_one_chunk():
    """The table's gradient passes over the points in pieces of 2^18."""
    layout = HashGridLayout.build(num_levels=1, features_per_level=1, base_resolution=4, num_dims=2)
    count = (1 << 18) + 37
    x, _, grad = sample(layout, count)
    arguments = (x, layout.scale_table, layout.level_table, layout.num_rows, *_settings(layout))
    whole = _table_grad(grad, *arguments)
    with use_backend("reference"):
        expected = _table_grad(grad.double(), x.double(), *arguments[1:])
    torch.testing.assert_close(whole.double(), expected, rtol=1e-3, atol=0.05)


def test_rows_and_columns_may_be_strided():
    layout = build("tcnn_3d")
    x, table, grad = sample(layout, 50)
    wide_x = torch.stack([x, x], dim=2)[:, :, 0]
    wide_table = torch.stack([table, table], dim=1)[:, 0]
    wide_grad = grad.T.contiguous().T
    assert not any(tensor.is_contiguous() for tensor in (wide_x, wide_table, wide_grad))
    for value, expected in zip(
        gradients(wide_x, wide_table, wide_grad, layout), gradients(x, table, grad, layout), strict=True
    ):
        assert torch.equal(value, expected)


@pytest.mark.parametrize("offset", [1, 3])
def test_a_table_may_begin_anywhere_in_a_vector(offset):
    layout = build("tcnn_3d_f8_dense")
    x, table, _ = sample(layout, 50)
    vector = torch.cat([table.new_zeros(offset), table.flatten()])
    assert torch.equal(hash_encode(x, vector[offset:].view_as(table), layout), hash_encode(x, table, layout))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_tables_are_computed_in_float32(dtype):
    layout = build("tcnn_3d")
    x, table, grad = sample(layout, 50)
    half = table.to(dtype).requires_grad_()
    encoded = hash_encode(x, half, layout)
    assert torch.equal(encoded, hash_encode(x, half.float(), layout).to(dtype))
    encoded.backward(grad.to(dtype))
    assert half.grad is not None
    assert half.grad.dtype == dtype


def test_autocast_leaves_the_op_in_float32():
    layout = build("tcnn_3d")
    x, table, _ = sample(layout, 50)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoded = hash_encode(x, table, layout)
    assert torch.equal(encoded, hash_encode(x, table, layout))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_values_beyond_any_grid_read_no_foreign_memory(bad, monkeypatch):
    layout = build("torch_ngp_3d")
    x, table, _ = sample(layout, 40)
    x[7, 1] = bad
    others = torch.arange(40) != 7
    for backend in ("native", "reference"):
        with use_backend(backend):
            encoded = hash_encode(x, table, layout)
            hash_encode(x, table[: build("tcnn_3d").num_rows], build("tcnn_3d"))
        assert encoded[others].isfinite().all()
        assert torch.equal(encoded[7], torch.zeros(layout.output_dim))
    monkeypatch.setenv("ZOO_CHECK", "1")
    if not math.isfinite(bad):
        with pytest.raises(ValueError, match="x: found 1 values that are NaN or infinite"):
            hash_encode(x, table, layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.rand(4, 2)}, r"x: found shape \(4, 2\), expected \(N, 3\)"),
        ({"x": torch.rand(4, 3).half()}, "x: found dtype float16, expected float32 or float64"),
        ({"x": torch.rand(4, 3).double()}, "x: found dtype torch.float64, expected torch.float32"),
        ({"table": torch.rand(4, 2)}, "table: found shape"),
        ({"table": torch.zeros(984, 2, dtype=torch.int32)}, "table: found dtype int32"),
        ({"table": torch.zeros(984, 2, device="meta")}, "table: found on device meta"),
    ],
)
def test_wrong_arguments(change, message):
    layout = HashGridLayout.build(num_levels=3, base_resolution=4, per_level_scale=1.7, log2_table_size=9)
    arguments = {"x": torch.rand(4, 3), "table": torch.zeros(layout.num_rows, 2), **change}
    if "dtype" in message or "device" in message:
        arguments["table"] = arguments["table"][:1].expand(layout.num_rows, 2)
    with pytest.raises(ValueError, match=message):
        hash_encode(arguments["x"], arguments["table"], layout)


@pytest.mark.parametrize("name", ["tcnn_3d", "nerfstudio"])
def test_opcheck(name):
    layout = build(name)
    x, table, grad = sample(layout, 6)
    tables, settings = (layout.scale_table, layout.level_table), _settings(layout)
    ops = torch.ops.zoo
    _hash_encode(x, table, *tables, *settings)  # loads the kernels
    x.requires_grad_()
    table.requires_grad_()
    torch.library.opcheck(ops.hash_encode, (x, table, *tables, *settings))
    torch.library.opcheck(ops.hash_encode_table_grad, (grad, x.detach(), *tables, layout.num_rows, *settings))
    torch.library.opcheck(ops.hash_encode_input_grad, (grad, x.detach(), table.detach(), *tables, *settings))


def test_compiled_graph_gives_the_same():
    layout = build("tcnn_3d")
    x, table, _ = sample(layout, 20)
    compiled = torch.compile(lambda x, table: hash_encode(x, table, layout).sin(), backend="aot_eager", fullgraph=True)
    expected = hash_encode(x, table, layout).sin()
    torch.testing.assert_close(compiled(x, table), expected)


def test_gradient_of_positions_only():
    layout = build("tcnn_3d")
    x, table, grad = sample(layout, 9)
    (grad_x,) = torch.autograd.grad(hash_encode(x.requires_grad_(), table, layout), x, grad)
    expected = _input_grad(grad, x.detach(), table, layout.scale_table, layout.level_table, *_settings(layout))
    assert torch.equal(grad_x, expected)


@given(
    st.sampled_from(["tcnn_3d", "tcnn_2d_f4_smoothstep", "torch_ngp_3d", "nerfstudio", "tcnn_3d_tiled"]),
    st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
)
def test_weights_sum_to_one(name, point):
    layout = build(name)
    x = torch.tensor([point[: layout.num_dims]], dtype=torch.float32)
    ones = torch.ones(layout.num_rows, layout.features_per_level)
    torch.testing.assert_close(hash_encode(x, ones, layout), torch.ones(1, layout.output_dim))


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=3, max_size=3), st.integers(0, 2))
def test_every_vertex_has_a_row_of_its_level(vertex, level):
    for name in ("tcnn_3d", "torch_ngp_3d", "nerfstudio"):
        layout = build(name)
        row = int(grid_rows(torch.tensor(vertex), layout, level))
        assert layout.offsets[level] <= row < layout.offsets[level + 1]


def test_rows_are_those_that_are_read():
    layout = build("tcnn_3d")
    vertices = torch.tensor([[0, 0, 0], [3, 1, 2], [7, 5, 11]])
    for level, entry in enumerate(layout.levels):
        x = (vertices.double() - layout.shift) / entry.scale
        table = torch.arange(layout.num_rows, dtype=torch.float64)[:, None].expand(-1, 2).contiguous()
        read = hash_encode(x, table, layout)[:, 2 * level]
        torch.testing.assert_close(read, grid_rows(vertices, layout, level).double(), rtol=0, atol=1e-6)


def test_rows_refuse_what_they_cannot_place():
    layout = build("tcnn_3d")
    with pytest.raises(ValueError, match="level: found 3, expected 0 to 2"):
        grid_rows(torch.zeros(1, 3, dtype=torch.int64), layout, 3)
    with pytest.raises(ValueError, match="vertices: found shape"):
        grid_rows(torch.zeros(1, 2, dtype=torch.int64), layout, 0)
    with pytest.raises(ValueError, match="vertices: found dtype float32"):
        grid_rows(torch.zeros(1, 3), layout, 0)


@pytest.mark.slow
def test_all_instruction_sets_agree():
    """Each is asked for in a process of its own; multiplications and additions fuse differently, so not bitwise."""
    code = (
        "import sys, torch; from tests.unit.ops.test_hash_encoding import *;"
        "torch.save([gradients(*sample(build(n), 999), build(n)) for n in LAYOUTS], sys.argv[1])"
    )
    results = []
    for limit in ("baseline", "avx2", "avx512"):
        path = f"{os.environ.get('TMPDIR', '/tmp')}/zoo-isa-{os.getpid()}-{limit}.pt"
        environment = {**os.environ, "ZOO_ISA_LIMIT": limit}
        subprocess.run([sys.executable, "-c", code, path], check=True, env=environment)
        results.append(torch.load(path))
        os.remove(path)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=2e-4)
