"""Terms of sparse-view reconstruction: weights over the steps, what they look at, and a field that learns with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.smoke.runs import train_here
from tests.smoke.twins import twin
from zoo.models.hollownerf import HollowNeRF
from zoo.models.layers.coarse_to_fine import LevelSchedule, level_weights
from zoo.models.layers.occupancy_grid import OccupancyGrid
from zoo.rendering.field_renderer import RenderedRays
from zoo.tasks.sparse_view_terms import DepthRanking, DepthSmoothness, Distortion, MatchedDepth, Silhouette, StepRays


def rendered(depth: torch.Tensor, opacity: torch.Tensor) -> RenderedRays:
    return RenderedRays(torch.zeros(len(depth), 3), opacity, depth, 0, 0)


def test_terms_begin_end_and_fall() -> None:
    term = Silhouette(weight=2.0, start=10, end=20)
    assert [term.is_active(step) for step in (9, 10, 19, 20)] == [False, True, True, False]
    assert not Silhouette(weight=0.0).is_active(0)
    smooth = DepthSmoothness(weight=0.1, initial_weight=400, anneal_steps=512)
    assert [smooth.weight_at(step) for step in (0, 512, 9000)] == [400, 0.1, 0.1]
    assert smooth.weight_at(256) == pytest.approx(200.05)
    with pytest.raises(ValueError, match="start < end"):
        Distortion(weight=1.0, start=3, end=3)


def test_silhouette_and_smoothness() -> None:
    ones = torch.ones(4)
    right = Silhouette(weight=1.0)(
        StepRays(0, rendered(ones, torch.tensor([1.0, 0, 1, 0])), torch.tensor([1.0, 0, 1, 0]))
    )
    wrong = Silhouette(weight=1.0)(
        StepRays(0, rendered(ones, torch.tensor([0.0, 1, 0, 1])), torch.tensor([1.0, 0, 1, 0]))
    )
    assert float(right) < 1e-3 < 1 < float(wrong)
    patch = rendered(torch.tensor([0.0, 1, 2, 3]), torch.tensor([0.5, 1, 1, 1]))
    rays = StepRays(0, patch, ones, unseen=patch, patch=2)
    assert float(DepthSmoothness(weight=1.0, by_opacity=False)(rays)) == pytest.approx(5)
    assert float(DepthSmoothness(weight=1.0)(rays)) == pytest.approx(2.5)


def test_matched_depth_counts_where_it_is_known_and_something_is_seen() -> None:
    rays = rendered(torch.tensor([1.1, 5.0, 1.0, 1.0]), torch.tensor([1.0, 1, 1, 0.1]))
    matched = torch.tensor([1.0, 1.0, 0.0, 3.0])
    loss = MatchedDepth(weight=2.0, most=0.3)(StepRays(0, rays, torch.ones(4), matched=matched))
    assert float(loss) == pytest.approx(2 * (0.1 + 0.3) / 2)


def test_ranked_pairs_have_the_order_of_the_supplied_depth_and_near_neighbours() -> None:
    inverse = torch.rand(2, 30, 40, generator=torch.Generator().manual_seed(0))
    term = DepthRanking(weight=1.0, pairs=50)
    view, pixels = term.choose(inverse, torch.Generator().manual_seed(1))
    values = inverse[view, pixels[:, 1], pixels[:, 0]].reshape(4, 50)
    assert bool((values[0] >= values[1]).all())
    offset = (pixels.reshape(2, 2, 50, 2)[1] - pixels.reshape(2, 2, 50, 2)[0]).abs()
    assert int(offset.max()) == 3
    assert int(offset.amax(-1).min()) >= 1
    assert float((values[2] - values[0]).abs().mean()) < 0.3 * float((values[1] - values[0]).abs().mean()) + 0.2
    again = term.choose(inverse, torch.Generator().manual_seed(1))
    assert torch.equal(again[1], pixels)
    depth = torch.cat([torch.full((50,), float(k)) for k in (1, 0, 1, 0)])
    nothing = torch.zeros(1)
    loss = term(StepRays(0, rendered(nothing, nothing), nothing, ranked=rendered(depth, torch.ones(200))))
    assert float(loss) == pytest.approx(1.0001, abs=1e-6)


def test_levels_open_from_coarse_to_fine_and_the_checkpoint_keeps_them() -> None:
    assert level_weights(4, 0.0, 1).tolist() == [1, 0, 0, 0]
    assert level_weights(4, 2.0, 1).tolist() == [1, 1, 1, 1]
    assert level_weights(4, 0.5, 1, "cosine")[2] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="start_levels"):
        level_weights(4, 0.5, 5)
    schedule = LevelSchedule(end_step=10, num_levels=4, start_levels=1)
    field = HollowNeRF(num_levels=4, log2_table_size=8, finest_resolution=32, level_schedule=schedule)
    points = torch.rand(20, 3) - 0.5
    with torch.no_grad():
        field.encoding.table[field.encoding.offsets[1] :] = 7.0
        closed = field.density(points)[0]
        field.encoding.table[field.encoding.offsets[1] :] = 0.0
        assert torch.equal(field.density(points)[0], closed)
    field.set_step(10)
    assert field.state_dict()["level_schedule.weights"].tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="level_schedule: made for 8 features, expected 16"):
        HollowNeRF(num_levels=8, log2_table_size=8, level_schedule=schedule)


def test_carved_cells_stay_out() -> None:
    grid = OccupancyGrid(roi_aabb=[-1.0, -1, -1, 1, 1, 1], resolution=8, warmup_steps=100, update_every=1)
    excluded = grid.exclude_cells(lambda points: points[:, 0] > 0.01)
    assert excluded == 8 * 8 * 4
    grid.update(0, lambda points: torch.ones(len(points)))
    assert grid.binaries[0, :4].sum() == 0
    assert grid.binaries[0, 4:].all()


@pytest.mark.parametrize("off", ["", pytest.param("task.terms.silhouette=null", marks=pytest.mark.slow)])
def test_every_term_runs_and_can_be_switched_off(off: str, tmp_path: Path) -> None:
    data = tmp_path / "datasets"
    overrides = [*twin("spare_field", data, 2), "task.terms.entropy.start=0", "task.log_every=1"]
    run = train_here(tmp_path, *overrides, *([off] if off else []))
    header = (run / "metrics.csv").read_text()
    assert ("train/silhouette" in header) == (not off)
    for name in ("distortion", "occlusion", "entropy", "depth_smoothness"):
        assert f"train/{name}" in header
    assert "psnr_m" in (run / "metrics.json").read_text()
