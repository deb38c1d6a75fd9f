"""Comparing the queries that a TransFusion head makes in two runtimes.

A query stands at a peak of the heat-map. Where cells are equally hot, as in every empty part of a map, rounding decides
which of them are peaks and which of the peaks is the last to become a query; the order of equally hot queries is no
more certain. So queries are compared by cell and class. One that a single runtime has is right if it is no hotter than
the other's weakest query, or if a neighbouring cell is as hot.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from zoo.models.dsvt.transfusion_head import QueryPredictions

__all__ = ["comparable_queries"]


def comparable_queries(
    found: QueryPredictions, wanted: QueryPredictions, tolerance: float
) -> tuple[list[Tensor], list[Tensor]]:
    """The dense heat-maps of both, then every branch and the heat of the queries that both have, in one order.

    Args:
        found: Of one runtime.
        wanted: Of the other.
        tolerance: Difference of heat, from 0 to 1, below which cells are equally hot.

    Raises:
        ValueError: A query that only one of them has, without a tie.
    """
    rows = [_shared_rows(found, wanted, sample, tolerance) for sample in range(len(wanted.query_labels))]
    first, second = (_values(some, [pair[side] for pair in rows]) for side, some in enumerate((found, wanted)))
    return first, second


def _values(predictions: QueryPredictions, rows: list[Tensor]) -> list[Tensor]:
    parts = [*predictions.branches.values(), _own_heat(predictions)[:, None]]
    chosen = [torch.cat([part[sample][:, own] for sample, own in enumerate(rows)], dim=1) for part in parts]
    return [predictions.dense_heatmap, *chosen]


def _own_heat(predictions: QueryPredictions) -> Tensor:
    """Heat (B, P) at the queries' cells for their own class; that of other classes is never used."""
    return predictions.query_heat.gather(1, predictions.query_labels[:, None])[:, 0]


def _shared_rows(
    found: QueryPredictions, wanted: QueryPredictions, sample: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Rows of the queries that stand at the same peaks."""
    first, second = _keys(found)[sample], _keys(wanted)[sample]
    _check_rest(found, first, wanted, second, sample, tolerance)
    _check_rest(wanted, second, found, first, sample, tolerance)
    return _rows_of(first, second), _rows_of(second, first)


def _check_rest(
    own: QueryPredictions, keys: Tensor, other: QueryPredictions, lack: Tensor, sample: int, tolerance: float
) -> None:
    """Ties must explain the queries that the other runtime does not have."""
    heat, weakest = _own_heat(own)[sample], _own_heat(other)[sample].min()
    hottest = _hottest_neighbor(own)[sample].flatten()[keys]
    wrong = ~torch.isin(keys, lack) & (heat > weakest + tolerance) & (heat > hottest + tolerance)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        place = f"class {int(own.query_labels[sample, row])}, cell {int(own.query_cells[sample, row])}"
        raise ValueError(
            f"queries: the one at {place} of sample {sample} with heat {float(heat[row]):.4f} is of one runtime only; "
            f"the other's weakest has {float(weakest):.4f}, the hottest neighbour {float(hottest[row]):.4f}"
        )


def _rows_of(keys: Tensor, others: Tensor) -> Tensor:
    """Rows of the keys that both have, by rising key."""
    both = torch.isin(keys, others).nonzero()[:, 0]
    return both[keys[both].argsort()]


def _keys(predictions: QueryPredictions) -> Tensor:
    """A number (B, P) for class and cell."""
    return predictions.query_labels * predictions.dense_heatmap[0, 0].numel() + predictions.query_cells


def _hottest_neighbor(predictions: QueryPredictions) -> Tensor:
    """Heat (B, classes, X, Y) of the hottest of the eight cells around each."""
    heat = predictions.dense_heatmap.float().sigmoid()
    samples, classes, x, y = heat.shape
    around = functional.unfold(functional.pad(heat, (1, 1, 1, 1)).flatten(0, 1)[:, None], 3)
    around[:, 4] = 0  # the cell itself
    return around.amax(1).view(samples, classes, x, y)
