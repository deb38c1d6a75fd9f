"""Choosing among recipes by the input views alone: train without one of them, compare its rendering, all in turn.

Test views choose nothing. The folder holds the state, so that an interrupted comparison goes on where it was::

    selection/<candidate>/<scene>_<position>/     the run without the input view at that position
    selection/<candidate>/<scene>_<position>.json its figures on that view
    selection.json                                means of the candidates, and the one that is best
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data.formats.spare import SpareScene
from zoo.data.spare_data import SpareData
from zoo.files import write_json
from zoo.metrics.spare_scores import mean_scores
from zoo.tasks.view_task import ViewTask
from zoo.training.configuration import compose, load_run
from zoo.training.run_folder import RunFolder
from zoo.training.session import run_session

__all__ = ["LeaveOneOut", "train_scene"]

log = logging.getLogger(__name__)


def train_scene(run: RunFolder, recipe: Callable[..., list[str]], *more: str) -> None:
    """Train in a folder what is left to train there.

    Args:
        run: The folder; one with final figures is finished, one with a checkpoint goes on from it.
        recipe: Makes the overrides of a run from further ones.
        more: Further overrides.
    """
    if run.metrics.is_file():
        return
    changes = [*more, f"paths.run_dir='{run.path.resolve()}'", "test=false"]
    if run.last.is_file():
        changes.append(f"ckpt='{run.last.resolve()}'")
    overrides = recipe(*changes)
    run_session(compose(overrides), overrides=overrides)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut:
    """What to compare.

    Attributes:
        candidates: changes to the recipe, by the name of the candidate.
        scenes: names of the scenes to compare on; empty: all.
        overrides: changes to the recipe for the comparison alone, as ``trainer.max_steps=500``.
    """

    candidates: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scenes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    def choose(self, folder: Path, scenes: Mapping[str, SpareScene], recipe: Callable[..., list[str]]) -> str:
        """The candidate with the highest mean PSNR of the views left out.

        Args:
            folder: Of the state.
            scenes: The scenes of the split.
            recipe: Makes the overrides of a run from further ones.

        Raises:
            ValueError: A scene is not in the split, or no figure is finite.
        """
        unknown = sorted(set(self.scenes) - set(scenes))
        if unknown:
            raise ValueError(f"selection.scenes: found {unknown}, expected some of {sorted(scenes)}")
        means = {}
        for name, changes in self.candidates.items():
            rows = [
                self._measure(folder / "selection" / name, scene, position, changes, recipe)
                for scene in scenes.values()
                if not self.scenes or scene.name in self.scenes
                for position in range(len(scene.input_views))
            ]
            means[name] = mean_scores(rows)
            log.info("%s: PSNR %.2f of %d input views left out", name, means[name]["psnr"], len(rows))
        finite = {name: mean["psnr"] for name, mean in means.items() if math.isfinite(mean["psnr"])}
        if not finite:
            raise ValueError(f"selection.candidates: found no finite PSNR among {means}")
        best = max(finite, key=lambda name: finite[name])
        write_json(folder / "selection.json", {"candidates": means, "chosen": best})
        return best

    def _measure(
        self, folder: Path, scene: SpareScene, position: int, changes: Sequence[str], recipe: Callable[..., list[str]]
    ) -> dict[str, float]:
        path = folder / f"{scene.name}_{position}.json"
        if path.is_file():
            return json.loads(path.read_text())
        run = RunFolder(folder / f"{scene.name}_{position}")
        train_scene(run, recipe, *changes, *self.overrides, f"data.scene={scene.name}", f"data.leave_out={position}")
        _, parts = load_run(run.last)
        task, data = parts.task, parts.data
        if not isinstance(task, ViewTask) or not isinstance(data, SpareData):
            raise ValueError(f"experiment: trains a {type(task).__name__}, expected a task that renders cameras")
        data.setup()
        rendered, truth = task.render_view(data.val, 0)
        scores = task.scores(rendered.rgb, truth)
        figures = {name: float(value) for name, value in scores.items()}
        write_json(path, figures)
        return figures
