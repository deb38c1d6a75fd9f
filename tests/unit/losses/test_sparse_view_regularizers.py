"""Regularisers of sparse views on the ragged rays that an occupancy grid leaves, and their errors."""

from __future__ import annotations

import pytest
import torch

from zoo.losses.depth_regularizers import patch_smoothness_loss, pearson_loss
from zoo.losses.ray_regularizers import distortion_loss, first_samples, occlusion_loss, ray_entropy, ray_entropy_loss

COUNTS = torch.tensor([3, 0, 5, 1])
PACKED = torch.stack((COUNTS.cumsum(0) - COUNTS, COUNTS), -1)


def test_distortion_of_ragged_rays_is_the_double_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(9, generator=generator, dtype=torch.float64)
    starts = torch.cat([torch.rand(int(n), generator=generator, dtype=torch.float64).sort().values for n in COUNTS])
    ends = starts + 0.01
    expected = []
    for start, count in PACKED.tolist():
        w, m = weights[start : start + count], (starts + 0.005)[start : start + count]
        double = (w[:, None] * w * (m[:, None] - m).abs()).sum()
        expected.append(double + (w**2 * 0.01).sum() / 3)
    found = distortion_loss(weights, starts, ends, PACKED)
    torch.testing.assert_close(found, torch.stack(expected))


def test_entropy_is_that_of_each_ray_and_empty_rays_count_as_zero() -> None:
    alphas = torch.tensor([0.5, 0.5, 0.0, 0.2, 0.2, 0.2, 0.2, 0.0, 0.7])
    assert torch.allclose(ray_entropy(alphas, PACKED), torch.tensor([1.0, 0.0, 2.0, 0.0]), atol=1e-5)
    opacities = torch.tensor([0.9, 0.0, 0.05, 0.9])
    assert float(ray_entropy_loss(alphas, opacities, PACKED)) == pytest.approx(0.25, abs=1e-5)
    assert float(ray_entropy_loss(alphas[:0], opacities[:0], PACKED[:0])) == 0


def test_first_samples_restart_at_each_ray() -> None:
    assert first_samples(PACKED, 2).tolist() == [True, True, False, True, True, False, False, False, True]
    assert float(occlusion_loss(torch.ones(9), first_samples(PACKED, 2))) == pytest.approx(5 / 9)
    assert float(occlusion_loss(torch.ones(0), torch.ones(0))) == 0


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"depth: found shape \(4, 4\)"):
        patch_smoothness_loss(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="kind"):
        patch_smoothness_loss(torch.zeros(1, 2, 2), kind="cubed")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="target: found shape"):
        pearson_loss(torch.zeros(3), torch.zeros(4))
