"""SparK: masked pre-training of convnets by sparse encoding and hierarchical decoding (arXiv:2301.03580, ICLR 2023).

A mask hides cells of the coarsest grid (side = the backbone's total stride). The backbone sees the visible cells only;
its maps are normalised, their masked cells filled with a learned token, projected, and decoded by a light U-Net to the
image. The loss is the squared error on masked patches, each normalised by its own mean and variance. Images are
``(B, 3, H, W)`` after ImageNet normalisation, masks ``(B, 1, H / stride, W / stride)``, True where visible.

Differences from upstream: the mask is passed, not a global; layers that cannot be masked are refused by name; the norm
of the densified maps is an argument instead of a guess from the network's name; non-square images are allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.models.spark.convnext import LayerNorm2d
from zoo.models.spark.masking import mask_layers
from zoo.models.spark.sparse_layers import sparsify_layers
from zoo.models.spark.visible import VisibleCells

__all__ = ["LightDecoder", "Reconstruction", "SparK", "SparseEncoder", "patchify", "sample_mask", "unpatchify"]

DensifyNorm = Literal["bn", "ln", "identity"]
Backend = Literal["masked_dense", "sparse"]
_CONVERSIONS = {"masked_dense": mask_layers, "sparse": sparsify_layers}


def sample_mask(
    batch_size: int, rows: int, columns: int, mask_ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """A mask ``(B, 1, rows, columns)`` with ``round(rows columns (1 - mask_ratio))`` visible cells in every sample.

    Raises:
        ValueError: If nothing would be visible, or nothing masked.
    """
    cells = rows * columns
    keep = round(cells * (1 - mask_ratio))
    if not 0 < mask_ratio < 1 or not 0 < keep < cells:
        raise ValueError(
            f"mask_ratio: {mask_ratio} shows {keep} of {rows} x {columns} cells; expected between 0 and 1, "
            "with at least one cell visible and one masked"
        )
    order = torch.rand(batch_size, cells, generator=generator).argsort(dim=1)[:, :keep]
    mask = torch.zeros(batch_size, cells, dtype=torch.bool).scatter_(1, order, True)
    return mask.view(batch_size, 1, rows, columns)


def patchify(image: Tensor, patch: int) -> Tensor:
    """``(B, C, H, W)`` to ``(B, L, patch * patch * C)``; within a patch: row, column, channel."""
    batch, channels, height, width = image.shape
    cells = image.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return cells.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, rows: int, columns: int) -> Tensor:
    """The inverse of ``patchify``."""
    cells = patches.reshape(len(patches), rows, columns, patch, patch, -1)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * patch, columns * patch)


def _timm_reader(backbone: nn.Module) -> Callable[[nn.Module, Tensor], list[Tensor]] | None:
    def resnet(net: nn.Module, x: Tensor) -> list[Tensor]:
        x = net.maxpool(net.act1(net.bn1(net.conv1(x))))  # pyright: ignore[reportCallIssue]
        maps = []
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)  # pyright: ignore[reportCallIssue]
            maps.append(x)
        return maps

    def convnext(net: nn.Module, x: Tensor) -> list[Tensor]:
        x, maps = net.stem(x), []  # pyright: ignore[reportCallIssue]
        for stage in net.stages:  # pyright: ignore[reportGeneralTypeIssues]
            x = stage(x)
            maps.append(x)
        return maps

    name = f"{type(backbone).__module__}.{type(backbone).__name__}"
    return {"timm.models.resnet.ResNet": resnet, "timm.models.convnext.ConvNeXt": convnext}.get(name)


class SparseEncoder(nn.Module):
    """A backbone whose layers are masked, giving its feature maps from fine to coarse.

    Both back-ends have the same parameters, keys and results: ``masked_dense`` computes every cell and multiplies by
    the mask (upstream's way); ``sparse`` gathers the visible cells of the image once and computes nothing else.

    Args:
        backbone: A timm ResNet or ConvNeXt, or a module with ``get_downsample_ratio()``,
            ``get_feature_map_channels()`` and ``forward(x, hierarchical=True)``. Its layers are replaced in place.
        backend: ``masked_dense`` or ``sparse``.

    Raises:
        ValueError: If it offers no feature maps, or names the layers that cannot be masked.
    """

    def __init__(self, backbone: nn.Module, *, backend: Backend = "masked_dense") -> None:
        super().__init__()
        if backend not in _CONVERSIONS:
            raise ValueError(f"backend: found {backend!r}; expected one of {', '.join(_CONVERSIONS)}")
        self.backend: Backend = backend
        self._read = _timm_reader(backbone)
        if self._read is not None:
            info = list(backbone.feature_info)[-4:]  # pyright: ignore[reportArgumentType]
            self.stride, self.channels = int(info[-1]["reduction"]), [int(row["num_chs"]) for row in info]
        elif hasattr(backbone, "get_downsample_ratio") and hasattr(backbone, "get_feature_map_channels"):
            self.stride = int(backbone.get_downsample_ratio())  # pyright: ignore[reportCallIssue]
            self.channels = list(backbone.get_feature_map_channels())  # pyright: ignore[reportCallIssue]
        else:
            raise ValueError(
                f"backbone: {type(backbone).__name__} offers no feature maps; expected a timm ResNet or ConvNeXt, or "
                "get_downsample_ratio(), get_feature_map_channels() and forward(x, hierarchical=True)"
            )
        if self.stride < 2 or self.stride & (self.stride - 1):
            raise ValueError(f"backbone: found total stride {self.stride}; expected a power of two")
        self.visible = VisibleCells()
        self.backbone = self.convert(backbone)

    def convert(self, module: nn.Module, *, name: str = "") -> nn.Module:
        """Replace the layers of ``module``, in place, by those of the back-end; they follow this encoder's mask."""
        return _CONVERSIONS[self.backend](module, self.visible, name=name)

    def cells(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the mask for an image size."""
        if height % self.stride or width % self.stride or not height or not width:
            raise ValueError(
                f"image: found {height} x {width}; expected sides divisible by the total stride {self.stride}"
            )
        return height // self.stride, width // self.stride

    def forward(self, image: Tensor, mask: Tensor) -> list[Tensor | None]:
        """The maps of the visible part of ``(B, 3, H, W)``, zero at masked cells, fine to coarse."""
        return [None if found is None else self.dense(found) for found in self.encode(image, mask)]

    def dense(self, encoded: Tensor) -> Tensor:
        """The map of one scale of `encode`."""
        return self.visible.scatter(encoded) if self.backend == "sparse" else encoded

    def encode(self, image: Tensor, mask: Tensor) -> list[Tensor | None]:
        """The scales as the back-end has them, fine to coarse: maps, or rows ``(1, C, N, 1)`` of visible cells."""
        rows, columns = self.cells(*image.shape[2:])
        if tuple(mask.shape) != (len(image), 1, rows, columns):
            raise ValueError(f"mask: found {tuple(mask.shape)}; expected {(len(image), 1, rows, columns)}")
        self.visible.show(mask)
        is_sparse = self.backend == "sparse"
        x = self.visible.gather(image) if is_sparse else image * self.visible.at(*image.shape[2:])
        scales: list[Tensor | None]
        scales = list(self._read(self.backbone, x) if self._read else self.backbone(x, hierarchical=True))
        for index, (found, width) in enumerate(zip(scales, self.channels, strict=True)):
            scale = 2 ** (len(scales) - 1 - index)
            expected = (width, rows * scale, columns * scale)
            if found is None:
                continue
            size = (
                self.visible.sparse(found, layer=f"feature map {index}").spatial_shape if is_sparse else found.shape[2:]
            )
            if (found.shape[1], *size) != expected:
                raise ValueError(f"feature map {index}: found {(found.shape[1], *size)}; expected {expected}")
        return scales


class DecoderBlock(nn.Module):
    """Doubles the resolution: transposed 4x4, then two 3x3 convolutions with batch norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.up_sample = nn.ConvTranspose2d(in_channels, in_channels, 4, stride=2, padding=1)
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, in_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(in_channels),
            nn.ReLU6(inplace=True),
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),  # no activation behind it
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.up_sample(x))


