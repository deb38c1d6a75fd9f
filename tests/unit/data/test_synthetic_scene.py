"""Solids against brute force; the generated scene: the same for a seed, split apart, all or nothing on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from zoo.data import synthetic_scene
from zoo.data.analytic_solids import Box, Cylinder, Solid, Sphere, Torus, cast, is_blocked
from zoo.data.bad_samples import SampleError
from zoo.data.pavilion import AABB, build_scene, render_scene
from zoo.data.procedural_textures import encode_srgb, fractal_noise, plain, srgb
from zoo.data.radiance_fields import RadianceFieldData
from zoo.data.synthetic_scene import SceneSettings, generate_scene, sample_poses, scene_cameras

SMALL = SceneSettings(image_size=16, samples=1, num_train=3, num_val=2, num_test=2)
ROTATION = ((0.8, -0.6, 0.0), (0.6, 0.8, 0.0), (0.0, 0.0, 1.0))
WHITE = plain((1.0, 1.0, 1.0))
SOLIDS: dict[str, Solid] = {
    "sphere": Sphere(centre=(0.1, 0.2, -0.1), texture=WHITE, radius=0.7),
    "box": Box(centre=(0.1, 0.2, -0.1), rotation=ROTATION, texture=WHITE, half=(0.5, 0.3, 0.4)),
    "cylinder": Cylinder(centre=(0.1, 0.2, -0.1), rotation=ROTATION, texture=WHITE, radius=0.4, half_height=0.5),
    "torus": Torus(centre=(0.1, 0.2, -0.1), rotation=ROTATION, texture=WHITE, radius=0.5, thickness=0.15),
    "arc": Torus(centre=(0.1, 0.2, -0.1), rotation=ROTATION, texture=WHITE, radius=0.5, thickness=0.15, arc=True),
}


def inside(solid: Solid, points: torch.Tensor) -> torch.Tensor:
    """Whether points lie in a solid, from its definition."""
    x, y, z = ((points - points.new_tensor(solid.centre)) @ points.new_tensor(solid.rotation)).unbind(-1)
    if isinstance(solid, Sphere):
        return x * x + y * y + z * z < solid.radius**2
    if isinstance(solid, Box):
        return (x.abs() < solid.half[0]) & (y.abs() < solid.half[1]) & (z.abs() < solid.half[2])
    if isinstance(solid, Cylinder):
        return (x * x + y * y < solid.radius**2) & (z.abs() < solid.half_height)
    assert isinstance(solid, Torus)
    ring = (torch.hypot(x, y) - solid.radius) ** 2 + z * z < solid.thickness**2
    ends = (x.abs() - solid.radius) ** 2 + y * y + z * z < solid.thickness**2
    return ring & (y > 0) | ends if solid.arc else ring


def random_rays(count: int, from_inside: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1) * 2
    targets = torch.rand(count, 3, generator=generator) * 1.4 - 0.7
    if from_inside:
        origins = torch.tensor([0.1, 0.2, -0.1]).repeat(count, 1)
        targets = torch.randn(count, 3, generator=generator)
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


@pytest.mark.parametrize("name", SOLIDS)
def test_first_hits_agree_with_marching(name: str) -> None:
    solid = SOLIDS[name]
    origins, directions = random_rays(300)
    distance, which = cast([solid], origins, directions)
    t = torch.arange(0, 4, 2e-3)
    filled = inside(solid, origins[:, None] + t[None, :, None] * directions[:, None])
    marched = torch.where(filled.any(1), t[filled.int().argmax(1)], torch.inf)
    grazing = filled.sum(1) < 20
    clear = ~grazing | (which < 0)
    hit = torch.isfinite(marched) & clear & ~grazing
    assert hit.sum() > 50
    assert (distance[hit] - marched[hit]).abs().max() < 3e-3
    assert torch.isinf(distance[~filled.any(1) & (which < 0)]).all()
    assert (torch.isfinite(distance) == filled.any(1)).float().mean() > 0.99
    assert torch.equal(is_blocked([solid], origins, directions), which >= 0)


@pytest.mark.parametrize("name", SOLIDS)
def test_normals_point_outwards(name: str) -> None:
    solid = SOLIDS[name]
    origins, directions = random_rays(300)
    distance, which = cast([solid], origins, directions)
    hit = which == 0
    points = origins[hit] + distance[hit, None] * directions[hit]
    rotation = points.new_tensor(solid.rotation)
    normals = solid.normals((points - points.new_tensor(solid.centre)) @ rotation) @ rotation.T
    assert torch.allclose(normals.norm(dim=-1), torch.ones(len(normals)), atol=1e-5)
    assert ((normals * directions[hit]).sum(-1) < 1e-3).all()
    off = inside(solid, points + 5e-3 * normals)
    within = inside(solid, points - 5e-3 * normals)
    assert off.float().mean() < 0.01
    assert within.float().mean() > 0.97


@pytest.mark.parametrize("name", ["sphere", "box", "cylinder"])
def test_rays_from_inside_leave_through_the_surface(name: str) -> None:
    origins, directions = random_rays(100, from_inside=True)
    distance, which = cast([SOLIDS[name]], origins, directions)
    assert (which == 0).all()
    end = origins + distance[:, None] * directions
    assert inside(SOLIDS[name], end - 1e-3 * directions).all()
    assert not inside(SOLIDS[name], end + 1e-3 * directions).any()


def test_the_nearest_of_several_and_no_rays() -> None:
    origins, directions = torch.tensor([[0.0, 0, 5]]), torch.tensor([[0.0, 0, -1]])
    solids = [Sphere(centre=(0, 0, 0), texture=WHITE, radius=1), Sphere(centre=(0, 0, 2), texture=WHITE, radius=0.5)]
    distance, which = cast(solids, origins, directions)
    assert (float(distance), int(which)) == (pytest.approx(2.5), 1)
    assert cast(solids, origins[:0], directions[:0])[0].shape == (0,)


def test_textures_are_colours_and_smooth() -> None:
    points = torch.rand(500, 3) * 2 - 1
    for solid in build_scene():
        colours = solid.texture(points)
        assert colours.shape == (500, 3)
        assert (colours >= 0).all()
        assert (colours <= 1.3).all()
    noise = fractal_noise(points * 5, 3)
    assert (noise >= 0).all()
    assert (noise < 1).all()
    assert (fractal_noise(points * 5 + 1e-4, 3) - noise).abs().max() < 1e-2
    assert torch.allclose(encode_srgb(torch.tensor(srgb("80ff00"))), torch.tensor([128 / 255, 1.0, 0.0]), atol=1e-5)


def test_the_pavilion_lies_in_its_box_and_in_every_picture() -> None:
    poses = torch.cat([sample_poses(20, seed, split) for seed in (0, 5) for split in ("train", "test")])
    cameras = scene_cameras(poses, 64)
    for solid in build_scene(3):
        low, high = (torch.tensor(solid.centre) - solid.bound, torch.tensor(solid.centre) + solid.bound)
        if solid.bound < 0.5:
            assert (low > torch.tensor(AABB[:3])).all()
            assert (high < torch.tensor(AABB[3:])).all()
        uv, depth = cameras.project(torch.tensor([solid.centre]))
        assert (depth > 0).all()
        assert (uv > 0).all()
        assert (uv < 64).all()


def test_a_picture_has_sky_object_and_soft_edges() -> None:
    image = render_scene(build_scene(), scene_cameras(sample_poses(1, 0, "val"), 48), 0, samples=2)
    alpha = image[..., 3]
    assert image.shape == (48, 48, 4)
    assert (alpha == 0).mean() > 0.3
    assert (alpha == 255).mean() > 0.1
    assert ((alpha > 0) & (alpha < 255)).mean() > 0.01
    assert image[alpha == 255][:, :3].std() > 30
    assert (image[alpha == 0] == 0).all()


def test_generation_is_a_function_of_its_settings(tmp_path: Path) -> None:
    first, again = generate_scene(tmp_path / "a", SMALL), generate_scene(tmp_path / "b", SMALL)
    other = generate_scene(tmp_path / "c", SceneSettings(**{**vars(SMALL), "seed": 1}))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 7 + 3 + 1
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert (first / "train/r_000.png").read_bytes() != (other / "train/r_000.png").read_bytes()
    data = RadianceFieldData(root=first)
    data.setup()
    assert [len(views) for views in (data.train, data.val, data.test)] == [3, 2, 2]
    assert data.aabb.tolist() == list(AABB)
    assert torch.allclose(data.test.cameras.camera_to_world, sample_poses(2, 0, "test").float(), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_splits_share_no_pose() -> None:
    positions = torch.cat([sample_poses(30, 0, split)[:, :3, 3] for split in ("train", "val", "test")])
    apart = torch.cdist(positions, positions) + 10 * torch.eye(len(positions), dtype=torch.float64)
    assert float(apart.min()) > 1e-3


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    root = generate_scene(tmp_path / "scene", SMALL)
    with pytest.raises(FileExistsError, match="overwrite=true"):
        generate_scene(root, SMALL)
    (root / "old").touch()
    generate_scene(root, SMALL, overwrite=True)
    assert not (root / "old").exists()
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "mine.jpg").touch()
    with pytest.raises(FileExistsError, match="did not make it"):
        generate_scene(foreign, SMALL, overwrite=True)
    assert (foreign / "mine.jpg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "scene"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    root = generate_scene(tmp_path / "scene", SMALL)
    before = (root / "train/r_000.png").stat().st_mtime_ns
    monkeypatch.setattr(synthetic_scene, "render_scene", fail)
    with pytest.raises(OSError, match="no space"):
        generate_scene(tmp_path / "new", SMALL)
    with pytest.raises(OSError, match="no space"):
        generate_scene(root, SMALL, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["scene"]
    assert (root / "train/r_000.png").stat().st_mtime_ns == before


def test_a_stale_or_different_scene_names_the_command(tmp_path: Path) -> None:
    root = generate_scene(tmp_path / "scene", SMALL)
    with pytest.raises(SampleError, match="was generated with"):
        RadianceFieldData(root=root, generator=SceneSettings()).setup()
    RadianceFieldData(root=root, generator=SMALL, generate=True).setup()
    description = json.loads((root / "scene.json").read_text())
    (root / "scene.json").write_text(json.dumps({**description, "schema": 0}))
    with pytest.raises(SampleError, match="action=generate overwrite=true"):
        RadianceFieldData(root=root).setup()
    (root / "scene.json").write_text("{")
    with pytest.raises(SampleError, match="no description"):
        RadianceFieldData(root=root).setup()


def test_the_module_generates_only_where_there_is_nothing(tmp_path: Path) -> None:
    data = RadianceFieldData(root=tmp_path / "scene", generate=True, generator=SMALL)
    data.prepare_data()
    data.prepare_data()
    data.setup()
    assert data.train.images.shape == (3, 16, 16, 4)
    RadianceFieldData(root=tmp_path / "none").prepare_data()
    assert not (tmp_path / "none").exists()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="num_test"):
        SceneSettings(num_test=0)
    with pytest.raises(ValueError, match="seed"):
        SceneSettings(seed=-1)
