"""Convnets to pre-train: timm's ResNets by their depths, and a small residual network for small pictures.

ConvNeXt stands in its own file. Maps are ``(B, C, H, W)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from zoo.models.spark.convnext import ConvNeXt

# oneDNN (issue 6035) writes outside its scratchpad in the gradient of a strided 1x1 convolution of fewer channels.
_LEAST_CHANNELS = 16

__all__ = ["SmallResNet", "feature_channels", "final_map", "resnet", "stage_depths"]


def resnet(
    *,
    depths: Sequence[int] = (3, 4, 6, 3),
    block: Literal["bottleneck", "basic"] = "bottleneck",
    channels: Sequence[int] = (64, 128, 256, 512),
    drop_path: float = 0.0,
) -> nn.Module:
    """Timm's ResNet without pooling and classifier: maps at strides 4, 8, 16, 32.

    Args:
        depths: blocks of each stage: (3, 4, 6, 3) is ResNet-50, (3, 4, 23, 3) 101, (3, 8, 36, 3) 152 and
            (3, 24, 36, 3) 200.
        block: the last channels of a stage are four times ``channels`` with bottlenecks.
        channels: inner channels of each stage.
        drop_path: stochastic depth of the last block, rising linearly from 0.

    Raises:
        ImportError: timm is not installed.
        ValueError: no such block, or shortcuts of fewer than 16 channels, whose gradients oneDNN computes wrongly.
    """
    try:
        from timm.models.resnet import BasicBlock, Bottleneck, ResNet
    except ImportError as error:
        raise ImportError("a ResNet needs timm: pip install 'voxelzoo[image]'") from error
    kinds = {"bottleneck": Bottleneck, "basic": BasicBlock}
    if block not in kinds:
        raise ValueError(f"block: found {block!r}, expected one of {', '.join(kinds)}")
    _check_channels("channels", min(channels) * (4 if block == "bottleneck" else 1))
    return ResNet(
        kinds[block],  # pyright: ignore[reportArgumentType]
        tuple(depths),  # pyright: ignore[reportArgumentType]
        channels=tuple(channels),  # pyright: ignore[reportArgumentType]
        num_classes=0,
        global_pool="",
        drop_path_rate=drop_path,
    )


def _check_channels(name: str, least: int) -> None:
    if least < _LEAST_CHANNELS:
        raise ValueError(
            f"{name}: found shortcuts of {least} channels, expected at least {_LEAST_CHANNELS}: the gradient of "
            "narrower strided 1x1 convolutions corrupts memory on x86 CPUs (oneDNN issue 6035)"
        )


class _BasicBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        return self.act(out + self.downsample(x))


class SmallResNet(nn.Module):
    """Basic blocks for pictures of 32 to 64 pixels; offers SparK's feature-map protocol.

    The first convolution keeps the resolution, each stage halves it: maps at strides 2, 4, 8 with three stages, so that
    a picture of 32 pixels has 4 x 4 patches to mask.

    Args:
        depths: blocks of each stage.
        width: channels of the first stage, at least 16; they double with each stage.
    """

    def __init__(self, *, depths: Sequence[int] = (2, 2, 2), width: int = 48) -> None:
        super().__init__()
        if not depths or min(depths) < 1:
            raise ValueError(f"depths: found {list(depths)}, expected positive numbers")
        _check_channels("width", width)
        self.channels = [width << stage for stage in range(len(depths))]
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        before = width
        for stage, (depth, channels) in enumerate(zip(depths, self.channels, strict=True), 1):
            blocks = [_BasicBlock(before if i == 0 else channels, channels, 2 if i == 0 else 1) for i in range(depth)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            before = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_downsample_ratio(self) -> int:
        """Total stride."""
        return 1 << len(self.channels)

    def get_feature_map_channels(self) -> list[int]:
        """Channels of the maps, fine to coarse."""
        return list(self.channels)

    def forward(self, x: Tensor, hierarchical: bool = False) -> Tensor | list[Tensor]:
        """The last map, or those of all stages."""
        x, maps = self.act1(self.bn1(self.conv1(x))), []
        for stage in range(1, len(self.channels) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps if hierarchical else x


def feature_channels(backbone: nn.Module) -> int:
    """Channels of the last map.

    Raises:
        ValueError: neither one of timm's ResNets nor a network with the feature-map protocol.
    """
    if hasattr(backbone, "get_feature_map_channels"):
        return int(backbone.get_feature_map_channels()[-1])  # pyright: ignore[reportCallIssue]
    if hasattr(backbone, "feature_info") and hasattr(backbone, "forward_features"):
        return int(backbone.feature_info[-1]["num_chs"])  # pyright: ignore
    raise ValueError(
        f"backbone: {type(backbone).__name__} offers no feature maps; expected a timm network without its classifier, "
        "or get_feature_map_channels() and forward(x, hierarchical=True)"
    )


def final_map(backbone: nn.Module, image: Tensor) -> Tensor:
    """The last map ``(B, C, h, w)`` of the whole picture."""
    if hasattr(backbone, "get_feature_map_channels"):
        return backbone(image, hierarchical=True)[-1]
    return backbone.forward_features(image)  # pyright: ignore[reportCallIssue]


def stage_depths(backbone: nn.Module) -> list[int]:
    """Blocks of each stage."""
    if isinstance(backbone, ConvNeXt):
        return [len(stage) for stage in backbone.stages]  # pyright: ignore[reportArgumentType]
    return [len(stage) for name, stage in backbone.named_children() if name.startswith("layer")]  # pyright: ignore
