"""Inverse transform sampling, the interval search, spacings and the proposal loss."""

from __future__ import annotations

import pytest
import torch

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from tests.unit.ops.ray_cases import generator, random_packing
from zoo.losses.proposal import pdf_loss
from zoo.ops import importance_sampling, pack_info, searchsorted, transform_stot


def edges_and_cdfs(n_rays, n_edges, dtype=torch.float64, seed=0):
    gen = generator(seed)
    edges = torch.rand(n_rays, n_edges, generator=gen, dtype=dtype).cumsum(-1)
    mass = torch.rand(n_rays, n_edges - 1, generator=gen, dtype=dtype)
    mass[:, 1] = 0.0
    cdfs = torch.cat([torch.zeros(n_rays, 1, dtype=dtype), mass.cumsum(-1)], -1)
    return edges, cdfs / cdfs[:, -1:]


def test_samples_hold_equal_mass():
    edges, cdfs = edges_and_cdfs(5, 9)
    _, samples = importance_sampling(edges, cdfs, 16)
    for row in range(5):
        right = torch.searchsorted(edges[row], samples[row]).clamp(1, 8)
        share = (samples[row] - edges[row, right - 1]) / (edges[row, right] - edges[row, right - 1])
        mass = torch.lerp(cdfs[row, right - 1], cdfs[row, right], share)
        torch.testing.assert_close(mass, (torch.arange(16).double() + 0.5) / 16)


def test_new_edges_lie_between_samples_and_inside_the_old_span():
    edges, cdfs = edges_and_cdfs(5, 9)
    new_edges, samples = importance_sampling(edges, cdfs, 7, jitter=torch.rand(5, generator=generator(1)))
    assert bool((new_edges[:, :-1] <= samples).all())
    assert bool((samples <= new_edges[:, 1:]).all())
    assert bool((new_edges[:, 0] >= edges[:, 0]).all())
    assert bool((new_edges[:, -1] <= edges[:, -1]).all())
    one, middle = importance_sampling(edges, cdfs, 1)
    assert torch.equal(one, edges[:, [0, -1]])
    assert middle.shape == (5, 1)


def test_packed_layout_with_uneven_and_empty_rays():
    edges, cdfs = edges_and_cdfs(3, 6)
    info = torch.tensor([[0, 6], [6, 0], [6, 4]])
    flat_edges = torch.cat([edges[0], edges[2, :4]])
    flat_cdfs = torch.cat([cdfs[0], cdfs[2, :4]])
    new_edges, samples = importance_sampling(flat_edges, flat_cdfs, 5, packed_info=info)
    for row, columns in ((0, 6), (2, 4)):
        expected = importance_sampling(edges[row : row + 1, :columns], cdfs[row : row + 1, :columns], 5)
        torch.testing.assert_close((new_edges[row : row + 1], samples[row : row + 1]), expected)
    assert not new_edges[1].any()
    rays = torch.tensor([0, 0, 2])
    left, right = searchsorted(flat_edges, flat_edges[[1, 3, 8]], packed_info=info, value_rays=rays)
    assert left.tolist() == [1, 3, 8]
    assert right.tolist() == [2, 4, 9]
    assert torch.equal(pack_info(rays, 3)[:, 1], torch.tensor([2, 0, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rays", [0, 1, 60])
def test_native_equals_reference(rays, dtype):
    info = random_packing(rays, 12)
    gen = generator(2)
    edges = torch.rand(int(info[:, 1].sum()), generator=gen, dtype=dtype).cumsum(0)
    cdfs = torch.rand(len(edges), generator=gen, dtype=dtype).cumsum(0)
    jitter = torch.rand(rays, generator=gen, dtype=dtype)
    for number in (1, 2, 9):
        assert_native_matches_reference("importance_sample", edges, cdfs, info, number, jitter, rtol=2e-5, atol=2e-5)
    values = torch.rand(80 * (rays > 0), generator=gen, dtype=dtype) * 6
    value_rays = torch.randint(max(rays, 1), (len(values),), generator=gen)
    assert_native_matches_reference("interval_search", edges, info, values, value_rays)


def test_results_do_not_depend_on_threads():
    edges, cdfs = edges_and_cdfs(3000, 9, torch.float32)
    assert_same_for_all_threads(lambda: importance_sampling(edges, cdfs, 8))
    assert_same_for_all_threads(lambda: searchsorted(edges, cdfs))


def test_opcheck():
    edges, cdfs = edges_and_cdfs(3, 6)
    info = torch.tensor([[0, 6], [6, 6], [12, 6]])
    flat = (edges.flatten(), cdfs.flatten())
    torch.library.opcheck(torch.ops.zoo.importance_sample, (*flat, info, 4, torch.full((3,), 0.5).double()))
    rays = torch.arange(3).repeat_interleave(6)
    torch.library.opcheck(torch.ops.zoo.interval_search, (flat[0], info, flat[1], rays))


def test_proposal_loss_is_zero_where_the_proposal_bounds_the_mass():
    edges, cdfs = edges_and_cdfs(4, 9)
    torch.testing.assert_close(pdf_loss(edges, cdfs, edges, cdfs), torch.zeros(4, 8, dtype=torch.float64))
    wide = torch.tensor([[-1.0, 100.0]]).double().expand(4, 2)
    half = torch.tensor([[0.0, 0.05]]).double().expand(4, 2).requires_grad_()
    mass = cdfs.diff(dim=-1)
    expected = (mass - 0.05).clamp_min(0) ** 2 / mass.clamp_min(1e-7)
    torch.testing.assert_close(pdf_loss(edges, cdfs, wide, half), expected, atol=1e-6, rtol=1e-6)
    weak = (0.5 * cdfs + 0.01 * torch.arange(9)).requires_grad_()
    torch.autograd.gradcheck(lambda weak: pdf_loss(edges, cdfs, edges, weak), weak)


def test_bad_inputs_are_named():
    edges, cdfs = edges_and_cdfs(3, 6)
    with pytest.raises(ValueError, match=r"cdfs: found shape \(3, 5\)"):
        importance_sampling(edges, cdfs[:, :5], 4)
    with pytest.raises(ValueError, match="n_intervals: found 0"):
        importance_sampling(edges, cdfs, 0)
    with pytest.raises(ValueError, match=r"jitter: found shape \(3, 1\)"):
        importance_sampling(edges, cdfs, 4, jitter=torch.zeros(3, 1))
    with pytest.raises(ValueError, match=r"values: found shape \(2, 6\)"):
        searchsorted(edges, cdfs[:2])
    with pytest.raises(ValueError, match="spacing: found 'log'"):
        transform_stot("log", edges, 1.0, 2.0)
    with pytest.raises(ValueError, match="query_cdfs, proposal_cdfs: found shapes"):
        pdf_loss(edges, cdfs[:, 1:], edges, cdfs)
