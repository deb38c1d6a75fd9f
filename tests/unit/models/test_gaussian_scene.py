"""Scenes of Gaussians: beginning, pictures, growth with the optimiser's memory, and resuming with another number."""

from __future__ import annotations

import copy

import pytest
import torch

from zoo.data.cameras import Cameras
from zoo.data.formats.gaussian_ply import read_gaussian_ply, write_gaussian_ply
from zoo.models.gaussians.densification import DefaultDensification, MCMCDensification, relocation
from zoo.models.gaussians.scene import GaussianLearningRates, GaussianScene, camera_extent
from zoo.ops.gaussian_projection import gaussian_covariances

GROWING = DefaultDensification(
    start=0, stop=100, every=5, grow_gradient=2e-5, grow_scale=0.06, reset_every=12, prune_opacity=0.02
)
MOVING = MCMCDensification(most=45, start=0, stop=100, every=5, dead_opacity=0.06)


def make_cameras(count: int = 2) -> Cameras:
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, 0, 3] = torch.linspace(-0.3, 0.3, count)
    return Cameras(poses, torch.tensor([[20.0, 20.0, 10.0, 8.0]]).repeat(count, 1), width=20, height=16)


def make_scene(count: int = 30, **changes) -> GaussianScene:
    scene = GaussianScene(**{"sh_degree": 1, "sh_every": 4, "seed": 3} | changes)
    scene.initialize_random(count, center=(0.0, 0.0, 3.0), radius=1.0)
    return scene


def make_optimizer(scene: GaussianScene) -> torch.optim.Adam:
    return torch.optim.Adam(scene.parameter_groups(), eps=1e-15)


