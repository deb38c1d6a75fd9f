"""Local structural similarity against a loop over windows, its reference and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads, native_op
from zoo.ops import ssim_map

TENT = [1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9]


def pictures(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    return x.to(dtype), (0.7 * x + 0.3 * torch.rand(shape, generator=generator, dtype=torch.float64)).to(dtype)


def loop_over_windows(x: Tensor, y: Tensor, window: list[float], scale: float) -> Tensor:
    """Similarity of pictures ``(H, W)``."""
    half = len(window) // 2
    weights = torch.tensor(window, dtype=x.dtype)
    weights = weights[:, None] * weights
    padded = [torch.nn.functional.pad(image, (half, half, half, half)) for image in (x, y)]
    out = torch.empty_like(x)
    for row in range(x.shape[0]):
        for column in range(x.shape[1]):
            a, b = (image[row : row + len(window), column : column + len(window)] for image in padded)
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            aa, bb, ab = ((weights * product).sum() for product in (a * a, b * b, a * b))
            aa, bb, ab = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
            out[row, column] = (2 * mean_a * mean_b + 1e-4) * (2 * scale * ab + 9e-4)
            out[row, column] /= (mean_a**2 + mean_b**2 + 1e-4) * (scale * (aa + bb) + 9e-4)
    return out


@pytest.mark.parametrize("scale", [1.0, 25 / 24])
def test_similarity_equals_a_loop_over_windows(scale):
    x, y = pictures(2, 9, 7, 2)
    found = ssim_map(x, y, TENT, covariance_scale=scale)
    for n in range(2):
        for c in range(2):
            torch.testing.assert_close(found[n, :, :, c], loop_over_windows(x[n, :, :, c], y[n, :, :, c], TENT, scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 4, 5, 3), (1, 1, 1, 1), (2, 3, 2, 3), (1, 40, 37, 3), (3, 18, 33, 1)])
def test_native_matches_the_reference(shape, dtype):
    x, y = pictures(*shape, dtype=dtype)
    grad = torch.randn(shape, dtype=dtype)
    settings = (torch.tensor(TENT, dtype=dtype), 25 / 24, 1e-4, 9e-4)
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}
    assert_native_matches_reference("ssim_map", x, y, *settings, **tolerance)
    assert_native_matches_reference("ssim_map_backward", grad, x, y, *settings, **tolerance)
    turned = [value.transpose(1, 2) for value in (grad, x, y)]  # rows that do not lie in one piece
    assert_native_matches_reference("ssim_map_backward", *turned, *settings, **tolerance)


def test_gradients_of_both_pictures():
    leaves = [value.requires_grad_() for value in pictures(1, 6, 7, 2)]
    assert torch.autograd.gradcheck(lambda x, y: ssim_map(x, y, TENT), leaves)


def test_opcheck():
    x, y = (value.requires_grad_() for value in pictures(1, 6, 4, 3))
    settings = (torch.tensor(TENT, dtype=torch.float64), 1.0, 1e-4, 9e-4)
    torch.library.opcheck(torch.ops.zoo.ssim_map.default, (x, y, *settings))
    utils = ("test_schema", "test_faketensor")
    arguments = (x.detach(), x.detach(), y.detach(), *settings)
    torch.library.opcheck(torch.ops.zoo.ssim_map_backward.default, arguments, test_utils=utils)


def test_same_bits_for_all_threads():
    x, y = pictures(2, 50, 41, 3, dtype=torch.float32)
    settings = (torch.tensor(TENT), 1.0, 1e-4, 9e-4)
    assert_same_for_all_threads(lambda: native_op("ssim_map")(x, y, *settings))
    assert_same_for_all_threads(lambda: native_op("ssim_map_backward")(x, x, y, *settings))


def test_wrong_arguments_are_refused():
    x = torch.rand(1, 4, 4, 3)
    with pytest.raises(ValueError, match="x: found shape"):
        ssim_map(x[0], x[0], TENT)
    with pytest.raises(ValueError, match="y: found shape"):
        ssim_map(x, x[:, :2], TENT)
    with pytest.raises(ValueError, match="y: found dtype"):
        ssim_map(x, x.double(), TENT)
    for window in ([0.5, 0.5], [0.2, 0.5, 0.3], []):
        with pytest.raises(ValueError, match="window: found"):
            ssim_map(x, x, window)
