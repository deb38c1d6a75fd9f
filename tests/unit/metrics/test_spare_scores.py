"""The scorer: which figures there are, how the two protocols cut the object out, and means."""

from __future__ import annotations

import pytest
import torch

from zoo.metrics.image import psnr, ssim
from zoo.metrics.masked_image import average_error, mask_box
from zoo.metrics.spare_scores import SpareScores, mean_scores

GENERATOR = torch.Generator().manual_seed(0)
TARGET = torch.rand(40, 50, 3, generator=GENERATOR)
PREDICTION = (TARGET + 0.1 * torch.randn(TARGET.shape, generator=GENERATOR)).clamp(0, 1)
MASK = torch.zeros(40, 50, dtype=torch.bool)
MASK[5:30, 10:40] = True
MASK[5:10, 10:20] = False


def test_the_protocols_differ_in_what_lies_outside_of_the_object() -> None:
    spare, dtu = (SpareScores(protocol=name)(PREDICTION, TARGET, MASK) for name in ("spare", "dtu"))
    assert spare.keys() == {"psnr", "psnr_m", "ssim", "ssim_m"}
    assert spare["psnr_m"] == dtu["psnr_m"] == pytest.approx(float(psnr(PREDICTION, TARGET, MASK)))
    box = slice(5, 30), slice(10, 40)
    assert spare["ssim_m"] == pytest.approx(float(ssim(PREDICTION[box], TARGET[box])))
    outside = PREDICTION.clone()
    outside[~MASK] = 0
    changed = SpareScores(protocol="dtu")(outside, TARGET, MASK)
    assert changed["ssim_m"] == pytest.approx(dtu["ssim_m"])
    assert changed["psnr"] < dtu["psnr"]
    assert "psnr_m" not in SpareScores()(PREDICTION, TARGET)


def test_flavours_are_named() -> None:
    scores = SpareScores(ssim_variant="uniform_valid")
    assert scores.description == "protocol: spare; SSIM: uniform_valid; LPIPS left out: no weights were given"
    assert scores(PREDICTION, TARGET)["ssim"] == pytest.approx(float(ssim(PREDICTION, TARGET, variant="uniform_valid")))


def test_small_boxes_leave_figures_out_and_errors_name_the_argument() -> None:
    small = torch.zeros_like(MASK)
    small[3:6, 3:6] = True
    assert SpareScores()(PREDICTION, TARGET, small).keys() == {"psnr", "psnr_m", "ssim"}
    with pytest.raises(ValueError, match="mask: found shape"):
        SpareScores()(PREDICTION, TARGET, MASK[:5])
    with pytest.raises(ValueError, match="prediction: found shape"):
        SpareScores()(PREDICTION[:5], TARGET)
    with pytest.raises(ValueError, match="no pixel of the object"):
        mask_box(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="protocol"):
        SpareScores(protocol="llff")  # pyright: ignore[reportArgumentType]


def test_means_skip_what_a_row_lacks() -> None:
    assert mean_scores([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}
    assert mean_scores([]) == {}
    error = average_error(torch.tensor(20.0), torch.tensor(0.96), torch.tensor(0.1))
    assert float(error) == pytest.approx((0.01 * 0.2 * 0.1) ** (1 / 3))