def train(scene: GaussianScene, optimizer: torch.optim.Adam, rule, steps: range) -> list[float]:
    """Steps towards a picture with one bright half."""
    cameras, losses = make_cameras(), []
    target = torch.zeros(16, 20, 3)
    target[:, :10] = torch.tensor([1.0, 0.5, 0.2])
    for step in steps:
        view = scene.render(cameras[[step % 2]], step=step)
        loss = (view.image[0] - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        scene.observe(view.info)
        optimizer.step()
        scene.densify(step, rule, [optimizer], learning_rate=optimizer.param_groups[0]["lr"])
        losses.append(float(loss.detach()))
    return losses


def test_beginning_at_points():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    colors = torch.rand(4, 3)
    scene = GaussianScene(sh_degree=2)
    scene.initialize_from_points(points, colors)
    assert len(scene) == 4
    spread = ((1 + 4 + 9) / 3) ** 0.5
    torch.testing.assert_close(scene.rows["scales"][0].detach().exp(), torch.full((3,), spread))
    torch.testing.assert_close(scene.rows["opacities"].detach().sigmoid(), torch.full((4,), 0.1))
    assert scene.rows["shN"].shape == (4, 8, 3)
    one = GaussianScene(sh_degree=0, scene_scale=2.0)
    one.initialize_from_points(points[:1], colors[:1])
    torch.testing.assert_close(one.rows["scales"].detach().exp(), torch.full((1, 3), 0.02))
    camera = Cameras(torch.eye(4)[None], torch.tensor([[9.0, 9.0, 0.5, 0.5]]), width=1, height=1)
    one.initialize_from_points(torch.tensor([[0.0, 0.0, 1.0]]), colors[:1], opacity=0.5)
    torch.testing.assert_close(one.render(camera).image[0, 0, 0], 0.5 * colors[0])


def test_known_normals_begin_as_discs():
    normals = torch.nn.functional.normalize(torch.tensor([[1.0, 2, 3], [0.3, -1, -0.4], [0, 0, -1]]), dim=-1)
    normals = torch.cat((normals, torch.zeros(1, 3)))
    scene = GaussianScene(sh_degree=0)
    scene.initialize_from_points(torch.rand(4, 3), normals=normals, flatness=0.1)
    rows = scene.values()
    covariances = gaussian_covariances(rows["quats"], rows["scales"].exp())
    wide, flat = rows["scales"][:, 0].exp(), rows["scales"][:3, 2].exp()
    torch.testing.assert_close(flat, 0.1 * wide[:3])
    along = (covariances[:3] @ normals[:3, :, None])[..., 0]
    torch.testing.assert_close(along, normals[:3] * flat[:, None] ** 2)
    torch.testing.assert_close(covariances[3], torch.eye(3) * wide[3] ** 2)


def test_bands_open_one_after_the_other():
    scene = make_scene()
    with torch.no_grad():
        scene.rows["shN"].normal_()
    assert [scene.active_degree(step) for step in (0, 3, 4, 99, None)] == [0, 0, 1, 1, 1]
    first, later = (scene.render(make_cameras(1), step=step).image for step in (0, 4))
    assert not torch.equal(first, later)
    assert torch.equal(scene.render(make_cameras(1)).image, later)


def test_view_has_depth_and_background():
    scene = make_scene()
    view = scene.render(make_cameras(), background=torch.tensor([0.0, 0.0, 1.0]), with_depth=True)
    assert view.depth is not None
    shown = view.alpha > 0.2
    assert bool(((view.depth > 1.9) & (view.depth < 4.1))[shown].all())
    torch.testing.assert_close(
        view.image.detach() - scene.render(make_cameras()).image.detach(),
        (1 - view.alpha.detach())[..., None] * torch.tensor([0.0, 0.0, 1.0]), rtol=1e-4, atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("rule", [GROWING, MOVING], ids=["default", "mcmc"])
def test_training_grows_and_learns(rule):
    scene = make_scene()
    optimizer = make_optimizer(scene)
    losses = train(scene, optimizer, rule, range(40))
    assert len(scene) != 30
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
    for name, value in scene.rows.items():
        assert optimizer.state[value]["exp_avg"].shape == value.shape, name
    assert {len(value) for value in scene.rows.values()} == {
        len(scene),
    }
    assert len(scene.gradient_sum) == len(scene)


def test_moments_follow_their_rows():
    scene = make_scene(6)
    optimizer = make_optimizer(scene)
    scene.render(make_cameras()).image.sum().backward()
    optimizer.step()
    before = {name: value.detach().clone() for name, value in scene.rows.items()}
    moments = {name: optimizer.state[value]["exp_avg"].clone() for name, value in scene.rows.items()}
    rule = DefaultDensification(start=0, every=1, prune_opacity=1e-9, grow_scale=1.0)
    with torch.no_grad():
        scene.rows["scales"][:] = -3.0
        scene.rows["scales"][4] = 1.0  # to be split
        scene.rows["opacities"][1] = -40.0  # to be dropped
    scene.gradient_sum[[2, 4]] = 1.0
    scene.view_count[:] = 1
    assert scene.densify(1, rule, [optimizer]) == 1  # one cloned, one split in two, one dropped
    kept = [0, 2, 3, 5]
    for name, value in scene.rows.items():
        state = optimizer.state[value]
        assert torch.equal(state["exp_avg"][:4], moments[name][kept]), name
        assert not bool(state["exp_avg"][4:].any()), name
        assert not bool(state["exp_avg_sq"][4:].any()), name
        assert float(state["step"]) == 1, name
        if name not in ("scales", "opacities"):
            assert torch.equal(value[:5].detach(), before[name][[*kept, 2]]), name
    assert not torch.equal(scene.rows["means"][5], scene.rows["means"][6])
    assert all(group["params"][0] is scene.rows[group["name"]] for group in optimizer.param_groups)
    assert not bool(scene.gradient_sum.any())


def test_opacities_are_reset_and_forgotten():
    scene = make_scene()
    optimizer = make_optimizer(scene)
    scene.render(make_cameras()).image.sum().backward()
    optimizer.step()
    assert bool(optimizer.state[scene.rows["opacities"]]["exp_avg"].any())
    scene.densify(12, GROWING, [optimizer])
    assert float(scene.rows["opacities"].detach().sigmoid().max()) <= 0.04 + 1e-6
    assert not bool(optimizer.state[scene.rows["opacities"]]["exp_avg"].any())
    assert bool(optimizer.state[scene.rows["means"]]["exp_avg"].any())


def test_relocated_gaussians_look_like_the_one_they_share():
    scene = make_scene(8)
    with torch.no_grad():
        scene.rows["opacities"][:] = 2.0
        scene.rows["opacities"][5:] = -9.0
    optimizer = make_optimizer(scene)
    scene.render(make_cameras()).image.sum().backward()
    optimizer.step()
    rule = MCMCDensification(start=0, every=1, most=8, noise=0.0)
    old = {name: value.detach().clone() for name, value in scene.rows.items()}
    picture = scene.render(make_cameras()).image.detach()
    scene.densify(1, rule, [optimizer])
    assert len(scene) == 8
    source = torch.cdist(scene.rows["means"].detach(), old["means"]).argmin(dim=1)
    assert bool((source < 5).all())
    ratios = torch.bincount(source, minlength=8)[source]
    opacity, scale = relocation(old["opacities"][source].sigmoid(), old["scales"][source].exp(), ratios)
    torch.testing.assert_close(scene.rows["opacities"].detach().sigmoid(), opacity, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scene.rows["scales"].detach().exp(), scale, rtol=1e-4, atol=1e-5)
    shared = ratios > 1
    assert bool(shared[5:].all())
    moments = optimizer.state[scene.rows["means"]]["exp_avg"]
    assert not bool(moments[shared].any())
    assert bool(moments[~shared].any())
    assert float((scene.render(make_cameras()).image.detach() - picture).abs().mean()) < 0.02


def test_noise_moves_faint_gaussians_and_growth_stops_at_the_limit():
    scene = make_scene(40)
    with torch.no_grad():
        scene.rows["opacities"][:20] = 4.0
        scene.rows["opacities"][20:] = -6.0
    before = scene.rows["means"].detach().clone()
    scene.densify(1, MCMCDensification(start=10, every=5), [], learning_rate=1e-3)
    moved = (scene.rows["means"].detach() - before).norm(dim=-1)
    assert float(moved[:20].max()) < 1e-6
    assert float(moved[20:].min()) > 1e-4
    for step in (5, 10, 15, 20):
        scene.densify(step, MOVING, [])
    assert len(scene) == MOVING.most


@pytest.mark.parametrize("rule", [GROWING, MOVING], ids=["default", "mcmc"])
def test_resumed_training_is_exact(rule):
    whole = make_scene()
    optimizer = make_optimizer(whole)
    train(whole, optimizer, rule, range(13))
    states = copy.deepcopy((whole.state_dict(), optimizer.state_dict()))
    train(whole, optimizer, rule, range(13, 26))
    resumed = GaussianScene(sh_degree=1, sh_every=4, seed=3)
    other = make_optimizer(resumed)  # before the state is loaded: the parameters must stay the same objects
    resumed.load_state_dict(states[0])
    other.load_state_dict(states[1])
    train(resumed, other, rule, range(13, 26))
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_files_and_fading(tmp_path):
    scene = make_scene()
    write_gaussian_ply(tmp_path / "scene.ply", scene.gaussians())
    other = GaussianScene(sh_degree=2)
    other.set_rows(read_gaussian_ply(tmp_path / "scene.ply"))
    torch.testing.assert_close(other.render(make_cameras()).image, scene.render(make_cameras()).image)
    scene.fade(0.5)
    torch.testing.assert_close(scene.rows["opacities"].detach().sigmoid(), torch.full((30,), 0.05))


def test_an_empty_scene_shows_the_background():
    scene = GaussianScene()
    view = scene.render(make_cameras(), background=torch.ones(3), with_depth=True, absolute=True)
    assert torch.equal(view.image, torch.ones(2, 16, 20, 3))


def test_absolute_gradients_and_wrong_arguments():
    scene = make_scene()
    view = scene.render(make_cameras(), absolute=True)
    with pytest.raises(ValueError, match="info: found no gradient"):
        scene.observe(view.info)
    view.image.sum().backward()
    scene.observe(view.info)
    assert float(scene.gradient_sum.max()) > 0
    with pytest.raises(ValueError, match="sh_degree: found 5"):
        GaussianScene(sh_degree=5)
    with pytest.raises(ValueError, match="rules: found"):
        GaussianScene(rules="other")
    with pytest.raises(ValueError, match="scene_scale: found"):
        GaussianScene(scene_scale=0.0)
    lens = Cameras(torch.eye(4)[None], torch.ones(1, 4), 4, 4, torch.zeros(1, 4), "opencv")
    with pytest.raises(ValueError, match="cameras: found lens"):
        scene.render(lens)


def test_extent_and_learning_rates():
    assert camera_extent(make_cameras(2)) == pytest.approx(1.1 * 0.3)
    assert camera_extent(make_cameras(1)) == 1.0
    rates = GaussianLearningRates()
    assert rates.means_factor(0, 100) == 1.0
    assert rates.means_factor(50, 100) == pytest.approx(0.1)
    assert rates.means_factor(200, 100) == pytest.approx(0.01)
    groups = make_scene(scene_scale=2.0).parameter_groups(rates)
    assert [group["name"] for group in groups] == ["means", "scales", "quats", "opacities", "sh0", "shN"]
    assert groups[0]["lr"] == pytest.approx(3.2e-4)
