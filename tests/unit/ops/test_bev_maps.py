"""Gaussian heat maps and the scatter of voxels to a dense map, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from zoo.ops import draw_heatmap, gaussian_radius, scatter_to_bev


def objects(count: int, planes: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, width + 3, (count,), generator=generator)
    y = torch.randint(-3, height + 3, (count,), generator=generator)
    radii = torch.randint(-1, 7, (count,), generator=generator)
    return torch.stack([x, y], 1), radii, torch.randint(-1, planes, (count,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heatmap_matches_a_loop(dtype):
    cells, radii, channels = objects(30, 3, 20, 25)
    found = draw_heatmap(cells, radii, channels, (3, 20, 25), dtype=dtype)
    expected = torch.zeros(3, 20, 25, dtype=dtype)
    for (x, y), r, channel in zip(cells.tolist(), radii.tolist(), channels.tolist(), strict=True):
        if channel < 0 or r < 0:
            continue
        for row in range(max(y - r, 0), min(y + r + 1, 20)):
            for column in range(max(x - r, 0), min(x + r + 1, 25)):
                value = math.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * ((2 * r + 1) / 6) ** 2))
                expected[channel, row, column] = max(expected[channel, row, column].item(), value)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    inside = (channels >= 0) & (radii >= 0) & (cells >= 0).all(1) & (cells < torch.tensor([25, 20])).all(1)
    assert inside.sum() > 10
    assert bool((found[channels[inside], cells[inside, 1], cells[inside, 0]] == 1).all())


def test_heatmap_does_not_depend_on_the_order_of_objects():
    cells, radii, channels = objects(200, 2, 30, 30, 1)
    turned = torch.arange(199, -1, -1)
    first = draw_heatmap(cells, radii, channels, (2, 30, 30))
    assert torch.equal(first, draw_heatmap(cells[turned], radii[turned], channels[turned], (2, 30, 30)))


def solved_radii(length: float, width: float, overlap: float) -> list[float]:
    """Halved larger roots of CornerNet's three quadratics a r^2 - b r + c = 0, written as published."""
    rules = [
        (1.0, length + width, width * length * (1 - overlap) / (1 + overlap)),
        (4.0, 2 * (length + width), (1 - overlap) * width * length),
        (4 * overlap, -2 * overlap * (length + width), (overlap - 1) * width * length),
    ]
    return [(b + math.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in rules]


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.7])
def test_radius(overlap):
    sizes = torch.tensor([[12.0, 6.0], [1.0, 1.0], [0.2, 30.0], [0.0, 0.0]], dtype=torch.float64)
    expected = [min(solved_radii(length, width, overlap)) for length, width in sizes.tolist()]
    torch.testing.assert_close(gaussian_radius(sizes, overlap), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 80])
def test_native_heatmap_matches_reference(count, dtype):
    assert_native_matches_reference(
        "draw_heatmap", *objects(count, 4, 33, 41, 2), torch.empty(0, dtype=dtype), [4, 33, 41]
    )


def voxels(count: int, batch_size: int, shape: tuple[int, int, int], channels: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randperm(batch_size * math.prod(shape), generator=generator)[:count]
    sizes = torch.tensor([batch_size, *shape])
    coords = torch.stack(torch.unravel_index(cells, tuple(sizes.tolist())), 1).int()
    return torch.randn(count, channels, generator=generator, dtype=torch.float64).to(dtype), coords


CASES = [
    (40, 2, (1, 7, 9), 5),
    (60, 3, (3, 5, 6), 20),
    (700, 2, (1, 40, 41), 36),
    (0, 2, (1, 4, 4), 3),
    (5, 1, (2, 4, 4), 0),
    (1, 1, (1, 1, 1), 1),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "batch_size", "shape", "channels"), CASES)
def test_scatter_matches_a_loop(count, batch_size, shape, channels, dtype):
    features, coords = voxels(count, batch_size, shape, channels, dtype)
    found = scatter_to_bev(features, coords, batch_size, shape)
    expected = torch.zeros(batch_size, channels * shape[0], *shape[1:], dtype=dtype)
    for row, (b, z, y, x) in enumerate(coords.tolist()):
        for c in range(channels):
            expected[b, c * shape[0] + z, y, x] = features[row, c]
    assert torch.equal(found, expected)
    assert found.permute(0, 2, 3, 1).is_contiguous()
    assert torch.equal(scatter_to_bev(features, coords.long(), batch_size, shape), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "batch_size", "shape", "channels"), CASES)
