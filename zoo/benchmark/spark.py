"""SparK's encoder on visible cells alone against masked dense layers, and whole pre-training steps.

Both sides have the same weights, image, mask and drop paths. The masked dense side (upstream's way) runs in the memory
format that is faster for the network, found by a call of each before. The work, and the bound beside the ratio, counts
multiply-adds of convolutions and linear layers: all cells for the dense side, pairs of visible cells for ours.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.benchmark.harness import Case, Row, fastest
from zoo.models.spark import ConvNeXt, SparK, SparseEncoder, sample_mask
from zoo.models.spark.network import Backend, DensifyNorm
from zoo.models.spark.sparse_layers import SparseConv2d, SparseLinear
from zoo.ops import build_kernel_map
from zoo.tasks.annealed_decay import decay_groups
from zoo.tasks.lamb import LAMB

log = logging.getLogger("zoo.benchmark")

BATCH, SIZE, THREADS = 16, 224, 2
DECODER_WIDTH = 768
FORMATS = {"NCHW": torch.contiguous_format, "channels last": torch.channels_last}
DEEP_PATH = {"ResNet-50": 0.05, "ConvNeXt-S": 0.2}  # stochastic depth of the recipes


@dataclass(frozen=True)
class Network:
    """A backbone and what its pre-training adds."""

    name: str
    build: Callable[[], nn.Module]
    densify_norm: DensifyNorm
    encoder_ratios: tuple[float, ...]  # masked shares at which the encoder alone is measured


def _resnet50() -> nn.Module:
    import timm

    drop_path = DEEP_PATH["ResNet-50"]
    return timm.create_model("resnet50", num_classes=0, global_pool="", drop_path_rate=drop_path)


def _convnext_small() -> nn.Module:
    return ConvNeXt(depths=(3, 3, 27, 3), drop_path=DEEP_PATH["ConvNeXt-S"])


NETWORKS = (
    Network("ResNet-50", _resnet50, "bn", (0.6, 0.75)),
    Network("ConvNeXt-S", _convnext_small, "ln", (0.6,)),
)


def cases() -> Iterator[Case | Row]:
    """The encoders, then the whole steps."""
    networks = [n for n in NETWORKS if n.name != "ResNet-50" or importlib.util.find_spec("timm") is not None]
    if len(networks) < len(NETWORKS):
        log.warning("timm is not installed, so that ResNet-50 is left out: pip install 'voxelzoo[image]'")
    for network in networks:
        for ratio in network.encoder_ratios:
            yield encoder_case(network, ratio)
    for network in networks:
        for ratio in (0.6, 0.75):
            yield step_case(network, ratio)


def batch(mask_ratio: float) -> tuple[Tensor, Tensor]:
    """Pictures and a mask of a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    cells = SIZE // 32
    return torch.randn(BATCH, 3, SIZE, SIZE, generator=generator), sample_mask(
        BATCH, cells, cells, mask_ratio, generator
    )


def encoder_case(network: Network, ratio: float) -> Case:
    """Forward and backward of the encoder in training, for one gradient of all its maps."""
    image, mask = batch(ratio)

    def make(backend: Backend, memory_format: torch.memory_format) -> Callable[[], list[Tensor]]:
        torch.manual_seed(0)
        encoder = SparseEncoder(network.build(), backend=backend).train().to(memory_format=memory_format)
        pictures = image.contiguous(memory_format=memory_format)

        def run() -> list[Tensor]:
            encoder.zero_grad()
            maps = [found for found in encoder(pictures, mask) if found is not None]
            torch.autograd.backward(maps, [torch.ones_like(found) for found in maps])
            return [found.detach() for found in maps] + _gradients(encoder)

        return run

    dense_work, sparse_work = encoder_work(network, image, mask)
    label, peer = fastest(
        {name: functools.partial(make, "masked_dense", value) for name, value in FORMATS.items()}, THREADS
    )
    return Case(
        case=f"{network.name}, {ratio:.0%} masked",
        what=f"encoder forward + backward, batch {BATCH}; at equal efficiency {dense_work / sparse_work:.2f}x",
        threads=THREADS,
        ours=make("sparse", torch.channels_last),
        peer_name=f"masked dense, {label}",
        peer=peer,
        compare=agree,
        limit="flops",
        work=6 * sparse_work,  # forward and two gradients, two operations each
        setup=_seed,
    )


