"""Real signals to real processes: what a run was before them, it is after them, to the last bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.smoke.runs import checkpoint, differences, reported_step, train_and_signal, train_here
from zoo.training.history import read_history

TOY = "experiment=toy"
SLOWER = "task.seconds_per_step=0.03"  # so that the signal finds the run in its middle
EVERY = 7  # the experiment's checkpoint_every
STEPS = 40


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_here(tmp_path_factory.mktemp("uninterrupted"), TOY)


def assert_same_end(run: Path, reference: Path) -> None:
    ours, theirs = checkpoint(run), checkpoint(reference)
    assert ours["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert not differences(ours[part], theirs[part])


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2], ids=["workers0", "workers2"])
def test_sigint_saves_and_resumes_bitwise(tmp_path: Path, uninterrupted: Path, workers: int) -> None:
    options = (TOY, f"data.num_workers={workers}")
    code, output = train_and_signal(tmp_path, signal.SIGINT, 12, *options, SLOWER)
    assert code == 130, output
    assert "ckpt=last" in output
    (saved,) = tmp_path.glob("toy/*/checkpoints/last.ckpt")
    assert checkpoint(saved.parents[1])["global_step"] >= 12
    run = train_here(tmp_path, *options, "ckpt=last")
    assert run == saved.parents[1]
    assert_same_end(run, uninterrupted)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)], ids=["workers0", "workers2"])
def test_sigkill_loses_at_most_the_steps_between_two_checkpoints(
    tmp_path: Path, uninterrupted: Path, workers: int
) -> None:
    options = (TOY, f"data.num_workers={workers}")
    code, output = train_and_signal(tmp_path, signal.SIGKILL, 23, *options, SLOWER)
    assert code == -signal.SIGKILL
    (saved,) = tmp_path.glob("toy/*/checkpoints/last.ckpt")
    assert checkpoint(saved.parents[1])["global_step"] > reported_step(output.splitlines()) - EVERY
    run = train_here(tmp_path, *options, "ckpt=last")
    assert_same_end(run, uninterrupted)
    rows, expected = read_history(run / "metrics.csv"), read_history(uninterrupted / "metrics.csv")
    for row in rows + expected:
        row.pop("seconds")
    assert rows == expected


@pytest.mark.slow
def test_sigterm_ends_like_sigint(tmp_path: Path) -> None:
    code, output = train_and_signal(tmp_path, signal.SIGTERM, 3, TOY, SLOWER)
    assert code == 143, output
    assert list(tmp_path.glob("toy/*/checkpoints/last.ckpt"))


def test_a_longer_run_continues_a_finished_one(tmp_path: Path, uninterrupted: Path) -> None:
    options = (TOY, "optim.scheduler.T_max=40")
    train_here(tmp_path, *options, "trainer.max_steps=20")
    run = train_here(tmp_path, *options, "ckpt=last")
    assert_same_end(run, uninterrupted)


def test_averaged_weights_resume(tmp_path: Path) -> None:
    options = (TOY, "callbacks=[default,ema]", "optim.scheduler.T_max=40")
    whole = train_here(tmp_path / "whole", *options)
    train_here(tmp_path / "parts", *options, "trainer.max_steps=20")
    parts = train_here(tmp_path / "parts", *options, "ckpt=last")
    assert_same_end(parts, whole)
    a, b = checkpoint(parts), checkpoint(whole)
    assert not differences(a["current_model_state"], b["current_model_state"])
    assert differences(a["current_model_state"], a["state_dict"])


def test_accumulated_gradients_resume(tmp_path: Path) -> None:
    options = (TOY, "trainer.accumulate_grad_batches=2", "optim.scheduler.T_max=40")
    whole = train_here(tmp_path / "whole", *options)
    train_here(tmp_path / "parts", *options, "trainer.max_steps=15")
    parts = train_here(tmp_path / "parts", *options, "ckpt=last")
    assert_same_end(parts, whole)
