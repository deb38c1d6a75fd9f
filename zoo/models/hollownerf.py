"""HollowNeRF: a hash-grid radiance field whose feature grid is pruned by a trainable saliency mask.

Paper: Xie, Gherardi, Pan, Huang, "HollowNeRF: Pruning Hashgrid-Based NeRFs with Trainable Collision Mitigation", ICCV
2023 (arXiv 2308.10122). Without saliency grid, gate and pruner the same file is Instant-NGP (Mueller et al., 2022).

For world positions ``x`` ``(N, 3)`` inside ``aabb`` and unit view directions ``d`` ``(N, 3)``::

    u = (x - aabb_min) / (aabb_max - aabb_min)              # (N, 3) in [0, 1]
    f = hash_encode(u)                                      # (N, L * F)
    v = p(u) * f                                            # one saliency p in [0, 1] for all levels and channels
    [log density, geometry] = decoder(v)                    # (N, 1), (N, 15)
    density = tanh(alpha ||v||) * exp(log density)          # (N,)
    rgb = sigmoid(color_net([SH(d), geometry]))             # (N, 3)

Axis order: column 0, 1, 2 of a position is axis 0, 1, 2 of the saliency grid; the hash grid's axis 0 runs fastest.
The paper builds on torch-ngp, so ``convention="torch_ngp"`` reproduces its parameter counts exactly; nerfacc's and
tiny-cuda-nn's checkpoints need ``"tcnn"``. What the paper leaves open, and is therefore an option here: how vertices
lie in the box (:class:`~zoo.models.saliency.SaliencyGrid`), what the gate multiplies (``gate_geometry``), the
constants of the pruner (:class:`~zoo.models.saliency.SaliencyPruner`).

One option departs from the formulas on purpose. Where ``alpha ||v||`` is of order 1 the gate's gradient to a feature is
``alpha * density``, ten thousand times the decoder's. Adam's second moment remembers such a spike for hundreds of steps
and all but freezes the table row, whichever useful cells share it. ``gate_gradient="saliency"`` lets the gate teach the
saliency grid alone, which is what the paper introduces it for; values and the default's gradients are the paper's.
``table_init=1e-3`` keeps ``alpha ||v||`` out of that range at the start only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from zoo.models.layers.coarse_to_fine import LevelSchedule
from zoo.models.layers.hash_grid import HashGrid
from zoo.models.layers.mlp import MLP
from zoo.models.saliency import DensityGate, SaliencyGrid, SaliencyPruner
from zoo.models.tcnn_parameters import split_network_parameters, table_from_parameters
from zoo.ops import HashGridLayout, spherical_harmonics

__all__ = ["FieldOutput", "HollowNeRF", "hollownerf", "instant_ngp", "nerfacc_ngp", "remap_upstream"]

Convention = Literal["tcnn", "torch_ngp", "nerfstudio"]


class FieldOutput(NamedTuple):
    """What a field says about ``N`` points."""

    density: Tensor  # (N,), 1 / world unit
    rgb: Tensor  # (N, 3) in [0, 1]


_LARGEST_LOG_DENSITY = 60.0  # far beyond opaque; infinity would turn into NaN where the gate is 0


class _TruncatedExp(torch.autograd.Function):
    """``exp(x)`` whose gradient uses ``exp(clamp(x, -15, 15))``, so that one wild density cannot ruin the decoder."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(max=_LARGEST_LOG_DENSITY).exp()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        return grads[0] * x.clamp(-15, 15).exp()


