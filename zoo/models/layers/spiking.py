r"""Spiking neurons, and how integer spike counts become binary spikes.

A neuron turns membrane potentials into spike counts. Several time steps lie one after the other on the first axis,
(T * N, ...), time first; a neuron without memory does not need to know T.

**Integer training, binary inference.** A count c in 0..D stands for D virtual time steps of which the first c carry a
spike (thermometer code). A layer without bias is linear, so :math:`W c = \sum_d W s_d`: it may run on the D binary
slots, where multiplications turn into additions of weights, and the D results are summed before the normalisation; a
bias is added once. Slots never touch the membrane. `binary_inference` switches all `SpikeLayer` modules of a network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.layers.surrogates import SURROGATES, SurrogateKind, spike_step
from zoo.ops import spike_counts, spike_linear
from zoo.ops.checks import check_option

__all__ = [
    "FiringRates",
    "IntegerLIFNeuron",
    "IntegerNeuron",
    "LIFNeuron",
    "NeuronKind",
    "NeuronSpec",
    "SpikeConv2d",
    "SpikeConvTranspose2d",
    "SpikeLayer",
    "SpikeLinear",
    "SpikingNeuron",
    "binary_inference",
    "expand_counts",
]

NeuronKind = Literal["integer", "integer_lif", "lif", "relu"]


class SpikingNeuron(nn.Module):
    """Base class: membrane potentials (T * N, ...) to counts of the same shape.

    Args:
        max_count: D, the most spikes of a step.
        num_steps: T, how many time steps the first axis holds.
    """

    def __init__(self, *, max_count: int, num_steps: int = 1) -> None:
        super().__init__()
        if max_count < 1 or num_steps < 1:
            raise ValueError(f"max_count, num_steps: found {max_count}, {num_steps}, expected at least 1")
        self.max_count, self.num_steps = max_count, num_steps

    def steps(self, x: Tensor) -> Tensor:
        """The time axis apart: (T * N, ...) to (T, N, ...)."""
        if x.shape[0] % self.num_steps:
            raise ValueError(f"x: found {x.shape[0]} rows, expected a multiple of num_steps = {self.num_steps}")
        return x.reshape(self.num_steps, x.shape[0] // self.num_steps, *x.shape[1:])

    def extra_repr(self) -> str:
        """D and T."""
        return f"max_count={self.max_count}, num_steps={self.num_steps}"


class IntegerNeuron(SpikingNeuron):
    """The multi-level neuron of E-3DSNN: ``floor(clamp(u, 0, D) + 0.5)``, without memory.

    Halves round up. The gradient is 1 where ``0 < u < D`` and 0 elsewhere. Upstream's neuron has an argument for D that
    it ignores (it always clamps at 4); here D is what is asked for.
    """

    def __init__(self, *, max_count: int = 4) -> None:
        super().__init__(max_count=max_count)

    def forward(self, x: Tensor) -> Tensor:
        """Counts in 0..D, any shape."""
        return spike_counts(x, self.max_count, half_up=True)


class IntegerLIFNeuron(SpikingNeuron):
    r"""Multi-step integer leaky integrate-and-fire (I-LIF).

    .. math:: u_0 = x_0,\quad u_t = \beta\,(u_{t-1} - c_{t-1}) + x_t,\quad c_t = \mathrm{round}(\min(\max(u_t, 0), D))

    Halves round to the even number. The reset subtracts the emitted count and is cut from the gradient; the leak is
    not. The gradient of c with respect to u is 1 where ``0 <= u <= D``.

    Args:
        num_steps: T.
        max_count: D.
        decay: Beta, the share of the membrane that is left after a step.
    """

    def __init__(self, *, num_steps: int, max_count: int = 4, decay: float = 0.25) -> None:
        super().__init__(max_count=max_count, num_steps=num_steps)
        self.decay = _check_decay(decay)

    def forward(self, x: Tensor) -> Tensor:
        """Counts in 0..D: (T * N, ...) to (T * N, ...)."""
        membrane, counts = None, []
        for current in self.steps(x):
            membrane = current if membrane is None else self.decay * (membrane - counts[-1].detach()) + current
            counts.append(spike_counts(membrane, self.max_count, half_up=False))
        return torch.cat(counts)

    def extra_repr(self) -> str:
        """D, T and beta."""
        return f"{super().extra_repr()}, decay={self.decay}"


class LIFNeuron(SpikingNeuron):
    r"""Leaky integrate-and-fire with binary spikes.

    .. math:: u_t = \beta\,v_{t-1} + x_t,\quad s_t = H(u_t / \theta - 1)

    and after the spike the membrane is :math:`v_t = u_t - \theta s_t` (soft reset) or :math:`v_t = u_t (1 - s_t)`
    (hard reset). With T = 1 it is a threshold.

    Args:
        num_steps: T.
        decay: Beta.
        threshold: Theta.
        surrogate: One of the surrogates of `zoo.models.layers.surrogates`, taken of ``u / threshold - 1``.
        width: Its width.
        hard_reset: Whether a spike empties the membrane; else it subtracts the threshold.
        detach_reset: Whether the reset is cut from the gradient.
    """

    def __init__(
        self,
        *,
        num_steps: int = 1,
        decay: float = 0.5,
        threshold: float = 1.0,
        surrogate: SurrogateKind = "atan",
        width: float = 1.0,
        hard_reset: bool = False,
        detach_reset: bool = True,
    ) -> None:
        super().__init__(max_count=1, num_steps=num_steps)
        check_option("surrogate", surrogate, tuple(SURROGATES))
        if not threshold > 0 or not width > 0:
            raise ValueError(f"threshold, width: found {threshold}, {width}, expected positive numbers")
        self.decay, self.threshold, self.width = _check_decay(decay), threshold, width
        self.surrogate: SurrogateKind = surrogate
        self.hard_reset, self.detach_reset = hard_reset, detach_reset

    def forward(self, x: Tensor) -> Tensor:
        """Spikes 0 or 1: (T * N, ...) to (T * N, ...)."""
        left, spikes = None, []
        for current in self.steps(x):
            membrane = current if left is None else self.decay * left + current
            fired = spike_step(membrane / self.threshold - 1, self.surrogate, self.width)
            reset = fired.detach() if self.detach_reset else fired
            left = membrane * (1 - reset) if self.hard_reset else membrane - self.threshold * reset
            spikes.append(fired)
        return torch.cat(spikes)

    def extra_repr(self) -> str:
        """T, beta, theta and the surrogate."""
        return f"num_steps={self.num_steps}, decay={self.decay}, threshold={self.threshold}, {self.surrogate}"


@dataclass(frozen=True)
class NeuronSpec:
    """Which neuron a network is made with.

    Args:
        kind: ``integer`` (no memory), ``integer_lif``, ``lif``, or ``relu``: the artificial twin, which does not spike.
        max_count: D, the most spikes of a step; 1 for ``lif``.
        num_steps: T; more than 1 needs a neuron with memory.
        decay: Share of the membrane left after a step.
        surrogate: Of ``lif``.

    Raises:
        ValueError: Several steps of a neuron without memory, or D other than 1 for ``lif``.
    """

    kind: NeuronKind = "integer"
    max_count: int = 4
    num_steps: int = 1
    decay: float = 0.25
    surrogate: SurrogateKind = "atan"

    def __post_init__(self) -> None:
        check_option("kind", self.kind, ("integer", "integer_lif", "lif", "relu"))
        if self.num_steps > 1 and self.kind in ("integer", "relu"):
            raise ValueError(
                f"num_steps: found {self.num_steps} for {self.kind!r}, which has no memory; expected 1, or "
                "'integer_lif' or 'lif'"
            )
        if self.kind == "lif" and self.max_count != 1:
            raise ValueError(f"max_count: found {self.max_count} for 'lif', whose spikes are binary; expected 1")

    @property
    def spike_limit(self) -> int | None:
        """D for the layers that read the neuron; None where it passes real values."""
        return None if self.kind == "relu" else self.max_count

    def build(self) -> nn.Module:
        """A new neuron."""
        if self.kind == "integer":
            return IntegerNeuron(max_count=self.max_count)
        if self.kind == "integer_lif":
            return IntegerLIFNeuron(num_steps=self.num_steps, max_count=self.max_count, decay=self.decay)
        if self.kind == "lif":
            return LIFNeuron(num_steps=self.num_steps, decay=self.decay, surrogate=self.surrogate)
        return nn.ReLU()


def expand_counts(counts: Tensor, max_count: int, num_steps: int = 1) -> Tensor:
    """Counts (T * N, ...) as binary spikes (T * D * N, ...) in thermometer code; slot d is 1 where ``d < count``.

    Slot ``t * D + d`` holds virtual step d of time step t.

    Raises:
        ValueError: Values that are not integers in 0..D.

    Example:
        >>> import torch
        >>> expand_counts(torch.tensor([[0.0, 1.0, 3.0]]), 4).tolist()
        [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    _check_counts(counts, max_count)
    steps = counts.reshape(num_steps, 1, counts.shape[0] // num_steps, *counts.shape[1:])
    levels = torch.arange(max_count, device=counts.device, dtype=counts.dtype)
    slots = levels.reshape(1, -1, *(1,) * counts.dim()) < steps  # (T, D, N, ...)
    return slots.flatten(0, 2).to(counts.dtype)


class SpikeLayer(nn.Module):
    """Mixin of layers that read spike counts.

    Attributes:
        max_count: D of the neuron before it; None where real values come (first layers, artificial twins).
        binary: Whether the layer runs on binary slots; set by `binary_inference`.
    """

    max_count: int | None = None
    binary: bool = False

    def slots(self, counts: Tensor) -> Iterator[Tensor]:
        """The D binary inputs, one after the other."""
        assert self.max_count is not None
        _check_counts(counts, self.max_count)
        for level in range(self.max_count):
            yield (counts > level).to(counts.dtype)


@contextlib.contextmanager
def binary_inference(model: nn.Module) -> Iterator[None]:
    """Within the context, the layers of ``model`` run on binary spikes; results equal those of integer counts.

    Gradients are off: binary slots have none.

    Raises:
        ValueError: The model is in training mode, or none of its layers reads spikes.

    Example:
        >>> import torch
        >>> layer = SpikeLinear(2, 1, max_count=4).eval()
        >>> counts = torch.tensor([[3.0, 1.0]])
        >>> with binary_inference(layer):
        ...     binary = layer(counts)
        >>> torch.allclose(binary, layer(counts))
        True
    """
    layers = [module for module in model.modules() if isinstance(module, SpikeLayer) and module.max_count is not None]
    if not layers:
        raise ValueError(
            "model: found no layer that reads spikes, expected a spiking network (activation 'relu' is not)"
        )
    if model.training:
        raise ValueError("model: found in training mode, expected eval mode: call model.eval() first")
    before = [layer.binary for layer in layers]
    try:
        for layer in layers:
            layer.binary = True
        with torch.no_grad():
            yield
    finally:
        for layer, binary in zip(layers, before, strict=True):
            layer.binary = binary


class SpikeLinear(nn.Linear, SpikeLayer):
    """Linear layer (N, in) to (N, out) on spike counts."""

    def __init__(self, in_features: int, out_features: int, *, max_count: int | None, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.max_count = max_count

    def forward(self, input: Tensor) -> Tensor:
        """Weigh the counts, or in binary mode add the weights of each slot."""
        if not self.binary:
            spikes = self.max_count is not None and input.dim() == 2
            return spike_linear(input, self.weight, self.bias) if spikes else super().forward(input)
        total = _sum(F.linear(slot, self.weight) for slot in self.slots(input))
        return total if self.bias is None else total + self.bias


class SpikeConv2d(nn.Conv2d, SpikeLayer):
    """Dense 2D convolution of spike counts, without bias."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, max_count: int | None, stride: int, padding: int
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False)
        self.max_count = max_count

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, in, H, W)."""
        if not self.binary:
            return super().forward(input)
        return _sum(super(SpikeConv2d, self).forward(slot) for slot in self.slots(input))


class SpikeConvTranspose2d(nn.ConvTranspose2d, SpikeLayer):
    """Dense transposed 2D convolution of spike counts, without bias; kernel size and stride are one number."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, *, max_count: int | None) -> None:
        super().__init__(in_channels, out_channels, stride, stride=stride, bias=False)
        self.max_count = max_count

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Convolve (B, in, H, W) to (B, out, H * stride, W * stride)."""
        if not self.binary:
            return super().forward(input, output_size)
        return _sum(super(SpikeConvTranspose2d, self).forward(slot, output_size) for slot in self.slots(input))


class FiringRates:
    """Measures the firing rate of every neuron: mean(count) / D over all that passes while the context is open.

    Example:
        >>> import torch
        >>> neuron = IntegerNeuron(max_count=4)
        >>> with FiringRates(neuron) as rates:
        ...     _ = neuron(torch.tensor([0.0, 4.0]))
        >>> rates.rates()
        {'': 0.5}
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._totals: dict[str, tuple[float, int, int]] = {}  # sum of counts, entries, D
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> FiringRates:
        for name, module in self.model.named_modules():
            if isinstance(module, SpikingNeuron):
                self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def rates(self) -> dict[str, float]:
        """Firing rate by the neuron's name in the model, in the order of first use; neurons that saw nothing lack."""
        return {name: total / (entries * limit) for name, (total, entries, limit) in self._totals.items() if entries}

    def _hook(self, name: str):  # noqa: ANN202 - a closure
        def add(module: SpikingNeuron, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            total, entries, _ = self._totals.get(name, (0.0, 0, 0))
            counted = float(output.detach().sum(dtype=torch.float64))
            self._totals[name] = (total + counted, entries + output.numel(), module.max_count)

        return add


def _sum(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total


def _check_counts(counts: Tensor, max_count: int) -> None:
    if not bool(((counts >= 0) & (counts <= max_count) & (counts == counts.round())).all()):
        raise ValueError(f"counts: found values that are not spike counts, expected integers from 0 to {max_count}")


def _check_decay(decay: float) -> float:
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: found {decay}, expected a share from 0 to 1")
    return decay
