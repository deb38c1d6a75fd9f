"""The CUDA sources of the Gaussians and of structural similarity on the fibre emulator against the references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.kernels.emulation import emulated_ops
from tests.unit.ops.op_harness import tensors_of
from tests.unit.ops.test_gaussians import OPS, SIZE, op_arguments
from zoo.ops import dispatch, intersect_gaussian_tiles

TOLERANCES = {
    torch.float32: {"rtol": 2e-3, "atol": 2e-3},
    torch.float64: {"rtol": 1e-9, "atol": 1e-9},
}


def check(name: str, arguments: tuple, dtype: torch.dtype) -> None:
    found, expected = (tensors_of(op(*arguments)) for op in (getattr(emulated_ops(), name), dispatch.REFERENCES[name]))
    assert len(found) == len(expected)
    for value, wanted in zip(found, expected, strict=True):
        assert value.is_contiguous()
        torch.testing.assert_close(value, wanted, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_every_op(count, dtype):
    arguments = op_arguments(count, 2, dtype, absolute=True)
    for name in OPS:
        check(name, arguments[name], dtype)


def other_tiles(tile_size: int, channels: int) -> dict[str, tuple]:
    """Arguments of compositing with tiles and colours of another size, half of the Gaussians opaque."""
    given = op_arguments(12, 1, torch.float64)
    means2d, radii, depths = given["intersect_gaussian_tiles"][:3]
    _, conics, _, opacities = given["rasterize_gaussians"][:4]
    opacities = torch.where(torch.arange(12) % 2 == 0, 1.0, opacities)
    tiles = intersect_gaussian_tiles(means2d, radii, depths, *SIZE, tile_size=tile_size)
    generator = torch.Generator().manual_seed(tile_size)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = (means2d, conics, normal(1, 12, channels), opacities, normal(1, channels))
    rules = (0.99, 1 / 255, 1e-4, False)
    picture, through, last = dispatch.REFERENCES["rasterize_gaussians"](
        *inputs, None, *tiles[1:5], *SIZE, tile_size, *rules
    )
    return {
        "intersect_gaussian_tiles": (means2d, radii, depths, *SIZE, tile_size),
        "rasterize_gaussians": (*inputs, None, *tiles[1:5], *SIZE, tile_size, *rules),
        "rasterize_gaussians_backward": (
            normal(*picture.shape), normal(*through.shape), *inputs, *tiles[1:5], through, last, *SIZE, tile_size,
            *rules, False,
        ),
    }  # fmt: skip


@pytest.mark.parametrize(("tile_size", "channels"), [(5, 1), (20, 4), (37, 7)])
def test_tiles_and_channels(tile_size, channels):
    for name, arguments in other_tiles(tile_size, channels).items():
        check(name, arguments, torch.float64)


def test_equal_depths_stay_in_order_and_broken_ones_are_last():
    count = 40
    means2d = torch.full((2, count, 2), 8.0)
    radii = torch.full((2, count, 2), 3, dtype=torch.int32)
    radii[:, 7] = 0
    depths = torch.tensor([2.0, -0.0, 0.0, 2.0, torch.nan, 1.0, -3.0, torch.inf]).repeat(2, count // 8)
    for dtype in TOLERANCES:
        arguments = (means2d.to(dtype), radii, depths.to(dtype), 20, 18, 4)
        found = emulated_ops().intersect_gaussian_tiles(*arguments)
        native = torch.ops.zoo.intersect_gaussian_tiles(*arguments)
        for value, wanted in zip(found, native, strict=True):
            assert torch.equal(value, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (1, 1, 1, 1), (2, 9, 14, 3)])
def test_similarity(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    grad, x, y = torch.rand(3, *shape, generator=generator, dtype=dtype)
    settings = (torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1], dtype=dtype), 1.1, 1e-4, 9e-4)
    check("ssim_map", (x, y, *settings), dtype)
    check("ssim_map_backward", (grad, x, y, *settings), dtype)