class HollowNeRF(nn.Module):
    """The field: hash grid, saliency, decoder, gate and colour head.

    Args:
        aabb: Box ``(min x, y, z, max x, y, z)`` in world units; the density is 0 outside of its open interior.
        num_levels: L, levels of the hash grid.
        features_per_level: F, channels of each level.
        log2_table_size: Binary logarithm of the largest number of rows of a level.
        base_resolution: Cells (torch_ngp) or vertices (tcnn) along an axis of the coarsest level.
        finest_resolution: The same of the finest level.
        per_level_scale: Growth from level to level; None derives it from the two resolutions.
        convention: How cells map to table rows, see :class:`zoo.ops.HashGridLayout`.
        table_init: The table starts uniform in [-table_init, table_init]; None is the convention's own, 1e-4 or 1e-3.
        hidden_dim: Width of the hidden layers of both networks.
        geometry_dim: Decoder outputs beside the density.
        density_layers: Hidden layers of the decoder.
        color_layers: Hidden layers of the colour head.
        sh_degree: Degree of the spherical harmonics of the direction.
        density_offset: Added to the log density (nerfacc's field: -1, torch-ngp's: 0).
        constant_color_input: Whether the colour head sees a constant 1 behind its inputs (tiny-cuda-nn's padding).
        gate_geometry: Whether the gate also multiplies the geometry features; the paper writes it for the density only.
        gate_gradient: What the gate's gradient reaches: ``all`` (features and saliency) or ``saliency`` alone.
        saliency: The saliency grid, or None.
        gate: The density gate, or None.
        pruner: The pruner of the saliency grid, or None; it needs ``saliency``.
        level_schedule: Opens the levels of the hash grid from coarse to fine, or None. It is no part of the paper:
            few photographs need it (see ``zoo.models.layers.coarse_to_fine``).
    """

    aabb: Tensor

    def __init__(
        self,
        *,
        aabb: Sequence[float] = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0),
        num_levels: int = 16,
        features_per_level: int = 2,
        log2_table_size: int = 17,
        base_resolution: int = 16,
        finest_resolution: int = 1024,
        per_level_scale: float | None = None,
        convention: Convention = "torch_ngp",
        table_init: float | None = None,
        hidden_dim: int = 64,
        geometry_dim: int = 15,
        density_layers: int = 1,
        color_layers: int = 2,
        sh_degree: int = 4,
        density_offset: float = 0.0,
        constant_color_input: bool = False,
        gate_geometry: bool = False,
        gate_gradient: Literal["all", "saliency"] = "all",
        saliency: SaliencyGrid | None = None,
        gate: DensityGate | None = None,
        pruner: SaliencyPruner | None = None,
        level_schedule: LevelSchedule | None = None,
    ) -> None:
        super().__init__()
        box = [float(side) for side in aabb]
        if len(box) != 6 or not all(box[axis] < box[axis + 3] for axis in range(3)):
            raise ValueError(f"aabb: found {box}, expected 6 numbers, three minima below three maxima")
        if pruner is not None and saliency is None:
            raise ValueError("pruner: there is no saliency grid to prune; pass saliency as well")
        self.register_buffer("aabb", torch.tensor(box))
        scale = per_level_scale or level_growth(base_resolution, finest_resolution, num_levels)
        self.encoding = HashGrid(
            HashGridLayout.build(
                num_levels=num_levels,
                features_per_level=features_per_level,
                log2_table_size=log2_table_size,
                base_resolution=base_resolution,
                per_level_scale=scale,
                convention=convention,
            ),
            init_scale=table_init,
        )
        self.sh_degree, self.density_offset = sh_degree, density_offset
        if gate_gradient not in ("all", "saliency"):
            raise ValueError(f"gate_gradient: found {gate_gradient!r}, expected 'all' or 'saliency'")
        self.constant_color_input, self.gate_geometry = constant_color_input, gate_geometry
        self.gate_gradient = gate_gradient
        self.decoder = MLP(num_levels * features_per_level, [hidden_dim] * density_layers, 1 + geometry_dim, bias=False)
        color_dim = sh_degree**2 + geometry_dim + int(constant_color_input)
        self.color_net = MLP(color_dim, [hidden_dim] * color_layers, 3, bias=False)
        self.saliency, self.gate, self.pruner = saliency, gate, pruner
        if level_schedule is not None and level_schedule.width != num_levels * features_per_level:
            raise ValueError(
                f"level_schedule: made for {level_schedule.width} features, expected {num_levels * features_per_level} "
                "as num_levels and features_per_level give"
            )
        self.level_schedule = level_schedule

    def normalize(self, positions: Tensor) -> Tensor:
        """Positions ``(N, 3)`` of the world in units of the box."""
        return (positions - self.aabb[:3]) / (self.aabb[3:] - self.aabb[:3])

    def density(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The density ``(N,)`` and the geometry features ``(N, 15)`` at world positions ``(N, 3)``."""
        unit = self.normalize(positions)
        features = self.encoding(unit)
        if self.level_schedule is not None:
            features = self.level_schedule(features)
        saliency = features.new_ones(()) if self.saliency is None else self.saliency(unit)[:, None]
        weighted = features * saliency
        decoded = self.decoder(weighted)
        raw, geometry = decoded[:, 0].float() + self.density_offset, decoded[:, 1:]
        density = _TruncatedExp.apply(raw)
        inside = ((unit > 0) & (unit < 1)).all(dim=-1)
        if self.gate is None:
            return density * inside, geometry
        opened = self.gate(weighted if self.gate_gradient == "all" else features.detach() * saliency)
        if self.gate_geometry:
            geometry = geometry * opened[:, None]
        return density * opened * inside, geometry

    def color(self, directions: Tensor, geometry: Tensor) -> Tensor:
        """The colour ``(N, 3)`` in [0, 1] for unit directions ``(N, 3)`` and geometry features ``(N, 15)``."""
        inputs = [spherical_harmonics(directions, self.sh_degree).to(geometry.dtype), geometry]
        if self.constant_color_input:
            inputs.append(geometry.new_ones(len(geometry), 1))
        return self.color_net(torch.cat(inputs, dim=-1)).float().sigmoid()

    def forward(self, positions: Tensor, directions: Tensor) -> FieldOutput:
        """Density and colour at world positions ``(N, 3)`` seen along unit directions ``(N, 3)``."""
        density, geometry = self.density(positions)
        return FieldOutput(density, self.color(directions, geometry))

    def set_step(self, step: int) -> None:
        """Bring the schedules to the optimizer step ``step`` (counted from 0); call before each training step."""
        if self.gate is not None:
            self.gate.set_step(step)
        if self.level_schedule is not None:
            self.level_schedule.set_step(step)

    def penalty(self, step: int) -> Tensor:
        """What the pruner adds to the loss at the optimizer step ``step``, a scalar."""
        if self.pruner is None or self.saliency is None:
            return self.aabb.new_zeros(())
        return self.pruner.penalty(self.saliency, step)

    def after_step(self, step: int) -> None:
        """The pruner's multiplier step; call after the optimizer step ``step``."""
        if self.pruner is not None and self.saliency is not None:
            self.pruner.update(self.saliency, step)

    def count_parameters(self) -> int:
        """Trainable numbers as the paper counts them: tables, networks and the whole saliency grid, pruned or not."""
        return sum(parameter.numel() for parameter in self.parameters())


def level_growth(base_resolution: int, finest_resolution: int, num_levels: int) -> float:
    """The factor between levels that leads from the coarsest to the finest resolution, in float64."""
    if num_levels == 1:
        return 1.0
    return 2.0 ** (math.log2(finest_resolution / base_resolution) / (num_levels - 1))


def hollownerf(
    *,
    aabb: Sequence[float] = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0),
    log2_table_size: int = 17,
    saliency_resolution: int = 64,
    switch_step: int = 100_000,
) -> HollowNeRF:
    """The paper's field: 3,597,776 parameters at 2^17 rows, 6,481,360 at 2^18 (saliency grid of 64^3)."""
    return HollowNeRF(
        aabb=aabb,
        log2_table_size=log2_table_size,
        saliency=SaliencyGrid(resolution=saliency_resolution),
        gate=DensityGate(switch_step=switch_step),
        pruner=SaliencyPruner(),
    )


