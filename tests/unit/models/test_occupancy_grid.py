"""The occupancy grid: updates, warm-up, repeatable sampling, visibility, queries, dropping hidden samples."""

from __future__ import annotations

import pytest
import torch

from zoo.models.layers.occupancy_grid import OccupancyGrid

BOX = [-1.0, -1, -1, 1, 1, 1]


def ball(points):
    """Occupancy 1 inside the ball of radius 0.6."""
    return (points.norm(dim=-1, keepdim=True) < 0.6).float()


def grid(**options):
    return OccupancyGrid(**({"roi_aabb": BOX, "resolution": 8, "levels": 2} | options))


def seeded(step=0):
    return torch.Generator().manual_seed(step)


def test_everything_is_occupied_until_the_first_update():
    fresh = grid()
    samples = fresh.sampling(torch.tensor([[-3.0, 0.1, 0.1]]), torch.tensor([[1.0, 0, 0]]), render_step_size=0.1)
    assert len(samples.t_starts) == 40  # the outer box is 4 wide


def test_warm_up_visits_every_cell_and_finds_the_ball():
    occupancy = grid(resolution=(8, 9, 10))
    seen = []
    assert occupancy.update(0, lambda x: seen.append(x) or ball(x), generator=seeded())
    assert sum(map(len, seen)) == 2 * 8 * 9 * 10
    for level in range(2):
        cells = torch.arange(occupancy.cells_per_level)
        centres = occupancy.cell_points(level, cells).norm(dim=-1)
        occupied = occupancy.binaries[level].flatten()
        half_diagonal = 0.25 * 2**level
        assert bool(occupied[centres < 0.6 - half_diagonal].all())
        assert not bool(occupied[centres > 0.6 + half_diagonal].any())


def test_updates_are_due_every_so_many_steps():
    occupancy = grid()
    assert not occupancy.update(3, ball, generator=seeded())
    assert occupancy.update(3, ball, generator=seeded(), force=True)
    assert occupancy.update(16, ball, generator=seeded())


def test_after_warm_up_a_quarter_and_the_occupied_cells_are_visited():
    occupancy = grid(levels=1, warmup_steps=16)
    occupancy.update(0, ball, generator=seeded())
    occupied = int(occupancy.binaries.sum())
    seen = []
    occupancy.update(16, lambda x: seen.append(x) or ball(x), generator=seeded(16))
    assert len(torch.cat(seen)) == 128 + min(128, occupied)


def test_the_same_seed_repeats_an_update_bitwise():
    grids = [grid(warmup_steps=16, chunk=100), grid(warmup_steps=16)]
    for step in (0, 16, 32):
        for occupancy in grids:
            occupancy.update(step, ball, generator=seeded(step))
    assert torch.equal(grids[0].occs, grids[1].occs)
    assert torch.equal(grids[0].binaries, grids[1].binaries)


def test_update_cells_decays_and_takes_the_largest_of_repeated_values():
    occupancy = grid(levels=1)
    occupancy.occs.fill_(1.0)
    occupancy.update_cells(torch.tensor([3, 3, 4]), torch.tensor([2.0, 5.0, 0.1]))
    assert occupancy.occs[[2, 3, 4]].tolist() == pytest.approx([1.0, 5.0, 0.95])


def test_threshold_is_the_mean_of_visible_cells_up_to_its_bound():
    occupancy = grid(levels=1, occ_thre=0.5)
    occupancy.occs.fill_(0.0)
    occupancy.occs[:256] = 0.2  # mean 0.1
    occupancy.occs[256:] = -1.0
    occupancy.occs[300:500] = 0.0
    occupancy.binarize()
    assert int(occupancy.binaries.sum()) == 256
    occupancy.binarize(0.0)
    assert int(occupancy.binaries.sum()) == 256
    occupancy.occs.fill_(-1.0)
    occupancy.binarize()
    assert not bool(occupancy.binaries.any())


