"""Rays against analytic solids and uneven ground, compared with brute force."""

import numpy as np
import pytest

from zoo.data.lidar_primitives import Material, Primitive, box, ellipsoid, frustum, ray_interval, rod, surface_normals
from zoo.data.lidar_rays import GROUND, NOTHING, RayFan, cast, hit_normals

GREY = Material(0.5, (0.5, 0.5, 0.5))
SOLIDS = {
    "box": box((0, 0, 0), (2, 1, 3), 1, GREY),
    "frustum": frustum((-2, 2, -1, 1), (-1, 1.5, -0.5, 0.5), (-1, 1), 1, GREY),
    "cylinder": rod((0, 0, -1), (0.5, 0.2, 1), 0.4, 1, GREY),
    "ellipsoid": ellipsoid((0, 0, 0), (1.0, 0.5, 0.7), 1, GREY),
}


class Waves:
    def height(self, x, y):
        return 0.3 * np.sin(0.2 * x) + 0.2 * np.cos(0.3 * y) + 0 * x


def inside(solid: Primitive, points):
    local = (points - solid.center) @ solid.rotation
    if solid.kind == "convex":
        return (local @ solid.normals.T <= solid.offsets).all(axis=1)
    if solid.kind == "ellipsoid":
        return ((local / solid.half) ** 2).sum(axis=1) <= 1
    return (np.hypot(local[:, 0], local[:, 1]) <= solid.half[0]) & (np.abs(local[:, 2]) <= solid.half[2])


def rays(seed, count=400):
    rng = np.random.default_rng(seed)
    origin = np.array([4.0, -3.0, 1.0])
    direction = rng.normal(size=(count, 3)) * 0.9 - origin
    return origin, direction / np.linalg.norm(direction, axis=1, keepdims=True)


@pytest.mark.parametrize("name", SOLIDS)
def test_interval_is_where_the_ray_is_inside(name):
    solid = SOLIDS[name].moved(np.array([0.3, -0.2, 0.1]), 0.7)
    origin, direction = rays(0)
    near, far = ray_interval(solid, origin, direction)
    steps = np.linspace(0, 12, 1500)
    contained = np.stack([inside(solid, origin + t * direction) for t in steps], axis=1)
    hit = contained.any(axis=1)
    assert 50 < hit.sum() < 395
    width = steps[1]
    clear = far - near > 3 * width
    assert hit[clear].all()
    assert not contained[near > far].any()
    first = steps[contained.argmax(axis=1)]
    last = steps[len(steps) - 1 - contained[:, ::-1].argmax(axis=1)]
    assert np.abs(first - near)[hit & clear].max() <= width
    assert np.abs(last - far)[hit & clear].max() <= width


@pytest.mark.parametrize("name", SOLIDS)
def test_normals_point_out_of_the_surface(name):
    solid = SOLIDS[name].moved(np.array([0.3, -0.2, 0.1]), -1.1)
    origin, direction = rays(1)
    near, far = ray_interval(solid, origin, direction)
    hit = near < far
    points = origin + near[hit, None] * direction[hit]
    normals = surface_normals(solid, points)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, rtol=1e-9)
    assert ((normals * direction[hit]).sum(axis=1) < 1e-9).all()
    assert not inside(solid, points + 1e-4 * normals).any()
    deep = (far - near)[hit] > 0.05
    assert inside(solid, points - 1e-4 * normals)[deep].all()


