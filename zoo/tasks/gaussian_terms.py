"""The terms that few views add to the loss of Gaussian splatting: each a config entry that null switches off."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.unseen_poses import unseen_poses
from zoo.losses.depth_regularizers import pearson_loss
from zoo.models.gaussians.scene import GaussianScene, GaussianView
from zoo.models.point_seeds.seeds import look_up
from zoo.tasks.weighted_term import WeightedTerm

__all__ = [
    "BinocularConsistency",
    "DepthCorrelation",
    "Elongation",
    "GaussianStep",
    "GaussianTerm",
    "MatchedDepth",
    "Opacity",
    "Silhouette",
    "Size",
    "UnseenDepthSmoothness",
]


class GaussianStep(NamedTuple):
    """What a step has rendered for the terms: one training view of H x W pixels."""

    step: int
    scene: GaussianScene
    cameras: Cameras  # all training views
    index: int  # of the view among them
    view: GaussianView
    target: Tensor  # (H, W, 3), over the background
    alpha: Tensor  # (H, W) of the photograph
    background: Tensor  # (3,)
    generator: torch.Generator
    inverse_depth: Tensor | None = None  # (H, W) supplied
    matched_depth: Tensor | None = None  # (H, W) z of `task.matching`, 0 where unknown


class GaussianTerm(WeightedTerm[GaussianStep]):
    """A `WeightedTerm` of a rendered view; ``needs_depth`` says whether it looks at the view's depth."""

    needs_depth: ClassVar[bool] = False


class Silhouette(GaussianTerm):
    """Opacity equals the alpha of the photograph: mean binary cross-entropy over its pixels."""

    def loss(self, rendered: GaussianStep) -> Tensor:
        """Mean over pixels."""
        opacity = rendered.view.alpha[0].clamp(1e-4, 1 - 1e-4)
        return torch.nn.functional.binary_cross_entropy(opacity, rendered.alpha)


class Elongation(GaussianTerm):
    """No needles (DNGaussian): mean ratio of a Gaussian's largest to its smallest deviation."""

    def loss(self, rendered: GaussianStep) -> Tensor:
        """Mean over Gaussians."""
        scales = rendered.scene.rows["scales"]
        return (scales.amax(-1) - scales.amin(-1)).exp().mean()


class Size(GaussianTerm):
    """No large Gaussians (DNGaussian): mean squared largest deviation, in world units."""

    def loss(self, rendered: GaussianStep) -> Tensor:
        """Mean over Gaussians."""
        return (2 * rendered.scene.rows["scales"].amax(-1)).exp().mean()


class Opacity(GaussianTerm):
    """As little opacity as the views allow (DNGaussian, MCMC): its mean over Gaussians."""

    def loss(self, rendered: GaussianStep) -> Tensor:
        """Mean over Gaussians."""
        return rendered.scene.rows["opacities"].sigmoid().mean()


class UnseenDepthSmoothness(GaussianTerm):
    """Views that nobody took have smooth depth (RegNeRF): mean absolute difference of neighbouring pixels.

    A pair of pixels counts by the product of their opacities, so that the edge of the object does not.

    Args:
        weight: Its weight.
        factor: The view has so many times fewer pixels along each side.
        jitter: Deviation of what the view looks at, see `zoo.data.unseen_poses`.
        start: First step with it.
        end: First step without it.
    """

    def __init__(
        self, *, weight: float, factor: int = 2, jitter: float = 0.125, start: int = 0, end: int | None = None
    ) -> None:
        super().__init__(weight=weight, start=start, end=end)
        self.factor, self.jitter = factor, jitter

    def loss(self, rendered: GaussianStep) -> Tensor:
        """Mean over pairs of pixels."""
        cameras = rendered.cameras
        poses = unseen_poses(cameras.camera_to_world.cpu(), 1, generator=rendered.generator, jitter=self.jitter)
        camera = replace(cameras[[0]], camera_to_world=poses.to(cameras.camera_to_world)).downscaled(self.factor)
        view = rendered.scene.render(camera, step=rendered.step, with_depth=True)
        assert view.depth is not None
        depth, opacity = view.depth[0], view.alpha[0].detach()
        across = (depth[:, 1:] - depth[:, :-1]).abs() * opacity[:, 1:] * opacity[:, :-1]
        down = (depth[1:] - depth[:-1]).abs() * opacity[1:] * opacity[:-1]
        return across.mean() + down.mean()