def instant_ngp(*, aabb: Sequence[float] = (-1.0, -1.0, -1.0, 1.0, 1.0, 1.0), log2_table_size: int = 19) -> HollowNeRF:
    """The paper's baseline, the same field without saliency: 11,487,072 parameters at 2^19 rows."""
    return HollowNeRF(aabb=aabb, log2_table_size=log2_table_size)


def nerfacc_ngp(*, aabb: Sequence[float] = (-1.5, -1.5, -1.5, 1.5, 1.5, 1.5)) -> HollowNeRF:
    """The field of nerfacc's NGP examples, whose checkpoints ``remap_upstream`` loads."""
    return HollowNeRF(
        aabb=aabb,
        log2_table_size=19,
        finest_resolution=4096,
        convention="tcnn",
        density_offset=-1.0,
        constant_color_input=True,
    )


_TORCH_NGP = {"encoder.": "encoding.", "sigma_net.": "decoder.layers.", "color_net.": "color_net.layers."}
# what torch-ngp keeps beside the field: its own occupancy grid, counters and boxes, and encoders without parameters
_TORCH_NGP_EXTRAS = (
    "aabb_",
    "density_grid",
    "density_bitfield",
    "step_counter",
    "mean_",
    "iter_density",
    "encoder_dir.",
)


