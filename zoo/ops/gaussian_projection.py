"""Projection of 3D Gaussians to a picture: their means, inverse covariances, depths and extents in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.ops import checks
from zoo.ops.dispatch import define_op
from zoo.ops.reference import gaussian_projection as reference

CameraModel = Literal["pinhole", "ortho"]


@dataclass(frozen=True)
class GaussianRules:
    """What the codes that splat Gaussians do differently. `GSPLAT_1_5_3` is the default everywhere.

    Args:
        near_plane: Smallest depth that is shown.
        extent: ``"box"``: half sizes ``ceil(3.33 sqrt(cov_xx))`` and ``ceil(3.33 sqrt(cov_yy))``, smaller where the
            opacity is known, so that nothing visible (alpha >= 1/255) is lost; ``"circle"``: radius of three standard
            deviations along the longer axis, which cuts a visible rim.
        clamp: Where the ratios x/z and y/z are held when the projection is linearised: 0.3 half views outside the
            picture (``"picture"``), or at 1.3 half views from the optical axis (``"axis"``).
        blur: Added to the diagonal of the covariance in the picture, in square pixels.
        min_compensation: Least factor of the opacity in antialiased mode.
        max_alpha: Largest opacity of a Gaussian at a pixel.
        min_alpha: Smaller ones are left out.
        stop: A pixel is finished when its transmittance would fall to this.
        stop_at_equal: Whether a transmittance equal to ``stop`` finishes it.
    """

    near_plane: float = 0.01
    extent: Literal["box", "circle"] = "box"
    clamp: Literal["picture", "axis"] = "picture"
    blur: float = 0.3
    min_compensation: float = 0.0
    max_alpha: float = 0.999
    min_alpha: float = 1 / 255
    stop: float = 1e-4
    stop_at_equal: bool = True


GSPLAT_1_5_3 = GaussianRules()
GSPLAT_MAIN = GaussianRules(max_alpha=0.99, min_compensation=0.005)
INRIA = GaussianRules(near_plane=0.2, extent="circle", clamp="axis", max_alpha=0.99, stop_at_equal=False)
GAUSSIAN_RULES = {"gsplat_1.5.3": GSPLAT_1_5_3, "gsplat_main": GSPLAT_MAIN, "inria": INRIA}


class ProjectedGaussians(NamedTuple):
    """Gaussians in the picture of each camera; everything is zero where a Gaussian is culled."""

    radii: Tensor  # (C, N, 2) int32, half sizes in pixels of the box around what is visible
    means2d: Tensor  # (C, N, 2) column, row; the centre of the first pixel is (0.5, 0.5)
    depths: Tensor  # (C, N) z in the camera's frame
    conics: Tensor  # (C, N, 3) xx, xy, yy of the inverse of the blurred covariance
    compensations: Tensor  # (C, N) what blurring adds to the area, as a factor of the opacity
    covariances: Tensor  # (C, N, 3) xx, xy, yy before the blur


def _fake(means: Tensor, quats: Tensor, scales: Tensor, opacities: Any, viewmats: Tensor, *_: Any) -> Any:
    shape = (viewmats.shape[0], means.shape[0])
    return (
        means.new_empty((*shape, 2)),
        means.new_empty(shape),
        means.new_empty((*shape, 3)),
        means.new_empty(shape),
        means.new_empty((*shape, 3)),
        means.new_empty((*shape, 2), dtype=torch.int32),
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    means, quats, scales, _, viewmats, intrinsics = inputs[:6]
    width, height, ortho, fov_clamp, _, _, blur, min_compensation, *_ = inputs[6:]
    ctx.mark_non_differentiable(output[5])
    ctx.settings = (width, height, ortho, fov_clamp, blur, min_compensation)
    ctx.save_for_backward(means, quats, scales, viewmats, intrinsics, output[5])


def _backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    needs_viewmats = ctx.needs_input_grad[4]
    results = _project_gaussians_backward(*grads[:5], *ctx.saved_tensors, *ctx.settings, needs_viewmats)
    return results[0], results[1], results[2], None, results[3] if needs_viewmats else None, *[None] * 11


_project_gaussians = define_op(
    "project_gaussians(Tensor means, Tensor quats, Tensor scales, Tensor? opacities, Tensor viewmats, "
    "Tensor intrinsics, int width, int height, bool ortho, bool fov_clamp, bool circle, bool antialiased, float blur, "
    "float min_compensation, float near_plane, float far_plane) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=reference.project_gaussians,
    fake=_fake,
    backward=(_setup, _backward),
    autocast="float32",
)
_project_gaussians_backward = define_op(
    "project_gaussians_backward(Tensor grad_means2d, Tensor grad_depths, Tensor grad_conics, "
    "Tensor grad_compensations, Tensor grad_covariances, Tensor means, Tensor quats, Tensor scales, Tensor viewmats, "
    "Tensor intrinsics, Tensor radii, int width, int height, bool ortho, bool fov_clamp, float blur, "
    "float min_compensation, bool needs_viewmats) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=reference.project_gaussians_backward,
    fake=lambda *args: tuple(value.new_empty(value.shape) for value in args[5:9]),
)


def gaussian_covariances(quats: Tensor, scales: Tensor) -> Tensor:
    r"""Covariances :math:`R \operatorname{diag}(s^2) R^T` of Gaussians.

    Args:
        quats: Rotations as quaternions ``(N, 4)`` w, x, y, z of any length but zero.
        scales: Standard deviations along the axes ``(N, 3)``.

    Returns:
        ``(N, 3, 3)``.

    Example:
        >>> gaussian_covariances(torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[1.0, 2, 3]])).diagonal(dim1=1, dim2=2)
        tensor([[1., 4., 9.]])
    """
    checks.check_shape("quats", quats, ("N", 4))
    checks.check_shape("scales", scales, (quats.shape[0], 3))
    axes = reference.rotations(quats) * scales[:, None, :]
    return axes @ axes.transpose(-1, -2)


def check_gaussians(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor | None) -> None:
    """Raise ValueError unless the tensors describe the same Gaussians."""
    checks.check_shape("means", means, ("N", 3))
    checks.check_dtype("means", means, checks.FLOATING_OR_HALF)
    for name, tensor, tail in (("quats", quats, (4,)), ("scales", scales, (3,)), ("opacities", opacities, ())):
        if tensor is not None:
            checks.check_shape(name, tensor, (means.shape[0], *tail))
            checks.check_same_dtype(name, tensor, "means", means)
            checks.check_same_device(name, tensor, "means", means)
            if checks.checks_values():
                checks.check_finite(name, tensor)


def check_cameras(viewmats: Tensor, intrinsics: Tensor, width: int, height: int, means: Tensor) -> None:
    """Raise ValueError unless the cameras have the right shapes and the picture has a pixel."""
    checks.check_shape("viewmats", viewmats, ("C", 4, 4))
    checks.check_shape("intrinsics", intrinsics, (viewmats.shape[0], 4))
    for name, tensor in (("viewmats", viewmats), ("intrinsics", intrinsics)):
        checks.check_same_dtype(name, tensor, "means", means)
        checks.check_same_device(name, tensor, "means", means)
    if width < 1 or height < 1 or max(width, height) > 1 << 20:
        raise ValueError(f"width, height: found {width} x {height}, expected 1 to {1 << 20} pixels each")


def project_gaussians(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    *,
    opacities: Tensor | None = None,
    camera_model: CameraModel = "pinhole",
    antialiased: bool = False,
    far_plane: float = 1e10,
    rules: GaussianRules = GSPLAT_1_5_3,
) -> ProjectedGaussians:
    r"""Project Gaussians by the linearised camera (EWA splatting); differentiable in shapes and view matrices.

    .. math:: t = W \mu + d, \quad \Sigma' = J W R \operatorname{diag}(s^2) R^T W^T J^T + b I, \quad
        \mu' = (f_x t_x / t_z + c_x, f_y t_y / t_z + c_y)

    with W, d the view matrix, J the derivative of the projection at t (its ratios x/z and y/z held near the picture)
    and b the blur. A Gaussian is culled outside of the depth range, outside of the picture, where its covariance is
    not positive, and where a number is NaN or infinite.

    Args:
        means: Centres ``(N, 3)``.
        quats: Rotations as quaternions ``(N, 4)`` w, x, y, z; normalised here.
        scales: Standard deviations ``(N, 3)``.
        viewmats: World to camera ``(C, 4, 4)``, OpenCV axes: x right, y down, z forward.
        intrinsics: ``(C, 4)`` fx, fy, cx, cy in pixels; without gradient.
        width: Columns of the picture.
        height: Rows of the picture.
        opacities: ``(N,)``; where given, boxes shrink to what can be seen. They get no gradient here.
        camera_model: ``"pinhole"``, or ``"ortho"`` where fx and fy are pixels per unit of length.
        antialiased: Whether the opacities will be multiplied by the compensations.
        far_plane: Largest depth that is shown.
        rules: See `GaussianRules`.

    Returns:
        See `ProjectedGaussians`; no gradient flows from ``radii``.

    Raises:
        ValueError: Wrong shape, dtype, device or option.

    Example:
        >>> point = torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.1)
        >>> camera = torch.eye(4)[None], torch.tensor([[20.0, 20.0, 8.0, 8.0]])
        >>> project_gaussians(*point, *camera, 16, 16).means2d
        tensor([[[8., 8.]]])
    """
    check_gaussians(means, quats, scales, opacities)
    check_cameras(viewmats, intrinsics, width, height, means)
    checks.check_option("camera_model", camera_model, ("pinhole", "ortho"))
    opacities = None if opacities is None else opacities.detach()
    ortho, fov_clamp, circle = camera_model == "ortho", rules.clamp == "axis", rules.extent == "circle"
    *values, radii = (
        _project_gaussians(
            means, quats, scales, opacities, viewmats, intrinsics, width, height, ortho, fov_clamp, circle,
            antialiased, rules.blur, rules.min_compensation, rules.near_plane, far_plane,
        )
    )  # fmt: skip
    return ProjectedGaussians(radii, *values)
