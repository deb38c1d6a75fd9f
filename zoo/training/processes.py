"""What a run of several processes needs beside the strategy: norms over all rows, and parameters that take part."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.strategies import DDPStrategy
from torch.nn import Module

from zoo.models.layers.synchronized_norm import synchronize_norms

__all__ = ["SynchronizedNorms", "UnusedParameters"]

_NAMED = 10  # parameters in a message


class SynchronizedNorms(LayerSync):
    """`synchronize_norms` of the model that is trained, in place of ``torch.nn.SyncBatchNorm``."""

    def apply(self, model: Module) -> Module:
        """Have its batch norms count the rows of all processes."""
        return synchronize_norms(model)

    def revert(self, model: Module) -> Module:
        """Nothing: parameters and keys are those of ordinary norms, and so is evaluation."""
        return model


class UnusedParameters(Callback):
    """Names the parameters that a step left without a gradient, for which DDP would wait in vain."""

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look for them.

        Raises:
            RuntimeError: There are some, and the strategy does not look for them itself.
        """
        strategy = trainer.strategy
        if not isinstance(strategy, DDPStrategy) or strategy._ddp_kwargs.get("find_unused_parameters"):
            return
        unused = [name for name, value in pl_module.named_parameters() if value.requires_grad and value.grad is None]
        if unused:
            more = f" and {len(unused) - _NAMED} more" if len(unused) > _NAMED else ""
            raise RuntimeError(
                f"step {trainer.global_step}: {', '.join(unused[:_NAMED])}{more} got no gradient; with several "
                "processes every trained parameter has to be part of each loss. Freeze or remove them, or set "
                "trainer.strategy=ddp_find_unused_parameters_true"
            )
