"""A scene of 3D Gaussians that is trained from posed pictures.

Kerbl et al. 2023, "3D Gaussian Splatting for Real-Time Radiance Field Rendering"; values as gsplat 1.5.3 and the first
implementation share them. Each Gaussian has a mean, the logarithms of three standard deviations, a quaternion
``(w, x, y, z)``, the logit of its opacity and spherical harmonics, of which one more band counts every ``sh_every``
steps. World axes are the cameras'; colours are ``max(sum of harmonics + 0.5, 0)``.

The number of Gaussians changes in training (`GaussianScene.densify`). A checkpoint holds rows and statistics of the
number it was written with: loading takes the checkpoint's shapes on first, so that a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.data.cameras import Cameras
from zoo.data.formats.gaussian_ply import SH_C0, GaussianParameters
from zoo.data.posed_images import step_generator
from zoo.models.gaussians.densification import DefaultDensification, MCMCDensification
from zoo.models.gaussians.parameters import PARAMETER_NAMES, GaussianRows, RowChange, replace_rows, zero_moments
from zoo.ops import GAUSSIAN_RULES, ProjectedGaussians, knn, render_gaussians

__all__ = ["GaussianLearningRates", "GaussianScene", "GaussianView", "ViewStatistics", "camera_extent"]

_GROWTH_STREAM, _SHAKE_STREAM = 3 << 32, 4 << 32  # added to the seed
_STATISTICS = ("gradient_sum", "view_count", "largest_radius")


@dataclass(frozen=True)
class GaussianLearningRates:
    """Adam's published learning rates, by parameter; that of the means is in scene scales."""

    means: float = 1.6e-4
    scales: float = 5e-3
    quats: float = 1e-3
    opacities: float = 5e-2
    sh0: float = 2.5e-3
    shN: float = 1.25e-4  # noqa: N815 - the field's name

    def means_factor(self, step: int, num_steps: int, final: float = 0.01) -> float:
        """Factor of the means' learning rate at a step: exponentially from 1 to ``final``."""
        return final ** min(step / max(num_steps, 1), 1.0)


class ViewStatistics(NamedTuple):
    """What a rendered step tells densification; its gradients exist after the backward pass."""

    projected: ProjectedGaussians
    absolute: Tensor | None  # (C, N, 2), its gradient is the sum of absolute gradients
    width: int
    height: int

    def place_gradient(self) -> Tensor:
        """Norm ``(C, N)`` of the gradient of the places in the pictures, in half pictures, times the cameras.

        Raises:
            ValueError: No backward pass has run.
        """
        grad = self.projected.means2d.grad if self.absolute is None else self.absolute.grad
        if grad is None:
            raise ValueError("info: found no gradient of the places in the pictures; call backward() first")
        return (grad * grad.new_tensor([self.width / 2, self.height / 2]) * len(grad)).norm(dim=-1)


class GaussianView(NamedTuple):
    """Pictures of C cameras."""

    image: Tensor  # (C, H, W, 3), over the background
    alpha: Tensor  # (C, H, W)
    depth: Tensor | None  # (C, H, W), mean depth of what a pixel shows; 0 where it shows nothing
    info: ViewStatistics


