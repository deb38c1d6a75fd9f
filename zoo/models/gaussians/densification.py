"""How the number of Gaussians grows and shrinks in training: by gradients, or by relocation (MCMC)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.models.gaussians.parameters import GaussianRows, RowChange
from zoo.ops.gaussian_projection import gaussian_covariances


@dataclass(frozen=True)
class DefaultDensification:
    """Clone small and split large Gaussians whose place in the picture is pulled hard; drop faint and huge ones.

    Args:
        grow_gradient: Mean gradient of the place in the picture, in half pictures, from which a Gaussian grows
            (0.0008 with absolute gradients).
        grow_scale: Largest scale of what is cloned, in scene scales; larger ones are split.
        split_radius: Radius in the picture, in picture sizes, from which a Gaussian is split (before `radius_until`).
        prune_opacity: Smaller opacities are dropped.
        prune_scale: Larger scales, in scene scales, are dropped after the first reset.
        prune_radius: Larger radii in the picture, in picture sizes, are dropped (before `radius_until`).
        start: Step from which the number changes.
        stop: Step from which it stays.
        every: Steps between changes.
        reset_every: Steps between resets of the opacities.
        radius_until: Step until which radii in the picture count; 0: never.
        revised_opacity: Halves of a split Gaussian together are as opaque as it was, ``1 - sqrt(1 - o)`` each.
    """

    grow_gradient: float = 2e-4
    grow_scale: float = 0.01
    split_radius: float = 0.05
    prune_opacity: float = 0.005
    prune_scale: float = 0.1
    prune_radius: float = 0.15
    start: int = 500
    stop: int = 15_000
    every: int = 100
    reset_every: int = 3000
    radius_until: int = 0
    revised_opacity: bool = False

    def is_due(self, step: int) -> bool:
        """Whether the number of Gaussians may change after this step."""
        return self.start < step < self.stop and step % self.every == 0

    def is_reset_due(self, step: int) -> bool:
        """Whether opacities are reset after this step."""
        return 0 < step < self.stop and step % self.reset_every == 0

    def choose(
        self,
        rows: GaussianRows,
        gradient: Tensor,
        count: Tensor,
        radii: Tensor | None,
        *,
        scene_scale: float,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """Which Gaussians are cloned and which are split, two masks ``(N,)``.

        Args:
            rows: The Gaussians.
            gradient: Sum over views of the norm of the gradient of the place in the picture, ``(N,)``.
            count: Number of views it was visible in, ``(N,)``.
            radii: Largest radius in the picture over its size, ``(N,)``, where it counts.
            scene_scale: Size of the scene.
            step: The step after which this happens.
        """
        pulled = gradient / count.clamp_min(1) > self.grow_gradient
        small = rows["scales"].exp().amax(dim=-1) <= self.grow_scale * scene_scale
        split = pulled & ~small
        if radii is not None and step < self.radius_until:
            split |= radii > self.split_radius
        return pulled & small, split

    def grow(self, rows: GaussianRows, cloned: Tensor, split: Tensor, noise: Tensor) -> RowChange:
        """Clone and split.

        The new rows are what was not split, then the clones, then the first and the second halves.

        Args:
            rows: The Gaussians.
            cloned: Mask ``(N,)``.
            split: Mask ``(N,)``.
            noise: Standard normal ``(2, number of split Gaussians, 3)``: where the halves go within the Gaussian.
        """
        kept, clones, halves = (torch.nonzero(mask).squeeze(1) for mask in (~split, cloned, split))
        source = torch.cat((kept, clones, halves, halves))
        fresh = {name: value[source].clone() for name, value in rows.items()}
        first = len(kept) + len(clones)
        if len(halves):
            scales = rows["scales"][halves].exp()
            axes = _half_axes(rows["quats"][halves], scales)
            offsets = torch.einsum("nij,bnj->bni", axes, noise.to(scales))
            fresh["means"][first:] += offsets.reshape(-1, 3)
            fresh["scales"][first:] = (scales / 1.6).log().repeat(2, 1)
            if self.revised_opacity:
                log_rest = 0.5 * torch.nn.functional.logsigmoid(-rows["opacities"][halves])  # log sqrt(1 - o)
                fresh["opacities"][first:] = (torch.log(-torch.expm1(log_rest)) - log_rest).repeat(2)
        is_new = torch.arange(len(source), device=source.device) >= len(kept)
        return RowChange(GaussianRows(fresh), source, is_new)

    def prunable(self, rows: GaussianRows, radii: Tensor | None, *, scene_scale: float, step: int) -> Tensor:
        """Which Gaussians are dropped, a mask ``(N,)``."""
        dropped = torch.sigmoid(rows["opacities"]) < self.prune_opacity
        if step > self.reset_every:
            dropped |= rows["scales"].exp().amax(dim=-1) > self.prune_scale * scene_scale
        if radii is not None and step < self.radius_until:
            dropped |= radii > self.prune_radius
        return dropped

    def reset(self, opacities: Tensor) -> Tensor:
        """Logits of opacities of at most twice the one that is dropped."""
        return opacities.clamp_max(math.log(2 * self.prune_opacity / (1 - 2 * self.prune_opacity)))


def _half_axes(quats: Tensor, scales: Tensor) -> Tensor:
    """R diag(s), ``(N, 3, 3)``."""
    from zoo.ops.reference.gaussian_projection import rotations

    return rotations(quats) * scales[:, None, :]


def relocation(opacities: Tensor, scales: Tensor, ratios: Tensor, *, most: int = 51) -> tuple[Tensor, Tensor]:
    r"""Opacity and scale with which n Gaussians in one place look like one (Kheradmand et al. 2024).

    .. math:: o' = 1 - (1 - o)^{1/n}, \quad s' = s\, o \Big/ \sum_{i=1}^{n} \sum_{k=0}^{i-1} \binom{i-1}{k}
        \frac{(-1)^k {o'}^{k+1}}{\sqrt{k+1}}

    Args:
        opacities: ``(N,)`` in [0, 1).
        scales: Standard deviations ``(N, 3)``.
        ratios: n of each, ``(N,)`` int64, held in 1 to ``most``.
        most: Largest n.

    Returns:
        New opacities ``(N,)`` and scales ``(N, 3)``.
    """
    # sum over i of C(i - 1, k) for i = k + 1 .. n is C(n, k + 1), so that one sum remains
    number = ratios.clamp(1, most).double()
    opacity = 1 - (1 - opacities.double()) ** (1 / number)
    k = torch.arange(most, device=opacities.device, dtype=torch.float64)
    log_binomial = torch.lgamma(number[:, None] + 1) - torch.lgamma(k + 2)
    log_binomial = log_binomial - torch.lgamma((number[:, None] - k).clamp_min(1))
    terms = torch.exp(log_binomial + (k + 1) * opacity.clamp_min(1e-300).log()[:, None]) / torch.sqrt(k + 1)
    terms = torch.where(k < number[:, None], terms * torch.where(k % 2 == 0, 1.0, -1.0), 0)
    factor = opacities.double() / terms.sum(dim=-1)
    return opacity.to(opacities.dtype), (scales.double() * factor[:, None]).to(scales.dtype)


@dataclass(frozen=True)
class MCMCDensification:
    """Move dead Gaussians onto living ones, grow by a share, and shake all of them (3DGS-MCMC).

    Args:
        most: Largest number of Gaussians.
        start: Step from which Gaussians are moved.
        stop: Step from which they stay.
        every: Steps between moves.
        dead_opacity: Gaussians of at most this opacity are dead.
        growth: Factor of the number at each move.
        noise: Strength of the noise, in learning rates of the means.
    """

    most: int = 1_000_000
    start: int = 500
    stop: int = 25_000
    every: int = 100
    dead_opacity: float = 0.005
    growth: float = 1.05
    noise: float = 5e5

    def is_due(self, step: int) -> bool:
        """Whether Gaussians are moved after this step."""
        return self.start < step < self.stop and step % self.every == 0

    def relocate(self, rows: GaussianRows, generator: torch.Generator | None = None) -> RowChange:
        """Give every dead Gaussian the place of a living one, drawn by opacity; their memory starts from zero."""
        opacity = torch.sigmoid(rows["opacities"])
        dead = torch.nonzero(~(opacity > self.dead_opacity)).squeeze(1)
        source = torch.arange(len(rows), device=opacity.device)
        alive = torch.nonzero(opacity > self.dead_opacity).squeeze(1)
        if len(dead) and len(alive):
            source[dead] = alive[_draw(opacity[alive], len(dead), generator)]
        return self._share(rows, source, len(rows))

    def grow(self, rows: GaussianRows, generator: torch.Generator | None = None) -> RowChange:
        """Add a share of Gaussians (up to ``most``) in the places of others, drawn by opacity."""
        number = max(0, min(self.most, int(self.growth * len(rows))) - len(rows))
        source = torch.arange(len(rows), device=rows["opacities"].device)
        if number and len(rows):
            source = torch.cat((source, _draw(torch.sigmoid(rows["opacities"]), number, generator)))
        return self._share(rows, source, len(rows))

    def _share(self, rows: GaussianRows, source: Tensor, old: int) -> RowChange:
        ratios = torch.bincount(source, minlength=old)[source]
        fresh = {name: value[source].clone() for name, value in rows.items()}
        shared = ratios > 1
        opacity, scale = relocation(
            torch.sigmoid(fresh["opacities"][shared]), fresh["scales"][shared].exp(), ratios[shared]
        )
        limit = 1 - torch.finfo(torch.float32).eps
        fresh["opacities"][shared] = torch.logit(opacity.clamp(self.dead_opacity, limit))
        fresh["scales"][shared] = scale.log()
        own = torch.arange(len(source), device=source.device)
        is_new = (own >= old) | (source != own.clamp_max(max(old - 1, 0))) | shared
        return RowChange(GaussianRows(fresh), source, is_new)

    def shake(self, rows: GaussianRows, noise: Tensor, learning_rate: float) -> Tensor:
        """Steps ``(N, 3)`` of the means: noise in the shape of each Gaussian, strong where it is faint.

        Args:
            rows: The Gaussians.
            noise: Standard normal ``(N, 3)``.
            learning_rate: The present one of the means.
        """
        opacity = torch.sigmoid(rows["opacities"])
        strength = torch.sigmoid(100 * ((1 - opacity) - 0.995)) * learning_rate * self.noise
        covariance = gaussian_covariances(rows["quats"], rows["scales"].exp())
        return torch.einsum("nij,nj->ni", covariance, noise * strength[:, None])


def _draw(weights: Tensor, number: int, generator: torch.Generator | None) -> Tensor:
    """Rows drawn with replacement in proportion to their weights, ``(number,)``."""
    ends = torch.cumsum(weights.double(), dim=0)
    places = torch.rand(number, generator=generator, dtype=torch.float64).to(ends.device) * ends[-1]
    return torch.searchsorted(ends, places, right=True).clamp_max(len(weights) - 1)
