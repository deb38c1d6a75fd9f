"""Averaged over processes, the gradient of a detector and of a segmentor is that of one process with all samples.

In float64: in float32 the rounding of another order of sums decides about spikes and about steps of Adam where a
gradient is nearly 0, and curves part that are the same in exact arithmetic.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.process_threads import run_processes
from tests.smoke.twins import MODELS
from zoo.data.detection import DetectionSample, collate_detection
from zoo.losses.classification import cross_entropy
from zoo.losses.lovasz import lovasz_softmax
from zoo.models.layers.synchronized_norm import synchronize_norms
from zoo.ops import SparseTensor
from zoo.training.configuration import build, compose


def street(number: int, points: int, boxes: int) -> DetectionSample:
    """A frame in the range of the tiny detector; there may be no point, and no box."""
    draw = torch.Generator().manual_seed(number)
    low, size = torch.tensor([1.0, -25.0, -2.5, 0.0]), torch.tensor([40.0, 50.0, 3.0, 1.0])
    places = torch.rand(boxes, 3, generator=draw) * size[:3] + low[:3]
    own = torch.cat([places, torch.tensor([[4.0, 1.8, 1.5, 0.4]]).expand(boxes, 4)], dim=1).double()
    cloud = (torch.rand(points, 4, generator=draw) * size + low).double()
    return DetectionSample(cloud, own, torch.arange(boxes) % 3, str(number))


def cloud(number: int, voxels: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(number)
    cells = torch.unique(torch.randint(32, (voxels, 3), generator=draw), dim=0)
    labels = torch.randint(-1, 19, (len(cells),), generator=draw)
    return cells, torch.randn(len(cells), 4, generator=draw).double(), labels


def detector_loss(model: nn.Module, samples: list[Any]) -> Tensor:
    batch = collate_detection(samples)
    batch.points, batch.boxes = batch.points.double(), [boxes.double() for boxes in batch.boxes]
    return model.loss(batch)["loss"]  # pyright: ignore[reportCallIssue]


def segmentor_loss(model: nn.Module, samples: list[Any]) -> Tensor:
    coords = torch.cat([nn.functional.pad(cells, (1, 0), value=n) for n, (cells, _, _) in enumerate(samples)])
    features, labels = (torch.cat([sample[part] for sample in samples]) for part in (1, 2))
    voxels = SparseTensor.from_coords(features, coords, [32, 32, 32], len(samples))
    logits = voxels.grid.to_caller_order(model(voxels))
    return cross_entropy(logits, labels, over_processes=True) + lovasz_softmax(logits, labels, over_processes=True)


CASES = {
    "detector": ("dsvt_street", "DSVT", detector_loss, [street(0, 300, 5), street(1, 40, 1), street(2, 0, 0)]),
    "segmentor": ("e3dsnn_street", "E3DSNNSegmentor", segmentor_loss, [cloud(0, 400), cloud(1, 60), cloud(2, 0)]),
}


@pytest.mark.parametrize("case", CASES)
def test_averaged_gradients_are_those_of_one_process(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, kind, loss_of, samples = CASES[case]
    small = next(options for name, options in MODELS.items() if name.endswith(kind))
    torch.manual_seed(0)
    one: nn.Module = build(compose([f"experiment={experiment}", *small]).model).double().train()
    copies = [synchronize_norms(deepcopy(one)) for _ in samples]
    expected = loss_of(one, samples)
    expected.backward()

    def work(rank: int) -> Tensor:
        loss = loss_of(copies[rank], samples[rank : rank + 1])
        loss.backward()
        return loss.detach()

    losses = run_processes(monkeypatch, len(samples), work)
    torch.testing.assert_close(torch.stack(losses).mean(), expected.detach(), rtol=1e-6, atol=0)
    for name, parameter in one.named_parameters():
        grads = [part.get_parameter(name).grad for part in copies]
        assert parameter.grad is not None, name
        assert all(grad is not None for grad in grads), name
        mean = torch.stack([grad for grad in grads if grad is not None]).mean(0)
        scale = float(parameter.grad.abs().max())
        torch.testing.assert_close(
            mean, parameter.grad, rtol=1e-5, atol=1e-6 * scale + 1e-12, msg=partial("{}: {}".format, name)
        )
