"""Volume rendering of analytic fields against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.data.cameras import Cameras, Rays
from zoo.models.layers.occupancy_grid import OccupancyGrid
from zoo.rendering.field_renderer import FieldRenderer


class Slab:
    """Constant density and colour between two planes across the first axis."""

    def __init__(self, density: float, low: float = -0.5, high: float = 0.5) -> None:
        self.value, self.low, self.high = density, low, high
        self.num_colored = 0

    def density(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        inside = (positions[:, 0] > self.low) & (positions[:, 0] < self.high)
        return self.value * inside.float(), positions

    def color(self, directions: Tensor, geometry: Tensor) -> Tensor:
        self.num_colored += len(geometry)
        return torch.tensor([0.2, 0.4, 0.6]).expand(len(geometry), 3)


def renderer(**settings) -> FieldRenderer:
    occupancy = OccupancyGrid(roi_aabb=[-1, -1, -1, 1, 1, 1], resolution=4)
    occupancy.binaries.fill_(True)
    return FieldRenderer(occupancy=occupancy, **({"step_size": 0.01} | settings))


def rays(count: int = 3) -> Rays:
    origins = torch.tensor([[-2.0, 0.1, 0.1]]).repeat(count, 1)
    return Rays(origins, torch.tensor([[1.0, 0.0, 0.0]]).repeat(count, 1))


@pytest.mark.parametrize("skip_hidden", [True, False])
def test_a_slab_absorbs_by_the_exponential_law(skip_hidden: bool) -> None:
    seen = renderer(skip_hidden=skip_hidden)(Slab(1.5), rays(), torch.ones(3, 3))
    opacity = 1 - math.exp(-1.5)
    torch.testing.assert_close(seen.opacity, torch.full((3,), opacity), atol=2e-3, rtol=0)
    colour = torch.tensor([0.2, 0.4, 0.6]) * opacity + (1 - opacity)
    torch.testing.assert_close(seen.rgb[0], colour, atol=2e-3, rtol=0)
    mean_depth = 1.5 + (1 - 2.5 * math.exp(-1.5)) / 1.5 / opacity
    assert float(seen.depth[0]) == pytest.approx(mean_depth, abs=5e-3)


def test_hidden_samples_are_not_coloured() -> None:
    field = Slab(60.0)
    seen = renderer()(field, rays(), torch.zeros(3, 3))
    everything = renderer(skip_hidden=False)(Slab(60.0), rays(), torch.zeros(3, 3))
    assert field.num_colored == seen.num_samples < seen.num_marched == everything.num_samples
    torch.testing.assert_close(seen.rgb, everything.rgb, atol=1e-3, rtol=0)


def test_rays_that_meet_nothing_show_the_background() -> None:
    empty = renderer()
    empty.occupancy.binaries.fill_(False)
    background = torch.tensor([[0.1, 0.5, 0.9]])
    seen = empty(Slab(1.0), rays(1), background)
    torch.testing.assert_close(seen.rgb, background)
    assert seen.num_samples == 0
    assert float(seen.depth) == 0.0
    assert renderer()(Slab(1.0), rays(0), torch.ones(0, 3)).rgb.shape == (0, 3)


def test_jitter_moves_the_samples() -> None:
    coarse = renderer(step_size=0.3)
    still, moved = (coarse(Slab(1.0), rays(1), torch.ones(1, 3), jitter=j) for j in (None, torch.tensor([0.5])))
    assert float(still.depth) != float(moved.depth)


def test_pictures_do_not_depend_on_the_chunks() -> None:
    pose = torch.eye(4)[None]
    pose[0, :3, 3] = torch.tensor([0.0, 0.0, -2.0])
    camera = Cameras(pose, torch.tensor([[6.0, 6.0, 3.5, 2.5]]), width=7, height=5)
    whole, parts = (
        renderer().render_image(Slab(2.0), camera, background=torch.ones(3), rays_per_chunk=size) for size in (100, 4)
    )
    assert whole.rgb.shape == (5, 7, 3)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("settings", "message"), [({"step_size": 0.0}, "step_size: found 0.0"), ({"near": 2.0, "far": 1.0}, "near, far")]
)
def test_bad_settings_are_named(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        renderer(**settings)
