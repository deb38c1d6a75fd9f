"""The comparisons of field encodings: both sides compute the same."""

from __future__ import annotations

import torch

from zoo.benchmark import fields
from zoo.benchmark.harness import close


def test_both_sides_of_the_hash_grid_agree():
    grid = fields.Grid.random(500)
    assert grid.layout.num_parameters == 12_196_240
    close(grid.forward(), grid.plain_forward(), rtol=2e-4)
    close(grid.train(), grid.plain_train(), rtol=2e-4)
    assert grid.input_grad().shape == (500, 3)


def test_limit_is_the_one_that_is_stated():
    grid = fields.Grid.random(0)
    grid.x = torch.empty(1_000_000, 3, device="meta")
    assert abs(grid.line_bytes - 3.2e9) < 0.05e9


def test_every_case_has_a_name(monkeypatch):
    monkeypatch.setattr(fields, "SIZES", {"1M": 100})
    cases = list(fields.cases())
    assert len({(case.case, case.what) for case in cases}) == len(cases) == 5
    for case in cases:
        result = case.ours()
        if case.peer is not None and case.compare is not None:
            case.compare(result, case.peer())
