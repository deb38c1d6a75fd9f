"""A scene of the SpaRe benchmark, or of DTU by RegNeRF's protocol, as a Lightning data module."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.bad_samples import DataReport, SampleError
from zoo.data.cameras import Cameras
from zoo.data.formats.numpy_files import read_npy
from zoo.data.formats.spare import SIZE, SpareScene
from zoo.data.image_files import image_size
from zoo.data.posed_images import PosedImages
from zoo.data.radiance_fields import RadianceFieldData
from zoo.data.scene_index import SceneIndex
from zoo.data.silhouettes import foreground_of_dark_backdrop
from zoo.data.spare_generator import SpareSettings, check_spare_scenes, generate_spare_scenes
from zoo.data.spare_scene import Frame, Phase, Rig, SpareFolder, dtu_scene, read_mask, unpack_archives

__all__ = ["SpareData"]

log = logging.getLogger(__name__)

Silhouette = Literal["dark_backdrop", "dark_enclosed", "masks"]


class SpareData(RadianceFieldData):
    """The few input views of one scene, and its test views where they are known.

    ``train`` are the input views, without the one that ``leave_out`` names; ``val`` is that view, or the input views
    themselves; ``test`` are the test views. Settings are never chosen by test views.

    Args:
        root: folder of the benchmark (see `SpareFolder`), or of DTU with ``dtu_scan``.
        scene: name of the scene in the split; None with ``dtu_scan``.
        track: 1 for three views, 2 for nine.
        phase: which split: ``development`` or ``test``.
        views: instead of the split's input views, these 0-based ones; None: the split's.
        dtu_scan: a scan of DTU's own release, ``Rectified/scan<N>`` and ``Calibration/cal18``, by RegNeRF's split.
        truth: folder of the test views; None: ``truth`` below the root.
        masks: folder of the object masks; None: ``masks`` below the root.
        depths: folder of supplied inverse depth, ``<scene>/<view:03d>.npy`` ``(H, W)``, larger is nearer; or None.
        silhouette: where training pictures get their alpha from: ``dark_backdrop`` or ``dark_enclosed`` (see
            `foreground_of_dark_backdrop`, the latter with ``enclosed``), ``masks``, or None for none.
        dark: threshold of the first two.
        leave_out: position among the input views of the one to validate on; None: none.
        frame: ``focus`` or ``regnerf``, see `zoo.data.spare_scene`.
        aabb: box to model in that frame; None: a cube of ``box`` times the cameras' distance about their focus.
        box: half side of that cube.
        generator: what to generate; None: the defaults.
        options: of `RadianceFieldData`: downscale, on_bad_sample, near, far, seed, max_steps, num_workers, generate.

    Raises:
        ValueError: on arguments out of range.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        scene: str | None = None,
        track: int = 1,
        phase: Phase = "test",
        views: Sequence[int] | None = None,
        dtu_scan: int | None = None,
        truth: str | None = None,
        masks: str | None = None,
        depths: str | None = None,
        silhouette: Silhouette | None = None,
        dark: int = 30,
        leave_out: int | None = None,
        frame: Frame = "focus",
        aabb: Sequence[float] | None = None,
        box: float = 0.35,
        generator: SpareSettings | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root=root, aabb=aabb, **options)
        if (scene is None) == (dtu_scan is None):
            raise ValueError(f"scene, dtu_scan: found {scene!r} and {dtu_scan!r}, expected exactly one of them")
        if phase not in ("development", "test"):
            raise ValueError(f"phase: found {phase!r}, expected 'development' or 'test'")
        if silhouette not in (None, "dark_backdrop", "dark_enclosed", "masks"):
            raise ValueError(
                f"silhouette: found {silhouette!r}, expected 'dark_backdrop', 'dark_enclosed', 'masks' or null"
            )
        self.scene_name, self.track, self.dtu_scan = scene, track, dtu_scan
        self.folder = SpareFolder(
            self.root, phase, None if truth is None else Path(truth), None if masks is None else Path(masks)
        )
        self.depths = None if depths is None else Path(depths)
        self.chosen_views = None if views is None else tuple(views)
        self.silhouette, self.dark, self.leave_out = silhouette, dark, leave_out
        self.frame: Frame = frame
        self.box, self.settings = box, generator or SpareSettings()
        self._rig: Rig | None = None
        self._scene: SpareScene | None = None
        self._numbers: dict[str, list[int]] = {}

    def prepare_data(self) -> None:
        """Generate the scenes where that is asked for and ``root`` does not exist."""
        if self.generate and not self.root.exists():
            log.info("rendering the SpaRe-layout scenes into %s", self.root)
            generate_spare_scenes(self.root, self.settings)

    def prepare_files(self, overwrite: bool = False) -> None:
        """Unpack the benchmark's archives, or generate."""
        self.prepare_data()
        for folder in unpack_archives(self.root, overwrite=overwrite):
            log.info("unpacked %s", folder)

    def generate_data(self, overwrite: bool = False) -> None:
        """Render the generated scenes into ``root``.

        Raises:
            FileExistsError: if ``root`` exists and may not be replaced.
        """
        generate_spare_scenes(self.root, self.settings, overwrite=overwrite)

    def _read_index(self) -> tuple[str, SceneIndex]:
        if self.generate:
            check_spare_scenes(self.root, self.settings)
        rig, scene = self.rig, self.scene
        inputs = self.folder.views(rig, scene, "input", self.bad_samples)
        self._check_inputs(rig, [number for number, _ in inputs])
        known = self.folder.has_truth(scene)
        tests = self.folder.views(rig, scene, "test", self.bad_samples) if known else inputs[:1]
        held = [inputs[self.leave_out]] if self.leave_out is not None else inputs
        training = inputs if self.leave_out is None else [pair for pair in inputs if pair is not held[0]]
        splits = {"train": training, "val": held, "test": tests}
        self._numbers = {name: [number for number, _ in pairs] for name, pairs in splits.items()}
        half = self.box * rig.distance
        box = [*(rig.focus - half).tolist(), *(rig.focus + half).tolist()]
        index = SceneIndex(
            self.root, {name: [view for _, view in pairs] for name, pairs in splits.items()},
            (box[0], box[1], box[2], box[3], box[4], box[5]), near=0.3 * rig.distance, far=1.8 * rig.distance,
            world_to_scene=rig.world_to_scene,
        )  # fmt: skip
        return f"{scene.name}, {len(scene.input_views)} views", index

    def _check_inputs(self, rig: Rig, numbers: list[int]) -> None:
        if len(numbers) < 2:
            raise SampleError(
                self.root,
                f"{self.scene.name} has {len(numbers)} usable input view; at least 2 are needed to see depth at all",
            )
        if self.leave_out is not None and not (len(numbers) > 2 and 0 <= self.leave_out < len(numbers)):
            raise ValueError(
                f"leave_out: found {self.leave_out}, expected 0 to {len(numbers) - 1} and at least 3 input views"
            )
        centers = torch.stack([rig.poses[number][:3, 3] for number in numbers])
        apart = torch.cdist(centers, centers) + torch.eye(len(numbers), dtype=centers.dtype) * rig.distance
        if float(apart.min()) < 1e-4 * rig.distance:
            first, second = divmod(int(apart.argmin()), len(numbers))
            raise SampleError(
                rig.source, f"the input views {numbers[first]} and {numbers[second]} stand in one place: one of them "
                "says nothing about depth; choose others by data.views",
            )  # fmt: skip

    def check_data(self) -> DataReport:
        """As `RadianceFieldData.check_data`, with the masks."""
        self._rig = self._scene = None
        report = super().check_data()
        lines, problems = list(report.lines), list(report.problems)
        splits = ("train", "test") if self.knows_truth else ("train",)
        if not self.knows_truth:
            lines = [line for line in lines if not line.startswith("test:")]
            lines.append(f"test: {len(self.scene.test_views)} views to render, their pictures are not known")
        for split in splits:
            try:
                masks = self.masks_of(split)
            except SampleError as error:
                problems.append(str(error))
                continue
            lines.append(f"{split}: {'no masks' if masks is None else f'{len(masks)} masks'}")
        return DataReport(tuple(lines), tuple(problems))

    @property
    def scene(self) -> SpareScene:
        """The scene's entry in the split, with the input views that are used."""
        if self._scene is None:
            if self.dtu_scan is not None:
                count = 3 if self.track == 1 else 9
                scene = dtu_scene(self.dtu_scan, count)
            else:
                scene = self.folder.scene(self.track, str(self.scene_name))
            if self.chosen_views is not None:
                scene = replace(scene, input_views=self.chosen_views)
            self._scene = scene
        return self._scene

    @property
    def rig(self) -> Rig:
        """All cameras of the scene's family."""
        if self._rig is None:
            if self.dtu_scan is not None:
                self._rig = Rig.read(self.root / "Calibration" / "cal18", self.frame, range(49))
            else:
                self._rig = Rig.read(self.folder.calibration(self.scene), self.frame)
        return self._rig

    @property
    def knows_truth(self) -> bool:
        """Whether the test views are there to be compared with."""
        return self.folder.has_truth(self.scene)

    def test_cameras(self, size: tuple[int, int] = SIZE) -> Cameras:
        """Cameras of the test views for pictures of ``size`` (width, height), whether or not they are known."""
        return self.rig.cameras(self.scene.test_views, size)

    @property
    def test(self) -> PosedImages:
        """The test views.

        Raises:
            SampleError: They are not known.
        """
        self.index  # noqa: B018  raises before setup
        if not self.knows_truth:
            raise SampleError(
                self.folder.picture(self.scene, self.scene.test_views[0], "test"),
                "no such image: the benchmark keeps its test views; say test=false, and render them with "
                "tools/render.py benchmark=spare",
            )
        return self._split("test")

    def _split(self, name: str) -> PosedImages:
        if name in self._splits:
            return self._splits[name]
        images = super()._split(name)
        if not bool((images.images > 0).any()):
            raise SampleError(self.index.source, f"all {len(images)} pictures of {self.scene.name} ({name}) are black")
        if name == "train" and self.silhouette is not None:
            alpha = self._alpha(images).to(torch.uint8) * 255
            images = replace(images, images=torch.cat((images.images[..., :3], alpha[..., None]), dim=-1))
        self._splits[name] = images
        return images

    def _alpha(self, images: PosedImages) -> Tensor:
        if self.silhouette == "masks":
            masks = self.masks_of("train")
            if masks is None:
                path = self.folder.mask(self.scene, self._numbers["train"][0])
                raise SampleError(path, "no such mask; data.silhouette=dark_backdrop or null does without")
            return masks
        found = foreground_of_dark_backdrop(
            images.images, threshold=self.dark, enclosed=self.silhouette == "dark_enclosed"
        )
        share = found.float().mean((1, 2))
        if float(share.min()) < 1e-3:
            name = images.names[int(share.argmin())]
            raise SampleError(self.index.source, f"{name} is black all over, so it has no silhouette; leave it out")
        return found

    def masks_of(self, split: str) -> Tensor | None:
        """Object masks ``(N, H, W)`` bool of a split at the size of its pictures; None where it has none.

        Raises:
            SampleError: A mask is damaged or has another size, or only some views have one.
        """
        paths = [self.folder.mask(self.scene, number) for number in self._numbers[split]]
        if not any(path.is_file() for path in paths):
            return None
        missing = [path for path in paths if not path.is_file()]
        if missing:
            raise SampleError(missing[0], f"no such mask, though {paths[0].parent} holds masks of other views")
        images = super()._split(split) if split not in self._splits else self._splits[split]
        pictures = self.index.splits[split]
        sizes = [image_size(view.path) for view in pictures]
        masks = torch.stack([read_mask(path, size) for path, size in zip(paths, sizes, strict=True)])
        height, width = images.cameras.height, images.cameras.width
        return masks[:, :: self.downscale, :: self.downscale][:, :height, :width]

    def inverse_depths(self) -> Tensor | None:
        """Supplied inverse depth ``(N, H, W)`` of the training views, larger is nearer; None where none is supplied.

        Raises:
            SampleError: A map is missing, damaged, not finite, or of another size than its picture.
        """
        if self.depths is None:
            return None
        cameras = self.train.cameras
        maps = []
        for number in self._numbers["train"]:
            path = self.depths / self.scene.name / f"{number:03d}.npy"
            maps.append(read_depth(path, (cameras.height, cameras.width)))
        return torch.stack(maps)


def read_depth(path: Path, size: tuple[int, int]) -> Tensor:
    """A map of numbers ``(H, W)`` float32 from a ``.npy`` file.

    Args:
        path: of the file.
        size: height and width that it must have.

    Raises:
        SampleError: missing, damaged, not finite, or of another size.
    """
    found = read_npy(path)
    if found.dtype.kind not in "fiu" or found.shape != size:
        raise SampleError(path, f"is {found.dtype} {found.shape}, expected numbers {size[0]} x {size[1]}")
    with np.errstate(over="ignore"):
        depth = torch.from_numpy(found.astype(np.float32))
    if not bool(torch.isfinite(depth).all()):
        raise SampleError(path, "holds numbers that are NaN or infinite")
    return depth
