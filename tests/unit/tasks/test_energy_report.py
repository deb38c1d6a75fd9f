"""The energy callback: counts the tested network, logs flat figures, adds its section, leaves no hook behind."""

from __future__ import annotations

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from zoo.models.energy import EnergyReport
from zoo.models.layers.spiking import IntegerNeuron, SpikeLinear
from zoo.rendering.report import ReportsSections, write_report
from zoo.tasks.energy_report import EnergyReporter, energy_section


class TestedTask(LightningModule):
    __test__ = False  # not a class of tests

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(2, 3), IntegerNeuron(), SpikeLinear(3, 5, max_count=4))
        nn.init.constant_(self.model[0].weight, 1.0)
        nn.init.zeros_(self.model[0].bias)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test/mean", self.model(batch).mean())


def run(callback: EnergyReporter) -> tuple[dict, TestedTask]:
    task = TestedTask()
    trainer = Trainer(
        callbacks=[callback], logger=False, enable_progress_bar=False, enable_checkpointing=False, accelerator="cpu"
    )
    data = DataLoader(torch.ones(6, 2), batch_size=2)  # type: ignore[arg-type]
    return dict(trainer.test(task, data, verbose=False)[0]), task


@pytest.mark.parametrize(("num_batches", "samples"), [(None, 6), (2, 4)])
def test_counts_of_a_test(num_batches: int | None, samples: int, tmp_path) -> None:
    callback = EnergyReporter(num_batches=num_batches)
    measured, task = run(callback)
    assert callback.report is not None
    assert callback.report.num_samples == samples
    assert measured["test/energy/million_synaptic_ops"] == pytest.approx(2 * 3 * 5 / 1e6)  # every neuron counts 2
    assert measured["test/energy/firing_rate"] == pytest.approx(0.5)
    assert measured["test/energy/mj"] == pytest.approx((4.6 * 6 + 0.9 * 30) / 1e9)
    assert measured["test/energy/real_valued_mj"] == pytest.approx(4.6 * 21 / 1e9)
    assert not any(module._forward_hooks for module in task.modules())
    assert isinstance(callback, ReportsSections)
    write_report(tmp_path / "report.html", title="x", sections=callback.report_sections())
    text = (tmp_path / "report.html").read_text()
    assert "spikes 0..4" in text
    assert "model.0" not in text


def test_nothing_counted_shows_nothing() -> None:
    assert list(EnergyReporter().report_sections()) == []
    assert energy_section(EnergyReport((), 0)).charts == []


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="num_batches"):
        EnergyReporter(num_batches=0)
    with pytest.raises(ValueError, match="no network 'net'"):
        run(EnergyReporter(module="net"))
