"""Compositing of projected Gaussians in plain torch: all pixels and Gaussians of many tiles at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.ops.reference.autograd import vjp

_CHUNK = 1 << 22  # pixel-Gaussian pairs held at a time

Rules = tuple[float, float, float, bool]  # max_alpha, min_alpha, stop, stop_at_equal


def tile_batches(tile_offsets: Tensor, pixels: int) -> list[Tensor]:
    """Tiles in groups of similar length of list, so that padding lists to the longest wastes little."""
    lengths = tile_offsets[1:] - tile_offsets[:-1]
    order = torch.argsort(lengths, descending=True, stable=True)
    batches, first = [], 0
    sizes = lengths[order].tolist()
    while first < len(sizes):
        number = max(1, _CHUNK // max(1, sizes[first] * pixels))
        batches.append(order[first : first + number])
        first += number
    return batches


class Tiling(NamedTuple):
    """How pictures are cut into tiles, and the Gaussians of each."""

    tile_offsets: Tensor
    ids: Tensor
    width: int
    height: int
    size: int

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width // self.size)

    @property
    def rows(self) -> int:
        """Tiles one above the other."""
        return -(-self.height // self.size)

    def members(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """Gaussians ``(B, K)`` of B tiles, and which of them are more than padding."""
        begin, end = self.tile_offsets[tiles], self.tile_offsets[tiles + 1]
        places = begin[:, None] + torch.arange(int((end - begin).max()), device=begin.device)
        real = places < end[:, None]
        return self.ids.long()[torch.where(real, places, 0)] if places.numel() else places, real

    def pixels(self, tiles: Tensor) -> Tensor:
        """Centres ``(B, P, 2)`` of the pixels of B tiles."""
        inner = torch.arange(self.size, device=tiles.device)
        x = (tiles % self.columns * self.size)[:, None, None] + inner
        y = (tiles // self.columns % self.rows * self.size)[:, None, None] + inner[:, None]
        return torch.stack(torch.broadcast_tensors(x, y), dim=-1).reshape(len(tiles), -1, 2) + 0.5

    def to_pictures(self, values: Tensor) -> Tensor:
        """``(C, H, W, ...)`` of all tiles' pixels ``(T, P, ...)``."""
        tail = values.shape[2:]
        grid = values.reshape(-1, self.rows, self.columns, self.size, self.size, *tail).transpose(2, 3)
        return grid.reshape(len(grid), self.rows * self.size, -1, *tail)[:, : self.height, : self.width]

    def to_tiles(self, pictures: Tensor) -> Tensor:
        """The inverse of `to_pictures`, with zeros outside of the pictures."""
        tail = pictures.shape[3:]
        padded = pictures.new_zeros(len(pictures), self.rows * self.size, self.columns * self.size, *tail)
        padded[:, : self.height, : self.width] = pictures
        grid = padded.reshape(len(pictures), self.rows, self.size, self.columns, self.size, *tail).transpose(2, 3)
        return grid.reshape(-1, self.size**2, *tail)


