"""The comparisons of SparK's encoders: both sides compute the same, and the work is counted right."""

from __future__ import annotations

import pytest
import torch

from zoo.benchmark import spark
from zoo.models.spark import ConvNeXt


def tiny() -> ConvNeXt:
    return ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 8, 16), layer_scale=1.0, drop_path=0.2)


NETWORK = spark.Network("tiny ConvNeXt", tiny, "ln", (0.6,))


@pytest.fixture
def _doubles():
    """In float32, maps of so few cells magnify rounding."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_doubles")
@pytest.mark.parametrize("make", [spark.encoder_case, spark.step_case])
def test_both_sides_agree(make, monkeypatch):
    monkeypatch.setattr(spark, "BATCH", 2)
    monkeypatch.setattr(spark, "SIZE", 64)
    monkeypatch.setattr(spark, "DECODER_WIDTH", 64)
    case = make(NETWORK, 0.5)
    assert case.peer_name.startswith("masked dense")
    case.setup()
    found = case.ours()
    case.setup()
    expected = case.peer()
    case.compare(found, expected)
    expected[0] = expected[0] + 0.1
    with pytest.raises(AssertionError, match="differs by"):
        case.compare(found, expected)


def test_the_work_of_a_picture_that_is_all_visible_is_that_of_its_cells():
    image = torch.zeros(2, 3, 32, 32)
    dense, sparse = spark.encoder_work(NETWORK, image, torch.ones(2, 1, 1, 1, dtype=torch.bool))
    stem = 2 * 64 * 48 * 4
    pointwise = 2 * sum(cells * 8 * dim * dim for cells, dim in ((64, 4), (16, 8), (4, 8), (1, 16)))
    down = 2 * sum(cells * 4 * a * b for cells, a, b in ((16, 4, 8), (4, 8, 8), (1, 8, 16)))
    depthwise = 2 * 49 * sum(cells * dim for cells, dim in ((64, 4), (16, 8), (4, 8), (1, 16)))
    assert dense == stem + pointwise + down + depthwise
    in_map = {8: 8 * 7 - 2 * (3 + 2 + 1), 4: 4 * 7 - 2 * (3 + 2 + 1), 2: 4, 1: 1}  # taps of a row that lie in the map
    taps = 2 * sum(in_map[side] ** 2 * dim for side, dim in ((8, 4), (4, 8), (2, 8), (1, 16)))
    assert sparse == stem + pointwise + down + taps
    _, masked = spark.encoder_work(
        NETWORK, torch.zeros(2, 3, 64, 64), torch.eye(2, dtype=torch.bool).expand(2, 1, 2, 2)
    )
    assert masked < 2 * dense
