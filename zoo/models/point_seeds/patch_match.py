"""Dense matching with a slanted plane at each pixel: guess, take over what fits from neighbours, refine.

Bleyer et al. 2011 (PatchMatch stereo), Galliani et al. 2015 (red-black passes, several views). A plane is the inverse
depth ``w`` at its pixel and the slope ``g`` along the picture, ``1 / z = w + g (d' - d)`` for directions
``d = (x / z, y / z)``, which is exact for planes in space. Where views stand far apart a window that faces the camera
matches nothing; a slanted one does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.models.point_seeds.seeds import check_views, pixel_positions

__all__ = ["PatchMatch", "PlaneMap", "patch_match"]

_LEAST_COSINE = 0.2  # between a plane's normal and the ray: what is seen flatter has no texture left
_NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 3), (0, -3), (3, 0), (-3, 0))  # odd: of the other colour


@dataclass(frozen=True, kw_only=True)
class PatchMatch:
    """How to match.

    Attributes:
        stride: every how manieth pixel of a row and column has a plane.
        radius: the window has ``2 radius + 1`` samples along each side.
        spacing: pixels between samples.
        passes: over all pixels; each halves the reach of the refinement.
        guesses: random planes of a pixel to begin with.
        neighbours: compare with so many other views, the nearest.
        color_sigma: colours in [0, 1] that differ by this from the middle of the window count less.

    Raises:
        ValueError: a number is out of range.
    """

    stride: int = 2
    radius: int = 3
    spacing: int = 2
    passes: int = 6
    guesses: int = 8
    neighbours: int = 4
    color_sigma: float = 0.15

    def __post_init__(self) -> None:
        least = {"stride": 1, "radius": 1, "spacing": 1, "passes": 1, "guesses": 1, "neighbours": 1}
        wrong = {name: getattr(self, name) for name, low in least.items() if getattr(self, name) < low}
        if wrong or not self.color_sigma > 0:
            raise ValueError(f"{wrong or {'color_sigma': self.color_sigma}}: expected positive numbers")


class PlaneMap(NamedTuple):
    """The planes of a view at every ``stride``-th pixel, ``h x w`` of them."""

    inverse: Tensor  # (h, w) inverse depth 1 / z; 0 where there is none
    slope: Tensor  # (h, w, 2) its derivative along x / z and y / z
    score: Tensor  # (h, w) correlation in [-1, 1]; -1 where there is none


@torch.no_grad()
def patch_match(
    images: Tensor,
    cameras: Cameras,
    reference: int,
    *,
    nearest: Tensor,
    farthest: Tensor,
    options: PatchMatch | None = None,
    generator: torch.Generator | None = None,
) -> PlaneMap:
    """Match one view against the nearest others.

    Views are joined as in `sweep_depth`: by the mean correlation of the better half of the compared ones.

    Args:
        images: ``(N, H, W, 3)`` in [0, 1].
        cameras: N pinhole cameras.
        reference: The view to find depth for.
        nearest: Least depth z ``(h, w)`` of each pixel that gets a plane.
        farthest: Largest depth; not above ``nearest`` where nothing is sought.
        options: How; None: the defaults.
        generator: Of the guesses.

    Raises:
        ValueError: Shapes do not fit, fewer than 2 views, or a lens.
    """
    check_views(images, cameras, 2)
    if cameras.model != "pinhole":
        raise ValueError(f"cameras: found lens {cameras.model!r}, expected 'pinhole'; undistort the pictures first")
    options = options or PatchMatch()
    height, width = nearest.shape
    pixels = pixel_positions(cameras.height, cameras.width, options.stride)
    if len(pixels) != height * width or farthest.shape != nearest.shape:
        raise ValueError(
            f"nearest, farthest: found {tuple(nearest.shape)}, {tuple(farthest.shape)}, expected every "
            f"{options.stride}th pixel of {cameras.height} x {cameras.width}"
        )
    search = _Search(images, cameras, reference, pixels, nearest.reshape(-1), farthest.reshape(-1), options, generator)
    search.guess()
    for number in range(options.passes):
        search.run_pass(0.5**number, height, width)
    found = torch.zeros(height * width, 3)
    score = torch.full((height * width,), -1.0)
    found[search.active], score[search.active] = search.planes, search.scores
    return PlaneMap(
        found[:, 0].reshape(height, width), found[:, 1:].reshape(height, width, 2), score.reshape(height, width)
    )


class _Search:
    """The present planes ``(P, 3)`` (inverse depth, slope) of the pixels that are sought, and their scores."""

    def __init__(
        self,
        images: Tensor,
        cameras: Cameras,
        reference: int,
        pixels: Tensor,
        nearest: Tensor,
        farthest: Tensor,
        options: PatchMatch,
        generator: torch.Generator | None,
    ) -> None:
        self.options, self.generator = options, generator
        self.active = (farthest > nearest).nonzero()[:, 0]
        self.pixels = pixels[self.active]
        focal, middle = cameras.intrinsics[reference].split(2)
        self.directions = (self.pixels + 0.5 - middle) / focal  # (P, 2)
        self.low, self.high = 1 / farthest[self.active], 1 / nearest[self.active]
        self.compare = _Comparison(images, cameras, reference, self.pixels, self.directions, options)
        self.planes = torch.zeros(len(self.active), 3)
        self.scores = torch.full((len(self.active),), -1.0)
        self.everything = torch.arange(len(self.active))

    def guess(self) -> None:
        """Random depths and normals."""
        for _ in range(self.options.guesses):
            inverse = self.low + torch.rand(len(self.low), generator=self.generator) * (self.high - self.low)
            self._try(self.everything, self._planes(self.everything, inverse, self._noise(self.everything)))

    def run_pass(self, reach: float, height: int, width: int) -> None:
        """Each pixel tries the planes of its neighbours and random changes of its own."""
        place = torch.full((height * width,), -1)
        place[self.active] = self.everything
        place = place.reshape(height, width)
        row, column = self.active // width, self.active % width
        for colour in (0, 1):
            chosen = ((row + column) % 2 == colour).nonzero()[:, 0]
            for down, right in _NEIGHBOURS:
                y, x = row[chosen] + down, column[chosen] + right
                inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                other = torch.where(inside, place[y.clamp(0, height - 1), x.clamp(0, width - 1)], -1)
                there = other >= 0
                self._take_over(chosen[there], other[there])
            for part in (1.0, 0.25, 0.05):
                self._refine(chosen, reach * part)

    def _take_over(self, chosen: Tensor, other: Tensor) -> None:
        planes = self.planes[other].clone()
        planes[:, 0] += (planes[:, 1:] * (self.directions[chosen] - self.directions[other])).sum(-1)
        self._try(chosen, planes)

    def _refine(self, chosen: Tensor, reach: float) -> None:
        span = (self.high - self.low)[chosen]
        inverse = self.planes[chosen, 0] + 0.5 * reach * span * (
            2 * torch.rand(len(chosen), generator=self.generator) - 1
        )
        normal = torch.nn.functional.normalize(self._normals(chosen), dim=-1)
        self._try(chosen, self._planes(chosen, inverse, normal + reach * self._noise(chosen)))

    def _noise(self, chosen: Tensor) -> Tensor:
        return torch.randn(len(chosen), 3, generator=self.generator)

    def _normals(self, chosen: Tensor, planes: Tensor | None = None) -> Tensor:
        """``n`` with ``n X = 1`` on the plane."""
        planes = self.planes[chosen] if planes is None else planes
        rest = planes[:, 0] - (planes[:, 1:] * self.directions[chosen]).sum(-1)
        return torch.cat((planes[:, 1:], rest[:, None]), -1)

    def _planes(self, chosen: Tensor, inverse: Tensor, normal: Tensor) -> Tensor:
        """Planes of inverse depths at the pixels and normals of any length and sign."""
        along = (normal[:, :2] * self.directions[chosen]).sum(-1) + normal[:, 2]
        along = torch.where(along.abs() < 1e-6, 1e-6, along)
        return torch.cat((inverse[:, None], normal[:, :2] * (inverse / along)[:, None]), -1)

    def _try(self, chosen: Tensor, planes: Tensor) -> None:
        normal = self._normals(chosen, planes)
        length = (1 + (self.directions[chosen] ** 2).sum(-1)).sqrt()
        cosine = planes[:, 0] / (normal.norm(dim=-1) * length).clamp_min(1e-12)
        fits = (planes[:, 0] >= self.low[chosen]) & (planes[:, 0] <= self.high[chosen]) & (cosine > _LEAST_COSINE)
        chosen, planes, normal = chosen[fits], planes[fits], normal[fits]
        scores = self.compare(chosen, planes, normal)
        better = scores > self.scores[chosen]
        self.planes[chosen[better]], self.scores[chosen[better]] = planes[better], scores[better]


class _Comparison:
    """Weighted normalised correlation of windows, over all three channels at once."""

    def __init__(
        self,
        images: Tensor,
        cameras: Cameras,
        reference: int,
        pixels: Tensor,
        directions: Tensor,
        options: PatchMatch,
    ) -> None:
        place = cameras.camera_to_world[:, :3, 3]
        order = (place - place[reference]).norm(dim=-1).argsort(stable=True).tolist()
        self.views = [view for view in order if view != reference][: options.neighbours]
        self.images, self.cameras = images.movedim(-1, 1), cameras  # (N, 3, H, W)
        world = cameras.camera_to_world.double()
        relative = torch.linalg.inv(world[self.views]) @ world[reference]
        self.rotation, self.shift = relative[:, :3, :3].float(), relative[:, :3, 3].float()
        self.centers = (torch.linalg.inv(relative)[:, :3, 3]).float()  # of the other cameras, in the frame of this one
        steps = torch.arange(-options.radius, options.radius + 1) * options.spacing
        window = torch.cartesian_prod(steps, steps).float()  # (K, 2)
        self.window = window / cameras.intrinsics[reference, :2]
        self.directions = directions
        patch = self._look_up(reference, (pixels + 0.5)[:, None] + window)  # (3, P, K)
        middle = patch[..., window.abs().sum(-1).argmin()][..., None]
        weight = torch.exp(-(patch - middle).abs().mean(0) / options.color_sigma)  # (P, K)
        self.weight = weight / weight.sum(-1, keepdim=True)
        patch = patch - (patch * self.weight).sum(-1, keepdim=True)
        self.patch = patch * self.weight
        self.variance = (self.patch * patch).sum((0, 2))  # (P,)

    def _look_up(self, view: int, uv: Tensor) -> Tensor:
        """Bilinear values ``(3, P, K)`` at pixels ``(P, K, 2)``."""
        size = uv.new_tensor([self.cameras.width, self.cameras.height])
        grid = (2 * uv / size - 1)[None]
        return torch.nn.functional.grid_sample(self.images[view][None], grid, align_corners=False)[0]

    def __call__(self, chosen: Tensor, planes: Tensor, normals: Tensor) -> Tensor:
        """Scores of planes ``(Q, 3)`` of chosen pixels ``(Q,)``."""
        scores = planes.new_empty(len(self.views), len(chosen))
        inverse = planes[:, :1] + planes[:, 1:] @ self.window.T  # (Q, K)
        x, y = (self.directions[chosen, None, axis] + self.window[:, axis] for axis in (0, 1))
        size = (self.cameras.width, self.cameras.height)
        weight, patch, variance = self.weight[chosen], self.patch[:, chosen], self.variance[chosen]
        center = len(self.window) // 2
        for number, view in enumerate(self.views):
            rotation, shift = self.rotation[number], self.shift[number]
            local = [rotation[i, 0] * x + rotation[i, 1] * y + (rotation[i, 2] + shift[i] * inverse) for i in range(3)]
            z = local[2].clamp_min(1e-6)
            focal, middle = self.cameras.intrinsics[view].split(2)
            uv = torch.stack([local[i] / z * focal[i] + middle[i] for i in (0, 1)], -1)
            values = self._look_up(view, uv)  # (3, Q, K)
            mean = (values * weight).sum(-1)
            spread = (values**2 * weight).sum((0, 2)) - (mean**2).sum(0)
            found = (patch * values).sum((0, 2)) / ((variance + 1e-4) * (spread.clamp_min(0) + 1e-4)).sqrt()
            u, v = uv[:, center].unbind(-1)
            seen = (local[2].amin(-1) > 1e-6) & (u >= 0) & (u <= size[0]) & (v >= 0) & (v <= size[1])
            seen &= (normals * self.centers[number]).sum(-1) < 1  # from the same side as the reference
            scores[number] = torch.where(seen, found, -1.0)
        return scores.topk((len(self.views) + 1) // 2, dim=0).values.mean(0)
