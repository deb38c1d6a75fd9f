"""Initial points on generated scenes: hull, matching, supplied depth and structure from motion lie on the surface."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.analytic_render import render_view
from zoo.data.analytic_solids import Box, Cylinder, Sphere, cast
from zoo.data.cameras import Cameras, look_at
from zoo.data.formats.colmap import ColmapModel
from zoo.data.procedural_textures import checker, noise, srgb
from zoo.data.spare_objects import LIGHTING
from zoo.models.point_seeds.plane_sweep import plane_sweep_points, sweep_depth
from zoo.models.point_seeds.seeds import PointSeeds, look_up
from zoo.models.point_seeds.supplied import depth_points, sfm_points
from zoo.models.point_seeds.visual_hull import hull_points, inside_hull

RED, CREAM = srgb("b8382f"), srgb("f4ead2")
SOLIDS = [
    Sphere(centre=(0.1, 0, 0.45), radius=0.4, texture=noise(RED, CREAM, 9, 3)),
    Box(centre=(-0.35, 0.1, 0.3), half=(0.2, 0.2, 0.3), texture=noise(srgb("2b5fb0"), CREAM, 12, 5)),
    Cylinder(centre=(0, 0, -0.05), radius=1.0, half_height=0.05, texture=checker(RED, CREAM, 0.13)),
]


def rig(count: int = 4, spread: float = 0.35) -> Cameras:
    angle = torch.linspace(-spread, spread, count)
    position = 4 * torch.stack((angle.sin(), -angle.cos(), torch.full_like(angle, 0.55)), -1)
    target = torch.tensor([0.0, 0.0, 0.3]).expand(count, 3)
    intrinsics = torch.tensor([190.0, 190.0, 60.0, 45.0]).expand(count, 4)
    return Cameras(look_at(position, target, torch.tensor([0.0, 0.0, 1.0])), intrinsics, 120, 90)


CAMERAS = rig()
VIEWS = [render_view(SOLIDS, CAMERAS, view, LIGHTING, 2, num_objects=2) for view in range(4)]
IMAGES = torch.stack([view.rgba[..., :3] * view.rgba[..., 3:] for view in VIEWS])
MASKS = torch.stack([view.rgba[..., 3] > 0.5 for view in VIEWS])
OBJECTS = torch.stack([view.objects > 0.5 for view in VIEWS])


def true_depth(view: int) -> torch.Tensor:
    rays = CAMERAS.image_rays(view)
    distance, _ = cast(SOLIDS, rays.origins, rays.directions)
    slope = (rays.directions * CAMERAS.camera_to_world[view, :3, 2]).sum(-1)
    return (distance * slope).reshape(90, 120)


def off_surface(points: torch.Tensor) -> torch.Tensor:
    """Distance of points from the nearest surface, by casting from the first camera through them."""
    origin = CAMERAS.camera_to_world[0, :3, 3]
    direction = points - origin
    distance, _ = cast(SOLIDS, origin.expand_as(points), torch.nn.functional.normalize(direction, dim=-1))
    return (distance - direction.norm(dim=-1)).abs()


def test_swept_depth_is_the_true_depth() -> None:
    found = sweep_depth(IMAGES, CAMERAS, 1, near=3.2, far=6.0, planes=64)
    truth = true_depth(1)
    sure = (found.score > 0.8) & (found.lead > 0.05) & torch.isfinite(truth)
    assert float(sure.float().mean()) > 0.1
    error = ((found.depth - truth).abs() / truth)[sure]
    assert float(error.median()) < 0.005
    assert float((error < 0.02).float().mean()) > 0.9


def test_agreeing_matches_are_points_of_the_surface_with_its_colours() -> None:
    seeds = plane_sweep_points(IMAGES, CAMERAS, near=3.2, far=6.0, masks=MASKS, stride=2, min_score=0.7)
    assert len(seeds.points) > 500
    assert float(seeds.confidence.min()) >= 0.7
    inside = CAMERAS.project(seeds.points)[0][0]
    visible = ((inside >= 0) & (inside < torch.tensor([120.0, 90.0]))).all(-1)
    assert float((off_surface(seeds.points[visible]) < 0.08).float().mean()) > 0.75
    none = plane_sweep_points(IMAGES, CAMERAS, near=3.2, far=6.0, masks=torch.zeros_like(MASKS))
    assert len(none.points) == 0
    with pytest.raises(ValueError, match="odd window"):
        sweep_depth(IMAGES, CAMERAS, 0, near=1, far=2, window=4)
    with pytest.raises(ValueError, match="at least 2"):
        sweep_depth(IMAGES[:1], CAMERAS[[0]], 0, near=1, far=2)


def test_black_pictures_match_nowhere() -> None:
    assert len(plane_sweep_points(torch.zeros_like(IMAGES), CAMERAS, near=3.2, far=6.0).points) == 0


def test_the_hull_holds_the_object_and_projects_into_its_silhouettes() -> None:
    generator = torch.Generator().manual_seed(0)
    ball = torch.nn.functional.normalize(torch.randn(500, 3, generator=generator), dim=-1) * 0.36
    within = inside_hull(ball + torch.tensor([0.1, 0, 0.45]), CAMERAS, OBJECTS)
    assert bool(within.all())
    assert not bool(inside_hull(torch.tensor([[0.9, 0.0, 0.0], [9.0, 0, 0]]), CAMERAS, OBJECTS).any())
    views = CAMERAS[[0]], OBJECTS[:1]
    assert bool(inside_hull(ball + torch.tensor([0.1, 0, 0.45]), *views).all())
    assert not bool(inside_hull(ball + torch.tensor([0.1, 0, 0.45]), *views, least_views=2).any())
    box = (-0.8, -0.6, -0.1, 0.8, 0.6, 1.0)
    shell = hull_points(IMAGES, CAMERAS, OBJECTS, box, resolution=32)
    full = hull_points(IMAGES, CAMERAS, OBJECTS, box, resolution=32, surface_only=False)
    assert 0 < len(shell.points) < len(full.points)
    uv, _ = CAMERAS.project(full.points)
    assert bool((look_up(OBJECTS.float()[..., None], uv) > 0).all())
    assert float(shell.colors.std()) > 0.05
    with pytest.raises(ValueError, match="masks: found shape"):
        inside_hull(ball, CAMERAS, OBJECTS[:, :10])


def test_supplied_depth_gives_points_of_the_surface() -> None:
    depth = torch.stack([true_depth(view) for view in range(4)])
    seeds = depth_points(IMAGES, CAMERAS, depth, stride=3)
    assert float(off_surface(seeds.points[: len(seeds.points) // 4]).max()) < 5e-3
    assert torch.isfinite(seeds.points).all(), "rays that hit nothing are left out"
    rays = torch.stack([CAMERAS.image_rays(view).directions for view in range(4)]).reshape(4, 90, 120, 3)
    slope = (rays * CAMERAS.camera_to_world[:, None, None, :3, 2]).sum(-1)
    along = depth_points(IMAGES, CAMERAS, depth / slope, stride=3, kind="ray")
    assert torch.allclose(along.points, seeds.points, atol=1e-4)
    with pytest.raises(ValueError, match="depths: found shape"):
        depth_points(IMAGES, CAMERAS, depth[:2])


def test_points_of_structure_from_motion_enter_the_frame_of_the_scene() -> None:
    model = ColmapModel(
        {}, {}, points=np.array([[1.0, 2, 3]]), colors=np.array([[255, 0, 51]], np.uint8), errors=np.array([0.0])
    )
    similarity = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))
    similarity[:3, 3] = 1
    seeds = sfm_points(model, similarity)
    assert seeds.points.tolist() == [[3, 5, 7]]
    assert torch.allclose(seeds.colors, torch.tensor([[1.0, 0, 0.2]]))
    assert seeds.confidence.tolist() == [1]


def test_thinning_keeps_the_order_and_prefers_the_trusted() -> None:
    seeds = PointSeeds(torch.arange(300.0).reshape(100, 3), torch.rand(100, 3), (torch.arange(100) >= 50).float())
    few = seeds.thinned(20, torch.Generator().manual_seed(1))
    assert len(few.points) == 20
    assert float(few.points[0, 0]) >= 150
    assert torch.equal(few.points[:, 0].sort().values, few.points[:, 0])
    assert seeds.thinned(100) is seeds
    assert len(seeds.joined(few).points) == 120
