"""Windows and sets against a loop over windows; native against reference; threads; bad input."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.ops.op_harness import assert_native_matches_reference, assert_same_for_all_threads
from zoo.ops import set_partition, window_partition


def random_sites(count: int, shape: tuple[int, ...], batch_size: int = 2, seed: int = 0) -> torch.Tensor:
    """Distinct sites in random order."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.cartesian_prod(*(torch.arange(size) for size in (batch_size, *shape)))
    return cells[torch.randperm(len(cells), generator=generator)[:count]]


def loop_over_windows(coords, shape, window, set_size, shift):
    """Sets of both rotations by the definition, and the window of every row."""
    ndim = len(shape)
    counts = [-(-size // w) + 1 for size, w in zip(shape, window, strict=True)]
    where = {}
    for row, (sample, *site) in enumerate(coords.tolist()):
        moved = [c + s for c, s in zip(site, shift, strict=True)]
        number = sample
        for c, w, n in zip(moved, window, counts, strict=True):
            number = number * n + c // w
        inside = [c % w for c, w in zip(moved, window, strict=True)]
        where.setdefault(number, []).append((inside, row))
    slots = [[], []]
    for number in sorted(where):
        for rotation, axes in enumerate([(1, 0, *range(2, ndim)), tuple(range(ndim))]):
            ranked = [row for _, row in sorted(where[number], key=lambda m: [m[0][a] for a in axes])]
            k = -(-len(ranked) // set_size)
            for i, t in itertools.product(range(k), range(set_size)):
                slots[rotation].append(ranked[(i * set_size + t) * len(ranked) // (k * set_size)])
    numbers = {row: number for number, members in where.items() for _, row in members}
    return torch.tensor(slots, dtype=torch.int64).view(2, -1, set_size), [numbers[row] for row in range(len(coords))]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    count=st.integers(0, 90),
    set_size=st.integers(1, 7),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_equals_a_loop_over_windows(shape, count, set_size, seed, data):
    window = [data.draw(st.integers(1, 5)) for _ in shape]
    shift = [data.draw(st.integers(0, size - 1)) for size in window]
    coords = random_sites(count, tuple(shape), seed=seed)
    expected, numbers = loop_over_windows(coords, shape, window, set_size, shift)
    sets = set_partition(coords, shape, window, set_size, shift=shift)
    assert torch.equal(sets.slots, expected)
    windows = window_partition(coords.int(), shape, window, shift=shift)
    assert windows.window.tolist() == numbers
    assert windows.inside.tolist() == [
        [(c + s) % w for c, s, w in zip(row[1:], shift, window, strict=True)] for row in coords.tolist()
    ]
    check_runs(sets, len(coords))


def check_runs(sets, count: int) -> None:
    """Every row once in each rotation; a set without its repeats is a run of the order."""
    for rotation in range(2):
        assert sorted(sets.order[rotation].tolist()) == list(range(count))
        assert torch.equal(sets.slots[rotation][~sets.repeated[rotation]], sets.order[rotation])
    sizes = (~sets.repeated[0]).sum(1)
    assert torch.equal(sets.offsets.diff(), sizes)
    assert torch.equal(sets.repeated[0], sets.repeated[1])


def test_order_of_rows_does_not_matter():
    coords = random_sites(200, (20, 16, 4))
    shuffled = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    plain = set_partition(coords, (20, 16, 4), (6, 6, 4), 8, shift=(3, 3, 0))
    other = set_partition(coords[shuffled], (20, 16, 4), (6, 6, 4), 8, shift=(3, 3, 0))
    assert torch.equal(shuffled[other.slots], plain.slots)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_native_matches_the_reference(count):
    coords = random_sites(count, (24, 20, 3)).int()
    layout = [6, 6, 3], [3, 3, 0], [5, 5, 2]
    assert_native_matches_reference("window_partition", coords, *layout)
    assert_native_matches_reference("set_keys", coords, *layout)
    sets = set_partition(coords, (24, 20, 3), (6, 6, 3), 7, shift=(3, 3, 0))
    sizes = torch.tensor([3, 1]) if count else torch.zeros(0, dtype=torch.int64)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), (sizes * 5).cumsum(0)])
    first = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    order = torch.stack([torch.randperm(int(starts[-1])), torch.randperm(int(starts[-1]))])
    assert_native_matches_reference("fill_sets", order, torch.repeat_interleave(sizes), starts, first, 5)
    check_runs(sets, count)


def test_same_for_all_threads():
    coords = random_sites(30000, (200, 180, 1))
    assert_same_for_all_threads(lambda: set_partition(coords, (200, 180, 1), (12, 12, 1), 36))
    assert_same_for_all_threads(lambda: window_partition(coords, (200, 180, 1), (12, 12, 1), shift=(6, 6, 0)))


def test_opcheck():
    coords = random_sites(40, (8, 8, 2)).int()
    layout = [4, 4, 2], [2, 2, 0], [3, 3, 2]
    torch.library.opcheck(torch.ops.zoo.window_partition, (coords, *layout))
    torch.library.opcheck(torch.ops.zoo.set_keys, (coords, *layout))
    order = torch.stack([torch.arange(10), torch.arange(10).flip(0)])
    fill = order, torch.tensor([0, 0, 1]), torch.tensor([0, 7, 10]), torch.tensor([0, 2, 3]), 4
    torch.library.opcheck(torch.ops.zoo.fill_sets, fill)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coords": torch.zeros(3, 3, dtype=torch.int64)}, "coords: found shape"),
        ({"coords": torch.zeros(3, 4)}, "coords: found dtype"),
        ({"window_shape": (0, 2, 2)}, "window_shape: found"),
        ({"window_shape": (2, 2)}, "window_shape: found"),
        ({"shift": (2, 0, 0)}, "shift: found"),
        ({"set_size": 0}, "set_size: found 0"),
        ({"spatial_shape": (4,)}, "spatial_shape: found"),
    ],
)
def test_bad_input(change, message):
    good = {
        "coords": torch.zeros(1, 4, dtype=torch.int64),
        "spatial_shape": (4, 4, 4),
        "window_shape": (2, 2, 2),
        "set_size": 3,
        "shift": (1, 1, 0),
    }
    with pytest.raises(ValueError, match=message):
        set_partition(**{**good, **change})


def test_sites_outside_are_found_on_request(monkeypatch):
    monkeypatch.setenv("ZOO_CHECK", "1")
    with pytest.raises(ValueError, match="coords: found sites outside"):
        window_partition(torch.tensor([[0, 4, 0]]), (4, 4), (2, 2))
    assert window_partition(torch.tensor([[0, 3, 3]]), (4, 4), (2, 2)).window.tolist() == [4]
