"""Two processes train by the command line as one does on the same global batch: 20 losses, and test figures.

Networks with a kink, ReLU or spike, do so in float64: in float32 another order of sums rounds otherwise, and the kink
and Adam make much of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.smoke.runs import newest_run, train_here, train_there
from tests.smoke.twins import twin
from zoo.training.history import read_history

STEPS = 20
TWO = ("trainer.strategy=ddp", "trainer.devices=2")
CASES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {  # options of both, of one, of two
    "hollownerf_quickstart": (
        ("task.budget.target_samples=2000", "task.budget.initial_rays=101", "callbacks.prune_field=null"),
        (),
        (),
    ),
    "e3dsnn_street": (("trainer.precision=64-true",), ("data.batch_size=4",), ("data.batch_size=2",)),
    "dsvt_street": (("trainer.precision=64-true", "test=false"), ("data.batch_size=2",), ("data.batch_size=1",)),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


def losses(run: Path) -> list[float]:
    return [row["train/loss"] for row in read_history(run / "metrics.csv") if "train/loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(name: str, tmp_path: Path, data_dir: Path) -> None:
    options, alone, shared = CASES[name]
    options = (
        *twin(name, data_dir, STEPS),
        *options,
        "task.log_every=1",
        "trainer.log_every_n_steps=1",
        "trainer.limit_val_batches=0",
    )
    one = train_here(tmp_path / "one", *options, *alone)
    done = train_there(tmp_path / "two", *options, *shared, *TWO)
    assert done.returncode == 0, done.stdout + done.stderr
    two = newest_run(tmp_path / "two")
    expected = losses(one)
    assert len(expected) == STEPS
    assert len(set(expected)) == STEPS
    assert losses(two) == pytest.approx(expected, rel=1e-4)
    ours, theirs = (json.loads((run / "metrics.json").read_text()) for run in (one, two))
    tested = [key for key in ours if key.startswith("test/") and "energy" not in key and "baseline" not in key]
    assert bool(tested) != ("test=false" in options)
    assert {key: theirs.get(key) for key in tested} == pytest.approx({key: ours[key] for key in tested}, abs=1e-3)
