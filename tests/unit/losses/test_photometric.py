"""Photometric losses by their formulas."""

from __future__ import annotations

import pytest
import torch

from zoo.losses.photometric import l1_dssim_loss, photometric_loss
from zoo.metrics.image import ssim
from zoo.rendering.backgrounds import background_colors, composite


def test_formulas() -> None:
    rendered, target = torch.tensor([[0.0, 0.05, 0.5]]), torch.zeros(1, 3)
    assert float(photometric_loss(rendered, target)) == pytest.approx((0.05**2 + 0.5**2) / 3)
    huber = (0.05**2 / 2 + 0.1 * (0.5 - 0.05)) / 3
    assert float(photometric_loss(rendered, target, "huber", 0.1)) == pytest.approx(huber)
    assert float(photometric_loss(rendered, target, "smooth_l1", 0.1)) == pytest.approx(huber / 0.1)
    expected = torch.nn.functional.smooth_l1_loss(rendered, target)
    torch.testing.assert_close(photometric_loss(rendered, target, "smooth_l1", 1.0), expected)


def test_no_rays() -> None:
    assert float(photometric_loss(torch.zeros(0, 3), torch.zeros(0, 3))) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(3, 3)), "target: found shape"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), "l1"), "kind: found 'l1'"),
        ((torch.zeros(2, 3), torch.zeros(2, 3), "huber", 0.0), "delta: found 0.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        photometric_loss(*arguments)


def test_backgrounds() -> None:
    assert torch.equal(background_colors("white", 2), torch.ones(2, 3))
    assert torch.equal(background_colors("black", 2), torch.zeros(2, 3))
    one = background_colors("random_per_batch", 5, generator=torch.Generator().manual_seed(0))
    many = background_colors("random_per_ray", 5, generator=torch.Generator().manual_seed(0))
    assert len(one.unique(dim=0)) == 1
    assert len(many.unique(dim=0)) == 5
    with pytest.raises(ValueError, match="generator: none was given"):
        background_colors("random_per_ray", 5)
    with pytest.raises(ValueError, match="kind: found 'green'"):
        background_colors("green", 5)


def test_straight_alpha_over_a_background() -> None:
    rgba = torch.tensor([[1.0, 0.0, 0.5, 0.25]])
    torch.testing.assert_close(composite(rgba, torch.tensor([[0.0, 1.0, 0.5]])), torch.tensor([[0.25, 0.75, 0.5]]))


def test_l1_and_similarity():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 2, 12, 14, 3, generator=generator, dtype=torch.float64)
    l1, similarity = (x - y).abs().mean(), ssim(x, y, variant="gaussian_zero").mean()
    torch.testing.assert_close(l1_dssim_loss(x, y), 0.8 * l1 + 0.2 * (1 - similarity))
    torch.testing.assert_close(l1_dssim_loss(x, y, 1.0), 1 - similarity)
    torch.testing.assert_close(l1_dssim_loss(x[:, :5], y[:, :5], 0.0), (x[:, :5] - y[:, :5]).abs().mean())
    leaf = x[0, :11, :11].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda image: l1_dssim_loss(image, y[0, :11, :11]), leaf, fast_mode=True)
    with pytest.raises(ValueError, match="target: found shape"):
        l1_dssim_loss(x, y[:1])
    with pytest.raises(ValueError, match="dssim_weight: found"):
        l1_dssim_loss(x, y, 1.5)
