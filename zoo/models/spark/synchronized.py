"""Batch norms of a SparK network with statistics over all processes."""

from __future__ import annotations

from torch import nn

from zoo.models.spark.masking import MaskedBatchNorm2d, MaskedSyncBatchNorm
from zoo.models.spark.sparse_layers import SparseBatchNorm2d, SparseSyncBatchNorm

__all__ = ["synchronize_norms"]

_SYNCHRONIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: nn.SyncBatchNorm,
    MaskedBatchNorm2d: MaskedSyncBatchNorm,
    SparseBatchNorm2d: SparseSyncBatchNorm,
}


def synchronize_norms(model: nn.Module) -> nn.Module:
    """Replace batch norms, in place, by synchronised ones; masked ones stay masked, keys and values stay.

    torch's own conversion would turn a masked norm into one that counts masked cells.

    Raises:
        ValueError: a batch norm of another kind, whose meaning the conversion would lose.
    """
    for name, module in list(model.named_modules()):
        for key, child in module.named_children():
            if isinstance(child, nn.SyncBatchNorm) or not isinstance(child, nn.modules.batchnorm._BatchNorm):
                continue
            kind = _SYNCHRONIZED.get(type(child))
            if kind is None:
                raise ValueError(
                    f"{name}.{key}: {type(child).__name__} has no synchronised form; say task.sync_batchnorm=false"
                )
            synchronized = kind.__new__(kind)
            synchronized.__dict__.update(child.__dict__)  # the same parameters, buffers and settings
            synchronized.__dict__["process_group"] = None
            setattr(module, key, synchronized)
    return model
