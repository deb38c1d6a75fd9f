"""LPIPS with weights by formula: against torchmetrics, and its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.lpips_weights import formula_weights
from zoo.metrics.lpips import LPIPS, ImageLPIPS, _layers


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alex.safetensors"
    save_file(formula_weights("alex"), path)
    return path


def test_plans_have_the_numbers_of_torchvision() -> None:
    convolutions = {
        net: [i for i, layer in enumerate(_layers(net)[0]) if isinstance(layer, torch.nn.Conv2d)]
        for net in ("alex", "vgg")
    }
    assert convolutions == {"alex": [0, 3, 6, 8, 10], "vgg": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]}
    assert _layers("alex")[2] == [64, 192, 384, 256, 256]
    assert _layers("vgg")[2] == [64, 128, 256, 512, 512]


def test_distance(alex: Path) -> None:
    metric = LPIPS(weights=alex)
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 48, 40, 3, generator=generator)
    near, far = (
        target + 0.02 * torch.randn(target.shape, generator=generator),
        torch.rand(target.shape, generator=generator),
    )
    assert torch.allclose(metric(target, target), torch.zeros(2))
    assert (metric(near, target) < metric(far, target)).all()
    assert torch.allclose(metric(near, target), metric(target, near))
    assert torch.allclose(metric(near[0], target[0]), metric(near, target)[0])
    assert metric.stages(near, target).shape == (5, 2)
    mean = ImageLPIPS(weights=[alex])
    mean.update(near, target)
    assert float(mean.compute()) == pytest.approx(float(metric(near, target).mean()))
    assert all(not parameter.requires_grad for parameter in metric.parameters())


def test_the_names_of_the_package_lpips(alex: Path, tmp_path: Path) -> None:
    plain = LPIPS(weights=alex)
    state = {f"net.slice1.{key.removeprefix('features.')}": value for key, value in formula_weights("alex").items()}
    state |= {f"lin{i}.model.1.weight": head.reshape(1, -1, 1, 1) * 2 for i, head in enumerate(plain.heads)}
    torch.save(state, tmp_path / "whole.pth")
    doubled = LPIPS(weights=tmp_path / "whole.pth")
    one, other = torch.rand(2, 1, 32, 32, 3).unbind(0)
    assert torch.allclose(doubled(one, other), 2 * plain(one, other))


def test_errors_name_the_file(alex: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth: no such file"):
        LPIPS(weights=tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_text("weights")
    with pytest.raises(ValueError, match=r"bad\.pth: cannot be read"):
        LPIPS(weights=tmp_path / "bad.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no state dict"):
        LPIPS(weights=tmp_path / "list.pth")
    with pytest.raises(ValueError, match=r"lacks features|has shape"):
        LPIPS(net="vgg", weights=alex)
    with pytest.raises(ValueError, match="net"):
        LPIPS(net="squeeze", weights=alex)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least 32"):
        LPIPS(weights=alex)(torch.zeros(16, 16, 3), torch.zeros(16, 16, 3))
