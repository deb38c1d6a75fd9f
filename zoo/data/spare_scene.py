"""One scene of the SpaRe benchmark, or of DTU's own release by RegNeRF's protocol, as views with cameras.

The rig's millimetres are scaled to a frame in which the point that all cameras of the rig look at is the origin and
their mean distance from it 1 (``frame="focus"``), or to RegNeRF's frame (``frame="regnerf"``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.bad_samples import BadSamples, SampleError
from zoo.data.cameras import Cameras
from zoo.data.formats.archives import unpack_zip
from zoo.data.formats.spare import SIZE, SpareScene, read_calibration, read_split
from zoo.data.image_files import read_image
from zoo.data.posed_images import View
from zoo.data.projection_matrix import decompose_projection, regnerf_frame
from zoo.data.scene_frame import apply_similarity, nearest_point_to_axes

__all__ = [
    "DTU_INPUT_ORDER",
    "DTU_SCANS",
    "DTU_TEST_VIEWS",
    "Frame",
    "Rig",
    "SpareFolder",
    "dtu_scene",
    "read_mask",
    "unpack_archives",
]

Frame = Literal["focus", "regnerf"]
Phase = Literal["development", "test"]

DTU_SCANS = (8, 21, 30, 31, 34, 38, 40, 41, 45, 55, 63, 82, 103, 110, 114)
DTU_INPUT_ORDER = (25, 22, 28, 40, 44, 48, 0, 8, 13)
_DTU_BAD_VIEWS = (3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 36, 37, 38, 39)
DTU_TEST_VIEWS = tuple(v for v in range(49) if v not in DTU_INPUT_ORDER and v not in _DTU_BAD_VIEWS)
_LARGEST_SKEW = 0.05  # pixels at the border that a pinhole camera may be off


def dtu_scene(scan: int, num_views: int) -> SpareScene:
    """RegNeRF's split of a scan of DTU: the first of its nine input views, and always the same 25 test views.

    Raises:
        ValueError: The scan is none of the 15, or the number of views not 1 to 9.

    Example:
        >>> dtu_scene(114, 3).input_views, len(dtu_scene(114, 3).test_views)
        ((25, 22, 28), 25)
    """
    if scan not in DTU_SCANS:
        raise ValueError(f"scan: found {scan}, expected one of {DTU_SCANS}")
    if not 1 <= num_views <= len(DTU_INPUT_ORDER):
        raise ValueError(f"num_views: found {num_views}, expected 1 to {len(DTU_INPUT_ORDER)}")
    return SpareScene(f"scan{scan}", DTU_INPUT_ORDER[:num_views], DTU_TEST_VIEWS, "DTU")


@dataclass(frozen=True, eq=False)
class Rig:
    """All cameras of a family, in the frame of the scenes.

    Attributes:
        poses: camera-to-world by 0-based view, ``(4, 4)`` float64.
        intrinsics: ``(3, 3)`` float64 by view, for 1600 x 1200 pixels.
        world_to_scene: similarity ``(4, 4)`` from the calibration's world.
        focus: the point ``(3,)`` that the cameras look at, in the frame of the scenes.
        distance: their mean distance from it.
        source: folder of the calibration.
    """

    poses: Mapping[int, Tensor]
    intrinsics: Mapping[int, Tensor]
    world_to_scene: Tensor
    focus: Tensor
    distance: float
    source: Path

    @classmethod
    def read(cls, folder: Path | str, frame: Frame = "focus", rig_views: Sequence[int] | None = None) -> Rig:
        """Read a calibration folder; ``rig_views`` are those that make the frame, None: all.

        Raises:
            SampleError: A file is missing or no camera, or the cameras stand in one point or look along one line.
            ValueError: The frame is unknown.
        """
        if frame not in ("focus", "regnerf"):
            raise ValueError(f"frame: found {frame!r}, expected 'focus' or 'regnerf'")
        projections = read_calibration(folder, rig_views)
        views = list(projections)
        found = decompose_projection(torch.stack([projections[view] for view in views]))
        poses = found.camera_to_world
        focus = nearest_point_to_axes(poses)
        distance = float((poses[:, :3, 3] - focus).norm(dim=-1).mean())
        spread = float((poses[:, :3, 3] - poses[:, :3, 3].mean(0)).norm(dim=-1).max())
        if not distance > 0 or spread < 1e-6 * distance:
            raise SampleError(
                Path(folder), f"its {len(views)} cameras stand in one point, so nothing can be triangulated"
            )
        similarity = torch.eye(4, dtype=torch.float64)
        if frame == "regnerf":
            similarity = regnerf_frame(poses)
        else:
            similarity[:3, 3] = -focus
            similarity[:3] /= distance
        scale = float(torch.linalg.det(similarity[:3, :3]) ** (1 / 3))
        moved = apply_similarity(similarity, poses)
        return cls(
            dict(zip(views, moved, strict=True)),
            dict(zip(views, found.intrinsics, strict=True)),
            similarity,
            similarity[:3, :3] @ focus + similarity[:3, 3],
            distance * scale,
            Path(folder),
        )

    def view(self, number: int, path: Path, name: str) -> View:
        """The description of a picture of a 0-based view.

        Raises:
            SampleError: The rig has no such camera.
        """
        if number not in self.poses:
            raise SampleError(
                self.source, f"has no pos_{number + 1:03d}.txt for the view {number} of {name} (views count from 0)"
            )
        matrix = self.intrinsics[number]
        fx, fy, cx, cy, skew = (float(matrix[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
        is_skewed = abs(skew) * SIZE[1] / 2 / fy > _LARGEST_SKEW
        lens, distortion = ("skewed", (skew / fx,)) if is_skewed else ("pinhole", ())
        return View(path, name, self.source, self.poses[number], (fx, fy, cx, cy), *SIZE, lens, distortion)

    def cameras(self, views: Sequence[int], size: tuple[int, int] = SIZE) -> Cameras:
        """Cameras of 0-based views for pictures of ``size`` (width, height) in the proportion of 1600 x 1200."""
        described = [self.view(number, Path(), f"view {number}") for number in views]
        scale = torch.tensor([size[0] / SIZE[0], size[1] / SIZE[1]] * 2)
        skews = [view.distortion[0] if view.distortion else 0.0 for view in described]
        skewed = any(skews)
        return Cameras(
            torch.stack([view.camera_to_world for view in described]).float(),
            torch.tensor([view.intrinsics for view in described]) * scale,
            *size,
            distortion=torch.tensor(skews)[:, None] if skewed else None,
            model="skewed" if skewed else "pinhole",
        )


@dataclass(frozen=True)
class SpareFolder:
    """Where the parts of the benchmark stand below one folder.

    Attributes:
        root: the folder with the split files.
        phase: ``development`` or ``test``.
        truth: folder with the test views where they are known; None: ``truth`` below the root.
        masks: folder with object masks, ``<scene>/<view:03d>.png`` or ``<scene>/mask/<view:03d>.png`` by the 0-based
            view, as those of DTU are; None: ``masks`` below the root.
    """

    root: Path
    phase: Phase = "test"
    truth: Path | None = None
    masks: Path | None = None

    def split(self, track: int) -> dict[str, SpareScene]:
        """The scenes of a track.

        Raises:
            SampleError: see `zoo.data.formats.spare.read_split`.
            ValueError: The track is neither 1 nor 2.
        """
        if track not in (1, 2):
            raise ValueError(f"track: found {track}, expected 1 (three views) or 2 (nine views)")
        return read_split(self.root / f"Track{track}_split_{self.phase}.json")

    def scene(self, track: int, name: str) -> SpareScene:
        """One scene of a track.

        Raises:
            SampleError: The split has no such scene.
        """
        scenes = self.split(track)
        if name not in scenes:
            raise SampleError(
                self.root / f"Track{track}_split_{self.phase}.json", f"has no scene {name!r}, only {sorted(scenes)}"
            )
        return scenes[name]

    def calibration(self, scene: SpareScene) -> Path:
        """The folder of the calibration of a scene's family, which may lie one level deeper than its archive's name."""
        folder = self.root / f"{scene.family}_calibration"
        if not any(folder.glob("pos_*.txt")):
            inner = sorted({path.parent for path in folder.glob("*/pos_*.txt")})
            if inner:
                return inner[0]
        return folder

    def _places(self, scene: SpareScene, kind: str) -> list[Path]:
        archive = f"{scene.family}_{self.phase}_{3 if len(scene.input_views) <= 3 else 9}views"
        bases = [self.root / archive, self.root / archive / archive] if kind == "input" else []
        bases += [self.truth or self.root / "truth"] if kind == "test" else []
        shared = (self.root / f"{scene.family}_training", self.root / "Rectified", self.root)  # all views in one place
        return [base / scene.name for base in (*bases, *shared)]

    def picture(self, scene: SpareScene, view: int, kind: Literal["input", "test"]) -> Path:
        """The picture of a view; where none exists, the path at which it is first looked for."""
        name = scene.picture_name(view)
        places = [folder / name for folder in self._places(scene, kind)]
        return next((path for path in places if path.is_file()), places[0])

    def mask(self, scene: SpareScene, view: int) -> Path:
        """The object mask of a view, which need not exist."""
        folder = (self.masks or self.root / "masks") / scene.name
        inner = folder / "mask" / f"{view:03d}.png"
        return inner if inner.is_file() else folder / f"{view:03d}.png"

    def has_truth(self, scene: SpareScene) -> bool:
        """Whether all test views of a scene are known."""
        return all(self.picture(scene, view, "test").is_file() for view in scene.test_views)

    def views(
        self, rig: Rig, scene: SpareScene, kind: Literal["input", "test"], bad_samples: BadSamples
    ) -> list[tuple[int, View]]:
        """The number and description of the input or test views.

        Raises:
            SampleError: A picture is missing, or the rig lacks its camera (policy ``"error"``).
        """
        found = []
        for number in scene.input_views if kind == "input" else scene.test_views:
            path = self.picture(scene, number, kind)
            try:
                view = rig.view(number, path, f"{scene.name}/{path.name}")
                if not path.is_file():
                    raise SampleError(path, f"no such image (view {number} of {scene.name}, {kind} of the split)")
            except SampleError as error:
                bad_samples.handle(error)
                continue
            found.append((number, view))
        return found


def read_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """An object mask ``(H, W)`` bool: the pixels that are fully white, as RegNeRF reads DTU's.

    Args:
        path: of the picture.
        size: width and height that it must have.

    Raises:
        SampleError: No readable picture, another size, or no pixel of the object.
    """
    pixels = read_image(path)[..., :3].max(axis=-1)
    if pixels.shape != size[::-1]:
        raise SampleError(
            path, f"the mask has {pixels.shape[1]} x {pixels.shape[0]} pixels, its picture {size[0]} x {size[1]}"
        )
    mask = torch.from_numpy(np.ascontiguousarray(pixels == 255))
    if not bool(mask.any()):
        raise SampleError(path, "the mask holds no pixel of the object")
    return mask


def unpack_archives(root: Path, names: Iterable[str] | None = None, *, overwrite: bool = False) -> list[Path]:
    """Unpack the benchmark's archives that lie in ``root`` beside themselves, each into a folder of its name.

    Args:
        root: with the ``*.zip``.
        names: stems of the archives; None: all.
        overwrite: unpack again where the folder exists.

    Returns:
        The folders that were written.

    Raises:
        SampleError: An archive is damaged or would write outside of its folder.
    """
    written = []
    for archive in sorted(root.glob("*.zip")):
        target = archive.with_suffix("")
        if (names is not None and archive.stem not in names) or (target.exists() and not overwrite):
            continue
        part = target.with_name(f".{target.name}.part")
        unpack_zip(archive, part)
        _replace(part, target)
        written.append(target)
    return written


def _replace(part: Path, target: Path) -> None:
    if target.exists():
        former = target.with_name(f".{target.name}.former")
        target.rename(former)
        part.rename(target)
        shutil.rmtree(former)
    else:
        part.rename(target)
