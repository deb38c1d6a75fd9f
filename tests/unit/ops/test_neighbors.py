"""Searches among points against computing every distance; gradients; batches; ties; threads; bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.ops.op_harness import assert_same_for_all_threads, native_op
from zoo.ops import (
    PointTree,
    ball_query,
    dispatch,
    furthest_point_sample,
    interpolate_features,
    knn,
    three_interpolate,
)
from zoo.ops.neighbors import _checked_queries


def cloud(count: int, axes: int = 3, dtype: torch.dtype = torch.float64, seed: int = 0, step: float | None = None):
    """Clustered points; ``step`` puts them on a lattice, which makes ties and duplicates."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, axes, generator=generator, dtype=dtype)
    points = points * torch.rand(count, 1, generator=generator, dtype=dtype) * 4
    return points if step is None else (points / step).round() * step


def cut(count: int, parts: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randint(count + 1, (parts - 1,), generator=generator).sort().values
    return torch.cat([torch.tensor([0]), inner, torch.tensor([count])])


def brute_knn(points: Tensor, queries: Tensor, k: int, rows: range) -> tuple[list, list]:
    indices, distances = [], []
    for query in queries:
        found = sorted((float((points[row] - query).square().sum()), row) for row in rows)[:k]
        found += [(float("inf"), -1)] * (k - len(found))
        indices.append([row for _, row in found])
        distances.append([distance for distance, _ in found])
    return indices, distances


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 60),
    axes=st.integers(1, 3),
    k=st.integers(1, 12),
    seed=st.integers(0, 999),
    step=st.sampled_from([None, 0.5, 2.0]),
)
def test_knn_equals_sorting_all_distances(count, axes, k, seed, step):
    points, queries = cloud(count, axes, seed=seed, step=step), cloud(9, axes, seed=seed + 1, step=step)
    found = knn(points, queries, k)
    indices, distances = brute_knn(points, queries, k, range(count))
    torch.testing.assert_close(found.squared_distances, torch.tensor(distances, dtype=torch.float64).view(9, k))
    if step is not None:  # exact arithmetic: the order of ties is defined
        assert found.indices.tolist() == indices
    else:
        assert [sorted(row) for row in found.indices.tolist()] == [sorted(row) for row in indices]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(0, 60),
    axes=st.integers(1, 3),
    most=st.integers(1, 70),
    seed=st.integers(0, 999),
    step=st.sampled_from([0.25, 1.0]),
)
def test_ball_query_equals_a_loop(count, axes, most, seed, step):
    points, queries = cloud(count, axes, seed=seed, step=step), cloud(9, axes, seed=seed + 1, step=step)
    found = ball_query(points, queries, 1.5, most)
    for query, row, number in zip(queries, found.indices.tolist(), found.counts.tolist(), strict=True):
        near = [i for i in range(count) if float((points[i] - query).square().sum()) < 1.5**2][:most]
        assert row == near + [-1] * (most - len(near))
        assert number == len(near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "parts", "step"), [(2000, 1, None), (2000, 4, None), (1500, 7, 0.25), (5, 8, None)])
def test_native_searches_are_the_reference(count, parts, step, dtype):
    points, queries = cloud(count, 3, dtype, 2, step), cloud(301, 3, dtype, 3, step)
    offsets, query_offsets = (cut(count, parts, 1), cut(301, parts, 2)) if parts > 1 else (None, None)
    tree = PointTree.from_points(points, offsets)
    arguments = (*_checked_queries(tree, queries, query_offsets), *tree.parts)
    for name, extra in (("point_knn", (7,)), ("point_ball", (0.7, 5)), ("point_ball", (50.0, 40))):
        found = native_op(name)(*arguments, *extra)
        expected = dispatch.REFERENCES[name](*arguments, *extra)
        for value, wanted in zip(found, expected, strict=True):
            assert torch.equal(value, wanted), name


