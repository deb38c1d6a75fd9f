"""The terms that sparse-view reconstruction adds to the photometric loss: each a config entry that null switches off.

A term is called with what a step has rendered and returns its weighted loss. ``needs`` names the rays that it looks at:
``training`` rays, ``unseen`` patches of views that nobody took, or ``ranked`` pixels with supplied depth.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.losses.depth_regularizers import depth_continuity_loss, depth_ranking_loss, patch_smoothness_loss
from zoo.losses.ray_regularizers import distortion_loss, occlusion_loss, ray_entropy_loss
from zoo.rendering.field_renderer import RenderedRays
from zoo.tasks.weighted_term import WeightedTerm

__all__ = [
    "DepthRanking",
    "DepthSmoothness",
    "Distortion",
    "Entropy",
    "MatchedDepth",
    "Occlusion",
    "Silhouette",
    "SparseViewTerm",
    "StepRays",
]

Needs = Literal["training", "unseen", "ranked"]


class StepRays(NamedTuple):
    """What a step has rendered for the terms; parts that no term needs are None."""

    step: int
    training: RenderedRays
    alpha: Tensor  # (M,) of the photographs along training rays
    unseen: RenderedRays | None = None  # B P P rays, patch by patch, row by row
    patch: int = 0  # P
    ranked: RenderedRays | None = None  # 4 K rays: nearer, farther, and a neighbour of each
    matched: Tensor | None = None  # (M,) distance of the matched surface along training rays, 0 where unknown


class SparseViewTerm(WeightedTerm[StepRays]):
    """A `WeightedTerm` of the rays that it names."""

    needs: ClassVar[Needs] = "training"


class Distortion(SparseViewTerm):
    """Compact rays (mip-NeRF 360): mean of `distortion_loss`, distances divided by ``unit``.

    Args:
        weight: Its weight.
        unit: Distance that counts as 1, mostly the depth of the box.
        start: First step with it.
        end: First step without it.
    """

    def __init__(self, *, weight: float, unit: float = 1.0, start: int = 0, end: int | None = None) -> None:
        super().__init__(weight=weight, start=start, end=end)
        self.unit = unit

    def loss(self, rendered: StepRays) -> Tensor:
        """Mean over training rays."""
        samples = rendered.training.samples
        assert samples is not None
        starts, ends = samples.t_starts / self.unit, samples.t_ends / self.unit
        return distortion_loss(samples.weights, starts, ends, samples.packed_info).mean()


class Occlusion(SparseViewTerm):
    """No density right in front of the cameras (FreeNeRF).

    FreeNeRF penalises the first samples of a ray. Behind an occupancy grid those may be the surface itself, so the
    region is stated as a distance here.

    Args:
        weight: Its weight.
        distance: Samples nearer than this are penalised, in world units.
        start: First step with it.
        end: First step without it.
    """

    def __init__(self, *, weight: float, distance: float, start: int = 0, end: int | None = None) -> None:
        super().__init__(weight=weight, start=start, end=end)
        self.distance = distance

    def loss(self, rendered: StepRays) -> Tensor:
        """Mean over the samples of training rays."""
        samples = rendered.training.samples
        assert samples is not None
        return occlusion_loss(samples.density, samples.t_starts < self.distance)


class Silhouette(SparseViewTerm):
    """Opacity equals the alpha of the photographs: mean binary cross-entropy over training rays."""

    def loss(self, rendered: StepRays) -> Tensor:
        """Mean over training rays."""
        opacity = rendered.training.opacity.clamp(1e-4, 1 - 1e-4)
        return torch.nn.functional.binary_cross_entropy(opacity, rendered.alpha)


class MatchedDepth(SparseViewTerm):
    """Rays end at the matched surface: mean ``|d / d_matched - 1|``, at most ``most``; needs ``task.matching``.

    Args:
        weight: Its weight.
        most: Differences count up to this one, so that a wrong match does not tear a surface.
        start: First step with it.
        end: First step without it.
    """

    def __init__(self, *, weight: float, most: float = 0.1, start: int = 0, end: int | None = None) -> None:
        super().__init__(weight=weight, start=start, end=end)
        self.most = most

    def loss(self, rendered: StepRays) -> Tensor:
        """Mean over training rays with a match that are stopped."""
        assert rendered.matched is not None
        counts = (rendered.matched > 0) & (rendered.training.opacity.detach() > 0.5)
        ratio = rendered.training.depth[counts] / rendered.matched[counts]
        return (ratio - 1).abs().clamp_max(self.most).sum() / counts.sum().clamp_min(1)


class Entropy(SparseViewTerm):
    """Rays of unseen views are stopped in one place (InfoNeRF).

    Args:
        weight: Its weight.
        threshold: Rays of a smaller opacity do not count.
        start: First step with it.
        end: First step without it.
    """

    needs: ClassVar[Needs] = "unseen"

    def __init__(self, *, weight: float, threshold: float = 0.1, start: int = 0, end: int | None = None) -> None:
        super().__init__(weight=weight, start=start, end=end)
        self.threshold = threshold

    def loss(self, rendered: StepRays) -> Tensor:
        """Mean over the rays of the unseen views."""
        assert rendered.unseen is not None
        samples = rendered.unseen.samples
        assert samples is not None
        return ray_entropy_loss(samples.alphas, rendered.unseen.opacity, samples.packed_info, self.threshold)


class DepthSmoothness(SparseViewTerm):
    """Depth of unseen views is smooth (RegNeRF); its weight falls linearly at first.

    Args:
        weight: From ``anneal_steps`` on.
        initial_weight: At step 0.
        anneal_steps: Length of the fall; 0 begins with ``weight``.
        by_opacity: Whether pixels count by their opacity, which keeps the edge of an object out.
        start: First step with it.
        end: First step without it.
    """

    needs: ClassVar[Needs] = "unseen"

    def __init__(
        self,
        *,
        weight: float,
        initial_weight: float | None = None,
        anneal_steps: int = 0,
        by_opacity: bool = True,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        super().__init__(weight=weight, start=start, end=end)
        self.initial_weight = weight if initial_weight is None else initial_weight
        self.anneal_steps, self.by_opacity = anneal_steps, by_opacity

    def weight_at(self, step: int) -> float:
        """The weight at a step."""
        left = max(0.0, 1 - step / self.anneal_steps) if self.anneal_steps else 0.0
        return self.weight + left * (self.initial_weight - self.weight)

    def __call__(self, rendered: StepRays) -> Tensor:
        """The loss with the weight of its step."""
        return self.weight_at(rendered.step) * self.loss(rendered)

    def loss(self, rendered: StepRays) -> Tensor:
        """Mean over patches and their pixels."""
        assert rendered.unseen is not None
        depth = rendered.unseen.depth.reshape(-1, rendered.patch, rendered.patch)
        opacity = rendered.unseen.opacity.reshape(depth.shape) if self.by_opacity else None
        return patch_smoothness_loss(depth, opacity)


class DepthRanking(SparseViewTerm):
    """Pairs of pixels keep the order of supplied depth, and neighbours of equal depth stay together (SparseNeRF).

    Args:
        weight: Its weight.
        continuity: Weight of the second part relative to the first.
        margin: Of both, in world units.
        pairs: Pairs of each step.
        reach: Half side of the window in which neighbours are sought, in pixels.
        share: Of the window's pixels, the ones of most similar depth that may be neighbours.
        start: First step with it.
        end: First step without it.
    """

    needs: ClassVar[Needs] = "ranked"

    def __init__(
        self,
        *,
        weight: float,
        continuity: float = 1.0,
        margin: float = 1e-4,
        pairs: int = 128,
        reach: int = 3,
        share: float = 0.3,
        start: int = 0,
        end: int | None = None,
    ) -> None:
        super().__init__(weight=weight, start=start, end=end)
        if pairs < 1 or reach < 1 or not 0 < share <= 1:
            raise ValueError(f"pairs, reach, share: found {pairs}, {reach}, {share}, expected >= 1, >= 1 and (0, 1]")
        self.continuity, self.margin, self.pairs, self.reach, self.share = continuity, margin, pairs, reach, share

    def loss(self, rendered: StepRays) -> Tensor:
        """Ranking and continuity of the step's pairs."""
        assert rendered.ranked is not None
        d0, d1, d2, d3 = rendered.ranked.depth.chunk(4)
        together = depth_continuity_loss(d0, d2, self.margin) + depth_continuity_loss(d1, d3, self.margin)
        return depth_ranking_loss(d0, d1, self.margin) + self.continuity * together

    def choose(self, inverse_depths: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Views ``(4 K,)`` and pixels ``(4 K, 2)`` of a step's pairs: nearer, farther, and a neighbour of each.

        Args:
            inverse_depths: ``(N, H, W)``, larger is nearer.
            generator: On the CPU.
        """
        count, height, width = inverse_depths.shape
        reach = self.reach
        view = torch.randint(count, (self.pairs,), generator=generator)
        column = torch.randint(reach, max(width - reach, reach + 1), (2, self.pairs), generator=generator)
        row = torch.randint(reach, max(height - reach, reach + 1), (2, self.pairs), generator=generator)
        values = inverse_depths[view, row, column]  # (2, K)
        swap = values[0] < values[1]
        column, row = (torch.where(swap, part.flip(0), part) for part in (column, row))
        offsets = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 2)
        offsets = offsets[(offsets != 0).any(-1)]  # (W, 2)
        near_row = (row[..., None] + offsets[:, 0]).clamp(0, height - 1)
        near_column = (column[..., None] + offsets[:, 1]).clamp(0, width - 1)
        around = inverse_depths[view[:, None], near_row, near_column]  # (2, K, W)
        apart = (around - inverse_depths[view, row, column][..., None]).abs()
        most = max(1, int(self.share * len(offsets)))
        closest = apart.topk(most, dim=-1, largest=False).indices
        pick = torch.randint(most, (2, self.pairs, 1), generator=generator)
        chosen = closest.gather(-1, pick)
        neighbour_row, neighbour_column = near_row.gather(-1, chosen)[..., 0], near_column.gather(-1, chosen)[..., 0]
        columns = torch.cat((column.reshape(-1), neighbour_column.reshape(-1)))
        rows = torch.cat((row.reshape(-1), neighbour_row.reshape(-1)))
        return view.repeat(4), torch.stack((columns, rows), -1)