def test_native_scatter_matches_reference(count, batch_size, shape, channels, dtype):
    features, coords = voxels(count, batch_size, shape, channels, dtype, 1)
    assert_native_matches_reference("scatter_to_bev", features, coords, batch_size, list(shape), rtol=0, atol=0)
    grad = torch.randn(batch_size, *shape[1:], channels * shape[0]).to(dtype)
    assert_native_matches_reference("scatter_to_bev_backward", grad, coords, list(shape), rtol=0, atol=0)


def test_gradient_of_scatter():
    features, coords = voxels(12, 2, (2, 4, 5), 3, torch.float64)
    torch.autograd.gradcheck(lambda x: scatter_to_bev(x, coords, 2, (2, 4, 5)), (features.requires_grad_(),))


def test_same_for_all_threads():
    features, coords = voxels(3000, 2, (1, 60, 70), 40, torch.float32)
    drawn = objects(100, 3, 60, 70)

    def run():
        x = features.clone().requires_grad_()
        out = scatter_to_bev(x, coords, 2, (1, 60, 70))
        (out * out).sum().backward()
        return out, x.grad, draw_heatmap(*drawn, (3, 60, 70))

    assert_same_for_all_threads(run)


def test_half_precision_stays_and_autocast_chooses_it():
    features, coords = voxels(12, 1, (1, 4, 5), 3, torch.float32)
    wanted = scatter_to_bev(features, coords, 1, (1, 4, 5)).bfloat16()
    assert torch.equal(scatter_to_bev(features.bfloat16(), coords, 1, (1, 4, 5)), wanted)
    rows = features.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = scatter_to_bev(rows, coords, 1, (1, 4, 5))
    assert torch.equal(found, wanted)
    found.backward(wanted)
    torch.testing.assert_close(rows.grad, features, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": torch.zeros(2)}, r"features: found shape \(2,\)"),
        ({"coords": torch.zeros(2, 3, dtype=torch.int32)}, r"coords: found shape \(2, 3\), expected \(2, 4\)"),
        ({"coords": torch.zeros(2, 4)}, "coords: found dtype float32"),
        ({"coords": torch.tensor([[0, 0, 0, 0], [0, 0, 0, 4]])}, "coords: found x from 0 to 4, expected 0 to 3"),
        ({"coords": torch.tensor([[0, 0, 0, 0], [-1, 0, 0, 0]])}, "coords: found sample from -1 to 0"),
        ({"spatial_shape": (4, 4)}, r"spatial_shape: found \(4, 4\)"),
    ],
)
def test_bad_arguments_of_scatter(change, words):
    arguments = {
        "features": torch.zeros(2, 3),
        "coords": torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]]),
        "batch_size": 1,
        "spatial_shape": (1, 4, 4),
    } | change
    with pytest.raises(ValueError, match=words):
        scatter_to_bev(**arguments)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cells": torch.zeros(1, 2)}, "cells: found dtype float32"),
        ({"radii": torch.zeros(2, dtype=torch.int64)}, r"radii: found shape \(2,\)"),
        ({"channels": torch.tensor([3])}, "channels: found 3, expected at most 2"),
        ({"shape": (4, 4)}, r"shape: found \(4, 4\)"),
        ({"dtype": torch.bfloat16}, "dtype: found torch.bfloat16"),
    ],
)
def test_bad_arguments_of_heatmap(change, words):
    arguments = {
        "cells": torch.zeros(1, 2, dtype=torch.int64),
        "radii": torch.tensor([2]),
        "channels": torch.tensor([0]),
        "shape": (3, 4, 4),
    } | change
    with pytest.raises(ValueError, match=words):
        draw_heatmap(**arguments)


def test_bad_arguments_of_radius():
    with pytest.raises(ValueError, match=r"sizes: found shape \(3,\)"):
        gaussian_radius(torch.zeros(3))
    with pytest.raises(ValueError, match="min_overlap: found 1"):
        gaussian_radius(torch.zeros(3, 2), 1)


def test_opcheck():
    features, coords = voxels(6, 1, (2, 3, 4), 3, torch.float64)
    torch.library.opcheck(torch.ops.zoo.scatter_to_bev.default, (features.requires_grad_(), coords, 1, [2, 3, 4]))
    grad = torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    torch.library.opcheck(torch.ops.zoo.scatter_to_bev_backward.default, (grad, coords, [2, 3, 4]))
    torch.library.opcheck(torch.ops.zoo.draw_heatmap.default, (*objects(5, 2, 6, 6), torch.zeros(0), [2, 6, 6]))
