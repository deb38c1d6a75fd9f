"""The cases of DSVT's own benchmark: sites of fixed density, results that agree, the share of matrix products."""

from __future__ import annotations

import pytest
import torch

from zoo.benchmark import set_attention as bench


@pytest.mark.parametrize("count", [1000, 5000])
def test_sites_have_one_density(count):
    coords, shape = bench.random_sites(count)
    assert len(coords) == len(coords.unique(dim=0)) == count
    assert count / shape[0] ** 2 == pytest.approx(bench.DENSITY, rel=0.05)
    assert int(coords[:, 1:3].max()) < shape[0]


def test_the_peer_agrees():
    case = bench._partition_case(3000)
    assert case.compare is not None
    assert case.peer is not None
    case.compare(case.ours(), case.peer())


def test_a_linear_layer_counts_and_a_sum_does_not():
    a, bias = torch.randn(200, 200), torch.randn(200)
    assert bench.gemm_and_attention_share(lambda: torch.nn.functional.linear(a, a, bias)) > 0.5
    assert bench.gemm_and_attention_share(lambda: a + a) == 0
