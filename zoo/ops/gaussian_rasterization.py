"""Compositing of projected Gaussians, front to back, tile by tile."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.gaussian_projection import GSPLAT_1_5_3, GaussianRules
from zoo.ops.gaussian_tiles import GaussianTiles
from zoo.ops.reference import gaussian_rasterization as reference


class RasterizedGaussians(NamedTuple):
    """Pictures of each camera."""

    colors: Tensor  # (C, H, W, D), over the background
    alphas: Tensor  # (C, H, W)


def _fake(means2d: Tensor, conics: Tensor, colors: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    width, height = rest[7:9]
    shape = (colors.shape[0], height, width)
    return (
        colors.new_empty((*shape, colors.shape[2])),
        colors.new_empty(shape),
        colors.new_empty(shape, dtype=torch.int32),
    )


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    grads = [value.new_empty(value.shape) for value in args[2:7]]
    return (*grads, args[2].new_empty(args[2].shape))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    means2d, conics, colors, opacities, backgrounds, absolute, *rest = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.absolute, ctx.settings = absolute is not None, rest[4:]
    ctx.save_for_backward(means2d, conics, colors, opacities, backgrounds, *rest[:4], output[1], output[2])


def _backward(ctx: Any, grad_picture: Tensor, grad_transmittance: Tensor, _: Tensor) -> tuple[Any, ...]:
    *grads, magnitude = _rasterize_gaussians_backward(
        grad_picture, grad_transmittance, *ctx.saved_tensors, *ctx.settings, ctx.absolute
    )
    return (*grads, magnitude if ctx.absolute else None, *[None] * 11)


_rasterize_gaussians = define_op(
    "rasterize_gaussians(Tensor means2d, Tensor conics, Tensor colors, Tensor opacities, Tensor backgrounds, "
    "Tensor? absolute, Tensor tile_offsets, Tensor ids, Tensor slot_offsets, Tensor slots, int width, int height, "
    "int tile_size, float max_alpha, float min_alpha, float stop, bool stop_at_equal) -> (Tensor, Tensor, Tensor)",
    reference=reference.rasterize_gaussians,
    fake=_fake,
    backward=(_setup, _backward),
    autocast="float32",
)
_rasterize_gaussians_backward = define_op(
    "rasterize_gaussians_backward(Tensor grad_picture, Tensor grad_transmittance, Tensor means2d, Tensor conics, "
    "Tensor colors, Tensor opacities, Tensor backgrounds, Tensor tile_offsets, Tensor ids, Tensor slot_offsets, "
    "Tensor slots, Tensor transmittance, Tensor last, int width, int height, int tile_size, float max_alpha, "
    "float min_alpha, float stop, bool stop_at_equal, bool absolute)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.rasterize_gaussians_backward,
    fake=_fake_backward,
)


def rasterize_gaussians(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    tiles: GaussianTiles,
    *,
    backgrounds: Tensor | None = None,
    absolute: Tensor | None = None,
    rules: GaussianRules = GSPLAT_1_5_3,
) -> RasterizedGaussians:
    r"""Composite projected Gaussians at every pixel; differentiable in everything but ``tiles``.

    .. math:: \alpha_i = \min(\alpha_{\max}, o_i e^{-\frac12 d^T Q_i d}), \quad
        C = \sum_i c_i \alpha_i T_i + T b, \quad T_i = \prod_{j < i} (1 - \alpha_j)

    with d the offset of the pixel's centre from the Gaussian's mean and Q the conic. Gaussians below ``min_alpha`` are
    left out; the one that would bring T down to ``stop`` and all behind it are too. Where ``max_alpha`` holds alpha,
    no gradient reaches opacity, mean and conic. Sums run in an order that does not depend on threads, on the
    CPU as on CUDA.

    Args:
        means2d: ``(C, N, 2)`` in pixels.
        conics: ``(C, N, 3)`` xx, xy, yy.
        colors: ``(C, N, D)``, colours or other features, 1 to 32 channels.
        opacities: ``(C, N)``.
        tiles: The lists of `intersect_gaussian_tiles`; only Gaussians in a pixel's tile reach it.
        backgrounds: ``(C, D)``, else black.
        absolute: ``(C, N, 2)``; its values mean nothing, its gradient becomes the sum over pixels of the absolute
            gradient of ``means2d`` (the statistic of AbsGS).
        rules: See `GaussianRules`.

    Raises:
        ValueError: Wrong shape, dtype or device.

    Example:
        >>> from zoo.ops import intersect_gaussian_tiles
        >>> where, depth = torch.tensor([[[8.5, 8.5]]]), torch.ones(1, 1)
        >>> tiles = intersect_gaussian_tiles(where, torch.full((1, 1, 2), 8, dtype=torch.int32), depth, 16, 16)
        >>> picture = rasterize_gaussians(where, torch.tensor([[[1.0, 0, 1]]]), torch.ones(1, 1, 3), 0.5 * depth, tiles)
        >>> picture.colors[0, 8, 8]
        tensor([0.5000, 0.5000, 0.5000])
    """
    checks.check_shape("colors", colors, ("C", "N", "D"))
    checks.check_dtype("colors", colors, checks.FLOATING_OR_HALF)
    num_cameras, count, channels = colors.shape
    if not 1 <= channels <= 32:
        raise ValueError(f"colors: found {channels} channels, expected 1 to 32; render more in several calls")
    if backgrounds is None:
        backgrounds = colors.new_zeros(num_cameras, channels)
    shapes = {
        "means2d": (means2d, (num_cameras, count, 2)),
        "conics": (conics, (num_cameras, count, 3)),
        "opacities": (opacities, (num_cameras, count)),
        "backgrounds": (backgrounds, (num_cameras, channels)),
        "absolute": (absolute, (num_cameras, count, 2)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is not None:
            checks.check_shape(name, tensor, shape)
            checks.check_same_dtype(name, tensor, "colors", colors)
            checks.check_same_device(name, tensor, "colors", colors)
    if tiles.slot_offsets.shape[0] != num_cameras * count + 1:
        raise ValueError(
            f"tiles: found lists of {tiles.slot_offsets.shape[0] - 1} Gaussians, expected {num_cameras * count}"
        )
    picture, transmittance, _ = _rasterize_gaussians(
        means2d, conics, colors, opacities, backgrounds, absolute, *tiles[1:5], tiles.width, tiles.height,
        tiles.tile_size, rules.max_alpha, rules.min_alpha, rules.stop, rules.stop_at_equal,
    )  # fmt: skip
    return RasterizedGaussians(picture, 1 - transmittance)
