"""What the full-size recipes cost on paper: the samples that they draw, from their configurations."""

from __future__ import annotations

from pathlib import Path

from zoo.benchmark.filled_tables import fill_between
from zoo.training.configuration import compose

__all__ = ["PAGE", "RECIPES", "cost_table", "fill_page"]

PAGE = Path("docs/guides/scaling.md")
RECIPES = (
    "dsvt_waymo_pillar",
    "dsvt_waymo_voxel",
    "dsvt_nuscenes",
    "dsvt_kitti",
    "e3dsnn_kitti",
    "e3dsnn_semantic_kitti",
    "spark_resnet50",
    "spark_convnext_s",
    "spark_convnext_b",
    "gridformer_shapenet",
)
GPUS = (1, 4, 8, 16, 32)
BEGIN, END = "<!-- cost of the recipes: made by tools/benchmark.py results -->", "<!-- end of the costs -->"


def cost_table() -> str:
    """A row for each recipe: steps, global batch, samples, and hours by GPUs at one sample a second on each."""
    lines = [
        "| experiment | steps | global batch | million samples | " + " | ".join(f"{n} GPU" for n in GPUS) + " |",
        "|---" * (4 + len(GPUS)) + "|",
    ]
    for name in RECIPES:
        recipe = compose([f"experiment={name}"])
        devices = recipe.trainer.devices if isinstance(recipe.trainer.devices, int) else 1
        batch = recipe.data.batch_size * devices * recipe.trainer.num_nodes * recipe.trainer.accumulate_grad_batches
        samples = recipe.trainer.max_steps * batch
        hours = " | ".join(f"{samples / 3600 / gpus:,.0f}" for gpus in GPUS)
        millions = f"{samples / 1e6:,.0f}" if samples >= 1e8 else f"{samples / 1e6:.3g}"
        lines.append(f"| `{name}` | {recipe.trainer.max_steps:,} | {batch} | {millions} | {hours} |")
    return "\n".join(lines) + "\n"


def fill_page(page: str) -> str:
    """The guide with the table of today's recipes.

    Raises:
        ValueError: The page has no place for it.
    """
    return fill_between(page, PAGE, BEGIN, END, cost_table())
