"""Lovasz-Softmax: a convex surrogate of the mean intersection over union."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.losses.classification import check_labels
from zoo.ops.processes import gather_rows

__all__ = ["lovasz_softmax"]


def lovasz_softmax(logits: Tensor, target: Tensor, *, ignore_index: int = -1, over_processes: bool = False) -> Tensor:
    r"""Mean over the classes present in ``target`` of the Lovasz extension of the Jaccard loss, a scalar.

    With errors :math:`e_i = |[y_i = c] - p_{ic}|` in falling order, the loss of class c is
    :math:`\sum_i e_i (J_i - J_{i-1})`, :math:`J_i = 1 - \frac{G - F_i}{G + i - F_i}`, where :math:`F_i` counts the
    first i rows of class c and G all of them (Berman et al., CVPR 2018). 0 without any valid label.

    Args:
        logits: (N, K).
        target: int64 (N,), 0..K-1 or ``ignore_index``.
        ignore_index: Label of rows that do not count.
        over_processes: Whether the rows of all processes are one set; all have to call it then.

    Raises:
        ValueError: Shapes that do not fit, or labels outside of 0..K-1.

    Example:
        >>> import torch
        >>> lovasz_softmax(torch.tensor([[9.0, -9.0], [-9.0, 9.0]]), torch.tensor([0, 1])).item() < 1e-6
        True
    """
    valid = check_labels(logits, target, ignore_index)
    labels, probabilities = target[valid], logits[valid].softmax(dim=1)
    if over_processes:
        labels, probabilities = gather_rows(labels), gather_rows(probabilities)
    if len(labels) == 0:
        return probabilities.sum()
    present = torch.unique(labels)
    probabilities = probabilities.index_select(1, present)  # (M, P)
    member = (labels[:, None] == present).to(probabilities.dtype)
    errors, order = (member - probabilities).abs().sort(dim=0, descending=True)
    return (errors * _jaccard_steps(member.gather(0, order))).sum(dim=0).mean()


def _jaccard_steps(member: Tensor) -> Tensor:
    """Differences of the Jaccard loss along rows (M, P) sorted by error."""
    found = member.cumsum(dim=0)
    total = found[-1]
    wrong = (1 - member).cumsum(dim=0)
    loss = 1 - (total - found) / (total + wrong)
    return torch.cat([loss[:1], loss[1:] - loss[:-1]])
