"""Captured and generated scenes for radiance fields, as a Lightning data module."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from zoo.data.bad_samples import BadSamples, DataReport, SampleError
from zoo.data.formats.blender import is_blender, read_blender
from zoo.data.formats.colmap_scene import is_colmap, read_colmap
from zoo.data.formats.instant_ngp import is_instant_ngp, read_instant_ngp
from zoo.data.posed_images import PosedImages, load_posed_images
from zoo.data.scene_index import SPLITS, SceneIndex
from zoo.data.step_loader import StepData
from zoo.data.synthetic_scene import (
    REBUILD,
    SCENE_FILE,
    SceneSettings,
    generate_scene,
    read_scene_description,
)
from zoo.data.undistortion import undistorted

logger = logging.getLogger(__name__)

Format = Literal["auto", "blender", "instant_ngp", "colmap"]

_READERS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, BadSamples], SceneIndex]]] = {
    "blender": (is_blender, read_blender),
    "instant_ngp": (is_instant_ngp, read_instant_ngp),
    "colmap": (is_colmap, read_colmap),
}


def detect_format(root: Path) -> str:
    """The layout of a scene folder: ``blender``, ``instant_ngp`` or ``colmap``.

    Raises:
        SampleError: if the folder is missing or holds none of them.
    """
    if not root.is_dir():
        raise SampleError(root, "no such folder; set data.root, or data.generate=true for the scene that zoo generates")
    for name, (matches, _) in _READERS.items():
        if matches(root):
            return name
    raise SampleError(
        root,
        "holds no scene: expected transforms_train.json (Blender), transforms.json (instant-ngp) or a COLMAP model "
        "(cameras.bin or cameras.txt in sparse/0, sparse or here)",
    )


class Indices(Dataset[Tensor]):
    """The integers themselves as int64 tensors of shape ``(1,)``."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([index])