def contributors(
    offsets: Tensor, conics: Tensor, opacities: Tensor, real: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Alpha ``(B, P, K)`` of B tiles' K Gaussians at their P pixels, and the mask of those that count there."""
    max_alpha, min_alpha, stop, stop_at_equal = rules
    dx, dy = offsets.unbind(-1)  # (B, P, K)
    a, b, c = (column[:, None] for column in conics.unbind(-1))
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (opacities[:, None] * torch.exp(-sigma)).clamp_max(max_alpha)
    counts = real[:, None] & (sigma >= 0) & (alpha >= min_alpha)
    after = torch.cumprod(1 - torch.where(counts, alpha.detach(), 0), dim=-1)
    return alpha, counts & ((after > stop) if stop_at_equal else (after >= stop))


def _composite(
    offsets: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, real: Tensor, rules: Rules
) -> tuple[Tensor, Tensor, Tensor]:
    """Colours ``(B, P, D)``, transmittances and last contributors ``(B, P)`` of B tiles with K Gaussians each."""
    alpha, counts = contributors(offsets, conics, opacities, real, rules)
    alpha = torch.where(counts, alpha, 0)
    through = torch.nn.functional.pad(torch.cumprod(1 - alpha, dim=-1), (1, 0), value=1.0)
    numbers = torch.arange(counts.shape[-1], device=counts.device)
    last = torch.where(counts, numbers, -1)
    last = torch.nn.functional.pad(last, (1, 0), value=-1).amax(dim=-1)
    return (alpha * through[..., :-1]) @ colors, through[..., -1], last


def _flatten(values: Sequence[Tensor]) -> list[Tensor]:
    return [value.reshape(-1, *value.shape[2:]) for value in values]


def _pictures(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor, tiling: Tiling,
    rules: Rules,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    flat_means, *flat = _flatten((means2d, conics, colors, opacities))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    batches = tile_batches(tiling.tile_offsets, tiling.size**2)
    for tiles in batches:
        members, real = tiling.members(tiles)
        offsets = flat_means[members][:, None] - tiling.pixels(tiles).to(means2d.dtype)[:, :, None]
        parts.append(_composite(offsets, *(value[members] for value in flat), real=real, rules=rules))
    position = torch.argsort(torch.cat(batches))
    color, transmittance, last = (tiling.to_pictures(torch.cat(part)[position]) for part in zip(*parts, strict=True))
    return color + transmittance[..., None] * backgrounds[:, None, None], transmittance, last


def rasterize_gaussians(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, backgrounds: Tensor, absolute: Tensor | None,
    tile_offsets: Tensor, ids: Tensor, slot_offsets: Tensor, slots: Tensor, width: int, height: int, tile_size: int,
    max_alpha: float, min_alpha: float, stop: float, stop_at_equal: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Pictures ``(C, H, W, D)``, transmittances ``(C, H, W)`` and last contributors ``(C, H, W)`` int32."""
    rules, tiling = (max_alpha, min_alpha, stop, stop_at_equal), Tiling(tile_offsets, ids, width, height, tile_size)
    picture, transmittance, last = _pictures(means2d, conics, colors, opacities, backgrounds, tiling, rules)
    return picture.contiguous(), transmittance.contiguous(), last.to(torch.int32).contiguous()


def rasterize_gaussians_backward(
    grad_picture: Tensor, grad_transmittance: Tensor, means2d: Tensor, conics: Tensor, colors: Tensor,
    opacities: Tensor, backgrounds: Tensor, tile_offsets: Tensor, ids: Tensor, slot_offsets: Tensor, slots: Tensor,
    transmittance: Tensor, last: Tensor, width: int, height: int, tile_size: int, max_alpha: float,
    min_alpha: float, stop: float, stop_at_equal: bool, absolute: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of means2d, conics, colours, opacities, backgrounds, and sums of absolute gradients of means2d."""
    rules, tiling = (max_alpha, min_alpha, stop, stop_at_equal), Tiling(tile_offsets, ids, width, height, tile_size)
    leaves = [means2d, conics, colors, opacities, backgrounds]
    grads = [grad_picture, grad_transmittance]
    results = vjp(lambda *values: _pictures(*values, tiling=tiling, rules=rules)[:2], leaves, grads)
    magnitude = torch.zeros_like(means2d)
    if absolute:
        grad_alone = grad_transmittance + (grad_picture * backgrounds[:, None, None]).sum(dim=-1)
        magnitude = _absolute([grad_picture, grad_alone], leaves, tiling, rules)
    values = [value.contiguous() for value in results]
    return values[0], values[1], values[2], values[3], values[4], magnitude


def _absolute(grads: Sequence[Tensor], leaves: Sequence[Tensor], tiling: Tiling, rules: Rules) -> Tensor:
    """Sum over pixels of the absolute gradient that each pixel gives to a mean, ``(C, N, 2)``."""
    flat_means, *flat = _flatten(leaves[:4])
    tiled = [tiling.to_tiles(grad) for grad in grads]
    magnitude = torch.zeros_like(flat_means)
    for tiles in tile_batches(tiling.tile_offsets, tiling.size**2):
        members, real = tiling.members(tiles)
        offsets = flat_means[members][:, None] - tiling.pixels(tiles).to(flat_means.dtype)[:, :, None]
        values = [value[members] for value in flat]

        def forward(offsets: Tensor, values: list[Tensor] = values, real: Tensor = real) -> tuple[Tensor, Tensor]:
            return _composite(offsets, *values, real=real, rules=rules)[:2]

        each = vjp(forward, [offsets], [grad[tiles] for grad in tiled])[0].abs().sum(dim=1)  # (B, K, 2)
        magnitude.index_add_(0, members[real], each[real])
    return magnitude.reshape(leaves[0].shape)
