"""The comparisons of the surface models' ops: both sides compute the same."""

from __future__ import annotations

import pytest
import torch

from zoo.benchmark import plain_point_grid, surface
from zoo.ops import sample_point_grid


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    sizes = {"THREADS": 1, "CHANNELS": 16, "SCORES": 2, "RESOLUTION": 8, "POINTS": 300, "QUERIES": 200, "CORNERS": 40}
    for name, value in (sizes | {"ENCODER_CHANNELS": 8}).items():
        monkeypatch.setattr(surface, name, value)
    monkeypatch.setattr(surface, "CLOUDS", {"planes": (2, 100), "grid": (1, 100)})


@pytest.mark.parametrize("kind", ["planes", "grid"])
@pytest.mark.parametrize("make", [surface.attention_case, surface.sampling_case, surface.encoder_case])
def test_both_sides_agree(make, kind):
    case = make(kind)
    found, expected = case.ours(), case.peer()
    case.compare(found, expected)
    expected[0] = expected[0] + expected[0].abs().max()
    with pytest.raises(AssertionError, match="differs"):
        case.compare(found, expected)


@pytest.mark.parametrize("sampler", plain_point_grid.SAMPLERS)
@pytest.mark.parametrize("axes", [2, 3])
def test_every_plain_sampler_interpolates(axes, sampler):
    grid, coords = torch.randn(2, 3, *(5,) * axes), torch.rand(2, 30, axes)
    torch.testing.assert_close(
        plain_point_grid.plain_sample(grid, coords, sampler), sample_point_grid(grid, coords), rtol=1e-4, atol=1e-5
    )


def test_what_an_encoder_keeps_and_where_its_time_goes_is_stated():
    what = surface.encoder_case("planes").what
    assert "kept for the gradient" in what
    assert "points and grids" in what


def test_kept_memory_counts_every_storage_once():
    x = torch.randn(1000, 250, requires_grad=True)
    assert surface.kept_megabytes(lambda: (x * x).sum()) == pytest.approx(1.0)


def test_a_band_gives_the_mesh_of_all_corners():
    case = surface.extraction_case()
    assert case.peer is not None
    found, expected = case.ours(), case.peer()
    surface.same_mesh(found, expected)
    assert len(found.faces) > 100
    with pytest.raises(AssertionError, match="faces"):
        surface.same_mesh(found.kept(found.faces[1:]), expected)
