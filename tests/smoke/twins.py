"""Small twins of the experiments: the same recipe on a few tiny samples that the package generates."""

from __future__ import annotations

from pathlib import Path

PAVILION = (
    "data=synthetic_scene",
    "data.generator.image_size=16",
    "data.generator.samples=1",
    "data.generator.num_train=4",
    "data.generator.num_val=2",
    "data.generator.num_test=2",
)
TWINS: dict[str, tuple[str, ...]] = {
    "hollownerf_quickstart": PAVILION,
}


def twin(name: str, data_dir: Path, steps: int) -> tuple[str, ...]:
    """Overrides that make the small twin of an experiment.

    Args:
        name: The experiment.
        data_dir: Where the generated samples go.
        steps: Of training.
    """
    return (
        f"experiment={name}",
        *TWINS[name],
        f"paths.data_dir={data_dir}",
        f"trainer.max_steps={steps}",
        "trainer.accelerator=cpu",
        "trainer.val_check_interval=null",
        "threads=1",
    )
