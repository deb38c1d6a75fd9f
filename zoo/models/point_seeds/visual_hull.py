"""The visual hull: the largest solid that silhouettes allow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.posed_images import PosedImages
from zoo.models.point_seeds.seeds import PointSeeds, check_views, look_up

__all__ = ["hull_points", "inside_hull", "silhouettes"]


def silhouettes(images: PosedImages) -> Tensor:
    """Masks ``(N, H, W)`` bool of views with alpha.

    Raises:
        ValueError: They have none.
    """
    if not images.has_alpha:
        raise ValueError("images: found no alpha, expected silhouettes; set data.silhouette")
    return images.images[..., 3] >= 128


def inside_hull(points: Tensor, cameras: Cameras, masks: Tensor, *, margin: int = 0, least_views: int = 1) -> Tensor:
    """Points ``(P,)`` bool that lie in the silhouette of every view that sees them, and are seen by enough views.

    Args:
        points: ``(P, 3)``.
        cameras: N cameras.
        masks: ``(N, H, W)``, not zero on the object.
        margin: pixels by which silhouettes are widened.
        least_views: so many views must see a point: one alone cannot say how far away it is.

    Raises:
        ValueError: ``masks`` do not fit the cameras.
    """
    expected = (len(cameras), cameras.height, cameras.width)
    if tuple(masks.shape) != expected:
        raise ValueError(f"masks: found shape {tuple(masks.shape)}, expected {expected} as the cameras have")
    solid = (masks != 0).float()[:, None]
    if margin:
        solid = torch.nn.functional.max_pool2d(solid, 2 * margin + 1, stride=1, padding=margin)
    inside = torch.ones(len(points), dtype=torch.bool, device=points.device)
    seen = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    uv, depth = cameras.project(points)
    column, row = uv[..., 0].floor(), uv[..., 1].floor()
    visible = (depth > 0) & (column >= 0) & (column < cameras.width) & (row >= 0) & (row < cameras.height)
    for view in range(len(cameras)):
        at = visible[view].nonzero()[:, 0]
        hit = solid[view, 0, row[view, at].long(), column[view, at].long()] > 0
        inside[at] &= hit
        seen[at] += 1
    return inside & (seen >= least_views)


def hull_points(
    images: Tensor,
    cameras: Cameras,
    masks: Tensor,
    aabb: Sequence[float] | Tensor,
    *,
    resolution: int = 64,
    surface_only: bool = True,
    is_empty: Callable[[Tensor], Tensor] | None = None,
) -> PointSeeds:
    """Centres of the grid's cells in the visual hull, with the mean colour of the views that see them.

    Confidence is low where the views disagree: ``exp(-10 mean |colour - mean|)``.

    Args:
        images: ``(N, H, W, 3)`` in [0, 1].
        cameras: N cameras.
        masks: ``(N, H, W)``, not zero on the object.
        aabb: Box to fill, xmin ymin zmin xmax ymax zmax.
        resolution: Cells along each axis.
        surface_only: Whether cells surrounded by the hull are left out.
        is_empty: Points ``(P, 3)`` that are known to be empty, ``(P,)`` bool, which are cut out of the hull; or None.

    Raises:
        ValueError: Shapes do not fit, or fewer than 2 views.
    """
    check_views(images, cameras, 2)
    box = torch.as_tensor(aabb, dtype=torch.float32)
    axes = [torch.linspace(0, 1, 2 * resolution + 1)[1::2] * (box[i + 3] - box[i]) + box[i] for i in range(3)]
    centers = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    inside = torch.cat([inside_hull(part, cameras, masks) for part in centers.split(1 << 18)])
    if is_empty is not None:
        inside[inside.clone()] = ~is_empty(centers[inside])
    if surface_only:
        cells = inside.reshape(1, 1, *[resolution] * 3).float()
        outside = torch.nn.functional.pad(1 - cells, [1] * 6, value=1.0)
        near = torch.nn.functional.max_pool3d(outside, 3, stride=1)  # the 26 neighbours
        inside = inside & (near.reshape(-1) > 0)
    points = centers[inside]
    uv, depth = cameras.project(points)
    values = look_up(images, uv)  # (N, P, 3)
    sees = ((depth > 0) & (uv >= 0).all(-1) & (uv < uv.new_tensor([cameras.width, cameras.height])).all(-1)).float()
    count = sees.sum(0).clamp_min(1)[:, None]
    mean = (values * sees[..., None]).sum(0) / count
    spread = ((values - mean).abs() * sees[..., None]).sum(0) / count
    return PointSeeds(points, mean.clamp(0, 1), torch.exp(-10 * spread.mean(-1)))
