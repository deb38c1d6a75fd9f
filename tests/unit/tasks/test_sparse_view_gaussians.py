"""Gaussians from few views: a run that grows resumes bit by bit, every term has its say, and scenes are carved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.smoke.runs import checkpoint, differences, train_here
from tests.smoke.twins import twin
from zoo.data.cameras import Cameras, look_at
from zoo.data.formats.gaussian_ply import read_gaussian_ply
from zoo.data.posed_images import step_generator
from zoo.models.gaussians.scene import GaussianScene
from zoo.render import render
from zoo.tasks.gaussian_schedules import means_decay
from zoo.tasks.gaussian_terms import (
    BinocularConsistency,
    DepthCorrelation,
    Elongation,
    GaussianStep,
    MatchedDepth,
    Opacity,
    Silhouette,
    Size,
    UnseenDepthSmoothness,
)
from zoo.training.configuration import compose, config_differences, plain
from zoo.training.trained_field import open_trained_field

GROWING = (
    "task.densification.start=1", "task.densification.every=3", "task.densification.grow_gradient=1e-5",
    "task.densification.stop=12", "model.sh_every=0", "task.log_every=1", "task.carve_every=4",
    "task.terms.consistency={_target_:zoo.tasks.gaussian_terms.BinocularConsistency,weight:0.2,shift:0.1,start:2}",
)  # fmt: skip


def wall(depth: float = 2.0) -> GaussianScene:
    """A flat, dense, striped wall before the cameras."""
    scene = GaussianScene(sh_degree=0)
    y, x = torch.meshgrid(torch.linspace(-1.5, 1.5, 61), torch.linspace(-1.5, 1.5, 61), indexing="ij")
    points = torch.stack((x, y, torch.full_like(x, depth)), -1).reshape(-1, 3)
    scene.initialize_from_points(points, (torch.sin(6 * points) + 1) / 2, opacity=0.95)
    return scene


def cameras(count: int = 2) -> Cameras:
    places = torch.stack((torch.linspace(-0.2, 0.2, count), torch.zeros(count), torch.zeros(count)), -1)
    poses = look_at(places, torch.tensor([0.0, 0.0, 2.0]), torch.tensor([0.0, -1.0, 0.0]))
    return Cameras(poses, torch.tensor([[30.0, 30.0, 16.0, 12.0]]).repeat(count, 1), width=32, height=24)


def value(loss: torch.Tensor) -> float:
    return float(loss.detach())


def step_of(scene: GaussianScene, **changes) -> GaussianStep:
    view = scene.render(cameras()[[0]], with_depth=True)
    return GaussianStep(
        **{
            "step": 0, "scene": scene, "cameras": cameras(), "index": 0, "view": view,
            "target": view.image[0].detach(), "alpha": torch.ones(24, 32), "background": torch.zeros(3),
            "generator": step_generator(0, 0),
        }
        | changes
    )  # fmt: skip


def test_terms_are_small_where_they_should_be_and_large_where_not() -> None:
    found = step_of(wall())
    assert value(Silhouette(weight=1.0)(found)) < 0.1
    assert value(Silhouette(weight=1.0)(step_of(wall(), alpha=torch.zeros(24, 32)))) > 2
    assert value(Elongation(weight=1.0)(found)) == pytest.approx(1)
    assert value(Size(weight=1.0)(found)) == pytest.approx(0.05**2, rel=1e-3)
    assert value(Opacity(weight=2.0)(found)) == pytest.approx(1.9)
    flat = value(UnseenDepthSmoothness(weight=1.0, factor=1, jitter=0.0)(found))
    rough = wall()
    with torch.no_grad():
        rough.rows["means"][:, 2] += 0.3 * torch.sin(9 * rough.rows["means"][:, 0])
    assert 5 * flat < value(UnseenDepthSmoothness(weight=1.0, factor=1, jitter=0.0)(step_of(rough)))


def test_consistency_asks_for_the_right_depth() -> None:
    found, term = step_of(wall()), BinocularConsistency(weight=1.0, shift=0.3)
    right = value(term(found))
    assert found.view.depth is not None
    wrong_view = found.view._replace(depth=found.view.depth * 1.5)
    wrong = value(term(step_of(wall(), view=wrong_view)))
    assert right < 0.25 * wrong
    loss = term(step_of(wall(), generator=step_generator(0, 0)))
    assert float(loss.detach()) == right  # what is drawn depends on the generator alone
    with pytest.raises(ValueError, match="shift: found 0"):
        BinocularConsistency(weight=1.0, shift=0.0)


def test_supplied_depth_is_asked_for_and_followed() -> None:
    slanted = wall()
    with torch.no_grad():
        slanted.rows["means"][:, 2] += 0.2 * slanted.rows["means"][:, 0]
    found = step_of(slanted)
    assert found.view.depth is not None
    inverse = 1 / found.view.depth[0].detach()
    term = DepthCorrelation(weight=1.0)
    assert value(term(step_of(slanted, inverse_depth=3 * inverse + 1))) == pytest.approx(0, abs=2e-3)
    assert value(term(step_of(slanted, inverse_depth=-inverse))) == pytest.approx(2, abs=2e-3)
    with pytest.raises(ValueError, match=r"data\.depths"):
        term(found)


def test_matched_depth_is_followed_where_it_is_known() -> None:
    found, term = step_of(wall()), MatchedDepth(weight=1.0, most=0.2)
    assert found.view.depth is not None
    matched = found.view.depth[0].detach().clone()
    matched[:12] *= 1.05
    matched[12:] = 0
    assert value(term(step_of(wall(), matched_depth=matched))) == pytest.approx(1 - 1 / 1.05, rel=1e-3)
    assert value(term(step_of(wall(), matched_depth=2 * matched))) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"set task\.matching"):
        term(found)


def test_only_the_means_slow_down() -> None:
    optimizer = torch.optim.Adam(wall().parameter_groups())
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = means_decay(optimizer, total_steps=10)
    for _ in range(10):
        optimizer.step()
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * rates[0])
    assert [group["lr"] for group in optimizer.param_groups[1:]] == rates[1:]


def test_dropped_gaussians_leave_the_others_as_they_were() -> None:
    scene = wall()
    optimizer = torch.optim.Adam(scene.parameter_groups())
    scene.render(cameras()).image.sum().backward()
    optimizer.step()
    scene.view_count.copy_(torch.arange(len(scene)))
    outside = scene.rows["means"].detach()[:, 0] > 0
    moments = optimizer.state[scene.rows["means"]]["exp_avg"][~outside].clone()
    assert scene.drop(outside, [optimizer]) == int(outside.sum())
    assert torch.equal(optimizer.state[scene.rows["means"]]["exp_avg"], moments)
    assert torch.equal(scene.view_count, torch.arange(len(outside)).float()[~outside])
    assert float(scene.rows["means"].detach()[:, 0].max()) <= 0


def test_a_growing_run_resumes_bitwise(tmp_path: Path) -> None:
    options = (*twin("spare_gaussians", tmp_path, 12), *GROWING, "optim.scheduler.total_steps=12", "checkpoint_every=5")
    whole = train_here(tmp_path / "whole", *options)
    before = checkpoint(train_here(tmp_path / "parts", *options, "trainer.max_steps=5", "test=false"))
    parts = train_here(tmp_path / "parts", *options, "ckpt=last")
    a, b = checkpoint(parts), checkpoint(whole)
    count = len(b["state_dict"]["model.rows.means"])
    assert len(before["state_dict"]["model.rows.means"]) != count
    assert b["global_step"] == a["global_step"] == 12
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert not differences(a[part], b[part])
    assert len(read_gaussian_ply(parts / "gaussians.ply").means) == count
    header = (whole / "metrics.csv").read_text()
    terms = ("silhouette", "consistency", "depth_smoothness", "matched_depth")
    assert all(f"train/{name}" in header for name in (*terms, "gaussians"))
    assert "psnr_m" in (whole / "metrics.json").read_text()

    cfg = compose([f"ckpt={parts}", "views=orbit", "num_frames=2", f"output={tmp_path}/orbit"], config_name="render")
    assert {path.name for path in render(cfg).iterdir()} == {
        "000_rgb.png", "000_depth.png", "001_rgb.png", "001_depth.png", "film.gif",
    }  # fmt: skip
    with pytest.raises(ValueError, match="holds Gaussians, expected a radiance field"):
        open_trained_field(str(parts), output_dir=tmp_path)


def test_dtu_has_the_recipe_of_the_generated_scenes() -> None:
    ours, dtu = (plain(compose([f"experiment={name}"])) for name in ("spare_gaussians", "spare_gaussians_dtu"))
    found = [line for line in config_differences(ours, dtu) if not line.startswith(("data.", "name:"))]
    assert found == ["task.object_scores.protocol: spare -> dtu"]
