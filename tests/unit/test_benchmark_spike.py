"""The benchmark of spiking convolutions: break-even by interpolation, networks whose spikes are exact."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from zoo.benchmark.spike import calibrated, compare_network, crossing, spike_densities
from zoo.data.lidar_scene import lidar_voxels
from zoo.ops import VoxelGrid


def test_crossing_interpolates():
    assert crossing([0.1, 0.3, 0.5], [3.0, 1.5, 0.5]) == pytest.approx(0.4)
    assert crossing([0.1, 0.3], [0.9, 0.5]) == 0
    assert crossing([0.1, 0.3], [4.0, 2.0]) == 0.3


def test_a_lower_shift_gives_fewer_spikes():
    voxels = lidar_voxels(800)
    grid = VoxelGrid(voxels.coords, voxels.spatial_shape, 1)
    means = []
    for shift in (0.0, -0.5):
        densities = spike_densities(*calibrated("classifier L", shift, grid))
        assert len(densities) == 30  # 2 of the stem, 7 of each stage
        means.append(sum(densities) / 30)
    assert 0.05 < means[1] < means[0] < 0.6


def test_a_network_equals_spconv():
    if importlib.util.find_spec("spconv") is None:
        pytest.skip("spconv is not installed: pip install 'voxelzoo[spconv]'")
    before = torch.get_num_threads()
    row = compare_network("classifier L", -0.5, count=800)
    assert torch.get_num_threads() == before
    assert row.ratio is not None
    assert "mean" in row.what
