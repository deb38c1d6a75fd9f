"""The SpaRe benchmark from split to submission: train every scene, render its test views, score and pack them.

A folder holds the state, so that an interrupted benchmark goes on where it was::

    settings.json                         what was asked for; another request is refused
    runs/<scene>/                         the run of each scene, resumed from its last checkpoint
    renders/<scene>/<name>.png            the test views
    scores/<scene>.json                   figures of each picture, where the test views are known
    scores.json                           means of scenes and of data sets
    submission.zip                        what the benchmark's server takes
    selection.json, selection/            where candidates were compared, see `zoo.training.leave_one_out`
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo.data.cameras import Cameras
from zoo.data.formats.spare import SpareScene
from zoo.data.image_files import image_size
from zoo.data.spare_data import SpareData
from zoo.data.spare_submission import check_submission, write_submission
from zoo.files import atomic_path, write_json
from zoo.metrics.spare_scores import SpareScores, mean_scores
from zoo.tasks.view_task import ViewTask
from zoo.training.configuration import build, compose, load_run
from zoo.training.leave_one_out import LeaveOneOut, train_scene
from zoo.training.run_folder import RunFolder

__all__ = ["SpareBenchmark"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SpareBenchmark:
    """What to run.

    Attributes:
        folder: of the state and the results.
        experiment: the recipe that every scene is trained with.
        track: 1 for three views, 2 for nine.
        phase: ``development`` or ``test``.
        size: width and height of the pictures; the benchmark takes 1600 x 1200 only.
        scenes: names of the scenes; empty: all of the split.
        overrides: further changes to the recipe.
        scores: how renderings are compared with test views that are known.
        selection: candidates, of which the best by leave-one-out on the input views is used.
    """

    folder: Path
    experiment: str
    track: int = 1
    phase: str = "test"
    size: tuple[int, int] = (1600, 1200)
    scenes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    scores: SpareScores = field(default_factory=SpareScores)
    selection: LeaveOneOut = field(default_factory=LeaveOneOut)

    def run(self) -> Path:
        """Do what is left to do and return the folder.

        Raises:
            ValueError: The folder holds another request, or a scene is not in the split.
            zoo.data.bad_samples.SampleError: The data cannot be used.
            zoo.training.signals.RunInterrupted: A signal came; the same call goes on from there.
        """
        self._claim_folder()
        scenes = self._split()
        if self.selection.candidates:
            best = self.selection.choose(self.folder, scenes, self._recipe)
            log.info("chosen by leave-one-out: %s", best)
            changes = (*self.overrides, *self.selection.candidates[best])
            return replace(self, overrides=changes, selection=LeaveOneOut())._run(scenes)
        return self._run(scenes)

    def check(self, archive: str | Path) -> list[str]:
        """What is wrong with an archive as an answer to the split, one line for each fault; empty where nothing is."""
        return check_submission(archive, self._split(), size=self.size)

    def _run(self, scenes: Mapping[str, SpareScene]) -> Path:
        for number, scene in enumerate(scenes.values()):
            log.info("scene %d of %d: %s", number + 1, len(scenes), scene.name)
            self._train(scene)
            self._render(scene)
        self._write_scores(scenes)
        path = write_submission(self.folder / "submission.zip", scenes, self.folder / "renders", size=self.size)
        log.info("submission: %s", path)
        return self.folder

    def _recipe(self, *more: str) -> list[str]:
        chosen = [f"experiment={self.experiment}", f"data.track={self.track}", f"data.phase={self.phase}"]
        return [*chosen, *self.overrides, *more]

    def _claim_folder(self) -> None:
        path = self.folder / "settings.json"
        wanted = {
            "experiment": self.experiment, "track": self.track, "phase": self.phase, "size": list(self.size),
            "overrides": list(self.overrides),
        }  # fmt: skip
        if self.selection.candidates:
            wanted["selection"] = {
                "candidates": {name: list(changes) for name, changes in self.selection.candidates.items()},
                "scenes": list(self.selection.scenes),
                "overrides": list(self.selection.overrides),
            }
        if path.is_file():
            found = json.loads(path.read_text())
            if found != wanted:
                raise ValueError(f"output: {self.folder} holds results of {found}, not of {wanted}; choose another")
            return
        write_json(path, wanted)

    def _split(self) -> dict[str, SpareScene]:
        data = build(compose(self._recipe()).data)
        if not isinstance(data, SpareData):
            raise ValueError(f"experiment: {self.experiment} reads {type(data).__name__}, expected SpareData")
        data.prepare_data()
        scenes = data.folder.split(self.track)
        unknown = sorted(set(self.scenes) - set(scenes))
        if unknown:
            raise ValueError(f"scenes: found {unknown}, expected some of {sorted(scenes)}")
        return {name: scene for name, scene in scenes.items() if not self.scenes or name in self.scenes}

    def _train(self, scene: SpareScene) -> None:
        train_scene(RunFolder(self.folder / "runs" / scene.name), self._recipe, f"data.scene={scene.name}")

    def _render(self, scene: SpareScene) -> None:
        folder, scores = self.folder / "renders" / scene.name, self.folder / "scores" / f"{scene.name}.json"
        paths = [folder / scene.picture_name(view) for view in scene.test_views]
        if all(path.is_file() and image_size(path) == self.size for path in paths) and scores.is_file():
            return
        _, parts = load_run(RunFolder(self.folder / "runs" / scene.name).last)
        task, data = parts.task, parts.data
        if not isinstance(task, ViewTask) or not isinstance(data, SpareData):
            raise ValueError(
                f"experiment: {self.experiment} trains a {type(task).__name__}, expected a task that renders cameras"
            )
        data.setup()
        cameras = data.test_cameras(self.size)
        start = time.perf_counter()
        for number, path in enumerate(paths):
            _save(task.render_camera(cameras[[number]]).rgb, path)
        seconds = (time.perf_counter() - start) / len(paths)
        log.info("%s: %.1f s for each view of %d x %d", scene.name, seconds, *self.size)
        write_json(scores, {"seconds_per_view": seconds, "views": self._score(task, data, scene)})

    def _score(self, task: ViewTask, data: SpareData, scene: SpareScene) -> dict[str, dict[str, float]]:
        """Figures of each test view, rendered at the size of the known picture; empty where it is not known."""
        if not data.knows_truth:
            return {}
        images, masks = data.test, data.masks_of("test")
        rows = {}
        for number, view in enumerate(scene.test_views):
            camera: Cameras = images.cameras[[number]]
            rendered = task.render_camera(camera).rgb.cpu()
            truth = images.rgba(number)[..., :3]
            mask = None if masks is None else masks[number]
            rows[scene.picture_name(view)] = self.scores(rendered, truth, mask)
        return rows

    def _write_scores(self, scenes: Mapping[str, SpareScene]) -> None:
        """Means over the pictures of a scene, and over the scenes of DTU and of SpaRe apart."""
        means: dict[str, dict[str, float]] = {}
        for name in scenes:
            content = json.loads((self.folder / "scores" / f"{name}.json").read_text())
            if content["views"]:
                means[name] = mean_scores(content["views"].values())
        families: dict[str, Any] = {}
        for family in ("dtu", "synth"):
            rows = [means[name] for name, scene in scenes.items() if scene.family == family and name in means]
            if rows:
                families[family] = mean_scores(rows)
                log.info("%s: %s", family, ", ".join(f"{key} {value:.4f}" for key, value in families[family].items()))
        if not means:
            log.info("no scores: the benchmark keeps its test views")
        write_json(
            self.folder / "scores.json",
            {"figures": self.scores.description, "scenes": means, "data_sets": families},
        )


def _save(rgb: Tensor, path: Path) -> None:
    pixels = (rgb.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def benchmark_of(settings: Mapping[str, Any], output_dir: str | Path, overrides: Sequence[str]) -> SpareBenchmark:
    """The benchmark that ``tools/render.py benchmark=spare`` means.

    Args:
        settings: The node ``spare`` of ``zoo/configs/render.yaml``, with ``track`` and ``output``.
        output_dir: Where results go without ``output``.
        overrides: Changes to the recipe.

    Raises:
        ValueError: The size is not two positive numbers.
    """
    size = tuple(int(side) for side in settings["size"])
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"spare.size: found {list(settings['size'])}, expected width and height")
    selection = settings["selection"]
    name = f"{settings['experiment']}_track{settings['track']}_{settings['phase']}"
    return SpareBenchmark(
        folder=Path(settings["output"]) if settings["output"] else Path(output_dir) / "spare" / name,
        experiment=settings["experiment"],
        track=int(settings["track"]),
        phase=settings["phase"],
        size=(size[0], size[1]),
        scenes=tuple(settings["scenes"] or ()),
        overrides=tuple(overrides),
        scores=SpareScores(
            ssim_variant=settings["ssim_variant"],
            lpips_net=settings["lpips_net"],
            lpips_weights=settings["lpips_weights"],
        ),
        selection=LeaveOneOut(
            candidates={str(key): [str(line) for line in lines] for key, lines in selection["candidates"].items()},
            scenes=tuple(selection["scenes"] or ()),
            overrides=tuple(str(line) for line in selection["overrides"]),
        ),
    )