def step_case(network: Network, ratio: float) -> Case:
    """Forward, backward and optimiser step of the pre-training."""
    image, mask = batch(ratio)

    def make(backend: Backend, memory_format: torch.memory_format) -> Callable[[], list[Tensor]]:
        torch.manual_seed(0)
        model = SparK(
            backbone=network.build(),
            densify_norm=network.densify_norm,
            backend=backend,
            decoder_width=DECODER_WIDTH,
        )
        model = model.train().to(memory_format=memory_format)
        optimizer = LAMB(decay_groups(model.named_parameters()), lr=1e-5, betas=(0.9, 0.95), max_grad_norm=5.0)
        pictures = image.contiguous(memory_format=memory_format)

        def run() -> list[Tensor]:
            optimizer.zero_grad()
            loss = model(pictures, mask).loss
            loss.backward()
            optimizer.step()
            return [loss.detach(), *_gradients(model)]

        return run

    label, peer = fastest(
        {name: functools.partial(make, "masked_dense", value) for name, value in FORMATS.items()}, THREADS
    )
    return Case(
        case=f"{network.name}, {ratio:.0%} masked",
        what=f"whole pre-training step with decoder and LAMB, batch {BATCH}",
        threads=THREADS,
        ours=make("sparse", torch.channels_last),
        peer_name=f"masked dense, {label}",
        peer=peer,
        compare=agree,
        setup=_seed,
    )


def _seed() -> None:
    torch.manual_seed(1)  # both sides draw the same paths to drop


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def agree(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Every tensor within 1 % of its norm, or of a thousandth of the largest norm where it is smaller than that.

    So much differs between two orders of summation in float32: behind ReLU and batch norm small sums decide much, and
    the gradients of biases before a batch norm cancel altogether.
    """
    floor = 1e-3 * max(float(value.norm()) for value in expected)
    for index, (a, b) in enumerate(zip(actual, expected, strict=True)):
        allowed = 1e-2 * max(float(b.norm()), floor)
        difference = float((a - b).norm())
        assert difference <= allowed, (
            f"result[{index}] {tuple(b.shape)}: differs by {difference:.3g}, {allowed:.3g} allowed"
        )


def encoder_work(network: Network, image: Tensor, mask: Tensor) -> tuple[float, float]:
    """Multiply-adds of a forward pass over all cells, and over pairs of visible cells."""
    encoder = SparseEncoder(network.build(), backend="sparse").eval()
    work = [0.0, 0.0]

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(layer, SparseLinear):
            cells = inputs[0].shape[1]
            grid = encoder.visible.sparse(inputs[0].permute(0, 3, 1, 2), layer=layer.name).grid
            work[0] += layer.weight.numel() * grid.batch_size * float(torch.tensor(grid.spatial_shape).prod())
            work[1] += layer.weight.numel() * float(cells)
        elif isinstance(layer, SparseConv2d):
            x = encoder.visible.sparse(inputs[0], layer=layer.name)
            grid = encoder.visible.sparse(output, layer=layer.name).grid
            pairs = build_kernel_map(
                x.grid,
                grid,
                layer.kernel_size,
                stride=layer.stride,
                padding=layer.near_padding(),
                dilation=layer.dilation,
            ).num_pairs
            each = layer.weight.numel() / (layer.kernel_size[0] * layer.kernel_size[1])
            work[0] += layer.weight.numel() * grid.batch_size * float(torch.tensor(grid.spatial_shape).prod())
            work[1] += each * pairs

    hooks = [module.register_forward_hook(count) for module in encoder.modules()]  # type: ignore[arg-type]
    with torch.no_grad():
        encoder(image, mask)
    for hook in hooks:
        hook.remove()
    return work[0], work[1]
