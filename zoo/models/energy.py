"""Operations and energy of spiking networks, counted layer by layer on real inputs.

With FL the multiply-accumulates of a layer (kernel-map pairs x in x out channels; a dense convolution has output cells
x kernel cells pairs, a linear layer a pair for each row):

- a layer that reads real values costs ``E_MAC * FL``: the first layer, the classifying one, all of an artificial twin;
- a layer that reads spikes costs ``E_AC`` for each synaptic operation, that is for each weight that a spike adds:
  ``SOP = out * sum over pairs of the counts of the input row``, counted exactly. The usual estimate
  ``T * D * rate * FL``, rate = mean(count) / D, is given beside it.

``E_MAC`` = 4.6 pJ and ``E_AC`` = 0.9 pJ are those of 45 nm CMOS at 32 bits (Horowitz, ISSCC 2014). Normalisations are
taken as folded into the convolutions; neurons, pooling, sums of membranes and memory traffic are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.layers.sparse_conv import SparseConvBase
from zoo.models.layers.spiking import SpikeLayer
from zoo.ops import SparseTensor

__all__ = ["AC_PJ", "MAC_PJ", "EnergyMeter", "EnergyReport", "LayerEnergy", "measure_energy"]

MAC_PJ, AC_PJ = 4.6, 0.9
PJ_PER_MJ = 1e9

_DENSE = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


@dataclass
class LayerEnergy:
    """Counts of one layer over all inputs.

    Attributes:
        name: In the model.
        in_channels: Channels read.
        out_channels: Channels written.
        max_count: D of the spikes that the layer reads; None for real values.
        pairs: Pairs of an input row and an output row.
        macs: Multiply-accumulates of the layer on real values.
        spikes: Sum of the counts read.
        entries: Numbers read.
        synaptic_ops: Additions that the spikes cause.
    """

    name: str
    in_channels: int
    out_channels: int
    max_count: int | None
    pairs: int = 0
    macs: int = 0
    spikes: int = 0
    entries: int = 0
    synaptic_ops: int = 0

    @property
    def spike_mean(self) -> float | None:
        """Mean count of an entry; None for real values and before any input."""
        return None if self.max_count is None or not self.entries else self.spikes / self.entries

    @property
    def firing_rate(self) -> float | None:
        """Mean spikes of a binary slot: mean count / D."""
        mean = self.spike_mean
        return None if mean is None or self.max_count is None else mean / self.max_count

    @property
    def energy_pj(self) -> float:
        """By exact synaptic operations, or multiply-accumulates for real values."""
        return MAC_PJ * self.macs if self.max_count is None else AC_PJ * self.synaptic_ops

    @property
    def energy_by_rate_pj(self) -> float:
        """The same with synaptic operations estimated as mean count x FL."""
        return MAC_PJ * self.macs if self.max_count is None else AC_PJ * (self.spike_mean or 0.0) * self.macs


@dataclass(frozen=True)
class EnergyReport:
    """Counts of all layers, in the order of first use, over ``num_samples`` samples."""

    layers: tuple[LayerEnergy, ...]
    num_samples: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates, were all values real."""
        return sum(layer.macs for layer in self.layers)

    @property
    def macs_of_real_input(self) -> int:
        """Multiply-accumulates of the layers that read real values."""
        return sum(layer.macs for layer in self.layers if layer.max_count is None)

    @property
    def synaptic_ops(self) -> int:
        """Additions of the layers that read spikes."""
        return sum(layer.synaptic_ops for layer in self.layers)

    @property
    def energy_pj(self) -> float:
        """Of the network as it is."""
        return MAC_PJ * self.macs_of_real_input + AC_PJ * self.synaptic_ops

    @property
    def energy_by_rate_pj(self) -> float:
        """The same with synaptic operations estimated from the firing rates."""
        return sum(layer.energy_by_rate_pj for layer in self.layers)

    @property
    def dense_energy_pj(self) -> float:
        """Of a network of the same layers on real values."""
        return MAC_PJ * self.macs

    @property
    def firing_rate(self) -> float:
        """Mean spikes of a binary slot over all entries that are read as spikes; 0 without any."""
        slots = sum(layer.entries * (layer.max_count or 0) for layer in self.layers)
        return sum(layer.spikes for layer in self.layers) / slots if slots else 0.0

    def metrics(self, prefix: str = "energy/") -> dict[str, float]:
        """Flat figures of a sample: mJ, operations in millions, firing rate."""
        count = max(self.num_samples, 1)
        return {
            f"{prefix}mj": self.energy_pj / count / PJ_PER_MJ,
            f"{prefix}by_rate_mj": self.energy_by_rate_pj / count / PJ_PER_MJ,
            f"{prefix}real_valued_mj": self.dense_energy_pj / count / PJ_PER_MJ,
            f"{prefix}million_macs": self.macs / count / 1e6,
            f"{prefix}million_macs_of_real_input": self.macs_of_real_input / count / 1e6,
            f"{prefix}million_synaptic_ops": self.synaptic_ops / count / 1e6,
            f"{prefix}firing_rate": self.firing_rate,
        }