class RadianceFieldData(StepData):
    """Posed photographs in one of the layouts that `detect_format` knows.

    The training loader yields only the index of each step: the task draws the rays itself with
    `zoo.data.posed_images.sample_rays`, a pure function of seed and step, so that a resumed run sees the same rays with
    any number of workers. The val and test loaders yield indices of pictures. Pictures are decoded when a split is
    first used.

    Args:
        root: folder of the scene.
        format: layout; ``"auto"`` finds it out.
        downscale: side of the blocks of pixels that are averaged.
        holdout_every: each how manieth view is held out where the layout has no split.
        views: train on so many views spread over the capture, or on those at these positions, and test on the others
            between them (see `SceneIndex.with_few_views`); None: on all but those held out.
        undistort: whether pictures of a distorting lens become those of a pinhole camera, as Gaussians need it.
        on_bad_sample: ``"error"``, or ``"skip"`` to leave out and count views that cannot be used.
        scene_scale: positions are multiplied by it, on top of what the layout prescribes.
        scene_offset: and then shifted by it.
        aabb: box to model, xmin ymin zmin xmax ymax zmax, in units after scaling; None: as the layout says.
        near: distance at which rays start, in units after scaling; None: as the layout says.
        far: distance at which they end.
        seed: of the rays.
        max_steps: number of training steps, the length of the training loader.
        num_workers: worker processes of the loaders.
        generate: make the synthetic scene (see `zoo.data.synthetic_scene`) if ``root`` does not exist.
        generator: what to generate then; None: its defaults.

    Raises:
        ValueError: on arguments out of range.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        format: Format = "auto",
        downscale: int = 1,
        holdout_every: int = 8,
        views: int | Sequence[int] | None = None,
        undistort: bool = False,
        on_bad_sample: Literal["error", "skip"] = "error",
        scene_scale: float = 1.0,
        scene_offset: Sequence[float] = (0.0, 0.0, 0.0),
        aabb: Sequence[float] | None = None,
        near: float | None = None,
        far: float | None = None,
        seed: int = 0,
        max_steps: int = 20_000,
        num_workers: int = 0,
        generate: bool = False,
        generator: SceneSettings | None = None,
    ) -> None:
        super().__init__()
        if format != "auto" and format not in _READERS:
            raise ValueError(f"format: {format!r}, expected 'auto' or one of {sorted(_READERS)}")
        if downscale < 1 or holdout_every < 2 or max_steps < 1 or num_workers < 0:
            raise ValueError(
                f"downscale={downscale}, holdout_every={holdout_every}, max_steps={max_steps}, "
                f"num_workers={num_workers}: expected at least 1, 2, 1 and 0"
            )
        if aabb is not None and (len(aabb) != 6 or not all(aabb[i] < aabb[i + 3] for i in range(3))):
            raise ValueError(f"aabb: {list(aabb)}, expected xmin ymin zmin xmax ymax zmax with min < max")
        self.root = Path(root).expanduser()
        self.format = format
        self.downscale = downscale
        self.holdout_every = holdout_every
        self.few_views = views if views is None or isinstance(views, int) else tuple(views)
        self.undistort = undistort
        self.bad_samples = BadSamples(on_bad_sample)
        self.scene_scale = scene_scale
        self.scene_offset = tuple(scene_offset)
        self.seed = seed
        self.max_steps = max_steps
        self.num_workers = num_workers
        self.generate = generate
        self.generator = generator
        self._box = None if aabb is None else tuple(float(value) for value in aabb)
        self._near, self._far = near, far
        self._index: SceneIndex | None = None
        self._splits: dict[str, PosedImages] = {}

    def prepare_data(self) -> None:
        """Generate the synthetic scene where that is asked for and ``root`` does not exist."""
        if self.generate and not self.root.exists():
            generate_scene(self.root, self.generator)

    def generate_data(self, overwrite: bool = False) -> None:
        """Make the synthetic scene in ``root``.

        Raises:
            FileExistsError: if ``root`` exists and may not be replaced.
        """
        generate_scene(self.root, self.generator, overwrite=overwrite)

    def check_data(self) -> DataReport:
        """Read every picture of every split, going on past bad ones.

        Raises:
            SampleError: where nothing can be made of the scene at all.
        """
        self.bad_samples = BadSamples("skip")
        self._index, self._splits = None, {}
        self.setup()
        lines = []
        for split in SPLITS:
            views = self._split(split)
            size = f"{views.cameras.width} x {views.cameras.height}"
            alpha = " with alpha" if views.has_alpha else ""
            lines.append(f"{split}: {len(views)} pictures of {size} pixels{alpha}, lens {views.cameras.model}")
        lines.append(f"aabb: {[round(value, 4) for value in self.index.aabb]}")
        lines.append(f"near, far: {self.near:g}, {self.far:g}")
        return DataReport(tuple(lines), tuple(str(error) for error in self.bad_samples.skipped))

    def setup(self, stage: str | None = None) -> None:
        """Read the index files; pictures follow when a split is used.

        Raises:
            SampleError: if the scene or a part of it is unusable (see ``on_bad_sample``).
        """
        if self._index is not None:
            return
        name, index = self._read_index()
        index = index.transformed(self.scene_scale, self.scene_offset)
        few = self.few_views
        index = index.with_holdout(self.holdout_every) if few is None else index.with_few_views(few)
        if self._box is not None and max(abs(a - b) for a, b in zip(self._box, index.aabb, strict=True)) > 1e-4:
            logger.info("aabb: %s is set, %s says %s", list(self._box), index.source, [round(v, 4) for v in index.aabb])
        for split, views in index.splits.items():
            if not views:
                raise SampleError(index.source, f"an empty split: nothing is left to {split} on")
        self._index = replace(
            index,
            aabb=self._box if self._box is not None else index.aabb,
            near=self._near if self._near is not None else index.near,
            far=self._far if self._far is not None else index.far,
        )
        counts = ", ".join(f"{len(views)} {split}" for split, views in index.splits.items())
        logger.info("%s (%s): %s views; %d skipped", self.root, name, counts, len(self.bad_samples))

    def _read_index(self) -> tuple[str, SceneIndex]:
        """The layout's name, for people, and what its files say."""
        self._check_generated()
        name = detect_format(self.root) if self.format == "auto" else self.format
        return name, _READERS[name][1](self.root, self.bad_samples)

    def _check_generated(self) -> None:
        """A scene generated earlier with other settings must not be taken for the one asked for."""
        description = read_scene_description(self.root) if self.generator is not None else None
        if self.generator is not None and description is not None:
            wanted, found = asdict(self.generator), description["settings"]
            if wanted != found:
                raise SampleError(
                    self.root / SCENE_FILE,
                    f"was generated with {found}, data.generator asks for {wanted}; choose another data.root, or "
                    f"rebuild: {REBUILD}",
                )

    @property
    def index(self) -> SceneIndex:
        """What the index files say."""
        if self._index is None:
            raise RuntimeError("call setup() first")
        return self._index

    def _split(self, name: str) -> PosedImages:
        if name not in self._splits:
            index = self.index
            same = [other for other in self._splits if index.splits[other] is index.splits[name]]
            if same:
                self._splits[name] = self._splits[same[0]]
                return self._splits[name]
            images = load_posed_images(
                index.splits[name], source=index.source, downscale=self.downscale, bad_samples=self.bad_samples
            )
            self._splits[name] = undistorted(images) if self.undistort else images
        return self._splits[name]

    @property
    def train(self) -> PosedImages:
        """Views to train on."""
        return self._split("train")

    @property
    def val(self) -> PosedImages:
        """Views to watch during training."""
        return self._split("val")

    @property
    def test(self) -> PosedImages:
        """Views to measure on."""
        return self._split("test")

    @property
    def aabb(self) -> Tensor:
        """Box to model ``(6,)``: xmin ymin zmin xmax ymax zmax."""
        return torch.tensor(self.index.aabb, dtype=torch.float32)

    @property
    def near(self) -> float:
        """Distance at which rays start."""
        return self.index.near

    @property
    def far(self) -> float:
        """Distance at which rays end."""
        return self.index.far

    @property
    def world_to_scene(self) -> Tensor:
        """Similarity ``(4, 4)`` float64 from the coordinates of the files to those of the cameras here.

        Poses given in the files' world, such as a camera path, enter by `zoo.data.scene_frame.apply_similarity`.
        """
        return self.index.world_to_scene

    @property
    def white_background(self) -> bool:
        """Whether transparent pictures are meant to stand on white."""
        return self.index.white_background

    @property
    def num_skipped(self) -> int:
        """How many views were left out so far."""
        return len(self.bad_samples)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Indices of the training steps, int64 of shape ``(1,)``, from the trainer's current step on."""
        return self.steps_left()

    def _picture_loader(self, images: PosedImages) -> DataLoader[Tensor]:
        return self.measured(Indices(len(images)), batch_size=None)

    def val_dataloader(self) -> DataLoader[Tensor]:
        """Indices of the val pictures, int64 of shape ``(1,)``."""
        return self._picture_loader(self.val)

    def test_dataloader(self) -> DataLoader[Tensor]:
        """Indices of the test pictures, int64 of shape ``(1,)``."""
        return self._picture_loader(self.test)
