"""The classifier and the segmentor of E-3DSNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from zoo.models.e3dsnn.blocks import Encoder, UpBlock
from zoo.models.layers.spike_conv import SpikeSubMConv3d, mean_over_steps, set_norm_momentum
from zoo.models.layers.spiking import NeuronKind, NeuronSpec
from zoo.models.layers.surrogates import SurrogateKind
from zoo.ops import SparseTensor, global_avg_pool
from zoo.ops.checks import check_option

__all__ = ["PRESETS", "E3DSNNClassifier", "E3DSNNSegmentor", "Preset", "PresetName", "e3dsnn_classifier"]

PresetName = Literal["T", "S", "L", "H"]


class Preset(NamedTuple):
    """Widths and depths of a published size."""

    embed_channels: int
    enc_channels: tuple[int, ...]
    enc_depths: tuple[int, ...]


PRESETS: dict[PresetName, Preset] = {
    "T": Preset(16, (16, 32, 64, 128), (1, 1, 1, 1)),
    "S": Preset(24, (24, 48, 96, 160), (1, 1, 1, 1)),
    "L": Preset(64, (64, 128, 128, 256), (2, 2, 2, 2)),
    "H": Preset(64, (96, 192, 288, 384), (2, 2, 2, 2)),
}


class E3DSNNClassifier(Encoder):
    """Encoder, 1x1x1 convolution of the last membrane, mean over the voxels of each sample (and over time).

    Args:
        in_channels: Channels of the voxels; upstream: coordinates and normals, 6.
        num_classes: Classes.
        embed_channels: Channels after spike voxel coding.
        enc_channels: Channels of the down blocks.
        enc_depths: Basic blocks of each.
        activation: ``integer`` (the published neuron), ``integer_lif``, ``lif``, or ``relu`` (the artificial twin).
        max_count: D, the most spikes of a step.
        num_steps: T; more than 1 needs ``integer_lif`` or ``lif``.
        decay: Share of the membrane left after a step.
        surrogate: Of ``lif``.
        keep_border: Whether axes are rounded up to a multiple of 16, so that no voxel is lost; upstream reaches the
            same by enlarging every axis by 96.
        norm_momentum: Share by which a step moves the running statistics of the batch norms; upstream's is 0.01.
    """

    def __init__(
        self,
        *,
        in_channels: int = 6,
        num_classes: int = 40,
        embed_channels: int = 64,
        enc_channels: Sequence[int] = (64, 64, 128, 256),
        enc_depths: Sequence[int] = (2, 3, 6, 4),
        activation: NeuronKind = "integer",
        max_count: int = 4,
        num_steps: int = 1,
        decay: float = 0.25,
        surrogate: SurrogateKind = "atan",
        keep_border: bool = True,
        norm_momentum: float = 0.01,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            embed_channels=embed_channels,
            channels=tuple(enc_channels),
            depths=tuple(enc_depths),
            neuron=NeuronSpec(activation, max_count, num_steps, decay, surrogate),
            keep_border=keep_border,
        )
        self.num_classes = _positive("num_classes", num_classes)
        self.final = SpikeSubMConv3d(enc_channels[-1], num_classes, 1, max_count=None, bias=True)
        set_norm_momentum(self, norm_momentum)

    def forward(self, x: SparseTensor) -> Tensor:
        """Logits (B, K) of voxels (N, in_channels); an empty sample has logits 0."""
        return global_avg_pool(self.final(mean_over_steps(self.encode(x)[-1], self.num_steps)))


class E3DSNNSegmentor(Encoder):
    """U-Net: the encoder, inverse spike convolutions back to every level, 1x1x1 convolution of the last membrane.

    Args:
        in_channels: Channels of the voxels; upstream: coordinates and remission, 4.
        num_classes: Classes.
        embed_channels: Channels after spike voxel coding.
        enc_channels: Channels of the down blocks.
        enc_depths: Basic blocks of each.
        dec_channels: Channels of the up blocks, finest first.
        activation: ``integer`` (the published neuron), ``integer_lif``, ``lif``, or ``relu`` (the artificial twin).
        max_count: D, the most spikes of a step.
        num_steps: T; more than 1 needs ``integer_lif`` or ``lif``.
        decay: Share of the membrane left after a step.
        surrogate: Of ``lif``.
        keep_border: False, as upstream: a level with an odd axis drops its last plane, whose voxels then get nothing
            from the coarser levels. True keeps them.
        norm_momentum: Share by which a step moves the running statistics of the batch norms; upstream's is 0.01.
    """

    def __init__(
        self,
        *,
        in_channels: int = 4,
        num_classes: int = 19,
        embed_channels: int = 64,
        enc_channels: Sequence[int] = (64, 64, 128, 256),
        enc_depths: Sequence[int] = (2, 3, 6, 4),
        dec_channels: Sequence[int] = (96, 96, 128, 256),
        activation: NeuronKind = "integer",
        max_count: int = 4,
        num_steps: int = 1,
        decay: float = 0.25,
        surrogate: SurrogateKind = "atan",
        keep_border: bool = False,
        norm_momentum: float = 0.01,
    ) -> None:
        neuron = NeuronSpec(activation, max_count, num_steps, decay, surrogate)
        super().__init__(
            in_channels=in_channels,
            embed_channels=embed_channels,
            channels=tuple(enc_channels),
            depths=tuple(enc_depths),
            neuron=neuron,
            keep_border=keep_border,
        )
        if len(dec_channels) != len(enc_channels):
            raise ValueError(f"dec_channels: found {len(dec_channels)} levels, expected {len(enc_channels)}")
        self.num_classes = _positive("num_classes", num_classes)
        skips = (embed_channels, *enc_channels[:-1])
        below = (*dec_channels[1:], enc_channels[-1])
        self.dec = nn.ModuleList(
            UpBlock(coarse, skip, out, neuron) for coarse, skip, out in zip(below, skips, dec_channels, strict=True)
        )
        self.final = SpikeSubMConv3d(dec_channels[0], num_classes, 1, max_count=None, bias=True)
        set_norm_momentum(self, norm_momentum)

    def decode(self, levels: Sequence[SparseTensor]) -> list[SparseTensor]:
        """Membranes of the encoder to those of the decoder, both finest first."""
        x, risen = levels[-1], []
        for block, skip in zip(reversed(self.dec), reversed(levels[:-1]), strict=True):
            x = block(x, skip)
            risen.append(x)
        return risen[::-1]

    def forward(self, x: SparseTensor) -> Tensor:
        """Logits (N, K) of voxels (N, in_channels), rows as in ``x.features``."""
        finest = self.decode(self.encode(x))[0]
        return self.final(mean_over_steps(finest, self.num_steps)).features


def e3dsnn_classifier(
    size: PresetName, *, in_channels: int = 6, num_classes: int = 40, activation: NeuronKind = "integer"
) -> E3DSNNClassifier:
    """The classifier in a published size: T (1.87 M parameters), S (3.27 M), L (17.3 M) or H (46.6 M).

    Example:
        >>> import torch
        >>> with torch.device("meta"):
        ...     model = e3dsnn_classifier("T")
        >>> sum(parameter.numel() for parameter in model.parameters())
        1874216
    """
    check_option("size", size, tuple(PRESETS))
    return E3DSNNClassifier(
        **PRESETS[size]._asdict(), in_channels=in_channels, num_classes=num_classes, activation=activation
    )


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name}: found {value}, expected at least 1")
    return value
