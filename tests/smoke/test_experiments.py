"""Every experiment trains: its small twin takes a few steps, is tested, reported, interrupted and continued."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.smoke.runs import checkpoint, differences, newest_run, train_and_signal, train_here, train_there
from tests.smoke.twins import twin
from zoo.registry import list_experiments

SYSTEMS = [
    "hollownerf_quickstart",
    "dsvt_street",
    "e3dsnn_shapes",
]  # one experiment for each system: by the real command line, and interrupted
OTHERS = [name for name in list_experiments() if name not in SYSTEMS]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


def assert_complete(run: Path, steps: int) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] == steps
    assert any(name.startswith("test/") for name in metrics)
    assert checkpoint(run)["global_step"] == steps
    assert "data:image/" in (run / "report.html").read_text()


@pytest.mark.parametrize("name", [*SYSTEMS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_by_the_command_line(name: str, tmp_path: Path, data_dir: Path) -> None:
    done = train_there(tmp_path, *twin(name, data_dir, 2))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(newest_run(tmp_path), 2)


@pytest.mark.parametrize("name", OTHERS)
def test_in_this_process(name: str, tmp_path: Path, data_dir: Path) -> None:
    assert_complete(train_here(tmp_path, *twin(name, data_dir, 2)), 2)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_interrupted_and_continued_bitwise(name: str, workers: int, tmp_path: Path, data_dir: Path) -> None:
    options = (*twin(name, data_dir, 40), f"data.num_workers={workers}")
    whole = checkpoint(train_here(tmp_path / "whole", *options))
    code, output = train_and_signal(tmp_path / "parts", signal.SIGINT, 20, *options)
    assert code == 130, output
    saved = checkpoint(newest_run(tmp_path / "parts"))
    assert 20 <= saved["global_step"] < 40
    parts = checkpoint(train_here(tmp_path / "parts", *options, "ckpt=last"))
    assert parts["global_step"] == 40
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert not differences(parts[part], whole[part])
