"""The occupancy grid of Instant-NGP (Müller et al. 2022, section 5.1 and appendix E.2): where a field may hold matter.

Nested boxes of ``resolution`` cells, each level twice as large as the one inside it, same centre. Each cell remembers
an exponentially decaying maximum of ``density * step``; cells above a threshold are occupied, and rays skip the rest.
State keys and update rule are those of nerfacc's ``OccGridEstimator``, so its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from zoo.ops import RaySamples, checks, march_rays, pack_info
from zoo.ops.volume_rendering import render_visibility_from_alpha, render_visibility_from_density

SampleFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
_VISIBILITY_CHUNK = 1 << 16  # cells times nine points are projected into all cameras at once


class OccupancyGrid(nn.Module):
    """Which cells of nested boxes are worth sampling.

    Buffers: ``resolution`` int32 ``(3,)``, ``aabbs`` ``(levels, 6)`` as min x, y, z, max x, y, z, innermost first,
    ``occs`` ``(levels * cells,)`` (-1: never evaluated, see `mark_invisible_cells`), ``binaries`` bool
    ``(levels, rx, ry, rz)``. A cell's number within its level is ``(ix * ry + iy) * rz + iz``. Until the first update
    every cell counts as occupied (nerfacc's grid is empty until then, and rays find nothing).

    Args:
        roi_aabb: Innermost box, six numbers.
        resolution: Cells along each axis.
        levels: Number of boxes, 1 to 8.
        occ_thre: Upper bound of the threshold; the mean occupancy is taken where it is lower.
        ema_decay: What an evaluated cell keeps of its former value.
        warmup_steps: Steps in which every cell is evaluated; later a quarter at random and a quarter of the occupied.
        update_every: Steps between two updates.
        chunk: Points evaluated at once.

    Raises:
        ValueError: A box without volume, or numbers out of range.
    """

    resolution: Tensor
    aabbs: Tensor
    occs: Tensor
    binaries: Tensor

    def __init__(
        self,
        *,
        roi_aabb: Sequence[float] | Tensor,
        resolution: int | Sequence[int] = 128,
        levels: int = 1,
        occ_thre: float = 0.01,
        ema_decay: float = 0.95,
        warmup_steps: int = 256,
        update_every: int = 16,
        chunk: int = 1 << 19,
    ) -> None:
        super().__init__()
        box = torch.as_tensor(roi_aabb, dtype=torch.float32).detach().cpu()
        if box.shape != (6,) or not bool(torch.isfinite(box).all()) or bool((box[3:] <= box[:3]).any()):
            raise ValueError(f"roi_aabb: found {box.tolist()}, expected min x, y, z, max x, y, z with min < max")
        shape = [resolution] * 3 if isinstance(resolution, int) else [int(cells) for cells in resolution]
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"resolution: found {resolution}, expected one or three numbers of cells, at least 1")
        if not 1 <= levels <= 8:
            raise ValueError(f"levels: found {levels}, expected 1 to 8")
        if not 0 <= ema_decay <= 1:
            raise ValueError(f"ema_decay: found {ema_decay}, expected 0 to 1")
        if update_every < 1 or chunk < 1:
            raise ValueError(f"update_every, chunk: found {update_every}, {chunk}, expected at least 1")
        self.occ_thre, self.ema_decay, self.warmup_steps = occ_thre, ema_decay, warmup_steps
        self.update_every, self.chunk = update_every, chunk
        centre, half = (box[:3] + box[3:]) / 2, (box[3:] - box[:3]) / 2
        aabbs = torch.stack(
            [torch.cat([centre - half * 2**level, centre + half * 2**level]) for level in range(levels)]
        )
        self.register_buffer("resolution", torch.tensor(shape, dtype=torch.int32))
        self.register_buffer("aabbs", aabbs)
        self.register_buffer("occs", torch.zeros(levels * shape[0] * shape[1] * shape[2]))
        self.register_buffer("binaries", torch.ones(levels, *shape, dtype=torch.bool))

    @property
    def levels(self) -> int:
        """Number of nested boxes."""
        return self.binaries.shape[0]

    @property
    def cells_per_level(self) -> int:
        """Number of cells of one level."""
        return self.binaries[0].numel()

    def extra_repr(self) -> str:
        """Resolution, levels and box for ``print``."""
        return f"resolution={tuple(self.binaries.shape[1:])}, levels={self.levels}, roi_aabb={self.aabbs[0].tolist()}"

    @torch.no_grad()
    def update(
        self,
        step: int,
        occ_eval_fn: Callable[[Tensor], Tensor],
        *,
        generator: torch.Generator | None = None,
        force: bool = False,
    ) -> bool:
        """Let the grid follow the field; does nothing where ``step`` is no multiple of ``update_every``.

        Args:
            step: Training step, counted from 0.
            occ_eval_fn: Gives density times step width, ``(N,)`` or ``(N, 1)``, at points ``(N, 3)``.
            generator: Of the random numbers, on the CPU. One seeded by ``step`` makes a resumed run continue exactly.
            force: Update whatever the step.

        Returns:
            Whether an update took place.

        Raises:
            ValueError: The function returns another shape.
        """
        if step % self.update_every != 0 and not force:
            return False
        for level in range(self.levels):
            cells = self._all_cells(level) if step < self.warmup_steps else self._some_cells(level, generator)
            jitter = torch.rand(len(cells), 3, generator=generator).to(self.aabbs.device)
            values = [
                self._evaluate(occ_eval_fn, level, part, shift)
                for part, shift in zip(cells.split(self.chunk), jitter.split(self.chunk), strict=True)
            ]
            if values:
                self.update_cells(level * self.cells_per_level + cells, torch.cat(values))
        self.binarize()
        return True

    def _all_cells(self, level: int) -> Tensor:
        begin = level * self.cells_per_level
        return torch.nonzero(self.occs[begin : begin + self.cells_per_level] >= 0)[:, 0]

    def _some_cells(self, level: int, generator: torch.Generator | None) -> Tensor:
        """A quarter of the level at random, without the invisible ones, and up to as many of the occupied."""
        number, device = self.cells_per_level // 4, self.occs.device
        uniform = torch.randint(self.cells_per_level, (number,), generator=generator).to(device)
        uniform = uniform[self.occs[level * self.cells_per_level + uniform] >= 0]
        occupied = torch.nonzero(self.binaries[level].flatten())[:, 0]
        if number < len(occupied):
            chosen = torch.randint(len(occupied), (number,), generator=generator)
            occupied = occupied[chosen.to(device)]
        return torch.cat([uniform, occupied])

    def _evaluate(self, occ_eval_fn: Callable[[Tensor], Tensor], level: int, cells: Tensor, inside: Tensor) -> Tensor:
        values = occ_eval_fn(self.cell_points(level, cells, inside))
        if values.numel() != len(cells):
            raise ValueError(
                f"occ_eval_fn: returned shape {tuple(values.shape)} for {len(cells)} points, expected ({len(cells)},)"
            )
        return values.reshape(-1).to(self.occs.dtype)

    def cell_points(self, level: int, cells: Tensor, inside: Tensor | float = 0.5) -> Tensor:
        """World points ``(N, 3)`` at places ``inside`` in [0, 1] of the cells ``(N,)``, numbered within the level."""
        ry, rz = self.binaries.shape[2:]
        coords = torch.stack([cells // (ry * rz), cells // rz % ry, cells % rz], dim=-1)
        low, high = self.aabbs[level].split(3)
        return low + (coords + inside) / self.resolution * (high - low)

    @torch.no_grad()
    def update_cells(self, cell_ids: Tensor, values: Tensor, *, ema_decay: float | None = None) -> None:
        """Set ``occs[i] = max(decay * occs[i], value)`` for given cells; the largest value counts where one repeats.

        Args:
            cell_ids: Cells numbered through all levels, ``(N,)`` int64.
            values: Density times step width, ``(N,)``.
            ema_decay: Instead of the module's.
        """
        checks.check_shape("cell_ids", cell_ids, ("N",))
        checks.check_shape("values", values, (len(cell_ids),))
        decay = self.ema_decay if ema_decay is None else ema_decay
        kept = self.occs.clone()
        kept[cell_ids] = self.occs[cell_ids] * decay
        self.occs.copy_(kept.scatter_reduce(0, cell_ids, values.to(kept.dtype), "amax", include_self=True))

    @torch.no_grad()
    def binarize(self, occ_thre: float | None = None) -> None:
        """Occupied are the cells above min(mean of the visible cells, ``occ_thre``)."""
        visible = self.occs[self.occs >= 0]
        mean = visible.double().mean().to(self.occs.dtype) if len(visible) else self.occs.new_zeros(())
        threshold = mean.clamp(max=self.occ_thre if occ_thre is None else occ_thre)
        self.binaries.copy_((self.occs > threshold).view_as(self.binaries))

    @torch.no_grad()
    def mark_invisible_cells(
        self, intrinsics: Tensor, camera_to_world: Tensor, width: int, height: int, near_plane: float = 0.0
    ) -> int:
        """Exclude for good the cells that no camera sees, and those in front of a camera's near plane.

        A cell is seen where its centre or a corner projects into a picture behind the near plane. One whose centre
        lies in a picture in front of the near plane is too near, which keeps floaters away from the cameras.

        Args:
            intrinsics: Camera matrices, ``(n, 3, 3)``, or ``(1, 3, 3)`` for all.
            camera_to_world: Poses, ``(n, 3, 4)`` or ``(n, 4, 4)``, OpenCV axes (x right, y down, z forward).
            width: Of the pictures, in pixels.
            height: Of the pictures, in pixels.
            near_plane: In world units.

        Returns:
            The number of cells excluded.

        Raises:
            ValueError: Wrong shapes.
        """
        checks.check_shape("intrinsics", intrinsics, ("n", 3, 3))
        if camera_to_world.dim() != 3 or tuple(camera_to_world.shape[1:]) not in ((3, 4), (4, 4)):
            raise ValueError(f"camera_to_world: found shape {tuple(camera_to_world.shape)}, expected (n, 3 or 4, 4)")
        rotation = camera_to_world[:, :3, :3].to(self.aabbs).transpose(1, 2)
        translation = -rotation @ camera_to_world[:, :3, 3:].to(self.aabbs)
        project = intrinsics.to(self.aabbs) @ torch.cat([rotation, translation], dim=-1)  # (n, 3, 4)
        offsets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).to(self.aabbs)
        offsets = torch.cat([torch.full((1, 3), 0.5).to(self.aabbs), offsets])  # centre, corners
        for level in range(self.levels):
            cells = torch.arange(self.cells_per_level, device=self.occs.device)
            for part in cells.split(_VISIBILITY_CHUNK // 9):
                points = self.cell_points(level, part[:, None], offsets)  # (m, 9, 3)
                valid = _seen(points, project, width, height, near_plane)
                self.occs[level * self.cells_per_level + part[~valid]] = -1.0
        self.binaries &= (self.occs >= 0).view_as(self.binaries)
        return int((self.occs < 0).sum())

    @torch.no_grad()
    def exclude_cells(self, is_kept: Callable[[Tensor], Tensor]) -> int:
        """Exclude for good the cells of which neither the centre nor a corner is kept.

        Args:
            is_kept: Says of points ``(P, 3)`` which are kept, ``(P,)`` bool; a visual hull, for one.

        Returns:
            The number of cells excluded so far, all levels together.
        """
        offsets = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).to(self.aabbs)
        offsets = torch.cat([torch.full((1, 3), 0.5).to(self.aabbs), offsets])  # centre, corners
        for level in range(self.levels):
            cells = torch.arange(self.cells_per_level, device=self.occs.device)
            for part in cells.split(_VISIBILITY_CHUNK // 9):
                points = self.cell_points(level, part[:, None], offsets)  # (m, 9, 3)
                kept = is_kept(points.reshape(-1, 3)).reshape(-1, 9).any(-1)
                self.occs[level * self.cells_per_level + part[~kept]] = -1.0
        self.binaries &= (self.occs >= 0).view_as(self.binaries)
        return int((self.occs < 0).sum())

    def query(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Occupancy of the innermost cell around each point, 0 outside, and whether it lies inside any level.

        Args:
            points: World points, ``(N, 3)``.

        Returns:
            ``(N,)`` and ``(N,)`` bool.

        Raises:
            ValueError: Wrong shape.
        """
        checks.check_shape("points", points, ("N", 3))
        values = self.occs.new_zeros(len(points))
        inside = torch.zeros_like(values, dtype=torch.bool)
        occs = self.occs.view_as(self.binaries)
        for level in reversed(range(self.levels)):
            low, high = self.aabbs[level].split(3)
            unit = (points - low) / (high - low)
            here = ((unit >= 0) & (unit < 1)).all(-1)
            cell = (unit[here] * self.resolution).long().clamp(min=0).minimum(self.resolution - 1)
            values[here] = occs[level][tuple(cell.T)]
            inside |= here
        return values, inside

    @torch.no_grad()
    def sampling(
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        sigma_fn: SampleFunction | None = None,
        alpha_fn: SampleFunction | None = None,
        *,
        near_plane: float = 0.0,
        far_plane: float = 1e10,
        t_min: Tensor | None = None,
        t_max: Tensor | None = None,
        render_step_size: float = 1e-3,
        early_stop_eps: float = 1e-4,
        alpha_thre: float = 0.0,
        jitter: Tensor | None = None,
        cone_angle: float = 0.0,
        max_samples_per_ray: int | None = None,
    ) -> RaySamples:
        """Samples in occupied cells, without those that cannot be seen if a density or opacity is given.

        Args:
            rays_o: Origins, ``(n_rays, 3)``.
            rays_d: Directions of unit length, ``(n_rays, 3)``.
            sigma_fn: Density ``(N,)`` of samples ``(t_starts, t_ends, ray_indices)``.
            alpha_fn: Or their opacity ``(N,)``.
            near_plane: Where marching begins.
            far_plane: Where it ends.
            t_min: Begin of each ray, ``(n_rays,)``; the larger of both counts.
            t_max: End of each ray, ``(n_rays,)``; the smaller of both counts.
            render_step_size: Length of a step.
            early_stop_eps: Samples behind a lower transmittance are dropped.
            alpha_thre: Samples with a lower opacity are dropped; at most the grid's mean occupancy.
            jitter: Shift of each ray in steps, ``(n_rays,)`` in [0, 1).
            cone_angle: Growth of the step with distance.
            max_samples_per_ray: Limit before anything is dropped.

        Returns:
            The samples that remain.

        Raises:
            ValueError: Both functions given, wrong shapes, or a grid on another device than the rays.
        """
        if sigma_fn is not None and alpha_fn is not None:
            raise ValueError("sigma_fn, alpha_fn: found both, expected at most one")
        checks.check_same_device("rays_o", rays_o, "the occupancy grid", self.binaries)
        near: Tensor | float = near_plane if t_min is None else t_min.clamp(min=near_plane)
        far: Tensor | float = far_plane if t_max is None else t_max.clamp(max=far_plane)
        samples = march_rays(
            rays_o,
            rays_d,
            self.binaries,
            self.aabbs,
            near_planes=near,
            far_planes=far,
            step_size=render_step_size,
            cone_angle=cone_angle,
            max_samples_per_ray=max_samples_per_ray,
            jitter=jitter,
        )
        if (sigma_fn is None and alpha_fn is None) or not len(samples.t_starts):
            return samples
        starts, ends, ray_indices, packed_info, _ = samples
        alpha_thre = min(alpha_thre, float(self.occs.mean()))
        if sigma_fn is not None:
            sigmas = sigma_fn(starts, ends, ray_indices)
            visible = render_visibility_from_density(
                starts, ends, sigmas, packed_info, early_stop_eps=early_stop_eps, alpha_thre=alpha_thre
            )
        else:
            assert alpha_fn is not None
            alphas = alpha_fn(starts, ends, ray_indices)
            visible = render_visibility_from_alpha(
                alphas, packed_info, early_stop_eps=early_stop_eps, alpha_thre=alpha_thre
            )
        kept = torch.nonzero(visible)[:, 0]
        ray_indices = ray_indices[kept]
        packed_info = pack_info(ray_indices, len(rays_o))
        return RaySamples(starts[kept], ends[kept], ray_indices, packed_info, samples.terminations)


def _seen(points: Tensor, project: Tensor, width: int, height: int, near_plane: float) -> Tensor:
    """Which cells ``(m,)``, given as centre and corners ``(m, 9, 3)``, are seen and not too near to any camera."""
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    seen = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    too_near = seen.clone()
    for matrix in project:
        u, v, depth = (homogeneous @ matrix.T).unbind(-1)
        in_front = depth > 0
        in_picture = in_front & (u >= 0) & (u < width * depth) & (v >= 0) & (v < height * depth)
        seen |= (in_picture & (depth >= near_plane)).any(-1)
        too_near |= in_picture[:, 0] & (depth[:, 0] < near_plane)
    return seen & ~too_near
