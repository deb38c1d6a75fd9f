"""Every experiment trains: its small twin takes a few steps, is tested, reported, interrupted and continued."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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


@pytest.fixture(scope="module")
def command_lines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data_dir: Path
) -> Iterator[dict[str, tuple[Path, Future[subprocess.CompletedProcess[str]]]]]:
    """The chosen experiments by the command line, each with its folder: a queue for each of two cores."""
    chosen = [item for item in request.session.items if isinstance(item, pytest.Function)]
    names = [item.callspec.params["name"] for item in chosen if item.originalname == "test_by_the_command_line"]
    outputs, data = tmp_path_factory.mktemp("outputs"), (data_dir, tmp_path_factory.mktemp("datasets"))
    queues = [ThreadPoolExecutor(max_workers=1) for _ in data]
    started = {}
    for number, name in enumerate(names):
        options = twin(name, data[number % 2], 2)
        started[name] = (outputs / name, queues[number % 2].submit(train_there, outputs / name, *options))
    yield started
    for queue in queues:
        queue.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", [*SYSTEMS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_by_the_command_line(
    name: str, command_lines: dict[str, tuple[Path, Future[subprocess.CompletedProcess[str]]]]
) -> None:
    folder, run = command_lines[name]
    done = run.result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(newest_run(folder), 2)


@pytest.mark.parametrize("name", OTHERS)
def test_in_this_process(name: str, tmp_path: Path, data_dir: Path) -> None:
    assert_complete(train_here(tmp_path, *twin(name, data_dir, 2)), 2)


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        ("hollownerf_quickstart", 0),
        ("e3dsnn_shapes", 0),
        pytest.param("dsvt_street", 0, marks=pytest.mark.slow),  # a detector's resuming: test_detection.py as well
        *(pytest.param(name, 2, marks=pytest.mark.slow) for name in SYSTEMS),
    ],
)
def test_interrupted_and_continued_bitwise(name: str, workers: int, tmp_path: Path, data_dir: Path) -> None:
    steps, early = 30, 10  # what lies between is time enough for the signal to find the run at work
    options = (*twin(name, data_dir, steps), "trainer.val_check_interval=8", f"data.num_workers={workers}")
    whole = checkpoint(train_here(tmp_path / "whole", *options))
    code, output = train_and_signal(tmp_path / "parts", signal.SIGINT, early, *options)
    assert code == 130, output
    saved = checkpoint(newest_run(tmp_path / "parts"))
    assert early <= saved["global_step"] < steps
    parts = checkpoint(train_here(tmp_path / "parts", *options, "ckpt=last"))
    assert parts["global_step"] == steps
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert not differences(parts[part], whole[part])
