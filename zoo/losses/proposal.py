"""The proposal loss of mip-NeRF 360 (Barron et al. 2022, eq. 13)."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.ops.importance_sampling import searchsorted


def pdf_loss(
    query_edges: Tensor, query_cdfs: Tensor, proposal_edges: Tensor, proposal_cdfs: Tensor, *, eps: float = 1e-7
) -> Tensor:
    """Penalise mass of the final samples that the proposal does not bound from above.

    loss_i = max(w_i - b_i, 0)^2 / (w_i + eps), w_i the mass of query interval i and b_i that of all proposal intervals
    which it touches.

    Args:
        query_edges: Edges of the final intervals, ``(n_rays, n + 1)``.
        query_cdfs: Mass in front of them, same shape; detach it to train only the proposal.
        proposal_edges: Edges of the proposal's intervals, ``(n_rays, m + 1)``.
        proposal_cdfs: Mass in front of them, same shape; differentiable.
        eps: Keeps the division finite.

    Returns:
        Loss of each query interval, ``(n_rays, n)``.

    Raises:
        ValueError: Wrong shape or dtype.
    """
    if query_cdfs.shape != query_edges.shape or proposal_cdfs.shape != proposal_edges.shape:
        raise ValueError(
            f"query_cdfs, proposal_cdfs: found shapes {tuple(query_cdfs.shape)}, {tuple(proposal_cdfs.shape)}, "
            f"expected those of their edges, {tuple(query_edges.shape)}, {tuple(proposal_edges.shape)}"
        )
    left, right = searchsorted(proposal_edges, query_edges)
    mass = query_cdfs.diff(dim=-1)
    bound = proposal_cdfs.gather(-1, right[..., 1:]) - proposal_cdfs.gather(-1, left[..., :-1])
    return torch.clamp_min(mass - bound, 0) ** 2 / (mass + eps)