class GaussianScene(nn.Module):
    """Gaussians, their optimisation and their growth; without any until they are initialised or loaded.

    Args:
        sh_degree: Highest band of the colours, 0 to 4.
        sh_every: Steps after which one more band counts; 0: all from the start.
        scene_scale: Size of the scene, for growth and the means' learning rate: 1.1 times the largest distance of a
            camera from the mean camera (`camera_extent`).
        antialiased: Opacities are lowered by what the pixel's blur adds to small Gaussians.
        rules: Name of the conventions, see `zoo.ops.GAUSSIAN_RULES`.
        seed: Of initialisation and growth.

    Raises:
        ValueError: An unknown rule, degree or size.

    Example:
        >>> scene = GaussianScene(sh_degree=0)
        >>> scene.initialize_random(10, center=(0.0, 0.0, 3.0), radius=1.0)
        >>> camera = Cameras(torch.eye(4)[None], torch.tensor([[20.0, 20.0, 8.0, 8.0]]), width=16, height=16)
        >>> scene.render(camera).image.shape
        torch.Size([1, 16, 16, 3])
    """

    gradient_sum: Tensor
    view_count: Tensor
    largest_radius: Tensor
    scene_scale: Tensor

    def __init__(
        self,
        *,
        sh_degree: int = 3,
        sh_every: int = 1000,
        scene_scale: float = 1.0,
        antialiased: bool = False,
        rules: str = "gsplat_1.5.3",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= sh_degree <= 4:
            raise ValueError(f"sh_degree: found {sh_degree}, expected 0 to 4")
        if rules not in GAUSSIAN_RULES:
            raise ValueError(f"rules: found {rules!r}, expected one of {sorted(GAUSSIAN_RULES)}")
        if not scene_scale > 0:
            raise ValueError(f"scene_scale: found {scene_scale}, expected a positive number")
        self.sh_degree, self.sh_every, self.antialiased, self.seed = sh_degree, sh_every, antialiased, seed
        self.rules = rules
        shapes = {"means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3)}
        shapes["shN"] = ((sh_degree + 1) ** 2 - 1, 3)
        self.rows = nn.ParameterDict({name: torch.zeros(0, *shapes[name]) for name in PARAMETER_NAMES})
        self.register_buffer("scene_scale", torch.tensor(float(scene_scale)))
        for name in _STATISTICS:
            self.register_buffer(name, torch.zeros(0))

    def __len__(self) -> int:
        """The number of Gaussians."""
        return len(self.rows["means"])

    def values(self) -> GaussianRows:
        """The parameters' values."""
        return GaussianRows({name: self.rows[name].detach() for name in PARAMETER_NAMES})

    # ------------------------------------------------------------------------------------------ beginning

    @torch.no_grad()
    def set_rows(self, values: GaussianParameters | GaussianRows) -> None:
        """Take values on, before an optimiser exists. Higher bands are cut or filled with zeros.

        Raises:
            ValueError: Shapes that do not fit.
        """
        given = values if isinstance(values, GaussianParameters) else GaussianParameters(**values)
        wanted = (self.sh_degree + 1) ** 2 - 1
        rest = torch.nn.functional.pad(given.shN[:, :wanted], (0, 0, 0, max(wanted - given.shN.shape[1], 0)))
        where = self.scene_scale.device
        for name in PARAMETER_NAMES:
            value = rest if name == "shN" else getattr(given, name)
            self.rows[name].data = value.detach().to(where, torch.float32).clone().contiguous()
        self._reset_statistics()

    def initialize_from_points(
        self,
        points: Tensor,
        colors: Tensor | None = None,
        *,
        normals: Tensor | None = None,
        flatness: float = 0.2,
        opacity: float = 0.1,
        random_rotations: bool = False,
    ) -> None:
        """One Gaussian at each point, as large as the root mean squared distance to its three neighbours.

        Args:
            points: ``(N, 3)``.
            colors: ``(N, 3)`` in [0, 1]; None: grey.
            normals: ``(N, 3)`` of the surface, of length 1, or 0 where it is not known; None: all are round.
            flatness: Deviation along a known normal, as a share of the others.
            opacity: Of each.
            random_rotations: Start with random quaternions (gsplat), else with none (the first implementation).
        """
        count = len(points)
        generator = step_generator(self.seed, 0)
        spread = points.new_full((count,), 0.01 * float(self.scene_scale))
        if count > 1:
            squared = knn(points, points, min(count, 4)).squared_distances[:, 1:]
            spread = squared.mean(dim=-1).clamp_min(1e-14).sqrt()
        quats = torch.tensor([1.0, 0, 0, 0]).expand(count, 4)
        if random_rotations:
            quats = torch.randn(count, 4, generator=generator)
        scales = spread.log()[:, None].repeat(1, 3)
        if normals is not None:
            known = normals.norm(dim=-1) > 0.5
            scales[known, 2] += math.log(flatness)
            quats = torch.where(known[:, None], _turned_to(normals), quats)
        shades = torch.full((count, 3), 0.5) if colors is None else colors
        self.set_rows(
            GaussianParameters(
                means=points, scales=scales, quats=quats,
                opacities=torch.full((count,), math.log(opacity / (1 - opacity))),
                sh0=((shades - 0.5) / SH_C0)[:, None], shN=torch.zeros(count, 0, 3),
            )
        )  # fmt: skip

    def initialize_random(
        self, count: int, *, center: Sequence[float] = (0.0, 0.0, 0.0), radius: float = 1.0, opacity: float = 0.1
    ) -> None:
        """Gaussians of random colours at random places of a cube of half side ``radius``."""
        generator = step_generator(self.seed, 1)
        points = (2 * torch.rand(count, 3, generator=generator) - 1) * radius + torch.tensor(center)
        self.initialize_from_points(points, torch.rand(count, 3, generator=generator), opacity=opacity)

    def gaussians(self) -> GaussianParameters:
        """What a PLY file holds: ``write_gaussian_ply(path, scene.gaussians())``."""
        return GaussianParameters(**{name: value.cpu() for name, value in self.values().items()})

    # ------------------------------------------------------------------------------------------ pictures

    def active_degree(self, step: int | None) -> int:
        """Bands of the colours that count at a step; None: all."""
        if step is None or self.sh_every == 0:
            return self.sh_degree
        return min(self.sh_degree, step // self.sh_every)

    def render(
        self,
        cameras: Cameras,
        *,
        step: int | None = None,
        background: Tensor | None = None,
        with_depth: bool = False,
        absolute: bool = False,
    ) -> GaussianView:
        """Pictures of pinhole cameras.

        Args:
            cameras: C cameras without distortion.
            step: The training step, for the bands that count.
            background: ``(3,)`` or ``(C, 3)``, else black.
            with_depth: Render depths too.
            absolute: Collect absolute gradients of the places in the pictures, for growth.

        Raises:
            ValueError: Cameras with a lens.
        """
        if cameras.model != "pinhole":
            raise ValueError(f"cameras: found lens {cameras.model!r}, expected 'pinhole'; undistort the pictures first")
        where = self.scene_scale.device
        views = torch.linalg.inv(cameras.camera_to_world.to(where))
        count = len(views)
        if background is not None:
            background = background.to(where).expand(count, 3)
        sink = torch.zeros(count, len(self), 2, device=where, requires_grad=True) if absolute else None
        rows = self.rows
        found = render_gaussians(
            rows["means"], rows["quats"], rows["scales"].exp(), rows["opacities"].sigmoid(),
            torch.cat((rows["sh0"], rows["shN"]), dim=1), views, cameras.intrinsics.to(where), cameras.width,
            cameras.height, sh_degree=self.active_degree(step), backgrounds=background, with_depth=with_depth,
            antialiased=self.antialiased, absolute=sink, rules=GAUSSIAN_RULES[self.rules],
        )  # fmt: skip
        if found.projected.means2d.requires_grad:
            found.projected.means2d.retain_grad()
        info = ViewStatistics(found.projected, sink, cameras.width, cameras.height)
        return GaussianView(found.colors, found.alphas, found.expected_depths() if with_depth else None, info)

    # ------------------------------------------------------------------------------------------ optimisation

    def parameter_groups(self, rates: GaussianLearningRates | None = None) -> list[dict[str, Any]]:
        """Groups for Adam (``eps=1e-15``), one for each parameter, by ``name``."""
        chosen = rates or GaussianLearningRates()
        scale = {"means": float(self.scene_scale)}
        return [
            {"params": [self.rows[name]], "lr": getattr(chosen, name) * scale.get(name, 1.0), "name": name}
            for name in PARAMETER_NAMES
        ]

    @torch.no_grad()
    def observe(self, info: ViewStatistics) -> None:
        """Add what a step's pictures say to the statistics of growth; after the backward pass."""
        radii = info.projected.radii
        seen = (radii > 0).all(dim=-1)
        self.gradient_sum += torch.where(seen, info.place_gradient(), 0).sum(dim=0)
        self.view_count += seen.sum(dim=0)
        size = radii.amax(dim=-1).float() / max(info.width, info.height)
        torch.maximum(self.largest_radius, torch.where(seen, size, 0).amax(dim=0), out=self.largest_radius)

    @torch.no_grad()
    def densify(
        self,
        step: int,
        rule: DefaultDensification | MCMCDensification,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        learning_rate: float = 0.0,
    ) -> int:
        """Let the scene grow and shrink after a step, if it is due; the optimisers follow.

        Args:
            step: The step that was just made.
            rule: How.
            optimizers: Those that hold the parameters.
            learning_rate: The means' present one, the measure of the noise of `MCMCDensification`.

        Returns:
            The change of the number of Gaussians.
        """
        before, generator = len(self), step_generator(self.seed + _GROWTH_STREAM, step)
        chosen = list(optimizers)
        if isinstance(rule, MCMCDensification):
            if rule.is_due(step):
                self._replace(rule.relocate(self.values(), generator), chosen)
                self._replace(rule.grow(self.values(), generator), chosen)
            noise = torch.randn(len(self), 3, generator=step_generator(self.seed + _SHAKE_STREAM, step))
            self.rows["means"] += rule.shake(self.values(), noise.to(self.gradient_sum), learning_rate)
            return len(self) - before
        if rule.is_due(step):
            self._grow_and_prune(step, rule, chosen, generator)
        if rule.is_reset_due(step):
            self.rows["opacities"].copy_(rule.reset(self.rows["opacities"]))
            zero_moments(_parameter(self.rows, "opacities"), chosen)
        return len(self) - before

    def _grow_and_prune(
        self,
        step: int,
        rule: DefaultDensification,
        optimizers: list[torch.optim.Optimizer],
        generator: torch.Generator,
    ) -> None:
        values, size = self.values(), {"scene_scale": float(self.scene_scale), "step": step}
        radii = self.largest_radius if rule.radius_until else None
        cloned, split = rule.choose(values, self.gradient_sum, self.view_count, radii, **size)
        noise = torch.randn(2, int(split.sum()), 3, generator=generator).to(self.gradient_sum)
        change = rule.grow(values, cloned, split, noise)
        if radii is not None:
            radii = change.carry({"radii": radii}, inherit=True)["radii"]
        self._replace(change.without(rule.prunable(change.rows, radii, **size)), optimizers)

    def _replace(self, change: RowChange, optimizers: list[torch.optim.Optimizer]) -> None:
        replace_rows(self.rows, change, optimizers)
        self._reset_statistics()

    @torch.no_grad()
    def drop(self, dropped: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> int:
        """Take Gaussians away, a mask ``(N,)``, and return their number; the statistics of the others stay."""
        count = int(dropped.sum())
        if count:
            kept = torch.nonzero(~dropped).squeeze(1)
            statistics = {name: getattr(self, name)[kept] for name in _STATISTICS}
            change = RowChange(self.values().select(kept), kept, torch.zeros_like(kept, dtype=torch.bool))
            replace_rows(self.rows, change, list(optimizers))
            for name, value in statistics.items():
                setattr(self, name, value)
        return count

    @torch.no_grad()
    def fade(self, factor: float) -> None:
        """Multiply all opacities: what no picture supports disappears (opacity decay)."""
        opacity = self.rows["opacities"].sigmoid() * factor
        self.rows["opacities"].copy_(torch.logit(opacity.clamp(1e-6, 1 - 1e-6)))

    # ------------------------------------------------------------------------------------------ state

    def _reset_statistics(self) -> None:
        for name in _STATISTICS:
            setattr(self, name, self.rows["means"].new_zeros(len(self)).detach())

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        # rows take the checkpoint's number on before values are copied; the parameters stay the same objects
        means = state_dict.get(f"{prefix}rows.means")
        if means is not None:
            for value in self.rows.values():
                value.data = value.data.new_zeros((len(means), *value.shape[1:]))
            self._reset_statistics()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _turned_to(normals: Tensor) -> Tensor:
    """Quaternions ``(N, 4)`` that turn the z axis to normals or their opposites, whichever is nearer."""
    x, y, z = torch.where(normals[:, 2:] < 0, -normals, normals).unbind(-1)
    return torch.nn.functional.normalize(torch.stack((1 + z, -y, x, torch.zeros_like(z)), -1), dim=-1)


def _parameter(rows: nn.ParameterDict, name: str) -> nn.Parameter:
    value = rows[name]
    assert isinstance(value, nn.Parameter)
    return value


def camera_extent(cameras: Cameras) -> float:
    """1.1 times the largest distance of a camera from the mean camera, or 1 where all stand in one place."""
    places = cameras.camera_to_world[:, :3, 3]
    extent = 1.1 * float((places - places.mean(dim=0)).norm(dim=-1).max()) if len(places) else 0.0
    return extent or 1.0
