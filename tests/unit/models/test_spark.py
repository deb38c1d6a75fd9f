"""SparK: nothing leaks from masked cells, and bad input is named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from zoo.models.spark import ConvNeXt, SparK, SparseEncoder, VisibleCells, mask_layers, sample_mask, sparsify_layers
from zoo.tasks.lamb import LAMB


def tiny_convnext(drop_path: float = 0.0) -> nn.Module:
    return ConvNeXt(depths=(1, 1, 1, 1), dims=(4, 8, 8, 16), layer_scale=1.0, drop_path=drop_path)


def tiny_timm_resnet(drop_path: float = 0.0, **options) -> nn.Module:
    resnet = pytest.importorskip("timm.models.resnet", reason="timm (extra image) is not installed")
    options = {"channels": [4, 4, 8, 8], "num_classes": 0, "global_pool": "", **options}
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], drop_path_rate=drop_path, **options)


def tiny_timm_resnet_d(drop_path: float = 0.0) -> nn.Module:
    return tiny_timm_resnet(drop_path, stem_type="deep", stem_width=8, avg_down=True)


def tiny_timm_resnext(drop_path: float = 0.0) -> nn.Module:
    return tiny_timm_resnet(drop_path, cardinality=2, base_width=16)


def tiny_timm_convnext(drop_path: float = 0.0, **options) -> nn.Module:
    convnext = pytest.importorskip("timm.models.convnext", reason="timm (extra image) is not installed")
    return convnext.ConvNeXt(
        depths=(1, 1, 1, 1),
        dims=(4, 8, 8, 16),
        num_classes=0,
        global_pool="",
        ls_init_value=1.0,
        drop_path_rate=drop_path,
        **options,
    )


def tiny_timm_convnext_1x1(drop_path: float = 0.0) -> nn.Module:
    return tiny_timm_convnext(drop_path, conv_mlp=True, stem_type="overlap_tiered")


FAMILIES = [
    tiny_convnext,
    tiny_timm_resnet,
    tiny_timm_resnet_d,
    tiny_timm_resnext,
    tiny_timm_convnext,
    tiny_timm_convnext_1x1,
]
BACKENDS = ["masked_dense", "sparse"]


@pytest.mark.parametrize("family", FAMILIES)
def test_both_backends_agree(family) -> None:
    torch.manual_seed(0)
    dense = SparseEncoder(family(drop_path=0.3)).train().double()
    sparse = SparseEncoder(family(drop_path=0.3), backend="sparse").train().double()
    assert list(dense.state_dict()) == list(sparse.state_dict())
    sparse.load_state_dict(dense.state_dict(), strict=True)
    image, mask = torch.randn(3, 3, 96, 64, dtype=torch.float64), torch.rand(3, 1, 3, 2) > 0.5
    mask[2] = False  # a sample with nothing visible
    images, results = [image.clone().requires_grad_() for _ in BACKENDS], []
    for encoder, x in zip((dense, sparse), images, strict=True):
        torch.manual_seed(1)  # drop paths
        maps = encoder(x, mask)
        generator = torch.Generator().manual_seed(2)
        torch.autograd.backward(maps, [torch.randn(found.shape, generator=generator).double() for found in maps])
        results.append(maps)
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(right, left, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(images[1].grad, images[0].grad, rtol=1e-7, atol=1e-9)
    for (name, left), right in zip(dense.named_parameters(), sparse.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None), name
        if left.grad is not None:  # the norm of timm's head has none
            peak = float(left.grad.abs().max())
            torch.testing.assert_close(right.grad, left.grad, rtol=1e-7, atol=1e-9 * max(1, peak))
    for left, right in zip(dense.buffers(), sparse.buffers(), strict=True):
        torch.testing.assert_close(right, left, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_masked_area_does_not_change_the_maps(family, backend) -> None:
    torch.manual_seed(0)
    encoder = SparseEncoder(family(), backend=backend).train()
    image, mask = torch.randn(2, 3, 96, 64), sample_mask(2, 3, 2, 0.5)
    maps = encoder(image, mask)
    hidden = torch.where(encoder.visible.at(96, 64), image, 100 * torch.randn_like(image))
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    for index, (left, right) in enumerate(zip(maps, encoder(hidden, mask), strict=True)):
        assert left is not None
        assert right is not None
        assert torch.equal(left, right)
        assert bool(torch.isfinite(left).all())
        visible = encoder.visible.at(*left.shape[2:])
        assert bool((left * ~visible == 0).all()), f"map {index} is not zero at masked cells"
        assert float(left.detach().abs().max()) > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_layer_stays_inside_the_visible_cells(family, backend) -> None:
    torch.manual_seed(0)
    encoder = SparseEncoder(family(), backend=backend).eval()
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    mask[0, 0, 0, 0] = True
    image = torch.randn(1, 3, 64, 64)
    alone = encoder(image, mask)
    padded = SparseEncoder(family(), backend=backend).eval()
    padded.load_state_dict(encoder.state_dict())
    crop = padded(image[:, :, :32, :32], torch.ones(1, 1, 1, 1, dtype=torch.bool))
    for left, right in zip(
        alone, crop, strict=True
    ):  # a single visible cell sees zeros around it, like a picture's edge
        assert left is not None
        assert right is not None
        torch.testing.assert_close(left[..., : right.shape[2], : right.shape[3]], right, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("convert", [mask_layers, sparsify_layers])
def test_layers_that_cannot_be_masked_are_named(convert) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sigmoid()))
    with pytest.raises(ValueError, match=r"1: .*GroupNorm; 2\.0: .*AdaptiveAvgPool2d; 2\.1: .*Sigmoid"):
        convert(module, VisibleCells())
    refused = {
        "padding_mode": nn.Conv2d(3, 4, 3, padding_mode="reflect"),
        "affine": nn.BatchNorm2d(4, affine=False),
        "spans positions": nn.LayerNorm([4, 4]),
        "return_indices": nn.MaxPool2d(2, return_indices=True),
        "ConvTranspose2d": nn.ConvTranspose2d(3, 4, 2),
        "Conv1d": nn.Conv1d(3, 4, 2),
        "OwnConv": type("OwnConv", (nn.Conv2d,), {})(3, 4, 1),
    }
    for text, layer in refused.items():
        with pytest.raises(ValueError, match=f"(?s)stem.*{text}"):
            convert(nn.ModuleDict({"stem": layer}), VisibleCells())


def test_backbones_and_backends_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="offers no feature maps"):
        SparseEncoder(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="masked_dense, sparse"):
        SparseEncoder(tiny_convnext(), backend="minkowski")  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_sizes_and_masks(backend) -> None:
    model = SparK(backbone=tiny_convnext(), decoder_width=32, densify_norm="ln", backend=backend)
    with pytest.raises(ValueError, match="divisible by the total stride 32"):
        model(torch.zeros(1, 3, 64, 50))
    with pytest.raises(ValueError, match="no visible cell"):
        model(torch.zeros(1, 3, 64, 64), torch.zeros(1, 1, 2, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected \\(1, 1, 2, 2\\)"):
        model(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 3, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected bool"):
        model(torch.zeros(1, 3, 64, 64), torch.ones(1, 1, 2, 2))
    for ratio in (0.0, 1.0, -0.1, 0.99):
        with pytest.raises(ValueError, match="mask_ratio"):
            sample_mask(1, 2, 2, ratio)
    for ratio in (0.0, 1.0):
        with pytest.raises(ValueError, match="mask_ratio"):
            SparK(backbone=tiny_convnext(), mask_ratio=ratio)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_that_hides_nothing_has_no_loss(backend) -> None:
    model = SparK(backbone=tiny_convnext(), decoder_width=32, densify_norm="ln", backend=backend)
    result = model(torch.randn(2, 3, 64, 64), torch.ones(2, 1, 2, 2, dtype=torch.bool))
    assert float(result.loss.detach()) == 0
    assert bool(torch.isfinite(result.image).all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_visible_position_has_no_batch_statistics(backend) -> None:
    encoder = SparseEncoder(tiny_timm_resnet(), backend=backend).train()
    mask = torch.zeros(1, 1, 2, 2, dtype=torch.bool)
    mask[0, 0, 1, 1] = True
    with pytest.raises(ValueError, match="1 visible position; its statistics need at least 2"):
        encoder(torch.randn(1, 3, 64, 64), mask)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sample_with_nothing_visible_is_reconstructed(backend) -> None:
    torch.manual_seed(0)
    model = SparK(backbone=tiny_convnext(), decoder_width=32, densify_norm="ln", backend=backend)
    mask = torch.zeros(2, 1, 2, 2, dtype=torch.bool)
    mask[0] = True
    result = model(torch.randn(2, 3, 64, 64), mask)
    result.loss.backward()
    assert bool(torch.isfinite(result.loss))
    torch.testing.assert_close(result.loss, result.patch_loss[1].mean())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [tiny_convnext, tiny_timm_resnet])
def test_half_precision_stays_near(family, backend) -> None:
    torch.manual_seed(0)
    encoder = SparseEncoder(family(), backend=backend).eval()
    image, mask = torch.randn(2, 3, 96, 64), sample_mask(2, 3, 2, 0.5)
    exact = encoder(image, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(image, mask)
    torch.autograd.backward(rough, [torch.ones_like(found) for found in rough])
    for left, right in zip(exact, rough, strict=True):
        assert float((left - right).detach().norm()) < 0.05 * float(left.detach().norm())
    assert all(bool(torch.isfinite(p.grad).all()) for p in encoder.parameters() if p.grad is not None)


class Resizing(nn.Module):
    """A backbone that pools by a function, which no conversion sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)

    def get_downsample_ratio(self) -> int:
        return 2

    def get_feature_map_channels(self) -> list[int]:
        return [8]

    def forward(self, x: torch.Tensor, hierarchical: bool = True) -> list[torch.Tensor]:
        return [self.last(functional.max_pool2d(self.conv(x), (2, 1)))]


