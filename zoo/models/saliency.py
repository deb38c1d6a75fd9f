"""The three parts that make a hash-grid field hollow: saliency grid, density gate and the pruner of the saliency grid.

Source: Xie, Gherardi, Pan, Huang, "HollowNeRF: Pruning Hashgrid-Based NeRFs with Trainable Collision Mitigation",
ICCV 2023, sections 3.2 (grid and gate) and 3.3 (pruner). There is no public code; every constant that the paper
leaves open is an argument here, and its docstring says so.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DensityGate", "SaliencyGrid", "SaliencyPruner", "density_gate"]


class SaliencyGrid(nn.Module):
    """A trainable probability ``p(x)`` that the feature at ``x`` matters.

    ``p(x) = sigmoid(trilinear(values, x))``: the raw values of the 8 surrounding vertices are interpolated first and
    squashed second. ``values[i, j, k]`` belongs to axis 0, 1, 2 of the position. The paper numbers the vertices
    0..T-1, hence ``align_corners=True`` (vertex ``i`` at ``i / (T - 1)`` of the box, not stated outright);
    ``False`` puts vertex ``i`` at ``(i + 0.5) / T`` and holds the outermost value to the border.

    Args:
        resolution: T, vertices along each axis.
        init: Raw value at the start (the paper: ones, so that ``p`` starts at 0.731).
        align_corners: Whether the outermost vertices lie on the faces of the box.
    """

    open_cells: Tensor | None

    def __init__(self, *, resolution: int = 64, init: float = 1.0, align_corners: bool = True) -> None:
        super().__init__()
        if resolution < 2:
            raise ValueError(f"resolution: found {resolution}, expected at least 2 vertices along an axis")
        self.resolution = resolution
        self.align_corners = align_corners
        self.values = nn.Parameter(torch.full((resolution,) * 3, float(init)))
        self.register_buffer("open_cells", None)

    def vertex_positions(self, unit: Tensor) -> Tensor:
        """Positions ``(N, 3)`` of the unit box in units of vertices, held in ``[0, T - 1]``."""
        last = self.resolution - 1
        scaled = unit * last if self.align_corners else unit * self.resolution - 0.5
        return scaled.clamp(0, last)

    def forward(self, unit: Tensor) -> Tensor:
        """The saliency ``(N,)`` in [0, 1] at positions ``(N, 3)`` of the unit box."""
        vertices = self.vertex_positions(unit)
        # grid_sample reads (x, y, z) as (last, middle, first) axis of the volume and [-1, 1] as corner to corner
        sites = (vertices.flip(-1) * (2.0 / (self.resolution - 1)) - 1.0).to(self.values.dtype)
        raw = F.grid_sample(
            self.values[None, None], sites[None, None, None], mode="bilinear", padding_mode="border", align_corners=True
        )
        saliency = raw.reshape(-1).sigmoid()
        if self.open_cells is not None:
            cells = vertices.long().clamp(max=self.resolution - 2)
            saliency = saliency * self.open_cells[cells[:, 0], cells[:, 1], cells[:, 2]]
        return saliency

    def mean(self) -> Tensor:
        """Mean of ``sigmoid(values)`` over the vertices, a scalar: the paper's 1-norm, read as a mean."""
        return self.values.sigmoid().mean()

    @torch.no_grad()
    def occupancy(self, threshold: float = 0.01) -> float:
        """Share of the vertices whose probability exceeds ``threshold`` (a sigmoid never reaches 0)."""
        return float((self.values.sigmoid() > threshold).float().mean())

    @torch.no_grad()
    def find_open_cells(self, threshold: float = 1e-4) -> Tensor:
        """Cells ``(T-1, T-1, T-1)`` bool in which the probability exceeds ``threshold`` somewhere.

        A trilinear function is largest at a vertex, so a cell is open when one of its 8 vertices is above.
        """
        above = (self.values.sigmoid() > threshold).float()
        cells = F.max_pool3d(above[None, None], kernel_size=2, stride=1)[0, 0] > 0
        return cells if self.open_cells is None else cells & self.open_cells

    @torch.no_grad()
    def close_cells(self, open_cells: Tensor) -> None:
        """From now on ``p`` is exactly 0 in the cells that ``open_cells`` ``(T-1, T-1, T-1)`` leaves out."""
        if open_cells.shape != (self.resolution - 1,) * 3 or open_cells.dtype != torch.bool:
            raise ValueError(
                f"open_cells: found {tuple(open_cells.shape)} {open_cells.dtype}, "
                f"expected bool cells of shape {(self.resolution - 1,) * 3}"
            )
        self.open_cells = open_cells.to(self.values.device)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        # a pruned grid brings its mask along: the buffer takes the checkpoint's shape before values are copied
        mask = state_dict.get(prefix + "open_cells")
        self.open_cells = None if mask is None else torch.empty_like(mask, device=self.values.device)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        """The arguments, for ``print(model)``."""
        return f"resolution={self.resolution}, align_corners={self.align_corners}"


