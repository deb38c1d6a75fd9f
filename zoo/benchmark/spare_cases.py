"""The runs of the comparison from few views: which recipe on which scene with which changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DEFAULT", "METHODS", "SCENES", "TABLES", "Case", "cases_of"]

DEFAULT = "spare_gaussians"
METHODS = {  # recipes of the tables by experiment
    "spare_gaussians": "3D Gaussians, our terms",
    "spare_field": "hash-grid field, our terms",
    "spare_field_plain": "plain hash-grid field",
    "spare_gaussians_random": "plain 3DGS, random points",
    "spare_gaussians_hull": "plain 3DGS, points of the hull",
}
SCENES = ("House", "Truck", "Robot", "Rocket", "Rings", "Castle")
TABLES = ("track1", "track2", "ablation", "fox")
RESERVE = 15.0  # seconds of a run for what comes before its first step
MATCHING = 60.0  # more for recipes that match the views
STEPS = {"spare_gaussians_random": 30_000, "spare_gaussians_hull": 30_000}  # published; time ends these before
FIELD_CHANGES = {  # one at a time: what is on is switched off, what is off on
    "without distortion": ("task.terms.distortion=null",),
    "without occlusion": ("task.terms.occlusion=null",),
    "without silhouette": ("task.terms.silhouette=null",),
    "without entropy": ("task.terms.entropy=null",),
    "without depth smoothness": ("task.terms.depth_smoothness=null",),
    "without matched depth": ("task.terms.matched_depth=null",),
    "without matching": ("task.terms.matched_depth=null", "task.matching=null"),
    "without carving": ("task.carve=false",),
    "without level schedule": ("model.level_schedule=null",),
}
_HULL = "task.beginning.parts.hull={_target_:zoo.models.point_seeds.beginnings.HullBeginning,most:%d}"
_SWEPT = "task.beginning.parts.swept={_target_:zoo.models.point_seeds.beginnings.MatchedBeginning,most:15000}"
_CONSISTENCY = "{_target_:zoo.tasks.gaussian_terms.BinocularConsistency,weight:0.2,shift:0.1}"
GAUSSIAN_CHANGES = {
    "without silhouette": ("task.terms.silhouette=null",),
    "without elongation": ("task.terms.elongation=null",),
    "without matched depth": ("task.terms.matched_depth=null",),
    "without depth smoothness": ("task.terms.depth_smoothness=null",),
    "with consistency": (f"task.terms.consistency={_CONSISTENCY}",),
    "without opacity decay": ("task.opacity_decay=null",),
    "without carving": ("task.carve=false",),
    "without densification": ("task.densification=null",),
    "planes that face the camera": ("task.beginning.parts.surface=null", _SWEPT, _HULL % 5_000),
    "without matched points": ("task.beginning.parts.surface=null", _HULL % 20_000),
    "without points of the hull": ("task.beginning.parts.surface.fill=0",),
    "black instead of random background": ("task.background=black",),
}
CHANGES = {"spare_field": FIELD_CHANGES, "spare_gaussians": GAUSSIAN_CHANGES}
_CAPTURE = ("data=fox", "data.views=9", "data.undistort=true", "data.downscale=2")
_OPAQUE_FIELD = (  # a capture without silhouettes: the box of the fox is 4 wide about the unit cube
    "model.num_levels=12", "model.log2_table_size=17", "model.finest_resolution=1024",
    "task.renderer.step_size=0.006", "task.renderer.near=0.1", "task.renderer.far=1.0e10",
    "task.renderer.cone_angle=0.00390625", "task.renderer.occupancy.roi_aabb=[0.0,0.0,0.0,1.0,1.0,1.0]",
    "task.renderer.occupancy.resolution=64", "task.renderer.occupancy.levels=3",
)  # fmt: skip
_NO_SILHOUETTE = ("data.silhouette=masks", "~data.silhouette")  # Hydra deletes nothing that is null
FOX_CHANGES = {
    "spare_gaussians": (
        "~data.silhouette", "task.carve=false", "task.terms.silhouette=null", "task.matching.in_hull=false",
        "task.beginning.parts.surface.fill=0", "task.matching.options.stride=4",
    ),
    "spare_field": (
        "~data.silhouette", *_OPAQUE_FIELD, "task.carve=false", "task.terms.silhouette=null",
        "task.terms.distortion.unit=4.0", "task.terms.occlusion.distance=0.4", "task.matching.in_hull=false",
        "task.matching.options.stride=4",
    ),
    "spare_field_plain": (*_NO_SILHOUETTE, *_OPAQUE_FIELD, "task.background=random_per_ray"),
    "spare_gaussians_random": _NO_SILHOUETTE,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run.

    Attributes:
        table: one of `TABLES`.
        method: the experiment.
        scene: name of the scene.
        change: what differs from the recipe, for the table of the terms.
        overrides: the command line.
    """

    table: str
    method: str
    scene: str
    change: str = ""
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of its record and folder."""
        parts = [self.table, self.method, self.change.replace(" ", "_"), self.scene]
        return "-".join(part for part in parts if part)


def cases_of(
    table: str,
    *,
    minutes: float,
    scenes: Sequence[str],
    methods: Sequence[str] = tuple(METHODS),
    steps: Mapping[str, int] | None = None,
    fox: Path | None = None,
    more: Sequence[str] = (),
) -> list[Case]:
    """The runs of a table.

    Args:
        table: One of `TABLES`.
        minutes: Of training, for each run.
        scenes: Generated scenes.
        methods: Experiments.
        steps: Length of a run by experiment, which its schedules follow; others have their own or that of `STEPS`.
        fox: Folder of the capture; None leaves its table out.
        more: Further overrides of every run.

    Raises:
        ValueError: An unknown table, scene or method.
    """
    for name, found, known in (("table", [table], TABLES), ("scenes", scenes, SCENES), ("methods", methods, METHODS)):
        unknown = [value for value in found if value not in known]
        if unknown:
            raise ValueError(f"{name}: found {unknown}, expected some of {list(known)}")
    steps = {**STEPS, **(steps or {})}
    lengths = {name: [f"trainer.max_steps={steps[name]}"] if name in steps else [] for name in methods}
    common = ("threads=1", "trainer.limit_val_batches=0", *more)
    for name in methods:
        seconds = 60 * minutes - RESERVE - (MATCHING if name in CHANGES else 0)
        lengths[name].append(f"trainer.max_time={{seconds:{_whole(seconds)}}}")
    if table == "fox":
        if fox is None:
            return []
        capture = (*_CAPTURE, f"data.root={fox}")
        return [
            Case(
                table=table, method=method, scene="fox",
                overrides=(f"experiment={method}", *capture, *FOX_CHANGES[method], *lengths[method], *common),
            )
            for method in methods if method in FOX_CHANGES
        ]  # fmt: skip
    if table == "ablation":
        small = ("data.track=1", "data.downscale=2", *common)
        return [
            Case(
                table=table, method=method, scene=scene, change=change,
                overrides=(f"experiment={method}", f"data.scene={scene}", *changes, *lengths[method], *small),
            )
            for method in methods if method in CHANGES
            for change, changes in {"": (), **CHANGES[method]}.items()
            for scene in scenes
        ]  # fmt: skip
    track = int(table[-1])
    return [
        Case(
            table=table, method=method, scene=scene,
            overrides=(f"experiment={method}", f"data.scene={scene}", f"data.track={track}", *lengths[method], *common),
        )
        for scene in scenes
        for method in methods
    ]  # fmt: skip


def _whole(seconds: float) -> int:
    return max(1, round(seconds))
