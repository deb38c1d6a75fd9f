"""Cameras and every convention about them, in one place.

* Poses are camera-to-world, 4x4, in OpenCV axes: x right, y down, z forward (the camera looks along +z).
* Blender, OpenGL and ``transforms.json`` use x right, y up, and look along -z: columns 1 and 2 change sign
  (`opengl_to_opencv`).
* COLMAP stores world-to-camera as a quaternion ``(w, x, y, z)`` and a translation: ``x_camera = R x_world + t``, so the
  camera stands at ``-R^T t`` (`pose_from_colmap`).
* Pixels are ``(column, row)``; the centre of pixel ``(0, 0)`` lies at ``(0.5, 0.5)``.
* instant-ngp scales and shifts positions and cycles the axes (`opengl_to_ngp`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.data.lens import LENSES, directions_from_plane, project_to_plane

MAX_TABLE_PIXELS = 1 << 23
_FLIP_YZ = (1.0, -1.0, -1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Rays:
    """Rays with unit directions.

    Attributes:
        origins: ``(M, 3)``.
        directions: ``(M, 3)``, unit length.
    """

    origins: Tensor
    directions: Tensor

    def __len__(self) -> int:
        return len(self.origins)

    def to(self, device: torch.device | str) -> Rays:
        """The rays on another device."""
        return Rays(self.origins.to(device), self.directions.to(device))


@dataclass(frozen=True, eq=False)
class Cameras:
    """N cameras with one image size and one lens model.

    Attributes:
        camera_to_world: ``(N, 4, 4)`` float32, OpenCV axes.
        intrinsics: ``(N, 4)`` float32: fx, fy, cx, cy in pixels.
        width: image width in pixels.
        height: image height in pixels.
        distortion: ``(N, K)`` float32, the parameters of the lens (see `zoo.data.lens`); None for pinhole.
        model: name of the lens model.

    Raises:
        ValueError: on shapes that do not match or an unknown lens model.

    Example:
        >>> camera = Cameras(torch.eye(4)[None], torch.tensor([[2.0, 2.0, 1.0, 1.0]]), width=2, height=2)
        >>> camera.rays(torch.tensor([0]), torch.tensor([[0, 0]])).directions[0]
        tensor([-0.2357, -0.2357,  0.9428])
    """

    camera_to_world: Tensor
    intrinsics: Tensor
    width: int
    height: int
    distortion: Tensor | None = None
    model: str = "pinhole"

    def __post_init__(self) -> None:
        n = len(self.camera_to_world)
        if self.camera_to_world.shape != (n, 4, 4):
            raise ValueError(f"camera_to_world: shape {tuple(self.camera_to_world.shape)}, expected (N, 4, 4)")
        if self.intrinsics.shape != (n, 4):
            raise ValueError(f"intrinsics: shape {tuple(self.intrinsics.shape)}, expected ({n}, 4): fx, fy, cx, cy")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"width, height: {self.width} x {self.height}, expected at least 1 x 1 pixels")
        if self.model not in LENSES:
            raise ValueError(f"model: unknown lens {self.model!r}, expected one of {sorted(LENSES)}")
        count = LENSES[self.model].num_params
        found = 0 if self.distortion is None else self.distortion.shape[-1]
        if found != count or (self.distortion is not None and len(self.distortion) != n):
            shape = None if self.distortion is None else tuple(self.distortion.shape)
            raise ValueError(f"distortion: shape {shape}, expected ({n}, {count}) for lens {self.model!r}")

    def __len__(self) -> int:
        return len(self.camera_to_world)

    def __getitem__(self, index: slice | Tensor | list[int]) -> Cameras:
        distortion = None if self.distortion is None else self.distortion[index]
        return replace(
            self,
            camera_to_world=self.camera_to_world[index],
            intrinsics=self.intrinsics[index],
            distortion=distortion,
        )

    def to(self, device: torch.device | str) -> Cameras:
        """The cameras on another device."""
        distortion = None if self.distortion is None else self.distortion.to(device)
        return replace(
            self,
            camera_to_world=self.camera_to_world.to(device),
            intrinsics=self.intrinsics.to(device),
            distortion=distortion,
        )

    def _lens_params(self, index: Tensor | slice) -> Tensor:
        if self.distortion is None:
            return self.intrinsics.new_zeros((len(self.intrinsics), 0))[index]
        return self.distortion[index]

    def rays(self, index: Tensor, pixels: Tensor) -> Rays:
        """World rays through the centres of pixels.

        ``direction = R lens^-1((column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy)``, normalised.

        Args:
            index: ``(M,)`` int64, the camera of each ray.
            pixels: ``(M, 2)`` column and row; fractions address points between pixel centres.

        Returns:
            M rays.
        """
        fx_fy, cx_cy = self.intrinsics[index].split(2, dim=-1)  # (M, 2) each
        plane = (pixels.to(fx_fy.dtype) + 0.5 - cx_cy) / fx_fy
        local = directions_from_plane(self.model, plane, self._lens_params(index))
        return self._to_world(index, local)

    def _to_world(self, index: Tensor, local: Tensor) -> Rays:
        pose = self.camera_to_world[index]  # (M, 4, 4)
        directions = (pose[:, :3, :3] * local[:, None, :]).sum(-1)  # no matmul: autocast would round the geometry
        return Rays(pose[:, :3, 3], torch.nn.functional.normalize(directions, dim=-1))

    def pixel_rays(self, index: Tensor, pixels: Tensor) -> Rays:
        """As `rays` for whole pixels inside the image; distorted lenses are inverted once for all pixels and looked up.

        Args:
            index: ``(M,)`` int64, the camera of each ray.
            pixels: ``(M, 2)`` int64 column and row.
        """
        if self.model == "pinhole" or self._lens_table is None:
            return self.rays(index, pixels)
        table, lens_of_camera = self._lens_table
        local = table[lens_of_camera[index], pixels[:, 1], pixels[:, 0]]
        return self._to_world(index, local)

    @functools.cached_property
    def _lens_table(self) -> tuple[Tensor, Tensor] | None:
        """Directions ``(U, H, W, 3)`` of the pixels of each distinct lens and the lens ``(N,)`` of each camera.

        None where the table would hold more than `MAX_TABLE_PIXELS` entries.
        """
        lenses = torch.cat((self.intrinsics, self._lens_params(slice(None))), dim=-1)
        distinct, lens_of_camera = torch.unique(lenses, dim=0, return_inverse=True)
        if len(distinct) * self.height * self.width > MAX_TABLE_PIXELS:
            return None
        pixels = self._pixel_grid() + 0.5
        tables = []
        for lens in distinct:
            plane = (pixels - lens[2:4]) / lens[:2]
            chunks = [directions_from_plane(self.model, part, lens[None, 4:]) for part in plane.split(1 << 17)]
            tables.append(torch.cat(chunks).reshape(self.height, self.width, 3))
        return torch.stack(tables), lens_of_camera

    def _pixel_grid(self) -> Tensor:
        device = self.intrinsics.device
        rows, columns = torch.meshgrid(
            torch.arange(self.height, device=device), torch.arange(self.width, device=device), indexing="ij"
        )
        return torch.stack((columns, rows), dim=-1).reshape(-1, 2)

    def image_rays(self, index: int) -> Rays:
        """The rays of all ``height * width`` pixels of one camera, row by row."""
        pixels = self._pixel_grid()
        return self.pixel_rays(torch.full((len(pixels),), index, device=pixels.device), pixels)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels of world points in every camera.

        Args:
            points: ``(P, 3)``.

        Returns:
            ``uv (N, P, 2)``: column and row, ``(0.5, 0.5)`` being the centre of the top left pixel, and
            ``depth (N, P)``: z in the camera's frame, negative behind it (where a perspective ``uv`` has no meaning).
        """
        pose = self.camera_to_world.double()
        offset = points.double() - pose[:, None, :3, 3]  # (N, P, 3)
        local = offset @ pose[:, :3, :3]  # row vectors: R^T (x - c)
        intrinsics = self.intrinsics.double()[:, None]
        plane = project_to_plane(self.model, local, self._lens_params(slice(None)).double()[:, None])
        uv = plane * intrinsics[..., :2] + intrinsics[..., 2:]
        dtype = points.dtype if points.is_floating_point() else self.camera_to_world.dtype
        return uv.to(dtype), local[..., 2].to(dtype)

    def downscaled(self, factor: int) -> Cameras:
        """The cameras of images shrunk by averaging blocks of ``factor x factor`` pixels; a rest at the edge is cut."""
        if factor < 1 or factor > min(self.width, self.height):
            raise ValueError(f"factor: {factor}, expected 1 to {min(self.width, self.height)} for this image size")
        return replace(
            self,
            intrinsics=self.intrinsics / factor,
            width=self.width // factor,
            height=self.height // factor,
        )


def opengl_to_opencv(camera_to_world: Tensor) -> Tensor:
    """Camera-to-world ``(..., 4, 4)`` from OpenGL axes to OpenCV axes (or back: it is its own inverse)."""
    return camera_to_world * camera_to_world.new_tensor(_FLIP_YZ)


def opengl_to_ngp(
    camera_to_world: Tensor, scale: float = 0.33, offset: tuple[float, float, float] = (0.5, 0.5, 0.5)
) -> Tensor:
    """instant-ngp's inner ``(..., 3, 4)`` pose of an OpenGL camera-to-world ``(..., 4, 4)``.

    Columns 1 and 2 change sign, the position becomes ``scale * t + offset``, and the axes are cycled: the new x, y, z
    are the old y, z, x.
    """
    pose = opengl_to_opencv(camera_to_world)[..., :3, :].clone()
    pose[..., 3] = pose[..., 3] * scale + pose.new_tensor(offset)
    return pose[..., [1, 2, 0], :]


def invert_pose(pose: Tensor) -> Tensor:
    """Inverse of rigid transforms ``(..., 4, 4)``: ``R^T`` and ``-R^T t``."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    inverse = pose.clone()
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ pose[..., :3, 3:]).squeeze(-1)
    return inverse


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Rotation matrices ``(..., 3, 3)`` of quaternions ``(..., 4)`` in the order w, x, y, z; normalised first."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def quaternion_from_rotation(rotation: Tensor) -> Tensor:
    """Quaternions ``(..., 4)``, order w, x, y, z with ``w >= 0``, of rotation matrices ``(..., 3, 3)``.

    The quaternion is the eigenvector to the largest eigenvalue of a symmetric 4x4 matrix (Bar-Itzhack 2000), which is
    well conditioned at every angle.
    """
    r = rotation.double()
    k = r.new_zeros((*r.shape[:-2], 4, 4))
    k[..., 0, 0] = r[..., 0, 0] + r[..., 1, 1] + r[..., 2, 2]
    for axis in range(3):
        a, b = (axis + 1) % 3, (axis + 2) % 3
        k[..., axis + 1, axis + 1] = r[..., axis, axis] - r[..., a, a] - r[..., b, b]
        k[..., axis + 1, 0] = r[..., b, a] - r[..., a, b]
        k[..., a + 1, b + 1] = r[..., a, b] + r[..., b, a]
        k[..., b + 1, a + 1] = k[..., a + 1, b + 1]
        k[..., 0, axis + 1] = k[..., axis + 1, 0]
    quaternion = torch.linalg.eigh(k).eigenvectors[..., -1]
    sign = torch.where(quaternion[..., :1] < 0, -1.0, 1.0)
    return (quaternion * sign).to(rotation.dtype)


def pose_from_colmap(quaternion: Tensor, translation: Tensor) -> Tensor:
    """Camera-to-world ``(..., 4, 4)`` in OpenCV axes of COLMAP's world-to-camera ``(..., 4)`` and ``(..., 3)``."""
    world_to_camera = torch.zeros((*quaternion.shape[:-1], 4, 4), dtype=quaternion.dtype)
    world_to_camera[..., :3, :3] = rotation_from_quaternion(quaternion)
    world_to_camera[..., :3, 3] = translation
    world_to_camera[..., 3, 3] = 1
    return invert_pose(world_to_camera)


def pose_to_colmap(camera_to_world: Tensor) -> tuple[Tensor, Tensor]:
    """COLMAP's quaternion ``(..., 4)`` (``w >= 0``) and translation ``(..., 3)`` of camera-to-world ``(..., 4, 4)``."""
    world_to_camera = invert_pose(camera_to_world)
    return quaternion_from_rotation(world_to_camera[..., :3, :3]), world_to_camera[..., :3, 3]


def look_at(position: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """Camera-to-world ``(..., 4, 4)``, OpenCV axes, of cameras at ``position`` that look at ``target``.

    Args:
        position: ``(..., 3)``.
        target: ``(..., 3)``, unlike ``position``.
        up: ``(3,)`` or ``(..., 3)``, not parallel to the line of sight.
    """
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward)), dim=-1)
    pose = torch.zeros((*position.shape[:-1], 4, 4), dtype=position.dtype)
    pose[..., :3, 0] = right
    pose[..., :3, 1] = torch.linalg.cross(forward, right)
    pose[..., :3, 2] = forward
    pose[..., :3, 3] = position
    pose[..., 3, 3] = 1
    return pose


def pose_problem(pose: Tensor, tolerance: float = 1e-3) -> str | None:
    """What is wrong with a 4x4 pose (values, orthonormality, handedness, last row), or None."""
    if pose.shape != (4, 4):
        return f"shape {tuple(pose.shape)}, expected 4 x 4"
    if not bool(torch.isfinite(pose).all()):
        return "it holds NaN or infinite numbers"
    rotation = pose[:3, :3].double()
    if float((pose[3].double() - pose.new_tensor([0, 0, 0, 1]).double()).abs().max()) > tolerance:
        return f"the last row is {pose[3].tolist()}, expected 0 0 0 1"
    error = float((rotation.T @ rotation - torch.eye(3, dtype=torch.float64)).abs().max())
    if error > tolerance:
        return f"it is not rigid: R^T R is off the identity by {error:.3g} (at most {tolerance:g} is allowed)"
    determinant = float(torch.linalg.det(rotation))
    if determinant < 0:
        return f"it mirrors: det R = {determinant:.3f}, expected +1"
    return None