def test_rows_that_a_function_changed_are_refused_by_the_next_layer() -> None:
    with pytest.raises(ValueError, match=r"last: found a tensor of shape .* backend='masked_dense'"):
        SparseEncoder(Resizing(), backend="sparse")(torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 2, 2, dtype=torch.bool))


def test_maps_whose_rows_cannot_be_told_apart_are_refused() -> None:
    visible = VisibleCells()
    visible.show(torch.ones(1, 1, 2, 2, dtype=torch.bool))
    visible.grid(8, 2)
    with pytest.raises(ValueError, match="cannot be told apart"):
        visible.grid(4, 4)


def test_encoders_are_copied_with_their_layers() -> None:
    encoder = SparseEncoder(tiny_convnext(), backend="sparse").eval()
    copied = copy.deepcopy(encoder)
    image, mask = torch.randn(2, 3, 64, 64), sample_mask(2, 2, 2, 0.5)
    for left, right in zip(encoder(image, mask), copied(image, mask), strict=True):
        torch.testing.assert_close(left, right)
    assert all(m.visible is copied.visible for m in copied.modules() if hasattr(m, "visible"))


def test_lamb_refuses_a_silent_second_beta() -> None:
    with pytest.raises(ValueError, match="beta2 > 0"):
        LAMB([nn.Parameter(torch.zeros(1))], lr=0.1, betas=(0.9, 0.0))