@pytest.mark.parametrize(("count", "parts"), [(0, 1), (1, 1), (8, 1), (9, 3), (1000, 1), (1000, 6)])
def test_spatial_order_is_a_permutation_that_keeps_neighbours_together(count, parts):
    points, offsets = cloud(count, step=0.25), cut(count, parts)
    samples = torch.repeat_interleave(torch.arange(parts), offsets.diff())
    for order in (native_op("point_order")(points, samples), dispatch.REFERENCES["point_order"](points, samples)):
        assert torch.equal(order.sort().values, torch.arange(count))
        assert torch.equal(samples[order], samples)
        if count == 1000:
            leaves, mixed = points[order].view(-1, 8, 3), points.view(-1, 8, 3)
            assert (leaves.amax(1) - leaves.amin(1)).mean() < 0.7 * (mixed.amax(1) - mixed.amin(1)).mean()


def test_samples_of_a_batch_do_not_see_each_other():
    points, queries = cloud(90, step=0.5), cloud(40, seed=1, step=0.5)
    offsets, query_offsets = torch.tensor([0, 30, 30, 90]), torch.tensor([0, 10, 25, 40])
    together = knn(points, queries, 5, offsets=offsets, query_offsets=query_offsets)
    near = ball_query(points, queries, 1.1, 6, offsets=offsets, query_offsets=query_offsets)
    for sample in range(3):
        own, ask = slice(offsets[sample], offsets[sample + 1]), slice(query_offsets[sample], query_offsets[sample + 1])
        alone = knn(points[own], queries[ask], 5)
        shift = torch.where(alone.indices >= 0, alone.indices + offsets[sample], -1)
        assert torch.equal(together.indices[ask], shift)
        assert torch.equal(together.squared_distances[ask], alone.squared_distances)
        ball = ball_query(points[own], queries[ask], 1.1, 6)
        assert torch.equal(near.counts[ask], ball.counts)
    assert (together.indices[10:25] == -1).all()


def test_a_tree_serves_many_searches():
    points, queries = cloud(200, 2), cloud(30, 2, seed=5)
    tree = PointTree.from_points(points)
    assert len(tree) == 200
    assert torch.equal(knn(tree, queries, 4).indices, knn(points, queries, 4).indices)
    assert torch.equal(ball_query(tree, queries, 0.5, 4).indices, ball_query(points, queries, 0.5, 4).indices)
    with pytest.raises(ValueError, match="offsets: found beside a PointTree"):
        knn(tree, queries, 4, offsets=torch.tensor([0, 200]))


def test_knn_gradients():
    points, queries = cloud(12, 2).requires_grad_(), cloud(5, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p, q: knn(p, q, 3).squared_distances, (points, queries))
    few = cloud(2).requires_grad_()
    knn(few, queries.new_zeros(3, 3), 4).squared_distances[:, :2].sum().backward()
    assert torch.isfinite(few.grad).all()


def brute_furthest(points: Tensor, number: int) -> list[int]:
    chosen, left = [0], set(range(1, len(points)))
    while len(chosen) < number and left:
        apart = {row: min(float((points[row] - points[other]).square().sum()) for other in chosen) for row in left}
        best = max(apart, key=lambda row: (apart[row], -row))
        chosen.append(best)
        left.remove(best)
    return chosen + [-1] * (number - len(chosen))


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 40), axes=st.integers(1, 3), number=st.integers(1, 45), seed=st.integers(0, 999),
    step=st.sampled_from([0.5, 2.0]),
)  # fmt: skip
def test_furthest_points_equal_a_loop(count, axes, number, seed, step):
    points = cloud(count, axes, seed=seed, step=step)
    assert furthest_point_sample(points, number).tolist() == brute_furthest(points, number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "parts", "step"), [(1500, 1, None), (1500, 5, None), (900, 3, 0.5)])
def test_native_furthest_points_are_the_reference(count, parts, step, dtype):
    points = cloud(count, 3, dtype, 4, step)
    offsets = cut(count, parts, 3)
    found = furthest_point_sample(points, 60, offsets=offsets)
    order = torch.arange(count)
    expected = dispatch.REFERENCES["furthest_points"](points, order, offsets, 60)
    assert torch.equal(found, expected)
    if parts == 1:
        assert torch.equal(furthest_point_sample(points, 60), expected[0])
    for sample in range(parts):
        rows = found[sample][found[sample] >= 0]
        assert len(rows) == min(60, int(offsets[sample + 1] - offsets[sample]))
        assert len(rows.unique()) == len(rows)