def density_gate(weighted: Tensor, alpha: float | Tensor) -> Tensor:
    """The zero-skipping gate ``tanh(alpha ||v||_2)``, shape ``(N,)``, of weighted features ``v`` ``(N, C)``.

    A decoder does not map 0 to 0; the gate does, and stays differentiable. The norm is taken in float32 (``alpha`` is
    1e4..1e5: half precision overflows), and at ``v = 0`` both the gate and its gradient are 0.
    """
    with torch.autocast(weighted.device.type, enabled=False):
        wide = weighted if weighted.dtype == torch.float64 else weighted.float()
        return torch.tanh(alpha * torch.linalg.vector_norm(wide, dim=-1))


class DensityGate(nn.Module):
    """:func:`density_gate` with its schedule: ``alpha`` is ``soft`` until ``switch_step``, ``hard`` from there on.

    The paper states 1e4 before epoch 1000 of 3000 and 1e5 after; with its code base an epoch is 100 steps, which makes
    the switch a third of the training.

    Args:
        soft: alpha at the start.
        hard: alpha at the end.
        switch_step: The first optimizer step that uses ``hard``.
    """

    alpha: Tensor

    def __init__(self, *, soft: float = 1e4, hard: float = 1e5, switch_step: int = 100_000) -> None:
        super().__init__()
        if not 0 < soft <= hard:
            raise ValueError(f"soft, hard: found {soft}, {hard}, expected 0 < soft <= hard")
        self.soft, self.hard, self.switch_step = float(soft), float(hard), switch_step
        self.register_buffer("alpha", torch.tensor(self.soft))

    def set_step(self, step: int) -> None:
        """Choose alpha for the optimizer step ``step`` (counted from 0)."""
        self.alpha.fill_(self.hard if step >= self.switch_step else self.soft)

    def forward(self, weighted: Tensor) -> Tensor:
        """The gate ``(N,)`` of weighted features ``(N, C)``."""
        return density_gate(weighted, self.alpha)


class SaliencyPruner(nn.Module):
    """Method of multipliers for the constraint ``s < C`` on the norm ``s`` of the saliency grid.

    The loss gains ``rho/2 [s - C]_+^2 + gamma (s - C)``; after each optimizer step
    ``gamma <- [gamma + rho (s - C)]_+`` with the new ``s`` (paper, problem (5)).

    Args:
        target: C. The paper's best is 0.04, explained as 4 % of the cells, hence ``reduction="mean"``.
        rho: Weight of the penalty and step of the multiplier. Not stated in the paper; with the mean norm
            1e-4..1e-2 keeps useful cells open, 1e-1 and more first closes everything.
        gamma0: The multiplier at the start. Not stated in the paper.
        warmup_steps: Optimizer steps before the pruner begins. Not stated in the paper.
        reduction: ``mean`` or, as the formula is printed, ``sum`` over the vertices.
    """

    gamma: Tensor

    def __init__(
        self,
        *,
        target: float = 0.04,
        rho: float = 1e-3,
        gamma0: float = 0.0,
        warmup_steps: int = 0,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if rho < 0 or gamma0 < 0 or target <= 0:
            raise ValueError(
                f"target, rho, gamma0: found {target}, {rho}, {gamma0}, expected a positive target and no negatives"
            )
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: found {reduction!r}, expected 'mean' or 'sum'")
        self.target, self.rho, self.warmup_steps, self.reduction = target, rho, warmup_steps, reduction
        self.register_buffer("gamma", torch.tensor(float(gamma0)))

    def norm(self, grid: SaliencyGrid) -> Tensor:
        """The 1-norm of ``sigmoid(values)``, a scalar, as mean or sum over the vertices."""
        mean = grid.mean()
        return mean if self.reduction == "mean" else mean * grid.values.numel()

    def penalty(self, grid: SaliencyGrid, step: int) -> Tensor:
        """What the loss gains at the optimizer step ``step``, a scalar."""
        if step < self.warmup_steps:
            return grid.values.new_zeros(())
        excess = self.norm(grid) - self.target
        return 0.5 * self.rho * excess.clamp(min=0).square() + self.gamma * excess

    @torch.no_grad()
    def update(self, grid: SaliencyGrid, step: int) -> None:
        """The dual step that follows the optimizer step ``step``."""
        if step >= self.warmup_steps:
            self.gamma.add_(self.rho * (self.norm(grid) - self.target)).clamp_(min=0)
