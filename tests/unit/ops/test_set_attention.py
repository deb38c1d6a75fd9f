"""Attention within sets against a loop over sets; native and padded forms; gradients; threads; bad input."""

from __future__ import annotations

import pytest
import torch

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from tests.unit.ops.test_set_partition import random_sites
from zoo.ops import set_attention, set_partition, slot_attention, slot_sets
from zoo.ops.reference.set_attention import padded_set_attention


def loop_over_sets(query, key, value, sets, rotation, num_heads):
    out = torch.empty_like(query)
    width = query.shape[1] // num_heads
    for rows in sets.slots[rotation].tolist():
        members = torch.tensor(sorted(set(rows)))
        for head in range(num_heads):
            part = slice(head * width, (head + 1) * width)
            weights = (query[members][:, part] @ key[members][:, part].T / width**0.5).softmax(dim=1)
            out[members, part] = weights @ value[members][:, part]
    return out


@pytest.mark.parametrize("rotation", [0, 1])
@pytest.mark.parametrize("count", [0, 1, 150])
def test_attention_equals_a_loop_over_sets(rotation, count):
    coords = random_sites(count, (12, 10, 2))
    sets = set_partition(coords, (12, 10, 2), (5, 5, 2), 9)
    q, k, v = torch.randn(3, count, 12, dtype=torch.float64)
    found = set_attention(q, k, v, sets, rotation=rotation, num_heads=3)
    torch.testing.assert_close(found, loop_over_sets(q, k, v, sets, rotation, 3))


def test_attention_gradients():
    coords = random_sites(20, (4, 4), batch_size=2)
    sets = set_partition(coords, (4, 4), (3, 3), 4)
    inputs = [torch.randn(20, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(
        lambda q, k, v: set_attention(q, k, v, sets, rotation=0, num_heads=2), inputs, fast_mode=True
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": torch.zeros(5, 8)}, "key: found shape"),
        ({"value": torch.zeros(4, 8, dtype=torch.float64)}, "value: found dtype"),
        ({"num_heads": 3}, "num_heads: found 3"),
        ({"rotation": 2}, "rotation: found 2"),
    ],
)
def test_attention_bad_input(change, message):
    sets = set_partition(random_sites(4, (4, 4)), (4, 4), (2, 2), 2)
    good = dict.fromkeys(("query", "key", "value"), torch.zeros(4, 8))
    with pytest.raises(ValueError, match=message):
        set_attention(**{**good, "sets": sets, "rotation": 0, "num_heads": 2, **change})


def arguments(count: int, dtype: torch.dtype, set_size: int = 9, channels: int = 40, num_heads: int = 2):
    """Arguments of the op: rows with strides, as a fused projection gives them."""
    generator = torch.Generator().manual_seed(count)
    sets = set_partition(random_sites(count, (40, 40, 1)), (40, 40, 1), (8, 8, 1), set_size)
    both = torch.randn(count, 2 * channels, generator=generator, dtype=dtype)
    query, key = both.chunk(2, dim=1)
    value = torch.randn(count, channels, generator=generator, dtype=dtype)
    return query, key, value, sets.slots[1], sets.repeated[1], sets.order[1], sets.offsets, num_heads


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "set_size"), [(0, 9), (1, 9), (700, 9), (900, 70), (50, 1)])
def test_native_matches_the_reference(dtype, count, set_size):
    given = arguments(count, dtype, set_size)
    assert_native_matches_reference("set_attention", *given, atol=1e-5)
    out, sums = torch.ops.zoo.set_attention(*given)
    grad = torch.randn(out.shape, dtype=dtype)
    query, key, value, *sets = given
    assert_native_matches_reference("set_attention_backward", grad, query, key, value, out, sums, *sets, atol=1e-5)
    query, key, value, slots, repeated, order, _, num_heads = given
    torch.testing.assert_close(padded_set_attention(query, key, value, slots, repeated, order, num_heads), out)


def test_large_scores_do_not_overflow():
    query, key, value, *sets = arguments(100, torch.float32)
    out, sums = torch.ops.zoo.set_attention(query * 1e4, key, value, *sets)
    assert torch.isfinite(out).all()
    assert torch.isfinite(sums).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_for_all_threads(dtype):
    query, key, value, *sets = arguments(3000, dtype)
    out, sums = torch.ops.zoo.set_attention(query, key, value, *sets)
    assert_same_for_all_threads(lambda: torch.ops.zoo.set_attention(query, key, value, *sets))
    backward = out.cos(), query, key, value, out, sums, *sets
    assert_same_for_all_threads(lambda: torch.ops.zoo.set_attention_backward(*backward))


def test_half_precision_goes_through_torchs_attention():
    sets = set_partition(random_sites(60, (12, 12)), (12, 12), (6, 6), 5)
    rows = torch.randn(3, 60, 16).bfloat16()
    found = set_attention(*rows, sets, rotation=0, num_heads=2)
    assert found.dtype == torch.bfloat16
    expected = set_attention(*rows.float(), sets, rotation=0, num_heads=2)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(("rows", "sets"), [(60, None), (75, 40)])
def test_slots_filled_up_attend_the_same(rows, sets):
    partition = set_partition(random_sites(60, (12, 12)), (12, 12), (6, 6), 5)
    q, k, v = torch.randn(3, rows, 16)
    filled = slot_sets(partition, num_rows=rows, num_sets=sets)
    found = slot_attention(q, k, v, filled, rotation=1, num_heads=2)
    expected = set_attention(q[:60], k[:60], v[:60], partition, rotation=1, num_heads=2)
    torch.testing.assert_close(found[:60], expected)
    assert torch.isfinite(found).all()


def test_slots_without_room():
    partition = set_partition(random_sites(60, (12, 12)), (12, 12), (6, 6), 5)
    with pytest.raises(ValueError, match="num_rows: found 59, expected at least 60"):
        slot_sets(partition, num_rows=59)
    with pytest.raises(ValueError, match="num_heads"):
        slot_attention(*torch.randn(3, 60, 16), slot_sets(partition), rotation=0, num_heads=3)


def test_opcheck():
    query, key, value, *sets = arguments(60, torch.float32)
    given = query.contiguous().requires_grad_(), key.contiguous().requires_grad_(), value.requires_grad_()
    torch.library.opcheck(torch.ops.zoo.set_attention, (*given, *sets))
    out, sums = torch.ops.zoo.set_attention(query, key, value, *sets)
    backward = torch.ones_like(out), query.detach(), key.detach(), value.detach(), out.detach(), sums.detach(), *sets
    torch.library.opcheck(torch.ops.zoo.set_attention_backward, backward)
