"""Packed scans and segment reductions: loops over rays, native against reference, gradients, threads, odd inputs."""

from __future__ import annotations

import pytest
import torch

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from tests.unit.ops.ray_cases import generator, random_packing
from zoo.ops import (
    exclusive_prod,
    exclusive_sum,
    inclusive_prod,
    inclusive_sum,
    pack_info,
    segment_max,
    segment_mean,
    segment_min,
    segment_sum,
)

SCANS = {
    inclusive_sum: lambda x: torch.cumsum(x, 0),
    exclusive_sum: lambda x: torch.cumsum(x, 0) - x,
    inclusive_prod: lambda x: torch.cumprod(x, 0),
    exclusive_prod: lambda x: torch.cumprod(torch.cat([torch.ones_like(x[:1]), x[:-1]]), 0),
}
REDUCTIONS = {segment_sum: torch.sum, segment_mean: torch.mean, segment_max: torch.amax, segment_min: torch.amin}
scans = pytest.mark.parametrize("scan", SCANS, ids=lambda scan: scan.__name__)
reductions = pytest.mark.parametrize("reduce", REDUCTIONS, ids=lambda reduce: reduce.__name__)
floating = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def values(info, dtype=torch.float64, seed=0):
    return torch.rand(int(info[:, 1].sum()), generator=generator(seed), dtype=dtype) + 0.5


@scans
def test_scan_equals_a_loop_over_rays(scan):
    info = random_packing(40, 9)
    x = values(info)
    found = scan(x, info)
    for start, count in info.tolist():
        row = x[start : start + count]
        torch.testing.assert_close(found[start : start + count], SCANS[scan](row))
        torch.testing.assert_close(scan(row[None])[0], SCANS[scan](row))  # batched


@scans
@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_gradcheck_also_where_factors_are_zero(scan, zeros):
    info = torch.tensor([[0, 0], [0, 5], [5, 1], [6, 0], [6, 4], [10, 0]])
    x = values(info)
    x[1 : 1 + zeros] = 0.0
    x[5] = 0.0
    torch.autograd.gradcheck(lambda x: scan(x, info), x.requires_grad_())


def test_gradient_of_sums_is_differentiable_again():
    info = random_packing(5, 4)
    torch.autograd.gradgradcheck(lambda x: exclusive_sum(x**2, info), values(info).requires_grad_())


@floating
@pytest.mark.parametrize("info", [random_packing(200, 70), random_packing(3, 0), torch.empty(0, 2, dtype=torch.int64)])
def test_native_equals_reference(dtype, info):
    x, grad = values(info, dtype), values(info, dtype, seed=1)
    for exclusive in (False, True):
        for reverse in (False, True):
            assert_native_matches_reference("packed_sum", x, info, exclusive, reverse, rtol=2e-6)
        assert_native_matches_reference("packed_prod", x, info, exclusive, rtol=1e-5)
        assert_native_matches_reference("packed_prod_backward", grad, x, info, exclusive, rtol=1e-4)


@scans
def test_results_do_not_depend_on_threads(scan):
    info = random_packing(3000, 20)

    def forward_and_backward():
        x = values(info, torch.float32).requires_grad_()
        y = scan(x, info)
        return y, *torch.autograd.grad(y, x, torch.ones_like(y))

    assert_same_for_all_threads(forward_and_backward)


@scans
def test_non_contiguous_half_precision_and_autocast(scan):
    info = random_packing(10, 5)
    x = values(info, torch.float32)
    expected = scan(x, info)
    assert torch.equal(scan(torch.stack([x, x], -1)[:, 0], info), expected)
    assert scan(x.bfloat16(), info).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(scan(x, info), expected)


@scans
def test_opcheck(scan):
    info = random_packing(4, 5)
    x = values(info).requires_grad_()
    exclusive = scan.__name__.startswith("exclusive")
    if scan.__name__.endswith("sum"):
        torch.library.opcheck(torch.ops.zoo.packed_sum, (x, info, exclusive, False))
    else:
        torch.library.opcheck(torch.ops.zoo.packed_prod, (x, info, exclusive))


def test_pack_info_counts_runs_and_refuses_disorder():
    assert pack_info(torch.tensor([1, 1, 3]), 5).tolist() == [[0, 0], [0, 2], [2, 0], [2, 1], [3, 0]]
    assert pack_info(torch.tensor([0, 2])).tolist() == [[0, 1], [1, 0], [1, 1]]
    assert pack_info(torch.empty(0, dtype=torch.int64)).shape == (0, 2)
    assert pack_info(torch.empty(0, dtype=torch.int64), 2).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(ValueError, match="ray_indices: found unsorted"):
        pack_info(torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="ray_indices: found values from 0 to 3, expected 0 to 2"):
        pack_info(torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match=r"ray_indices: found shape \(2, 1\)"):
        pack_info(torch.tensor([[0], [1]]))