class BinocularConsistency(GaussianTerm):
    """The view from a little aside, warped back by the rendered depth, is the photograph (Han et al. 2024).

    The camera is moved by d along its x axis; with depth z and focal length f the pixel at column u is at column
    ``u - f d / z`` there. The mean absolute difference runs over opaque pixels that the other view holds.

    Args:
        weight: Its weight.
        shift: Largest d in world units.
        start: First step with it.
        end: First step without it.
    """

    needs_depth = True

    def __init__(self, *, weight: float, shift: float, start: int = 0, end: int | None = None) -> None:
        super().__init__(weight=weight, start=start, end=end)
        if shift <= 0:
            raise ValueError(f"shift: found {shift}, expected a positive distance")
        self.shift = shift

    def loss(self, rendered: GaussianStep) -> Tensor:
        """Mean over pixels and channels."""
        assert rendered.view.depth is not None
        camera, depth, opacity = rendered.cameras[[rendered.index]], rendered.view.depth[0], rendered.view.alpha[0]
        distance = self.shift * (2 * float(torch.rand((), generator=rendered.generator)) - 1)
        moved = camera.camera_to_world.clone()
        moved[:, :3, 3] += distance * moved[:, :3, 0]
        other = rendered.scene.render(
            replace(camera, camera_to_world=moved), step=rendered.step, background=rendered.background
        ).image
        height, width = depth.shape
        row = torch.arange(height, device=depth.device) + 0.5
        column = torch.arange(width, device=depth.device) + 0.5
        u = column - camera.intrinsics[0, 0].to(depth) * distance / depth.clamp_min(1e-3)
        places = torch.stack((u, row[:, None].expand_as(u)), -1)
        warped = look_up(other, places.reshape(1, -1, 2))[0].reshape(height, width, 3)
        counts = ((opacity > 0.5) & (u > 0) & (u < width)).detach()
        difference = (warped - rendered.target).abs().mean(-1) * counts
        return difference.sum() / counts.sum().clamp_min(1)


class MatchedDepth(GaussianTerm):
    """Depth is that of the matched surface: mean ``|z / z_matched - 1|``, at most ``most``; needs ``task.matching``.

    Args:
        weight: Its weight.
        most: Differences count up to this one, so that a wrong match does not tear a surface.
        start: First step with it.
        end: First step without it.
    """

    needs_depth = True

    def __init__(self, *, weight: float, most: float = 0.1, start: int = 0, end: int | None = None) -> None:
        super().__init__(weight=weight, start=start, end=end)
        self.most = most

    def loss(self, rendered: GaussianStep) -> Tensor:
        """Mean over pixels with a match that show something."""
        assert rendered.view.depth is not None
        if rendered.matched_depth is None:
            raise ValueError("terms: MatchedDepth needs matches; set task.matching")
        counts = (rendered.matched_depth > 0) & (rendered.view.alpha[0].detach() > 0.5)
        ratio = rendered.view.depth[0][counts] / rendered.matched_depth[counts]
        return (ratio - 1).abs().clamp_max(self.most).sum() / counts.sum().clamp_min(1)


class DepthCorrelation(GaussianTerm):
    """Inverse depth correlates with the supplied one on the object (FSGS, LM-Gaussian); needs ``data.depths``."""

    needs_depth = True

    def loss(self, rendered: GaussianStep) -> Tensor:
        """One minus the correlation over opaque pixels of the photograph's object."""
        assert rendered.view.depth is not None
        if rendered.inverse_depth is None:
            raise ValueError("terms: DepthCorrelation needs supplied depth; set data.depths to its folder")
        counts = (rendered.alpha > 0.5) & (rendered.view.alpha[0].detach() > 0.5)
        if int(counts.sum()) < 2:
            return rendered.view.depth.sum() * 0
        return pearson_loss(1 / rendered.view.depth[0][counts].clamp_min(1e-3), rendered.inverse_depth[counts])
