"""Spiking neurons, surrogates, binary slots and firing rates."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.models.layers.spiking import (
    FiringRates,
    IntegerLIFNeuron,
    IntegerNeuron,
    LIFNeuron,
    NeuronSpec,
    SpikeConv2d,
    SpikeConvTranspose2d,
    SpikeLinear,
    binary_inference,
    expand_counts,
)
from zoo.models.layers.surrogates import SURROGATES, spike_step


@pytest.mark.parametrize("limit", [1, 2, 4, 7])
def test_integer_neuron_clamps_at_its_own_limit(limit: int) -> None:
    u = torch.linspace(-2, 10, 241, requires_grad=True)
    counts = IntegerNeuron(max_count=limit)(u)
    counts.sum().backward()
    assert torch.equal(counts, torch.floor(u.detach().clamp(0, limit) + 0.5))
    assert counts.max() == limit
    assert torch.equal(u.grad, ((u > 0) & (u < limit)).float())


def test_one_step_of_integer_lif_differs_from_the_integer_neuron_in_halves_and_edges_only() -> None:
    u = torch.tensor([[-1.0], [0.0], [0.4], [0.5], [1.5], [2.5], [3.9], [4.0], [5.0]])
    x, y = u.clone().requires_grad_(), u.clone().requires_grad_()
    up, even = IntegerNeuron()(x), IntegerLIFNeuron(num_steps=1)(y)
    (up.sum() + even.sum()).backward()
    assert (up - even).flatten().tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 0]
    assert (y.grad - x.grad).flatten().tolist() == [0, 1, 0, 0, 0, 0, 0, 1, 0]


def test_integer_lif_keeps_its_membrane_between_steps_but_not_between_calls() -> None:
    neuron = IntegerLIFNeuron(num_steps=3, decay=0.5)
    x = torch.full((3, 1), 0.4)
    assert neuron(x).flatten().tolist() == [0, 1, 0]  # membranes 0.4, 0.6, 0.4 - 0.2
    assert torch.equal(neuron(x), neuron(x))


@pytest.mark.parametrize("hard_reset", [False, True])
def test_lif_against_a_loop_over_entries(hard_reset: bool) -> None:
    neuron = LIFNeuron(num_steps=5, decay=0.8, threshold=0.7, hard_reset=hard_reset)
    x = torch.randn(5 * 6, 2, generator=torch.Generator().manual_seed(0)) + 0.4
    spikes = neuron(x).reshape(5, 12)
    for column, currents in enumerate(x.reshape(5, 12).T.tolist()):
        left = 0.0
        for step, current in enumerate(currents):
            membrane = 0.8 * left + current
            fired = float(membrane >= 0.7)
            assert spikes[step, column] == fired
            left = membrane * (1 - fired) if hard_reset else membrane - 0.7 * fired
    assert 0 < spikes.mean() < 1


def test_gradient_of_lif_goes_through_the_leak_and_through_the_reset_if_asked() -> None:
    grads = []
    for detach in (True, False):
        x = torch.tensor([[0.9], [0.3]], requires_grad=True)
        LIFNeuron(num_steps=2, decay=0.5, surrogate="triangle", detach_reset=detach)(x)[1].sum().backward()
        grads.append(x.grad.flatten().tolist())
    second = 1 - abs(0.5 * 0.9 + 0.3 - 1)
    first = 1 - abs(0.9 - 1)
    assert grads[0] == pytest.approx([0.5 * second, second])
    assert grads[1] == pytest.approx([0.5 * second * (1 - first), second])


@pytest.mark.parametrize("kind", list(SURROGATES))
@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_surrogates_have_area_one_and_their_peak_at_the_threshold(kind: str, width: float) -> None:
    v = torch.linspace(-2000, 2000, 4_000_001, dtype=torch.float64)
    density = SURROGATES[kind](v, width)
    assert float(torch.trapezoid(density, v)) == pytest.approx(1.0, abs=2e-3)
    assert density.max() == density[2_000_000]
    near = torch.tensor([-0.1, 0.1], requires_grad=True)
    spike_step(near, kind, width).sum().backward()
    assert torch.equal(near.grad, SURROGATES[kind](near.detach(), width))


def test_slots_are_a_thermometer_and_add_up_to_the_count() -> None:
    counts = torch.randint(0, 6, (2 * 3, 4), generator=torch.Generator().manual_seed(1)).float()
    slots = expand_counts(counts, 5, num_steps=2).reshape(2, 5, 3, 4)
    assert torch.equal(slots.sum(dim=1).flatten(0, 1), counts)
    assert bool((slots[:, 1:] <= slots[:, :-1]).all())
    assert set(slots.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (SpikeLinear(3, 5, max_count=4), (7, 3)),
        (SpikeConv2d(3, 5, 3, max_count=4, stride=2, padding=1), (2, 3, 6, 7)),
        (SpikeConvTranspose2d(3, 5, 2, max_count=4), (2, 3, 4, 4)),
    ],
)
def test_binary_layers_equal_integer_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    counts = torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(2)).float()
    layer.eval()
    with binary_inference(layer):
        binary = layer(counts)
        with pytest.raises(ValueError, match="not spike counts"):
            layer(counts + 0.5)
        with pytest.raises(ValueError, match="not spike counts"):
            layer(counts + 5)
    torch.testing.assert_close(binary, layer(counts).detach(), atol=1e-6, rtol=1e-6)
    assert not layer.binary


def test_binary_inference_refuses_training_mode_and_networks_without_spikes() -> None:
    with pytest.raises(ValueError, match="training mode"), binary_inference(SpikeLinear(1, 1, max_count=4)):
        pass
    with pytest.raises(ValueError, match="no layer that reads spikes"), binary_inference(nn.Linear(1, 1).eval()):
        pass


def test_firing_rates_are_means_over_all_calls() -> None:
    net = nn.Sequential(IntegerNeuron(max_count=2), nn.Linear(2, 2), IntegerNeuron())
    with FiringRates(net) as rates:
        net(torch.tensor([[0.0, 2.0]]))
        net(torch.tensor([[2.0, 2.0], [0.0, 1.0]]))
    assert rates.rates()["0"] == pytest.approx((0 + 2 + 2 + 2 + 0 + 1) / 6 / 2)
    net(torch.full((1, 2), 2.0))
    assert rates.rates()["0"] == pytest.approx(7 / 12)
    assert list(rates.rates()) == ["0", "2"]
    with FiringRates(net) as silent:
        net[0](torch.zeros(0, 2))
    assert silent.rates() == {}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: IntegerNeuron(max_count=0), "max_count"),
        (lambda: IntegerLIFNeuron(num_steps=2, decay=1.5), "decay"),
        (lambda: LIFNeuron(surrogate="relu"), "surrogate"),
        (lambda: LIFNeuron(threshold=0.0), "threshold"),
        (lambda: NeuronSpec("integer", num_steps=2), "no memory"),
        (lambda: NeuronSpec("lif", max_count=4), "binary"),
        (lambda: NeuronSpec("spike"), "kind"),
        (lambda: spike_step(torch.zeros(1), "step"), "kind"),
        (lambda: spike_step(torch.zeros(1), width=0.0), "width"),
        (lambda: IntegerLIFNeuron(num_steps=2)(torch.zeros(3, 1)), "multiple of num_steps"),
    ],
)
def test_bad_arguments(make, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


def test_every_kind_of_neuron_is_built_and_takes_no_rows() -> None:
    for spec in (NeuronSpec(), NeuronSpec("integer_lif", 2, 3), NeuronSpec("lif", 1, 2), NeuronSpec("relu")):
        neuron = spec.build()
        assert neuron(torch.zeros(0, 4)).shape == (0, 4)
        assert (spec.spike_limit is None) == isinstance(neuron, nn.ReLU)