def test_ray_along_the_axis_and_beside_a_face():
    tube = rod((0, 0, 0), (0, 0, 2), 0.5, 1, GREY)
    near, far = ray_interval(tube, np.array([0.1, 0.0, -1.0]), np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
    assert (near[0], far[0]) == (1.0, 3.0)
    assert near[1] > far[1]
    cube = SOLIDS["box"]
    near, far = ray_interval(cube, np.array([-5.0, 0.9, 0.0]), np.array([[1.0, 0.0, 0.0]]))
    assert near[0] > far[0]


def fan_of(closed, start=-2.0):
    if closed:
        azimuths = start + np.arange(90) * (2 * np.pi / 90)
        slopes = np.tile(np.linspace(0.4, -0.6, 30)[:, None], (1, 90))
    else:
        right = np.linspace(0.9, -0.9, 60)
        azimuths = 0.4 - np.arctan(right)
        slopes = np.linspace(0.4, -0.4, 30)[:, None] / np.sqrt(1 + right**2)
    return RayFan(np.array([1.0, 2.0, 1.8]), azimuths, slopes, closed)


@pytest.mark.parametrize("closed", [True, False])
def test_cast_finds_what_testing_every_ray_finds(closed):
    rng = np.random.default_rng(3)
    objects = []
    for _ in range(25):
        solid = list(SOLIDS.values())[int(rng.integers(4))]
        objects.append([solid.moved(rng.uniform(-9, 9, 3) * [1, 1, 0.3] + [1, 2, 0], rng.uniform(-3, 3))])
    fan = fan_of(closed)
    hits = cast(fan, objects, None, rng, max_range=40.0)
    directions = fan.directions().reshape(-1, 3)
    expected, winner = np.full(len(directions), np.inf), np.full(len(directions), NOTHING)
    for number, (solid,) in enumerate(objects):
        near, far = ray_interval(solid, fan.origin, directions)
        met = (near <= far) & (near > 0.05)
        assert hits.whole[number] == met.sum()
        nearer = met & (near < expected)
        expected[nearer], winner[nearer] = near[nearer], number
    np.testing.assert_array_equal(hits.solid.reshape(-1), winner)
    np.testing.assert_allclose(hits.distance.reshape(-1), expected, rtol=1e-9)
    np.testing.assert_array_equal(hits.seen, np.bincount(winner[winner >= 0], minlength=25))
    assert 0.05 < (winner >= 0).mean() < 0.95


@pytest.mark.parametrize("closed", [True, False])
def test_ground_is_met_at_the_first_crossing(closed):
    fan, ground = fan_of(closed), Waves()
    hits = cast(fan, [], ground, np.random.default_rng(0), max_range=60.0)
    directions = fan.directions()
    steps = np.arange(0.1, 60.0, 0.02)
    for row in range(0, 30, 3):
        for column in range(0, directions.shape[1], 7):
            points = fan.origin + steps[:, None] * directions[row, column]
            under = points[:, 2] <= ground.height(points[:, 0], points[:, 1])
            if not under.any():
                assert not np.isfinite(hits.distance[row, column]) or hits.distance[row, column] > 59
            else:
                found = hits.distance[row, column]
                first = steps[under.argmax()]
                assert hits.solid[row, column] == GROUND
                assert abs(found - first) < 0.03 + 0.004 * first
    normals = hit_normals(hits, [], ground, fan.origin + directions * np.minimum(hits.distance, 60.0)[..., None])
    assert (normals[hits.solid == GROUND][:, 2] > 0.9).all()
    assert (normals[hits.solid == NOTHING] == 0).all()


def test_nothing_to_hit():
    hits = cast(fan_of(True), [], None, np.random.default_rng(0))
    assert (hits.solid == NOTHING).all()
    assert hits.seen.shape == (0,)


def test_porous_solids_let_rays_through():
    leaves = Material(0.4, (0, 1, 0), opacity=0.5, roughness=0.3)
    crown = ellipsoid((5, 2, 1.8), (1.5, 1.5, 1.5), 70, leaves)
    fan = RayFan(
        np.array([0.0, 2.0, 1.8]), np.linspace(-0.2, 0.2, 80), np.linspace(0.2, -0.2, 80)[:, None].repeat(80, 1), False
    )
    hits = cast(fan, [[crown]], None, np.random.default_rng(0))
    solid = cast(fan, [[ellipsoid((5, 2, 1.8), (1.5, 1.5, 1.5), 70, GREY)]], None, np.random.default_rng(0))
    share = hits.whole[0] / solid.whole[0]
    assert 0.45 < share < 0.55
    met = hits.solid == 0
    depth = hits.distance[met] - solid.distance[met]
    assert depth.min() >= 0
    assert 0.1 < depth.max() <= 0.3