class EnergyMeter:
    """Counts the operations of every convolution and linear layer of a model while its context is open.

    Samples are counted where data enters the first sparse convolution, or the first layer of a dense network.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: dict[str, LayerEnergy] = {}
        self.num_samples = 0
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> EnergyMeter:
        for name, module in self.model.named_modules():
            if isinstance(module, (SparseConvBase, *_DENSE)):
                self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def report(self) -> EnergyReport:
        """What was counted so far."""
        return EnergyReport(tuple(self.layers.values()), self.num_samples)

    def _hook(self, name: str) -> Any:
        @torch.no_grad()
        def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            x = inputs[0]
            if next(iter(self.layers), name) == name:
                self.num_samples += x.batch_size if isinstance(x, SparseTensor) else x.shape[0]
            layer = self.layers.setdefault(name, _describe(name, module))
            values = x.features if isinstance(x, SparseTensor) else x
            pairs, reach = _pairs(module, x, output, layer.max_count is not None)
            layer.pairs += pairs
            layer.macs += pairs * layer.in_channels * layer.out_channels // getattr(module, "groups", 1)
            layer.entries += values.numel()
            if layer.max_count is not None:
                layer.spikes += round(float(values.sum(dtype=torch.float64)))
                layer.synaptic_ops += reach * layer.out_channels // getattr(module, "groups", 1)

        return count


@torch.no_grad()
def measure_energy(model: nn.Module, batches: Iterable[Any]) -> EnergyReport:
    """Run a model on batches, one argument each, and count; it is put into eval mode for that.

    Example:
        >>> import torch
        >>> from zoo.models.layers.spiking import IntegerNeuron, SpikeLinear
        >>> net = nn.Sequential(nn.Linear(2, 3), IntegerNeuron(), SpikeLinear(3, 5, max_count=4))
        >>> report = measure_energy(net, [torch.zeros(4, 2)])
        >>> report.num_samples, report.macs, report.macs_of_real_input
        (4, 84, 24)
    """
    training = model.training
    try:
        with EnergyMeter(model.eval()) as meter:
            for batch in batches:
                model(batch)
    finally:
        model.train(training)
    return meter.report()


def _describe(name: str, module: nn.Module) -> LayerEnergy:
    limit = module.max_count if isinstance(module, SpikeLayer) else None
    if isinstance(module, nn.Linear):
        return LayerEnergy(name, module.in_features, module.out_features, limit)
    return LayerEnergy(name, int(module.in_channels), int(module.out_channels), limit)  # type: ignore[arg-type]


def _pairs(module: nn.Module, x: Any, output: Any, spiking: bool) -> tuple[int, int]:
    """The pairs of a call, and the counts of their input rows added up over all pairs (0 for real values)."""
    if isinstance(module, SparseConvBase):
        kernel_map = module.kernel_map(x)
        if not spiking:
            return kernel_map.num_pairs, 0
        rows = x.features.sum(dim=1, dtype=torch.float64)
        return kernel_map.num_pairs, round(float(rows[kernel_map.pairs_in.long()].sum()))
    values: Tensor = x
    total = round(float(values.sum(dtype=torch.float64)))
    if isinstance(module, nn.Linear):
        return values.numel() // module.in_features, total
    kernel: tuple[int, ...] = module.kernel_size  # type: ignore[assignment]
    cells = kernel[0] * kernel[1]
    if isinstance(module, nn.ConvTranspose2d):
        return values.shape[0] * values.shape[2] * values.shape[3] * cells, total * cells
    assert isinstance(module, nn.Conv2d)
    pairs = output.shape[0] * output.shape[2] * output.shape[3] * cells
    if not spiking:
        return pairs, 0
    ones = torch.ones(1, 1, *kernel, dtype=torch.float64, device=values.device)
    summed = values.sum(dim=1, keepdim=True, dtype=torch.float64)
    padding: Any = module.padding
    read = F.conv2d(summed, ones, stride=module.stride, padding=padding, dilation=module.dilation)  # type: ignore[arg-type]
    return pairs, round(float(read.sum()))
