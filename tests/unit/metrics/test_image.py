"""PSNR and SSIM against skimage and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from zoo.metrics.image import SSIM_VARIANTS, ImagePSNR, ImageSSIM, psnr, ssim


def make_pair(height: int = 40, width: int = 33, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(count, height, width, 3, generator=generator, dtype=torch.float64)
    noise = 0.1 * torch.randn(target.shape, generator=generator, dtype=torch.float64)
    return (target + noise * torch.arange(1, count + 1)[:, None, None, None]).clamp(0, 1), target


def test_psnr_as_skimage() -> None:
    prediction, target = make_pair()
    expected = [
        peak_signal_noise_ratio(t.numpy(), p.numpy(), data_range=1) for p, t in zip(prediction, target, strict=True)
    ]
    assert psnr(prediction, target).tolist() == pytest.approx(expected, abs=1e-10)
    assert torch.isinf(psnr(target, target)).all()


def test_psnr_under_a_mask() -> None:
    prediction, target = make_pair()
    mask = torch.rand(3, 40, 33) > 0.5
    for i in range(3):
        error = (prediction[i][mask[i]] - target[i][mask[i]]) ** 2
        assert float(psnr(prediction, target, mask)[i]) == pytest.approx(-10 * np.log10(float(error.mean())))
    assert torch.allclose(psnr(prediction, target, torch.ones(3, 40, 33)), psnr(prediction, target))


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        ("gaussian_valid", {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}),
        ("uniform_valid", {}),
    ],
)
@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_as_skimage(variant, arguments: dict, data_range: float) -> None:
    prediction, target = make_pair()
    found = ssim(prediction, target, variant=variant, data_range=data_range)
    for i in range(3):
        expected = structural_similarity(
            target[i].numpy(), prediction[i].numpy(), channel_axis=-1, data_range=data_range, **arguments
        )
        assert float(found[i]) == pytest.approx(expected, abs=1e-10)


def test_ssim_as_torchmetrics() -> None:
    prediction, target = make_pair()
    expected = structural_similarity_index_measure(
        prediction.movedim(-1, 1), target.movedim(-1, 1), data_range=1.0, reduction="none"
    )
    assert torch.allclose(ssim(prediction, target, variant="gaussian_reflect"), expected.double(), atol=1e-6)


@pytest.mark.parametrize("variant", SSIM_VARIANTS)
def test_ssim_of_equal_images_and_gradients(variant) -> None:
    prediction, target = make_pair(12, 13, 2)
    assert torch.allclose(ssim(target, target, variant=variant), torch.ones(2, dtype=torch.float64))
    assert ssim(prediction[0], target[0], variant=variant).shape == ()
    assert float(ssim(prediction.float(), target.float(), variant=variant)[1]) == pytest.approx(
        float(ssim(prediction, target, variant=variant)[1]), abs=1e-4
    )
    small = prediction[:1, :, :, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ssim(x, target[:1, :, :, :1], variant=variant), small, fast_mode=True)


def test_classes_average_over_images() -> None:
    prediction, target = make_pair()
    for metric, function in ((ImagePSNR(), psnr), (ImageSSIM(), ssim)):
        metric.update(prediction[:2], target[:2])
        metric.update(prediction[2], target[2])
        assert float(metric.compute()) == pytest.approx(float(function(prediction, target).mean()), abs=1e-5)
        metric.reset()
        assert int(metric.count) == 0


def test_wrong_arguments_are_named() -> None:
    image = torch.zeros(8, 8, 3)
    with pytest.raises(ValueError, match="target"):
        psnr(image, image[:4])
    with pytest.raises(ValueError, match="H, W, C"):
        psnr(image[0], image[0])
    with pytest.raises(ValueError, match="at least 11"):
        ssim(image, image)
    with pytest.raises(ValueError, match="variant"):
        ssim(image, image, variant="box")  # pyright: ignore[reportArgumentType]
