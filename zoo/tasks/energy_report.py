"""Operations, firing rates and energy of the tested network, in the report and among the final figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from zoo.models.energy import AC_PJ, MAC_PJ, PJ_PER_MJ, EnergyMeter, EnergyReport
from zoo.rendering.report import Chart, ReportSection, Series, Table

__all__ = ["EnergyReporter", "energy_section"]


class EnergyReporter(Callback):
    """Counts while the test runs; logs ``test/energy/...`` and adds a section to the report.

    A sample is one cloud that went through the network: of a cloud that is tested in several fragments or turns, each
    counts.

    Args:
        num_batches: Test batches that are counted; None: all.
        module: Attribute of the task that holds the network.
    """

    def __init__(self, *, num_batches: int | None = None, module: str = "model") -> None:
        if num_batches is not None and num_batches < 1:
            raise ValueError(f"num_batches: found {num_batches}, expected at least 1, or null for all")
        self.num_batches, self.module = num_batches, module
        self.report: EnergyReport | None = None
        self._meter: EnergyMeter | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count."""
        self._stop()
        network = getattr(pl_module, self.module, None)
        if not isinstance(network, nn.Module):
            raise ValueError(f"module: {type(pl_module).__name__} has no network {self.module!r} to count")
        self._meter = EnergyMeter(network).__enter__()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop after the last counted batch."""
        if self.num_batches is not None and batch_idx + 1 >= self.num_batches:
            self._stop()

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the figures."""
        self._stop()
        if self.report is not None:
            figures = self.report.metrics("test/energy/")
            pl_module.log_dict({name: torch.tensor(value) for name, value in figures.items()})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._stop()

    def report_sections(self) -> Sequence[ReportSection]:
        """The table of layers, once something was counted."""
        return [] if self.report is None or not self.report.layers else [energy_section(self.report)]

    def _stop(self) -> None:
        if self._meter is not None:
            self._meter.__exit__()
            self.report, self._meter = self._meter.report(), None


def energy_section(report: EnergyReport) -> ReportSection:
    """Totals and a table of layers, for one sample on average."""
    count = max(report.num_samples, 1)
    figures = report.metrics("")
    rows = [
        (
            layer.name,
            "real" if layer.max_count is None else f"spikes 0..{layer.max_count}",
            f"{layer.in_channels} > {layer.out_channels}",
            layer.pairs / count,
            layer.macs / count / 1e6,
            layer.firing_rate,
            None if layer.max_count is None else layer.synaptic_ops / count / 1e6,
            layer.energy_pj / count / PJ_PER_MJ,
        )
        for layer in report.layers
    ]
    columns = ("layer", "reads", "channels", "pairs", "million MACs", "firing rate", "million synaptic ops", "mJ")
    names = {
        "mj": f"energy, mJ ({MAC_PJ} pJ a multiply-accumulate of real values, {AC_PJ} pJ a synaptic operation)",
        "by_rate_mj": "the same, estimated from firing rates, mJ",
        "real_valued_mj": "the same layers on real values, mJ",
        "million_macs": "multiply-accumulates on real values, million",
        "million_macs_of_real_input": "of these in layers that read real values, million",
        "million_synaptic_ops": "synaptic operations, million",
        "firing_rate": "mean firing rate",
    }
    spiking = [(index, layer.firing_rate) for index, layer in enumerate(report.layers) if layer.firing_rate is not None]
    chart = Chart(
        "firing rate of the spikes that each layer reads",
        [Series("rate", [float(index) for index, _ in spiking], [rate for _, rate in spiking])],
        x_label="layer",
    )
    return ReportSection(
        "Operations and energy",
        text=f"Means over {report.num_samples:,} clouds. Normalisations are taken as folded; neurons, sums of "
        "membranes and memory traffic are not counted.",
        charts=[chart] if spiking else [],
        tables=[
            Table(("of one cloud", "value"), [(text, figures[name]) for name, text in names.items()]),
            Table(columns, rows, "Layers in the order of use, for one cloud"),
        ],
    )
