"""Properties of sparse convolutions and pooling for random geometry: equal to the dense ones, equivariant."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.dense_oracle import (
    active_windows,
    at_sites,
    dense_conv,
    dense_conv_transpose,
    random_sparse,
    random_weight,
)
from zoo.ops import (
    SparseTensor,
    VoxelGrid,
    cat_samples,
    sparse_avg_pool,
    sparse_conv,
    sparse_conv_transpose,
    sparse_inverse_conv,
    sparse_max_pool,
    subm_conv,
)
from zoo.ops.kernel_map import ConvGeometry


@st.composite
def cases(draw: Any) -> dict[str, Any]:
    """A random sparse tensor and the geometry of a convolution on it."""
    ndim = draw(st.integers(1, 3))

    def per_axis(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=ndim, max_size=ndim)))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    density = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0]))
    x = random_sparse(per_axis(1, 7), 3 * groups, draw(st.integers(1, 3)), density, draw(st.integers(0, 99)))
    return {
        "x": x,
        "kernel": per_axis(1, 4),
        "stride": per_axis(1, 3),
        "padding": per_axis(0, 2),
        "dilation": per_axis(1, 2),
        "groups": groups,
    }


def fits(case: dict[str, Any]) -> bool:
    zipped = zip(case["x"].spatial_shape, case["kernel"], case["padding"], case["dilation"], strict=True)
    return all(n + 2 * p - d * (k - 1) >= 1 for n, k, p, d in zipped)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


@given(cases())
def test_submanifold_equals_dense_on_active_sites(case: dict[str, Any]) -> None:
    x, kernel = case["x"], tuple(2 * (size // 2) + 1 for size in case["kernel"])
    weight = random_weight(2 * case["groups"], kernel, 3)
    padding = ConvGeometry.submanifold(x.grid.ndim, kernel, case["dilation"]).padding
    y = subm_conv(x, weight, dilation=case["dilation"], groups=case["groups"])
    expected = dense_conv(x, weight, (1,) * x.grid.ndim, padding, case["dilation"], case["groups"])
    close(y.features, at_sites(expected, x.grid))


@given(cases())
def test_strided_and_inverse_equal_dense_on_active_sites(case: dict[str, Any]) -> None:
    assume(fits(case))
    x, groups = case["x"], case["groups"]
    geometry = case["stride"], case["padding"], case["dilation"]
    weight = random_weight(2 * groups, case["kernel"], 3)
    y = sparse_conv(x, weight, stride=geometry[0], padding=geometry[1], dilation=geometry[2], groups=groups)
    active = active_windows(x, case["kernel"], *geometry)
    assert torch.equal(y.coords.long(), active.nonzero())
    close(y.features, at_sites(dense_conv(x, weight, *geometry, groups), y.grid))
    back = random_weight(groups, case["kernel"], 2, seed=1)
    z = sparse_inverse_conv(y, back, groups=groups)
    no_padding = (0,) * x.grid.ndim
    scattered = dense_conv_transpose(y, back, geometry[0], no_padding, geometry[2], no_padding, groups)
    room = [size for n in reversed(x.spatial_shape) for size in (0, n)]
    padded = torch.nn.functional.pad(scattered, room)  # cell p of the scattered values is cell 0 of x
    cut = tuple(slice(p, p + n) for p, n in zip(geometry[1], x.spatial_shape, strict=True))
    padded = padded[(slice(None), slice(None), *cut)]
    assert z.grid is x.grid
    close(z.features, at_sites(padded, x.grid))


@given(cases())
def test_transposed_equals_dense_on_reached_sites(case: dict[str, Any]) -> None:
    x, groups = case["x"], case["groups"]
    geometry = case["stride"], case["padding"], case["dilation"]
    zipped = zip(x.spatial_shape, *geometry, case["kernel"], strict=True)
    assume(all((n - 1) * s - 2 * p + d * (k - 1) + 1 >= 1 for n, s, p, d, k in zipped))
    weight = random_weight(2 * groups, case["kernel"], 3)
    y = sparse_conv_transpose(x, weight, stride=geometry[0], padding=geometry[1], dilation=geometry[2], groups=groups)
    dense = dense_conv_transpose(x, weight, *geometry, (0,) * x.grid.ndim, groups)
    assert y.spatial_shape == dense.shape[2:]
    close(y.features, at_sites(dense, y.grid))
    close(y.dense(), dense)  # nothing outside the generated sites


@given(cases())
def test_pools_equal_dense_ones(case: dict[str, Any]) -> None:
    assume(fits(case))
    x = case["x"]
    geometry = case["stride"], case["padding"], case["dilation"]
    options = {"stride": geometry[0], "padding": geometry[1], "dilation": geometry[2]}
    ones = random_weight(x.num_channels, case["kernel"], 1).fill_(1.0)
    mean = sparse_avg_pool(x, case["kernel"], **options)
    sums = dense_conv(x, ones, *geometry, x.num_channels)
    counts = dense_conv(x.map(torch.ones_like), ones, *geometry, x.num_channels)
    close(mean.features, at_sites(sums / counts.clamp(min=1), mean.grid))
    largest = sparse_max_pool(x, case["kernel"], **options)
    volume = torch.tensor(case["kernel"]).prod()
    cells = torch.eye(int(volume), dtype=torch.float64).reshape(int(volume), *case["kernel"], 1)
    low = SparseTensor(x.features[:, :1] + 100, x.grid)  # above 0, so that empty cells never win
    windows = dense_conv(low, cells, *geometry).amax(dim=1, keepdim=True) - 100
    close(largest.features[:, :1], at_sites(windows, largest.grid))


@given(cases(), st.integers(0, 99))
def test_row_order_does_not_matter(case: dict[str, Any], seed: int) -> None:
    assume(fits(case))
    x, groups = case["x"], case["groups"]
    shuffle = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    y = SparseTensor.from_coords(x.features[shuffle], x.coords[shuffle], x.spatial_shape, x.batch_size)
    weight = random_weight(2 * groups, case["kernel"], 3)
    options = {"stride": case["stride"], "padding": case["padding"], "groups": groups, "dilation": case["dilation"]}
    a, b = sparse_conv(x, weight, **options), sparse_conv(y, weight, **options)
    assert torch.equal(a.coords, b.coords)
    assert torch.equal(a.features, b.features)
    back = random_weight(groups, case["kernel"], 2)
    restored = sparse_inverse_conv(b, back, groups=groups).to_caller_order()
    assert torch.equal(restored, sparse_inverse_conv(a, back, groups=groups).features[shuffle])


@given(cases())
def test_samples_do_not_see_each_other(case: dict[str, Any]) -> None:
    assume(fits(case))
    x, groups = case["x"], case["groups"]
    weight = random_weight(2 * groups, case["kernel"], 3)
    options = {"stride": case["stride"], "padding": case["padding"], "groups": groups, "dilation": case["dilation"]}
    whole = sparse_conv(x, weight, **options)
    parts = cat_samples([sparse_conv(sample, weight, **options) for sample in x.samples()])
    assert torch.equal(whole.coords, parts.coords)
    close(whole.features, parts.features)


@given(cases(), st.data())
def test_submanifold_moves_with_its_input(case: dict[str, Any], data: Any) -> None:
    x, kernel = case["x"], tuple(2 * (size // 2) + 1 for size in case["kernel"])
    shift = torch.tensor([0, *(data.draw(st.integers(0, 5)) for _ in kernel)], dtype=torch.int32)
    shape = tuple(size + int(step) for size, step in zip(x.spatial_shape, shift[1:], strict=True))
    moved = SparseTensor(x.features, VoxelGrid(x.coords + shift, shape, x.batch_size))
    weight = random_weight(2 * case["groups"], kernel, 3)
    y, z = (subm_conv(tensor, weight, groups=case["groups"]) for tensor in (x, moved))
    close(y.features, z.features)
