"""SparK: nothing leaks from masked cells, and bad input is named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.models.spark import ConvNeXt, SparK, SparseEncoder, VisibleCells, mask_layers, sample_mask
from zoo.tasks.lamb import LAMB


def tiny_convnext() -> nn.Module:
    return ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 8, 16), layer_scale=1.0)


def tiny_timm_resnet() -> nn.Module:
    resnet = pytest.importorskip("timm.models.resnet", reason="timm (extra image) is not installed")
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], channels=[4, 4, 8, 8], num_classes=0, global_pool="")


def tiny_timm_convnext() -> nn.Module:
    convnext = pytest.importorskip("timm.models.convnext", reason="timm (extra image) is not installed")
    return convnext.ConvNeXt(
        depths=(1, 1, 1, 1), dims=(4, 8, 8, 16), num_classes=0, global_pool="", ls_init_value=1.0, drop_path_rate=0.0
    )


FAMILIES = [tiny_convnext, tiny_timm_resnet, tiny_timm_convnext]


@pytest.mark.parametrize("family", FAMILIES)
def test_masked_area_does_not_change_the_maps(family) -> None:
    torch.manual_seed(0)
    encoder = SparseEncoder(family()).train()
    image, mask = torch.randn(2, 3, 96, 64), sample_mask(2, 3, 2, 0.5)
    maps = encoder(image, mask)
    hidden = torch.where(encoder.visible.at(96, 64), image, 100 * torch.randn_like(image))
    for index, (left, right) in enumerate(zip(maps, encoder(hidden, mask), strict=True)):
        assert left is not None
        assert right is not None
        assert torch.equal(left, right)
        visible = encoder.visible.at(*left.shape[2:])
        assert bool((left * ~visible == 0).all()), f"map {index} is not zero at masked cells"
        assert float(left.detach().abs().max()) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_stays_inside_the_visible_cells(family) -> None:
    torch.manual_seed(0)
    encoder = SparseEncoder(family()).eval()
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 0] = True
    image = torch.randn(1, 3, 64, 64)
    alone = encoder(image, mask)
    padded = SparseEncoder(family()).eval()
    padded.load_state_dict(encoder.state_dict())
    crop = padded(image[:, :, :32, :32], torch.ones(1, 1, 1, 1, dtype=torch.bool))
    for left, right in zip(
        alone, crop, strict=True
    ):  # a single visible cell sees zeros around it, like a picture's edge
        assert left is not None
        assert right is not None
        torch.testing.assert_close(left[..., : right.shape[2], : right.shape[3]], right, atol=1e-5, rtol=1e-4)


def test_layers_that_cannot_be_masked_are_named() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sigmoid()))
    with pytest.raises(ValueError, match=r"1: .*GroupNorm; 2\.0: .*AdaptiveAvgPool2d; 2\.1: .*Sigmoid"):
        mask_layers(module, VisibleCells())
    with pytest.raises(ValueError, match="padding_mode"):
        mask_layers(nn.Conv2d(3, 4, 3, padding_mode="reflect"), VisibleCells())
    with pytest.raises(ValueError, match="offers no feature maps"):
        SparseEncoder(nn.Conv2d(3, 4, 3))


def test_bad_sizes_and_masks() -> None:
    model = SparK(backbone=tiny_convnext(), decoder_width=32, densify_norm="ln")
    with pytest.raises(ValueError, match="divisible by the total stride 32"):
        model(torch.zeros(1, 3, 64, 50))
    with pytest.raises(ValueError, match="no visible cell"):
        model(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected \\(1, 1, 2, 2\\)"):
        model(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 3, 3, dtype=torch.bool))
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="mask_ratio"):
            SparK(backbone=tiny_convnext(), mask_ratio=ratio)
        with pytest.raises(ValueError, match="mask_ratio"):
            sample_mask(1, 2, 2, ratio)


def test_a_sample_with_nothing_visible_is_reconstructed() -> None:
    torch.manual_seed(0)
    model = SparK(backbone=tiny_convnext(), decoder_width=32, densify_norm="ln")
    mask = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    mask[0] = True
    result = model(torch.randn(2, 3, 64, 64), mask)
    result.loss.backward()
    assert bool(torch.isfinite(result.loss))
    torch.testing.assert_close(result.loss, result.patch_loss[1].mean())


def test_lamb_refuses_a_silent_second_beta() -> None:
    with pytest.raises(ValueError, match="beta2 > 0"):
        LAMB([nn.Parameter(torch.zeros(1))], lr=0.1, betas=(0.9, 0.0))
