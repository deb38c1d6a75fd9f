"""What the index files of a captured scene say, before any picture is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from zoo.data.few_views import lies_between, spread_views
from zoo.data.posed_images import View

Box = tuple[float, float, float, float, float, float]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class SceneIndex:
    """The views of a scene and the region that a field should model.

    Attributes:
        source: the file or folder that was read, for error messages.
        splits: views by split; the key ``"all"`` alone where the layout has no split.
        aabb: xmin, ymin, zmin, xmax, ymax, zmax in the units of the poses.
        near: distance at which rays start.
        far: distance at which rays end.
        white_background: whether transparent pictures are meant to stand on white.
        world_to_scene: similarity ``(4, 4)`` float64 from the coordinates of the index file to those of the views.
    """

    source: Path
    splits: Mapping[str, Sequence[View]]
    aabb: Box
    near: float = 0.0
    far: float = 1e10
    white_background: bool = False
    world_to_scene: Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))

    def with_holdout(self, every: int) -> SceneIndex:
        """The same scene with train, val and test splits.

        Where the layout has none, the views 0, ``every``, ``2 * every`` ... in the order of their index file are held
        out for val and test, which are the same.

        Raises:
            ValueError: for ``every`` below 2.
        """
        if "all" not in self.splits:
            return self
        if every < 2:
            raise ValueError(f"holdout_every: {every}, expected at least 2 (1 would leave nothing to train on)")
        views = self.splits["all"]
        held_out = [view for i, view in enumerate(views) if i % every == 0]
        training = [view for i, view in enumerate(views) if i % every != 0]
        return replace(self, splits={"train": training, "val": held_out, "test": held_out})

    def with_few_views(self, views: int | Sequence[int]) -> SceneIndex:
        """The same scene with few training views, which are also those to watch.

        Where the layout has no split, the test views are the others that lie between the training views (see
        `zoo.data.few_views.lies_between`); else its test views stay.

        Raises:
            ValueError: see `zoo.data.few_views.spread_views`; or no view lies between the training views.
        """
        has_split = "all" not in self.splits
        pool = self.splits["train" if has_split else "all"]
        chosen = spread_views(len(pool), views)
        training = [pool[position] for position in chosen]
        if has_split:
            return replace(self, splits={**self.splits, "train": training})
        between = lies_between(torch.stack([view.camera_to_world for view in pool]), chosen).tolist()
        held_out = [view for i, view in enumerate(pool) if between[i] and i not in chosen]
        if not held_out:
            raise ValueError(f"views: found {chosen}, expected views that have others between them, to test on")
        return replace(self, splits={"train": training, "val": training, "test": held_out})

    def transformed(self, scale: float, offset: Sequence[float]) -> SceneIndex:
        """The scene with every position ``x`` moved to ``scale * x + offset``; box and distances follow.

        Raises:
            ValueError: for a scale that is not positive or an offset without three numbers.
        """
        if not scale > 0 or len(offset) != 3:
            raise ValueError(f"scale, offset: {scale}, {list(offset)}, expected a positive number and three numbers")
        moved = {id(views): [move_view(view, scale, offset) for view in views] for views in self.splits.values()}
        splits = {name: moved[id(views)] for name, views in self.splits.items()}  # splits that are one stay one
        step = torch.diag(torch.tensor([scale, scale, scale, 1.0], dtype=torch.float64))
        step[:3, 3] = torch.tensor(offset, dtype=torch.float64)
        box = [scale * value + offset[i % 3] for i, value in enumerate(self.aabb)]
        return replace(
            self,
            splits=splits,
            aabb=(box[0], box[1], box[2], box[3], box[4], box[5]),
            near=self.near * scale,
            far=self.far * scale,
            world_to_scene=step @ self.world_to_scene,
        )


def move_view(view: View, scale: float, offset: Sequence[float]) -> View:
    """The view with its position ``x`` moved to ``scale * x + offset``."""
    pose = view.camera_to_world.clone()
    pose[:3, 3] = pose[:3, 3] * scale + pose.new_tensor(list(offset))
    return replace(view, camera_to_world=pose)
