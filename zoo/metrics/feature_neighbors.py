"""Classes by the nearest training pictures in a network's features: what they are worth without training on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["classify_by_neighbors"]


def classify_by_neighbors(
    known: Tensor,
    labels: Tensor,
    asked: Tensor,
    num_classes: int,
    *,
    neighbors: int = 20,
    temperature: float = 0.07,
    rows_at_once: int = 1024,
) -> Tensor:
    """The class with the largest sum of ``exp(cosine / temperature)`` over the nearest rows (arXiv:1805.01978).

    Args:
        known: features ``(N, C)`` of the training pictures.
        labels: ``(N,)`` int64.
        asked: features ``(Q, C)``.
        num_classes: K.
        neighbors: so many rows of ``known`` vote.
        temperature: small: the nearest ones decide.
        rows_at_once: of ``asked``, which bounds memory.

    Returns:
        Classes ``(Q,)`` int64.

    Raises:
        ValueError: nothing is known, or shapes do not fit.
    """
    if len(known) == 0 or known.shape[1:] != asked.shape[1:] or labels.shape != known.shape[:1]:
        raise ValueError(
            f"known, labels, asked: found {tuple(known.shape)}, {tuple(labels.shape)}, {tuple(asked.shape)}; expected "
            "(N, C), (N,) and (Q, C) with N of at least 1"
        )
    known = F.normalize(known.float(), dim=1)
    found = []
    for rows in F.normalize(asked.float(), dim=1).split(rows_at_once):
        near = (rows @ known.T).topk(min(neighbors, len(known)), dim=1)
        votes = torch.zeros(len(rows), num_classes, device=rows.device)
        votes.scatter_add_(1, labels[near.indices], ((near.values - 1) / temperature).exp())
        found.append(votes.argmax(dim=1))
    return torch.cat(found) if found else labels[:0]