def remap_upstream(state_dict: Mapping[str, Tensor], field: HollowNeRF) -> dict[str, Tensor]:
    """Checkpoints of Instant-NGP fields by other code bases, as a state dict that ``field`` loads strictly.

    Known are torch-ngp's ``NeRFNetwork`` (``encoder``, ``sigma_net``, ``color_net``) and nerfacc's / tiny-cuda-nn's
    ``NGPRadianceField`` (``mlp_base.params``, ``mlp_head.params``; build the field like :func:`nerfacc_ngp`).
    torch-ngp's occupancy grid is left out: it is found again from the field. Parts that such checkpoints do not have
    (the saliency grid) keep the values of ``field``.

    Raises:
        ValueError: The keys belong to neither.
    """
    own = {
        name: value
        for name, value in field.state_dict().items()
        if name.startswith(("saliency.", "gate.", "pruner.", "level_"))
    }
    if "mlp_base.params" in state_dict:
        return own | _remap_nerfacc(state_dict, field)
    if "encoder.embeddings" not in state_dict:
        raise ValueError(
            f"state_dict: found the keys {sorted(state_dict)[:6]}, expected torch-ngp's (encoder.embeddings ...) or "
            "nerfacc's (mlp_base.params ...)"
        )
    remapped = {"aabb": state_dict.get("aabb_train", field.aabb)}
    for name, value in state_dict.items():
        if name.startswith(_TORCH_NGP_EXTRAS):
            continue
        prefix = next((prefix for prefix in _TORCH_NGP if name.startswith(prefix)), None)
        remapped[name if prefix is None else _TORCH_NGP[prefix] + name.removeprefix(prefix)] = value
    # the grid's resolutions are not stored upstream; its own ones hold unless the offsets contradict them
    remapped["encoding.table"] = remapped.pop("encoding.embeddings")
    remapped["encoding.resolutions"] = field.encoding.resolutions
    return own | remapped


def _remap_nerfacc(state_dict: Mapping[str, Tensor], field: HollowNeRF) -> dict[str, Tensor]:
    decoder, rest = split_network_parameters(
        state_dict["mlp_base.params"],
        in_dim=field.decoder.in_dim,
        hidden_dim=field.decoder.hidden_dims[0],
        num_hidden_layers=len(field.decoder.hidden_dims),
        out_dim=field.decoder.out_dim,
        padding="zeros",
    )
    color_net, _ = split_network_parameters(
        state_dict["mlp_head.params"],
        in_dim=field.color_net.in_dim - int(field.constant_color_input),
        hidden_dim=field.color_net.hidden_dims[0],
        num_hidden_layers=len(field.color_net.hidden_dims),
        out_dim=field.color_net.out_dim,
    )
    remapped = {f"decoder.layers.{index}.weight": weight for index, weight in enumerate(decoder)}
    remapped |= {f"color_net.layers.{index}.weight": weight for index, weight in enumerate(color_net)}
    return remapped | {
        "aabb": state_dict.get("aabb", field.aabb),
        "encoding.table": table_from_parameters(rest, field.encoding.layout),
        "encoding.offsets": field.encoding.offsets,
        "encoding.resolutions": field.encoding.resolutions,
    }