def interpolation_case(rows: int = 20, queries: int = 15, channels: int = 21, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(rows, channels, generator=generator, dtype=dtype)
    indices = (
        torch.randint(-1, max(rows, 1), (queries, 3), generator=generator) if rows else torch.full((queries, 3), -1)
    )
    return features, indices, torch.rand(queries, 3, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "queries", "channels"), [(0, 4, 2), (5, 0, 2), (1, 1, 1), (40, 300, 33), (9, 50, 16)])
def test_three_interpolate_forward_and_gradients(rows, queries, channels, dtype):
    features, indices, weights = interpolation_case(rows, queries, channels, dtype)
    features.requires_grad_()
    weights.requires_grad_()
    found = three_interpolate(features, indices, weights)
    padded = torch.cat([features, features.new_zeros(1, channels)])
    expected = (padded[torch.where(indices < 0, rows, indices)] * weights[..., None]).sum(1)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(found)
    for value, wanted in zip(
        torch.autograd.grad(found, (features, weights), grad),
        torch.autograd.grad(expected, (features, weights), grad),
        strict=True,
    ):
        torch.testing.assert_close(value, wanted)


def test_three_interpolate_gradcheck_and_reference():
    features, indices, weights = interpolation_case(6, 5, 3)
    assert torch.autograd.gradcheck(
        lambda f, w: three_interpolate(f, indices, w), (features.requires_grad_(), weights.requires_grad_())
    )
    features, weights = features.detach(), weights.detach()
    grad = torch.randn(5, 3, dtype=torch.float64)
    ordered, uses = indices.reshape(-1).sort(stable=True)
    edges = torch.searchsorted(ordered, torch.arange(7))
    arguments = (grad, features, indices, weights, uses, torch.stack([edges[:-1], edges.diff()], 1))
    for value, wanted in zip(
        native_op("interpolate_rows_backward")(*arguments),
        dispatch.REFERENCES["interpolate_rows_backward"](*arguments),
        strict=True,
    ):
        torch.testing.assert_close(value, wanted)
    torch.library.opcheck(torch.ops.zoo.interpolate_rows_backward.default, arguments)
    wide = torch.randn(3, 12, dtype=torch.float64).t()[:6]  # not contiguous
    torch.testing.assert_close(
        three_interpolate(wide, indices, weights), three_interpolate(wide.contiguous(), indices, weights)
    )


def test_interpolated_features():
    points, features, queries = cloud(30), torch.randn(30, 4, dtype=torch.float64), cloud(10, seed=8)
    torch.testing.assert_close(interpolate_features(points, features, points, 1), features)
    ones = interpolate_features(points, torch.ones(30, 1, dtype=torch.float64), queries)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    batch = {"offsets": torch.tensor([0, 30, 30]), "query_offsets": torch.tensor([0, 4, 10])}
    found = interpolate_features(points, features, queries, **batch)
    torch.testing.assert_close(found[:4], interpolate_features(points, features, queries[:4]))
    assert (found[4:] == 0).all()
    assert torch.autograd.gradcheck(
        lambda p, f, q: interpolate_features(p, f, q),
        (points[:8].requires_grad_(), features[:8].requires_grad_(), queries[:3].requires_grad_()),
    )


def test_half_precision_features():
    features, indices, weights = interpolation_case(dtype=torch.float32)
    found = three_interpolate(features.bfloat16(), indices, weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, three_interpolate(features.bfloat16().float(), indices, weights))


def test_same_for_all_threads():
    points, queries = cloud(3000, dtype=torch.float32), cloud(1000, dtype=torch.float32, seed=1)
    features = torch.randn(3000, 20, generator=torch.Generator().manual_seed(0))
    offsets = cut(3000, 4)

    def run():
        x, p = features.clone().requires_grad_(), points.clone().requires_grad_()
        out = interpolate_features(p, x, queries, 5)
        out.square().sum().backward()
        near = ball_query(points, queries, 0.4, 8)
        return out, x.grad, p.grad, *near, *knn(points, queries, 6), furthest_point_sample(points, 30, offsets=offsets)

    assert_same_for_all_threads(run)