class LightDecoder(nn.Module):
    """U-Net decoder: ``log2(stride)`` blocks whose width halves, each fed with a densified map where there is one.

    Args:
        stride: From the image to the coarsest map.
        width: Channels of the coarsest map.
        out_channels: Of the image.
    """

    def __init__(self, *, stride: int = 32, width: int = 768, out_channels: int = 3) -> None:
        super().__init__()
        count = stride.bit_length() - 1
        if stride < 2 or stride & (stride - 1) or width >> count < 1:
            raise ValueError(f"stride, width: found {stride}, {width}; expected a power of two and a width above it")
        self.stride, self.width = stride, width
        self.dec = nn.ModuleList(DecoderBlock(width >> i, width >> (i + 1)) for i in range(count))
        self.proj = nn.Conv2d(width >> count, out_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
            elif isinstance(module, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, maps: list[Tensor | None]) -> Tensor:
        """The image ``(B, 3, f stride, f stride)`` from maps, coarse to fine; missing ones add nothing."""
        if not maps or maps[0] is None:
            raise ValueError("maps: found no coarsest map; expected at least that one")
        x = torch.zeros_like(maps[0])
        for index, block in enumerate(self.dec):
            given = maps[index] if index < len(maps) else None
            x = block(x if given is None else x + given)
        return self.proj(x)


class Reconstruction(NamedTuple):
    """What one forward pass gives."""

    loss: Tensor  # () mean of patch_loss over masked patches
    patch_loss: Tensor  # (B, L) of every patch
    image: Tensor  # (B, 3, H, W) in the space of per-patch normalised pixels
    patch_mean: Tensor  # (B, L) of the true image
    patch_std: Tensor  # (B, L)
    mask: Tensor  # (B, 1, f, f), True is visible
    maps: list[Tensor | None]  # of the encoder, fine to coarse
    decoder_inputs: list[Tensor | None]  # coarse to fine


class SparK(nn.Module):
    """Encoder, densification, decoder and loss.

    Args:
        backbone: See ``SparseEncoder``.
        decoder_width: Channels at the coarsest scale of the decoder.
        densify_norm: Of the maps before they are filled: ``bn`` (ResNets), ``ln`` (ConvNeXt) or ``identity``.
        mask_ratio: Share of masked cells where no mask is given.
        backend: Of the encoder, see `SparseEncoder`.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        decoder_width: int = 768,
        densify_norm: DensifyNorm = "bn",
        mask_ratio: float = 0.6,
        backend: Backend = "masked_dense",
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio: found {mask_ratio}; expected a number between 0 and 1, both excluded")
        if densify_norm not in ("bn", "ln", "identity"):
            raise ValueError(f"densify_norm: found {densify_norm!r}; expected bn, ln or identity")
        self.mask_ratio = mask_ratio
        self.encoder = SparseEncoder(backbone, backend=backend)
        self.decoder = LightDecoder(stride=self.encoder.stride, width=decoder_width)
        self.norms, self.projections, self.mask_tokens = nn.ModuleList(), nn.ModuleList(), nn.ParameterList()
        for index, channels in enumerate(reversed(self.encoder.channels)):
            self.norms.append(self._norm(densify_norm, channels))
            token = nn.init.trunc_normal_(torch.empty(1, channels, 1, 1), std=0.02, a=-0.02, b=0.02)
            self.mask_tokens.append(nn.Parameter(token))
            width, kernel = decoder_width >> index, 1 if index == 0 else 3
            is_identity = index == 0 and channels == width
            self.projections.append(
                nn.Identity() if is_identity else nn.Conv2d(channels, width, kernel, padding=kernel // 2)
            )

    def _norm(self, kind: DensifyNorm, channels: int) -> nn.Module:
        if kind == "identity":
            return nn.Identity()
        norm = nn.BatchNorm2d(channels) if kind == "bn" else LayerNorm2d(channels, eps=1e-6)
        return self.encoder.convert(norm, name=f"densify {kind}")

    def densify(self, scales: list[Tensor | None]) -> list[Tensor | None]:
        """What `SparseEncoder.encode` gave, normalised, filled with mask tokens and projected: maps, coarse to fine."""
        dense: list[Tensor | None] = []
        for index, found in enumerate(reversed(scales)):
            if found is None:
                dense.append(None)
                continue
            norm = self.norms[index]
            token: Tensor = self.mask_tokens[index].to(found.dtype)
            if self.encoder.backend == "sparse":
                filled = self.encoder.visible.scatter(norm(found), fill=token.flatten())
            else:
                filled = torch.where(self.encoder.visible.at(*found.shape[2:]), norm(found), token)
            dense.append(self.projections[index](filled))
        return dense

    def forward(
        self, image: Tensor, mask: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Reconstruction:
        """Reconstruct the masked patches of ``(B, 3, H, W)``.

        Raises:
            ValueError: If the size is no multiple of the stride or the mask does not fit it.
        """
        rows, columns = self.encoder.cells(*image.shape[2:])
        if mask is None:
            mask = sample_mask(len(image), rows, columns, self.mask_ratio, generator).to(image.device)
        scales = self.encoder.encode(image, mask)
        decoder_inputs = self.densify(scales)
        out = self.decoder(decoder_inputs)
        target = patchify(image, self.encoder.stride)
        mean, std = target.mean(-1), (target.var(-1) + 1e-6).sqrt()  # unbiased
        difference = patchify(out, self.encoder.stride) - (target - mean[..., None]) / std[..., None]
        maps = [None if found is None else self.encoder.dense(found) for found in scales]
        patch_loss = difference.square().mean(-1)
        masked = ~mask.flatten(1)
        loss = (patch_loss * masked).sum() / (masked.sum() + 1e-8)
        return Reconstruction(loss, patch_loss, out, mean, std, mask, maps, decoder_inputs)

    def fill(self, image: Tensor, result: Reconstruction) -> Tensor:
        """The image where visible, elsewhere the reconstruction with the true statistics of each patch."""
        stride = self.encoder.stride
        patches = patchify(result.image, stride) * result.patch_std[..., None] + result.patch_mean[..., None]
        filled = unpatchify(patches, stride, *self.encoder.cells(*image.shape[2:]))
        return torch.where(self.encoder.visible.at(*image.shape[2:]), image, filled)
