"""GridFormer: shapes, bad input, odd clouds, the mean in place of attention."""

from __future__ import annotations

import pytest
import torch

from zoo.models.gridformer import GridFormer, remap_upstream


@pytest.fixture(params=["planes", "grid"])
def model(request: pytest.FixtureRequest) -> GridFormer:
    torch.manual_seed(0)
    return GridFormer(kind=request.param, channels=8, resolution=8).eval()


CLOUDS = {
    "fewer points than cells": torch.rand(1, 5, 3, generator=torch.Generator().manual_seed(0)) - 0.5,
    "one point": torch.tensor([[[0.1, 0.2, 0.3]]]),
    "duplicates": torch.full((1, 40, 3), 0.25),
    "coplanar": torch.rand(1, 60, 3) * torch.tensor([1.0, 0.0, 1.0]) - 0.5,
    "outside the cube": torch.rand(1, 60, 3) * 8 - 4,
}


@pytest.mark.parametrize("name", CLOUDS)
def test_odd_clouds_give_finite_logits(model: GridFormer, name: str) -> None:
    logits = model(CLOUDS[name], torch.rand(1, 20, 3) * 3 - 1.5)
    assert logits.shape == (1, 20)
    assert torch.isfinite(logits).all()


LIMIT = 0.5506  # behind it a coordinate is the border's, of planes and of volumes


def _around(count: int, seed: int) -> torch.Tensor:
    """Positions in and around the cube, none of which lies between its border and `LIMIT`."""
    places = torch.rand(1, count, 3, generator=torch.Generator().manual_seed(seed)) * 4 - 2
    return torch.where((places.abs() > 0.54) & (places.abs() < LIMIT), 0.3, places)


def test_points_outside_the_cube_count_in_the_borders_cells(model: GridFormer) -> None:
    """Apart from the layer that sees positions themselves, a cloud is the one that is clamped to the cube."""
    with torch.no_grad():
        model.encoder.fc_pos[0].weight.zero_()
        points = _around(200, 1)
        assert (points.abs() > LIMIT).any(dim=-1).float().mean() > 0.5
        found, expected = model.encode(points), model.encode(points.clamp(-LIMIT, LIMIT))
        within = model.encode(points[(points.abs() < LIMIT).all(-1)][None])
    for grids, others, inner in zip(found, expected, within, strict=True):
        for grid, other, alone in zip(grids, others, inner, strict=True):
            assert torch.equal(grid, other)
            assert not torch.allclose(grid, alone)  # they do count


def test_queries_outside_the_cube_read_the_border(model: GridFormer) -> None:
    with torch.no_grad():
        model.decoder.fc_p.weight.zero_()
        maps = model.encode(torch.rand(1, 50, 3) - 0.5)
        queries = _around(300, 2)
        found = model.decode(maps, queries)
        assert torch.equal(found, model.decode(maps, queries.clamp(-LIMIT, LIMIT)))
        assert not torch.allclose(found, model.decode(maps, queries.clamp(-0.4, 0.4)))


def test_the_order_of_points_does_not_matter(model: GridFormer) -> None:
    points, queries = torch.rand(1, 50, 3) - 0.5, torch.rand(1, 9, 3) - 0.5
    turned = points[:, torch.randperm(50)]
    torch.testing.assert_close(model(points, queries), model(turned, queries), atol=1e-4, rtol=1e-4)


def test_samples_of_a_batch_do_not_mix(model: GridFormer) -> None:
    points, queries = torch.rand(2, 50, 3) - 0.5, torch.rand(2, 9, 3) - 0.5
    together = model(points, queries)
    torch.testing.assert_close(together[1:], model(points[1:], queries[1:]), atol=1e-4, rtol=1e-4)


def test_bad_input_is_named(model: GridFormer) -> None:
    good = torch.rand(1, 5, 3)
    bad = good.clone()
    bad[0, 2, 1] = float("nan")
    with pytest.raises(ValueError, match="points: found 1 positions that are NaN"):
        model(bad, good)
    with pytest.raises(ValueError, match="queries: found 1 positions"):
        model(good, bad)
    with pytest.raises(ValueError, match="empty cloud"):
        model(torch.zeros(1, 0, 3), good)
    with pytest.raises(ValueError, match=r"expected \(B, N, 3\)"):
        model(torch.zeros(5, 3), good)


def test_the_mean_gives_equal_weights() -> None:
    torch.manual_seed(0)
    model = GridFormer(kind="planes", channels=8, resolution=8, aggregation="mean")
    loss = model(torch.rand(2, 50, 3) - 0.5, torch.rand(2, 9, 3) - 0.5).sum()
    loss.backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert not [name for name in trained if "fc_w" in name or "conv_q" in name or "fc_k" in name]
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    "options", [{"channels": 12}, {"resolution": 30}, {"kind": "tree"}, {"padding": -1.0}, {"aggregation": "max"}]
)
def test_options_out_of_range_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        GridFormer(**options)


def test_foreign_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="expected those of a GridFormer"):
        remap_upstream({"model": {"module.x": torch.zeros(1)}})