def test_opcheck():
    tree = PointTree.from_points(cloud(20, dtype=torch.float32))
    arguments = (*_checked_queries(tree, cloud(4, dtype=torch.float32), None), *tree.parts)
    torch.library.opcheck(torch.ops.zoo.point_order.default, (tree.points, tree.samples))
    torch.library.opcheck(torch.ops.zoo.point_knn.default, (*arguments, 3))
    torch.library.opcheck(torch.ops.zoo.point_ball.default, (*arguments, 0.5, 3))
    offsets = torch.tensor([0, 8, 20])
    torch.library.opcheck(torch.ops.zoo.furthest_points.default, (tree.points, torch.arange(20), offsets, 3))
    features, indices, weights = interpolation_case(6, 5, 3)
    torch.library.opcheck(
        torch.ops.zoo.interpolate_rows.default, (features.requires_grad_(), indices, weights.requires_grad_())
    )


def test_nothing_to_search():
    nothing = torch.zeros(0, 3)
    assert knn(nothing, torch.zeros(2, 3), 2).indices.tolist() == [[-1, -1], [-1, -1]]
    assert knn(torch.zeros(2, 3), nothing, 2).indices.shape == (0, 2)
    assert ball_query(nothing, torch.zeros(2, 3), 1.0, 2).counts.tolist() == [0, 0]
    assert furthest_point_sample(nothing, 3).tolist() == [-1, -1, -1]
    assert furthest_point_sample(torch.zeros(2, 3), 0).shape == (0,)
    assert furthest_point_sample(nothing, 2, offsets=torch.tensor([0, 0, 0])).tolist() == [[-1, -1], [-1, -1]]
    assert knn(torch.zeros(1, 2), torch.ones(1, 2), 1).squared_distances.item() == 2.0


POINTS, ROWS = torch.zeros(4, 3), torch.zeros(1, 3, dtype=torch.int64)
TWO, ONE = torch.tensor([0, 2, 4]), torch.tensor([0, 4])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: knn(torch.zeros(4, 4), POINTS, 1), r"points: found shape \(4, 4\)"),
        (lambda: knn(POINTS.half(), POINTS, 1), "points: found dtype float16"),
        (lambda: knn(POINTS, torch.zeros(2, 2), 1), "queries: found shape"),
        (lambda: knn(POINTS, POINTS.double(), 1), "queries: found dtype"),
        (lambda: knn(POINTS, POINTS, 0), "k: found 0"),
        (lambda: knn(POINTS * float("nan"), POINTS, 1), "points: found 12 values that are NaN"),
        (lambda: knn(POINTS, POINTS + float("inf"), 1), "queries: found 12 values"),
        (lambda: knn(POINTS, POINTS, 1, offsets=ONE, query_offsets=TWO), "found 2 samples"),
        (lambda: knn(POINTS, POINTS, 1, offsets=torch.tensor([0, 3])), r"offsets: found \[0, 3\]"),
        (lambda: knn(POINTS, POINTS, 1, offsets=torch.tensor([0, 3, 2, 4])), "ascending"),
        (lambda: knn(POINTS, POINTS, 1, offsets=torch.tensor([0, 4], dtype=torch.int32)), "offsets: found dtype int32"),
        (lambda: ball_query(POINTS, POINTS, 0.0, 1), "radius: found 0.0"),
        (lambda: ball_query(POINTS, POINTS, 1.0, 0), "max_neighbors: found 0"),
        (lambda: furthest_point_sample(POINTS, -1), "num_samples: found -1"),
        (lambda: furthest_point_sample(POINTS, 1, offsets=torch.tensor([1, 4])), "offsets: found"),
        (lambda: three_interpolate(torch.zeros(3), ROWS, torch.zeros(1, 3)), "features: found shape"),
        (lambda: three_interpolate(POINTS, torch.zeros(1, 3), torch.zeros(1, 3)), "indices: found dtype"),
        (lambda: three_interpolate(POINTS, ROWS, torch.zeros(2, 3)), "weights: found shape"),
        (lambda: three_interpolate(POINTS, torch.full((1, 3), 4), torch.zeros(1, 3)), "from 4 to 4, expected -1 to 3"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
