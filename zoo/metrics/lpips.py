"""LPIPS (Zhang et al. 2018) on AlexNet or VGG16, with weights from files that the user supplies.

The backbone is torchvision's ImageNet network (``alexnet-owt-7be5be79.pth``, ``vgg16-397923af.pth``) or a state dict of
the package ``lpips``, which holds the heads as well. Where the files have no heads, those of LPIPS v0.1 in torchmetrics
are taken.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.files import ClippedFile
from zoo.metrics.image import MeanOverImages

__all__ = ["LPIPS", "Backbone", "ImageLPIPS"]

Backbone = Literal["alex", "vgg"]

# rows of layers: "M" pools, numbers are (out channels, kernel, stride, padding); "T" taps the features after a ReLU
_ALEX = (
    (64, 11, 4, 2),
    "T",
    "M",
    (192, 5, 1, 2),
    "T",
    "M",
    (384, 3, 1, 1),
    "T",
    (256, 3, 1, 1),
    "T",
    (256, 3, 1, 1),
    "T",
)
_VGG_WIDTHS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-8


def _layers(net: Backbone) -> tuple[nn.ModuleList, list[int], list[int]]:
    """Layers numbered as torchvision's ``features``, the numbers of those that are compared, and their widths."""
    plan: list[tuple[int, int, int, int] | str] = list(_ALEX)
    pool = 3
    if net == "vgg":
        plan, pool = [], 2
        for stage, (width, repeats) in enumerate(_VGG_WIDTHS):
            plan += ["M"] * (stage > 0) + [(width, 3, 1, 1)] * repeats + ["T"]
    layers, taps, widths, channels = nn.ModuleList(), [], [], 3
    for entry in plan:
        if isinstance(entry, tuple):
            width, kernel, stride, padding = entry
            layers.extend([nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU()])
            channels = width
        elif entry == "T":
            taps.append(len(layers) - 1)
            widths.append(channels)
        else:
            layers.append(nn.MaxPool2d(pool, 2))
    return layers, taps, widths


class LPIPS(nn.Module):
    """Learned perceptual distance of pairs of images, lower is more alike.

    ``sum_l mean_pixels sum_c w_lc (f_lc(x) / |f_l(x)| - f_lc(y) / |f_l(y)|)^2`` over the stages l of a network, with
    ``|f| = sqrt(1e-8 + sum_c f_c^2)``. The inputs go from [0, 1] to [-1, 1] first.

    Args:
        net: ``"alex"`` (HollowNeRF, torch-ngp) or ``"vgg"`` (nerfacc).
        weights: one or several ``.pth`` or ``.safetensors`` files, see the module's text.

    Raises:
        ValueError: if a file is missing or unreadable, or the files together lack a tensor.
    """

    def __init__(self, *, net: Backbone = "alex", weights: str | Path | Sequence[str | Path]) -> None:
        super().__init__()
        if net not in ("alex", "vgg"):
            raise ValueError(f"net: {net!r}, expected 'alex' or 'vgg'")
        self.net: Backbone = net
        files = [Path(weights)] if isinstance(weights, str | Path) else [Path(file) for file in weights]
        self.features, self.taps, widths = _layers(net)
        self.heads = nn.ParameterList([nn.Parameter(torch.zeros(width)) for width in widths])
        self.register_buffer("shift", torch.tensor(_SHIFT).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).reshape(1, 3, 1, 1), persistent=False)
        self._fill(files)
        self.requires_grad_(False).eval()

    def _fill(self, files: Sequence[Path]) -> None:
        state: dict[str, Tensor] = {}
        for file in files:
            state.update(_canonical(read_backbone(file)))
        if not any(key.startswith("heads.") for key in state):
            state.update(_shipped_heads(self.net))
        named = ", ".join(map(str, files))
        wanted = self.state_dict()
        for key, parameter in wanted.items():
            if key not in state:
                raise ValueError(
                    f"{named}: lacks {key} of the {self.net} network; see zoo.metrics.lpips for which files"
                )
            if state[key].numel() != parameter.numel() or state[key].dtype.is_complex:
                found, expected = tuple(state[key].shape), tuple(parameter.shape)
                raise ValueError(f"{named}: {key} has shape {found}, expected {expected} for net={self.net!r}")
        self.load_state_dict({key: state[key].reshape(parameter.shape) for key, parameter in wanted.items()})

    def stages(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The summands ``(L, N)`` for images ``(N, H, W, 3)`` in [0, 1]."""
        both = torch.cat((prediction, target)).movedim(-1, 1)
        hidden = (2 * both - 1 - self.get_buffer("shift")) / self.get_buffer("scale")
        summands = []
        for number, layer in enumerate(self.features):
            hidden = layer(hidden)
            if number in self.taps:
                unit = hidden / torch.sqrt(_EPS + (hidden**2).sum(dim=1, keepdim=True))
                first, second = unit.chunk(2)
                head = self.heads[len(summands)].reshape(1, -1, 1, 1)
                summands.append((head * (first - second) ** 2).sum(dim=1).mean(dim=(1, 2)))
        return torch.stack(summands)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Distances ``(...)`` of images ``(..., H, W, 3)`` in [0, 1].

        Raises:
            ValueError: for shapes that differ, or pictures that are not RGB or too small for the network.
        """
        shape = prediction.shape
        if shape != target.shape or len(shape) < 3 or shape[-1] != 3 or min(shape[-3:-1]) < 32:
            raise ValueError(
                f"prediction, target: shapes {tuple(shape)} and {tuple(target.shape)}, expected one shape "
                "(..., H, W, 3) of at least 32 x 32 pixels"
            )
        total = self.stages(prediction.reshape(-1, *shape[-3:]), target.reshape(-1, *shape[-3:])).sum(0)
        return total.reshape(shape[:-3])


def read_backbone(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file of weights.

    Raises:
        ValueError: There is no such file, or it holds anything else.
    """
    if not file.is_file():
        raise ValueError(f"{file}: no such file; LPIPS needs the weights of its backbone, see zoo.metrics.lpips")
    try:
        if file.suffix == ".safetensors":
            content = load_file(file)
        else:
            with ClippedFile(file) as stream:
                content = torch.load(stream, "cpu", weights_only=True)
    except Exception as error:  # the readers raise a dozen kinds
        raise ValueError(f"{file}: cannot be read as weights ({error})") from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file}: is no state dict of tensors")
    return content


def _canonical(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of torchvision or of the package lpips as ``features.N.*`` and ``heads.L``; others are dropped."""
    result = {}
    for key, value in state.items():
        layer = re.fullmatch(r"(?:features|net\.slice\d+)\.(\d+\.(?:weight|bias))", key)
        head = re.fullmatch(r"(?:lin|lins\.)(\d+)\.model\.1\.weight", key)
        if layer:
            result[f"features.{layer[1]}"] = value
        elif head:
            result[f"heads.{head[1]}"] = value
    return result


def _shipped_heads(net: Backbone) -> dict[str, Tensor]:
    folder = importlib.resources.files("torchmetrics.functional.image") / "lpips_models"
    with importlib.resources.as_file(folder / f"{net}.pth") as file:
        return _canonical(read_backbone(file))


class ImageLPIPS(MeanOverImages):
    """Mean over images of `LPIPS`.

    Args:
        net: backbone.
        weights: its files.
    """

    higher_is_better = False

    def __init__(self, *, net: Backbone = "alex", weights: str | Path | Sequence[str | Path]) -> None:
        super().__init__()
        self.lpips = LPIPS(net=net, weights=weights)

    def _score(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.lpips(prediction, target)
