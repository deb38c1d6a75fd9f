"""Photographs with cameras, and the batches of rays drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.bad_samples import BadSamples, SampleError
from zoo.data.cameras import Cameras, Rays, pose_problem
from zoo.data.image_files import average_blocks, read_image
from zoo.data.lens import LENSES, generalise

RayScheme = Literal["all_images", "one_image"]


@dataclass(frozen=True, eq=False)
class PosedImages:
    """N photographs of one size with their cameras.

    Attributes:
        images: ``(N, H, W, 3)`` or ``(N, H, W, 4)`` uint8; the fourth channel is straight (not premultiplied) alpha.
        cameras: N cameras of H x W pixels.
        names: N names, mostly paths relative to the data set's root.

    Raises:
        ValueError: where the parts do not fit one another.
    """

    images: Tensor
    cameras: Cameras
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        n, height, width = len(self.cameras), self.cameras.height, self.cameras.width
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or shape[:3] != (n, height, width) or shape[3:] not in ((3,), (4,)):
            raise ValueError(
                f"images: {self.images.dtype} {shape}, expected torch.uint8 ({n}, {height}, {width}, 3 or 4)"
            )
        if len(self.names) != n:
            raise ValueError(f"names: {len(self.names)} entries, expected {n}")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def has_alpha(self) -> bool:
        """Whether the pictures carry transparency."""
        return self.images.shape[-1] == 4

    def __getitem__(self, index: slice | Sequence[int]) -> PosedImages:
        chosen = range(len(self))[index] if isinstance(index, slice) else list(index)
        rows = torch.as_tensor(list(chosen), dtype=torch.int64)
        return PosedImages(self.images[rows], self.cameras[rows], tuple(self.names[i] for i in chosen))

    def to(self, device: torch.device | str) -> PosedImages:
        """Pictures and cameras on another device."""
        return replace(self, images=self.images.to(device), cameras=self.cameras.to(device))

    def rgba(self, index: int) -> Tensor:
        """One picture as float32 ``(H, W, 4)`` in [0, 1], straight alpha (1 where the file has none)."""
        return _to_rgba(self.images[index])


@dataclass(frozen=True, eq=False)
class RayBatch:
    """M rays with the colours that were photographed along them.

    Attributes:
        rays: M rays.
        rgba: ``(M, 4)`` float32 in [0, 1], straight alpha; alpha is 1 for pictures without transparency.
        image_index: ``(M,)`` int64.
        pixels: ``(M, 2)`` int64, column and row.
    """

    rays: Rays
    rgba: Tensor
    image_index: Tensor
    pixels: Tensor

    def __len__(self) -> int:
        return len(self.image_index)


def _to_rgba(pixels: Tensor) -> Tensor:
    colours = pixels.float() / 255
    if colours.shape[-1] == 4:
        return colours
    return torch.cat((colours, torch.ones_like(colours[..., :1])), dim=-1)


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator whose state is a function of (seed, step) only.

    The two numbers are mixed by the finaliser of SplitMix64, so that neighbouring steps and seeds give unrelated
    streams.
    """
    mask = (1 << 64) - 1
    z = (seed * 0x9E3779B97F4A7C15 + step + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return torch.Generator().manual_seed((z ^ (z >> 31)) >> 1)


def sample_rays(
    images: PosedImages,
    *,
    seed: int,
    step: int,
    num_rays: int,
    scheme: RayScheme = "all_images",
    share: slice = slice(None),
) -> RayBatch:
    """Random rays of one training step: a pure function of ``(seed, step, num_rays)`` on every device.

    Args:
        images: the training views.
        seed: of the run.
        step: index of the training step.
        num_rays: M, 0 or more; pixels are drawn uniformly, with replacement.
        scheme: ``"all_images"`` draws each pixel from any picture, ``"one_image"`` all from one random picture.
        share: which of the M rays are returned: a process's part of the step.

    Raises:
        ValueError: without pictures, or for an unknown scheme.

    Example:
        >>> camera = Cameras(torch.eye(4)[None], torch.tensor([[8.0, 8.0, 4.0, 4.0]]), width=8, height=8)
        >>> views = PosedImages(torch.zeros(1, 8, 8, 3, dtype=torch.uint8), camera, ("black",))
        >>> batch = sample_rays(views, seed=0, step=3, num_rays=5)
        >>> batch.rgba.shape, torch.equal(batch.pixels, sample_rays(views, seed=0, step=3, num_rays=5).pixels)
        (torch.Size([5, 4]), True)
    """
    if len(images) == 0:
        raise ValueError("images: there is no picture to draw rays from")
    if scheme not in ("all_images", "one_image"):
        raise ValueError(f"scheme: {scheme!r}, expected 'all_images' or 'one_image'")
    generator = step_generator(seed, step)
    cameras = images.cameras
    if scheme == "all_images":
        index = torch.randint(len(images), (num_rays,), generator=generator)
    else:
        index = torch.randint(len(images), (1,), generator=generator).expand(num_rays)
    columns = torch.randint(cameras.width, (num_rays,), generator=generator)
    rows = torch.randint(cameras.height, (num_rays,), generator=generator)
    pixels = torch.stack((columns, rows), dim=-1)
    device = images.images.device
    index, pixels = index[share].contiguous().to(device), pixels[share].to(device)
    rgba = _to_rgba(images.images[index, pixels[:, 1], pixels[:, 0]])
    return RayBatch(cameras.pixel_rays(index, pixels), rgba, index, pixels)


@dataclass(frozen=True)
class View:
    """One photograph of a data set as its index file describes it.

    Attributes:
        path: of the picture.
        name: for people; mostly the path relative to the root.
        source: the file that the pose was read from, for error messages.
        camera_to_world: ``(4, 4)``, OpenCV axes.
        intrinsics: fx, fy, cx, cy in pixels of a ``width x height`` picture.
        width: of the picture that the intrinsics are meant for; None: of the picture itself.
        height: likewise.
        model: name of the lens.
        distortion: parameters of the lens.
    """

    path: Path
    name: str
    source: Path
    camera_to_world: Tensor
    intrinsics: tuple[float, float, float, float]
    width: float | None = None
    height: float | None = None
    model: str = "pinhole"
    distortion: tuple[float, ...] = ()


def _check_pose(view: View) -> None:
    problem = pose_problem(view.camera_to_world)
    if problem is not None:
        raise SampleError(view.source, f"pose of {view.name}: {problem}")


def _fit_intrinsics(view: View, width: int, height: int) -> list[float]:
    """The intrinsics for the picture found, which may be a uniformly scaled version of the one described."""
    described_width, described_height = view.width or width, view.height or height
    scale_x, scale_y = width / described_width, height / described_height
    # half a pixel of rounding is what a resize to whole pixels explains
    if abs(scale_x * described_height - height) > 0.51 + 1e-3 * height:
        raise SampleError(
            view.path,
            f"is {width} x {height} pixels but {view.source} describes {described_width:g} x {described_height:g}, "
            "which is not the same picture at another scale; correct w and h or the image",
        )
    fx, fy, cx, cy = view.intrinsics
    fitted = [fx * scale_x, fy * scale_y, cx * scale_x, cy * scale_y]
    if not np.isfinite(fitted).all() or fitted[0] <= 0 or fitted[1] <= 0:
        raise SampleError(view.source, f"intrinsics of {view.name}: {view.intrinsics}, expected positive focal lengths")
    return fitted


def common_lens(views: Sequence[View]) -> str:
    """The least general lens model that covers those of all views.

    Raises:
        SampleError: where perspective, fisheye and FOV lenses are mixed.
    """
    found = sorted({view.model for view in views})
    for model in LENSES:
        if all(generalise(name, [0.0] * LENSES[name].num_params, model) is not None for name in found):
            return model
    raise SampleError(views[0].source, f"mixes lens families {found}; split the set, or undistort it first")


def load_posed_images(
    views: Sequence[View], *, source: Path, downscale: int = 1, bad_samples: BadSamples | None = None
) -> PosedImages:
    """Read the pictures of views and check each against its description.

    Args:
        views: what to read, in order.
        source: names the set in the error for an empty one.
        downscale: side of the blocks of pixels that are averaged; intrinsics follow.
        bad_samples: what to do with a view that cannot be used; default: raise.

    Raises:
        SampleError: for a bad view under the policy ``"error"``, and where no view is left.
    """
    bad_samples = bad_samples if bad_samples is not None else BadSamples()
    pictures: list[np.ndarray] = []
    kept: list[View] = []
    intrinsics: list[list[float]] = []
    for view in views:
        try:
            _check_pose(view)
            full = read_image(view.path)
            fitted = _fit_intrinsics(view, full.shape[1], full.shape[0])
            if downscale > min(full.shape[:2]):
                raise SampleError(
                    view.path, f"{full.shape[1]} x {full.shape[0]} pixels, too few for downscale={downscale}"
                )
            picture = average_blocks(full, downscale)
            if pictures and picture.shape != pictures[0].shape:
                raise SampleError(
                    view.path,
                    f"is {picture.shape} (height, width, channels) after downscaling, the other images of the set are "
                    f"{pictures[0].shape}",
                )
        except SampleError as error:
            bad_samples.handle(error)
            continue
        pictures.append(picture)
        kept.append(view)
        intrinsics.append([value / downscale for value in fitted])
    if not kept:
        raise SampleError(source, f"an empty split: none of its {len(views)} views can be used")
    model = common_lens(kept)
    distortion = None
    if LENSES[model].num_params:
        distortion = torch.tensor([generalise(view.model, list(view.distortion), model) for view in kept])
    cameras = Cameras(
        torch.stack([view.camera_to_world.float() for view in kept]),
        torch.tensor(intrinsics, dtype=torch.float32),
        width=pictures[0].shape[1],
        height=pictures[0].shape[0],
        distortion=distortion,
        model=model,
    )
    return PosedImages(torch.from_numpy(np.stack(pictures)), cameras, tuple(view.name for view in kept))
