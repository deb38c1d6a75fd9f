"""Batch norms whose statistics are those of the rows of all processes of a distributed run.

``torch.nn.SyncBatchNorm`` works on GPUs only and refuses a process without rows. Sparse models have as many rows as
their clouds have voxels, another number in each process, on any device.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.ops.processes import gather_over_processes, num_processes

__all__ = ["SynchronizableNorm", "batch_moments", "synchronize_norms"]


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Number n of rows of all processes, and mean and biased variance of each channel over them, with gradient.

    Each process computes its own :math:`n_r, \mu_r, M_r = \sum (x - \mu_r)^2`, and one collective brings them together
    (Chan et al. 1979, which is stable where a sum of squares is not):
    :math:`\mu = \sum n_r \mu_r / n`, :math:`\sigma^2 = \sum (M_r + n_r (\mu_r - \mu)^2) / n`.

    Args:
        x: ``(N, C, ...)``, all dimensions but the second are rows; there may be none in a process.

    Returns:
        n, a scalar; mean ``(C,)``; variance ``(C,)``; of the dtype of x. All are 0 where no process has a row.
    """
    rows = x.transpose(0, 1).flatten(1)  # (C, n_r)
    mean = rows.sum(1) / max(rows.shape[1], 1)
    squares = (rows - mean[:, None]).square().sum(1)
    parts = gather_over_processes(torch.cat([mean, squares, mean.new_tensor([rows.shape[1]])]))  # (W, 2C + 1)
    means, squares, counts = parts[:, : len(mean)], parts[:, len(mean) : -1], parts[:, -1:].detach()
    count = counts.sum()
    total = count.clamp(min=1)
    mean = (counts * means).sum(0) / total
    return count, mean, (squares + counts * (means - mean).square()).sum(0) / total


class SynchronizableNorm(_BatchNorm):
    """Put before a batch norm in a class's bases: `synchronize_norms` then has it count the rows of all processes.

    Running statistics stay equal in all processes. With fewer than two rows in all, the norm does what it does alone.
    """

    is_synchronized: bool = False

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"input: found {input.dim()} dimensions, expected rows (N, C) or maps (N, C, ...)")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(N, C, ...)``."""
        if not (self.is_synchronized and self.training and num_processes() > 1):
            return self._alone(input)
        self._check_input_dim(input)
        x = input if input.dtype == torch.float64 else input.float()
        count, mean, variance = batch_moments(x)
        if count < 2:
            return self._alone(input)
        self._track(count, mean.detach(), variance.detach())
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        out = (x - mean.view(shape)) * scale.view(shape)
        return (out + self.bias.view(shape) if self.affine else out).to(input.dtype)

    def _alone(self, input: Tensor) -> Tensor:
        return super().forward(input)

    @torch.no_grad()
    def _track(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats:
            return
        running_mean, running_var = cast(Tensor, self.running_mean), cast(Tensor, self.running_var)
        batches = cast(Tensor, self.num_batches_tracked)
        batches += 1
        share = 1.0 / float(batches) if self.momentum is None else self.momentum
        running_mean.lerp_(mean.to(running_mean), share)
        running_var.lerp_((variance * (count / (count - 1))).to(running_var), share)


class _BatchNorm1d(SynchronizableNorm, nn.BatchNorm1d):
    pass


class _BatchNorm2d(SynchronizableNorm, nn.BatchNorm2d):
    pass


class _BatchNorm3d(SynchronizableNorm, nn.BatchNorm3d):
    pass


_KINDS: dict[type[nn.Module], type[SynchronizableNorm]] = {
    nn.BatchNorm1d: _BatchNorm1d,
    nn.BatchNorm2d: _BatchNorm2d,
    nn.BatchNorm3d: _BatchNorm3d,
}


def synchronize_norms(model: nn.Module) -> nn.Module:
    """Have all batch norms of a model, in place, count the rows of all processes in training.

    Parameters, keys, masks and what a norm does in evaluation stay. Without a process group nothing changes.

    Raises:
        ValueError: A batch norm of another kind, whose meaning the change would lose.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm) or not isinstance(module, _BatchNorm):
            continue
        if type(module) in _KINDS:
            module.__class__ = _KINDS[type(module)]
        if not isinstance(module, SynchronizableNorm):
            raise ValueError(
                f"{name or 'model'}: found {type(module).__name__}, which has no form that counts the rows of all "
                "processes; derive it from SynchronizableNorm, or set trainer.sync_batchnorm=false"
            )
        module.is_synchronized = True
    return model