def test_cells_that_no_camera_sees_stay_excluded():
    occupancy = grid(levels=1)
    pose = torch.eye(4)[None].clone()
    pose[0, 2, 3] = -0.5  # inside the box, looking along +z
    intrinsics = torch.tensor([[[25.0, 0, 50], [0, 25, 50], [0, 0, 1]]])
    excluded = occupancy.mark_invisible_cells(intrinsics, pose, 100, 100, near_plane=0.2)
    behind = occupancy.cell_points(0, torch.arange(512))[:, 2] < -0.8
    assert bool((occupancy.occs[behind] == -1).all())
    ahead, _ = occupancy.query(torch.tensor([[0.05, 0.05, 0.9], [0.01, 0.01, -0.4], [0.9, 0.0, -0.3]]))
    assert ahead.tolist() == [0.0, -1.0, -1.0]  # seen; too near; outside the picture
    assert excluded == int((occupancy.occs < 0).sum())
    assert 0 < excluded < 512
    assert int(occupancy.binaries.sum()) == 512 - excluded
    occupancy.update(0, lambda x: torch.ones(len(x)), generator=seeded())
    assert int((occupancy.occs < 0).sum()) == excluded
    assert int(occupancy.binaries.sum()) == 512 - excluded


def test_query_takes_the_innermost_level():
    occupancy = grid()
    occupancy.occs[:512], occupancy.occs[512:] = 1.0, 2.0
    values, inside = occupancy.query(torch.tensor([[0.0, 0, 0], [1.5, 0, 0], [2.5, 0, 0], [-1.0, -1, -1]]))
    assert values.tolist() == [1.0, 2.0, 0.0, 1.0]
    assert inside.tolist() == [True, True, False, True]
    assert occupancy.query(torch.empty(0, 3))[0].shape == (0,)


@pytest.mark.parametrize("kind", ["sigma_fn", "alpha_fn"])
def test_sampling_drops_what_cannot_be_seen(kind):
    occupancy = grid(levels=1)
    occupancy.occs.fill_(1.0)
    rays_o, rays_d = torch.tensor([[-3.0, 0.1, 0.1], [0.0, 5.0, 0.0]]), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    value = 0.5 if kind == "alpha_fn" else 6.9314718  # opacity 1/2 a step of 0.1
    shown = occupancy.sampling(
        rays_o,
        rays_d,
        render_step_size=0.1,
        early_stop_eps=0.1,
        **{kind: lambda t0, t1, ray: torch.full_like(t0, value)},
    )
    assert shown.packed_info.tolist() == [[0, 4], [4, 0]]  # transmittances 1, 1/2, 1/4, 1/8
    clipped = occupancy.sampling(
        rays_o, rays_d, render_step_size=0.1, t_min=torch.tensor([2.95, 0.0]), t_max=torch.tensor([3.2, 9.0])
    )
    assert float(clipped.t_starts.min()) == pytest.approx(2.95)
    assert float(clipped.t_starts.max()) < 3.2


def test_state_has_nerfacc_keys_and_loads_strictly():
    occupancy = grid(levels=2, resolution=(4, 5, 6))
    state = occupancy.state_dict()
    assert set(state) == {"resolution", "aabbs", "occs", "binaries"}
    assert state["resolution"].tolist() == [4, 5, 6]
    assert state["resolution"].dtype == torch.int32
    assert state["aabbs"].tolist() == [BOX, [2 * x for x in BOX]]
    occupancy.update(0, ball, generator=seeded())
    other = grid(levels=2, resolution=(4, 5, 6))
    other.load_state_dict(occupancy.state_dict(), strict=True)
    assert torch.equal(other.binaries, occupancy.binaries)
    assert "resolution=(4, 5, 6), levels=2" in repr(other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi_aabb": [1.0, -1, -1, 1, 1, 1]}, "roi_aabb: found"),
        ({"roi_aabb": [1.0, 2.0]}, "roi_aabb: found"),
        ({"resolution": 0}, "resolution: found 0"),
        ({"levels": 9}, "levels: found 9, expected 1 to 8"),
        ({"ema_decay": 2.0}, "ema_decay: found 2.0"),
        ({"update_every": 0}, "update_every, chunk: found 0"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        grid(**options)


def test_bad_calls_are_named():
    occupancy = grid()
    with pytest.raises(ValueError, match="occ_eval_fn: returned shape"):
        occupancy.update(0, lambda x: x, generator=seeded())
    with pytest.raises(ValueError, match=r"camera_to_world: found shape \(4, 4\)"):
        occupancy.mark_invisible_cells(torch.eye(3)[None], torch.eye(4), 8, 8)
    with pytest.raises(ValueError, match="sigma_fn, alpha_fn: found both"):
        occupancy.sampling(torch.zeros(1, 3), torch.ones(1, 3), ball, ball)
    with pytest.raises(ValueError, match=r"points: found shape \(3,\)"):
        occupancy.query(torch.zeros(3))
