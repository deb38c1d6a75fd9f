"""Matching by slanted planes: true depth between views far apart, what they see through, points to begin with."""

from __future__ import annotations

import pytest
import torch

from tests.unit.models.test_point_seeds import CAMERAS, IMAGES, SOLIDS, rig
from zoo.data.analytic_render import render_view
from zoo.data.analytic_solids import cast
from zoo.data.posed_images import PosedImages
from zoo.data.spare_objects import LIGHTING
from zoo.models.point_seeds.matched_surface import SurfaceMatching, depth_bounds
from zoo.models.point_seeds.patch_match import PatchMatch, patch_match
from zoo.models.point_seeds.plane_sweep import lift_pixels
from zoo.models.point_seeds.seeds import pixel_positions
from zoo.models.point_seeds.surface_beginning import SurfaceBeginning

BOX = torch.tensor([-1.1, -1.1, -0.2, 1.1, 1.1, 1.0])
APART = rig(3, 0.6)  # 34 degrees between neighbours
VIEWS = [render_view(SOLIDS, APART, view, LIGHTING, 2, num_objects=2).rgba for view in range(3)]
PICTURES = torch.stack([view[..., :3] * view[..., 3:] for view in VIEWS])
MASKS = torch.stack([view[..., 3] > 0.5 for view in VIEWS])
RGBA = torch.cat((PICTURES, MASKS[..., None].float()), -1)
IMAGES_APART = PosedImages((RGBA * 255).round().to(torch.uint8), APART, ("left", "middle", "right"))

MATCHING = SurfaceMatching(options=PatchMatch(passes=3))


def true_depth(view: int, stride: int) -> torch.Tensor:
    pixels = pixel_positions(90, 120, stride)
    rays = APART.rays(torch.full((len(pixels),), view), pixels)
    distance, _ = cast(SOLIDS, rays.origins, rays.directions)
    return (distance * (rays.directions * APART.camera_to_world[view, :3, 2]).sum(-1)).reshape(-(-90 // stride), -1)


def test_views_far_apart_are_matched_and_see_through_what_is_empty() -> None:
    surface = MATCHING(IMAGES_APART, BOX, seed=0)
    assert surface.depth.shape == (3, 45, 60)
    truth = torch.stack([true_depth(view, 2) for view in range(3)])
    known = surface.depth > 0
    assert float(known[1].float().mean()) > 0.25
    error = ((surface.depth - truth).abs() / truth)[known]
    assert float(error.median()) < 0.003
    assert float((error < 0.01).float().mean()) > 0.85

    points = surface.points(PICTURES)
    assert len(points.points) == int(known.sum())
    on_surface = lift_pixels(APART, 1, pixel_positions(90, 120, 2)[known[1].reshape(-1)], truth[1][known[1]])
    assert float(surface.is_empty(on_surface).float().mean()) < 0.02
    nearer = lift_pixels(APART, 1, pixel_positions(90, 120, 2)[known[1].reshape(-1)], 0.9 * truth[1][known[1]])
    assert float(surface.is_empty(nearer).float().mean()) > 0.8
    farther = lift_pixels(APART, 1, pixel_positions(90, 120, 2)[known[1].reshape(-1)], 1.2 * truth[1][known[1]])
    assert float(surface.is_hidden(on_surface).float().mean()) < 0.01
    assert 0.1 < float(surface.is_hidden(farther).float().mean()) <= 1
    slopes = surface.distance_maps() / surface.depth_maps()
    assert float(slopes[surface.depth_maps() > 0].min()) >= 1, "along the ray it is farther than along the axis"
    up = surface.normals[1][known[1]][on_surface[:, 2] < 0.01].abs()  # of the platform
    assert float(up[:, 2].median()) > 0.95


def test_what_matches_leave_open_is_filled_from_the_hull() -> None:
    surface = MATCHING(IMAGES_APART, BOX, seed=0)
    begin = SurfaceBeginning(fill=300, most=1000, resolution=24)
    filled = begin(IMAGES_APART, BOX, seed=0, find_surface=lambda: surface)
    again = SurfaceBeginning(fill=0, most=1000)(IMAGES_APART, BOX, seed=0, find_surface=lambda: surface)
    with pytest.raises(ValueError, match="find_surface: found None"):
        begin(IMAGES_APART, BOX, seed=0)
    assert torch.equal(again.points, filled.points[:1000]), "the seed decides"
    assert 1100 <= len(filled.points) <= 1300
    size = (BOX[3:] - BOX[:3]) / 24
    apart = torch.cdist(filled.points[1000:], filled.points[:1000]).amin(1)
    assert float(apart.min()) > 0.4 * float(size.min()), "cells beside the matched ones"


def test_bounds_of_depth_hold_the_surface() -> None:
    nearest, farthest = depth_bounds(APART, 1, BOX, masks=MASKS, stride=3)
    truth = true_depth(1, 3)
    shown = MASKS[1, 1::3, 1::3] & (truth < 6)
    assert bool(((nearest <= truth) & (truth <= farthest))[shown].all())
    alone = depth_bounds(APART, 1, BOX, stride=3)
    assert float((alone[1] - alone[0])[shown].mean()) > float((farthest - nearest)[shown].mean())


def test_a_view_without_a_match_has_no_planes() -> None:
    bounds = torch.full((45, 60), 3.0), torch.full((45, 60), 5.0)
    options = PatchMatch(passes=1, guesses=2)
    black = patch_match(torch.zeros(4, 90, 120, 3), CAMERAS, 0, nearest=bounds[0], farthest=bounds[1], options=options)
    assert float(black.score.max()) < 0.1
    none = patch_match(IMAGES, CAMERAS, 0, nearest=bounds[0], farthest=0 * bounds[1], options=options)
    assert float(none.score.max()) == -1.0
    assert not none.inverse.any()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"\{'stride': 0\}: expected positive"):
        PatchMatch(stride=0)
    bounds = torch.ones(2, 2)
    with pytest.raises(ValueError, match="every 2th pixel of 90 x 120"):
        patch_match(IMAGES, CAMERAS, 0, nearest=bounds, farthest=2 * bounds)