def test_bad_inputs_are_named(monkeypatch):
    x, info = torch.ones(3), torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match=r"x: found shape \(3, 1\), expected \(N,\) with packed_info; drop the last"):
        inclusive_sum(x[:, None], info)
    with pytest.raises(ValueError, match=r"packed_info: found shape \(2, 3\)"):
        inclusive_sum(x, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="packed_info: found dtype int32, expected int64"):
        inclusive_sum(x, info.int())
    with pytest.raises(ValueError, match="x: found dtype int64"):
        inclusive_sum(torch.ones(3, dtype=torch.int64), info)
    with pytest.raises(ValueError, match="x: found a scalar"):
        inclusive_sum(torch.tensor(1.0))
    monkeypatch.setenv("ZOO_CHECK", "1")
    for wrong in ([[0, 1], [1, 1]], [[0, 1], [2, 2]], [[0, 4], [4, -1]]):
        with pytest.raises(ValueError, match="packed_info: found chunks that do not tile the 3 rows of x"):
            inclusive_sum(x, torch.tensor(wrong))


@reductions
def test_reduction_equals_a_loop_over_segments_in_any_order(reduce):
    info = random_packing(30, 6)
    rows = torch.randn(int(info[:, 1].sum()), 5, generator=generator(2), dtype=torch.float64)
    ids = torch.repeat_interleave(torch.arange(30), info[:, 1])
    order = torch.randperm(len(rows), generator=generator(3))
    expected = torch.stack(
        [REDUCTIONS[reduce](rows[a : a + n], 0) if n else torch.zeros(5).double() for a, n in info.tolist()]
    )
    torch.testing.assert_close(reduce(rows, packed_info=info), expected)
    torch.testing.assert_close(reduce(rows[order], ids[order], 30), expected)


@reductions
def test_reduction_gradcheck(reduce):
    rows = torch.randn(9, 2, generator=generator(2), dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([4, 0, 0, 2, 4, 2, 2, 0, 4])
    torch.autograd.gradcheck(lambda rows: reduce(rows, ids, 6), rows)


@floating
@pytest.mark.parametrize("info", [random_packing(100, 30), torch.empty(0, 2, dtype=torch.int64)])
def test_native_reductions_equal_the_reference(dtype, info):
    rows = torch.randn(int(info[:, 1].sum()), 3, generator=generator(2), dtype=dtype).round(decimals=1)
    assert_native_matches_reference("segment_total", rows, info, rtol=1e-5, atol=1e-5)
    assert_native_matches_reference("segment_spread", rows[: len(info)], info, len(rows))
    rows[5:9] = torch.nan
    for largest in (False, True):
        assert_native_matches_reference("segment_extreme", rows, info, largest)


@reductions
def test_reductions_do_not_depend_on_threads(reduce):
    info = random_packing(3000, 9)
    rows = torch.randn(int(info[:, 1].sum()), 4, generator=generator(2), requires_grad=True)

    def forward_and_backward():
        y = reduce(rows, packed_info=info)
        return y, *torch.autograd.grad(y, rows, torch.ones_like(y))

    assert_same_for_all_threads(forward_and_backward)


@reductions
def test_reductions_of_nothing_and_bad_inputs(reduce):
    assert reduce(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), 2).tolist() == [[0.0] * 3] * 2
    assert reduce(torch.empty(0, 3), packed_info=torch.empty(0, 2, dtype=torch.int64)).shape == (0, 3)
    rows, ids = torch.ones(3, 2), torch.tensor([0, 1, 5])
    with pytest.raises(ValueError, match="segment_ids: found values from 0 to 5, expected 0 to 3"):
        reduce(rows, ids, 4)
    with pytest.raises(ValueError, match="num_segments: found None"):
        reduce(rows, ids)
    with pytest.raises(ValueError, match="segment_ids, packed_info: found both or neither"):
        reduce(rows)
    with pytest.raises(ValueError, match=r"values: found shape \(3,\)"):
        reduce(rows[:, 0], ids, 6)


def test_reduction_opchecks():
    info = random_packing(4, 5)
    rows = torch.randn(int(info[:, 1].sum()), 2, generator=generator(2), dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.zoo.segment_total, (rows, info))
    torch.library.opcheck(torch.ops.zoo.segment_spread, (rows[:4], info, len(rows)))
    torch.library.opcheck(torch.ops.zoo.segment_extreme, (rows, info, True))
