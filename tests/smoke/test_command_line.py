"""The real command line on a task that takes a second: what it writes, what it answers, and how it fails."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.smoke.runs import checkpoint, differences, newest_run, train_here, train_there
from zoo import files
from zoo.training.configuration import load_run
from zoo.training.history import read_history

TOY = "experiment=toy"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command line."""
    folder = tmp_path_factory.mktemp("finished")
    done = train_there(folder, TOY, "seed=3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "report.html" in done.stdout
    assert re.search(r"step 40/40  [\d.]+ it/s  0:00 left  train/loss", done.stdout)
    return newest_run(folder)


def test_the_run_folder_holds_what_it_promises(finished: Path) -> None:
    assert finished.parent.name == "toy"
    assert OmegaConf.load(finished / "config.yaml").seed == 3  # type: ignore[union-attr]
    assert "seed=3" in (finished / "overrides.txt").read_text().splitlines()
    assert "torch: " in (finished / "environment.txt").read_text()
    metrics = json.loads((finished / "metrics.json").read_text())
    assert {"test/loss", "steps", "train_seconds", "wall_seconds", "peak_memory_mb"} <= set(metrics)
    assert metrics["steps"] == 40
    assert all(isinstance(value, float) for value in metrics.values())
    rows = read_history(finished / "metrics.csv")
    assert sum("train/loss" in row for row in rows) == 8
    assert sum("val/loss" in row for row in rows) == 4
    report = (finished / "report.html").read_text()
    assert all(
        word in report for word in ("test/loss", "val/loss over time", "<svg", "Toy", "data:image/png", "seed: 3")
    )
    assert not list(finished.rglob("*.tmp"))


def test_checkpoints_hold_plain_containers(finished: Path) -> None:
    content = checkpoint(finished)  # weights_only=True: refuses anything else
    assert content["config"]["seed"] == 3
    assert type(content["config"]) is dict


def test_evaluating_a_checkpoint_gives_its_metrics_again(finished: Path, tmp_path: Path) -> None:
    run = train_here(tmp_path, TOY, "seed=3", "train=false", f"ckpt={finished}")
    assert run.parent == tmp_path / "toy"
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (run, finished))
    assert ours["test/loss"] == theirs["test/loss"]
    assert not (run / "checkpoints").exists()


def test_the_same_command_gives_the_same_weights(finished: Path, tmp_path: Path) -> None:
    run = train_here(tmp_path, TOY, "seed=3")
    assert not differences(checkpoint(run)["state_dict"], checkpoint(finished)["state_dict"])


def test_weights_start_a_new_run(finished: Path, tmp_path: Path) -> None:
    start = f"weights={finished / 'checkpoints' / 'last.ckpt'}"
    run = train_here(tmp_path, TOY, "seed=3", start, "train=false")
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (run, finished))
    assert ours["test/loss"] == theirs["test/loss"]
    with pytest.raises(ValueError, match="does not fit ToyModel"):
        train_here(tmp_path, TOY, start, "+model.width=3")
    with pytest.raises(FileNotFoundError, match="weights=nowhere"):
        train_here(tmp_path, TOY, "weights=nowhere.safetensors")
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match=r"bad\.ckpt: cannot be read"):
        train_here(tmp_path, TOY, f"weights={tmp_path / 'bad.ckpt'}")


def test_a_run_is_rebuilt_from_its_checkpoint(finished: Path) -> None:
    path = finished / "checkpoints" / "last.ckpt"
    cfg, parts = load_run(path, ["data.num_workers=1", "+data.batch_size=4"])
    assert (cfg.data.num_workers, cfg.data.batch_size) == (1, 4)
    saved = checkpoint(finished)["state_dict"]
    assert not differences(dict(parts.task.state_dict()), dict(saved))
    with pytest.raises(ValueError, match=r"no 'data\.batch_sise'"):
        load_run(path, ["data.batch_sise=4"])
    torch.save({"a": 1}, finished / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt: expected a checkpoint with 'config'"):
        load_run(finished / "other.ckpt")


def test_failures_leave_no_run_folder(tmp_path: Path) -> None:
    for overrides, message in (
        (["train=false"], "expected ckpt=FILE"),
        (["train=false", "test=false"], "nothing is left to do"),
        (["ckpt=last"], "no run of 'toy'"),
        (["checkpoint_every=0"], "checkpoint_every: found 0"),
        (["task=null"], "choose an experiment"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train_here(tmp_path, TOY, *overrides)
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_is_named_by_the_command_line(tmp_path: Path) -> None:
    done = train_there(tmp_path, TOY, "trainer.max_stesp=3")
    assert done.returncode != 0
    assert "max_stesp" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, written = files._sync, []

    def full_after_two(path: Path) -> None:
        if path.name.startswith(".last.ckpt"):
            if len(written) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            written.append(path)
        sync(path)

    monkeypatch.setattr(files, "_sync", full_after_two)
    with pytest.raises(OSError, match=r"the disk is full; the file that stood there is untouched"):
        train_here(tmp_path, TOY)
    run = newest_run(tmp_path)
    assert checkpoint(run)["global_step"] == 14
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert (run / "metrics.csv").exists()
    monkeypatch.undo()
    assert checkpoint(train_here(tmp_path, TOY, "ckpt=last"))["global_step"] == 40


def test_options_of_the_house_run(tmp_path: Path) -> None:
    options = ("callbacks=[default,ema,best,early_stop,learning_rate]", "callbacks.early_stop.patience=1")
    run = train_here(tmp_path, TOY, *options, "callbacks.early_stop.min_delta=10.0", "optim=adamw")
    names = {path.name for path in (run / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "best.ckpt"}
    assert checkpoint(run)["global_step"] == 20  # no improvement twice: stopped at the second validation
    assert any("lr-AdamW" in row for row in read_history(run / "metrics.csv"))


def test_debug_runs_two_steps(tmp_path: Path) -> None:
    assert checkpoint(train_here(tmp_path, TOY, "debug=fdr"))["global_step"] == 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision_is_an_option(tmp_path: Path, precision: str) -> None:
    run = train_here(tmp_path, TOY, f"trainer.precision={precision}", "debug=fdr")
    weights = checkpoint(run)["state_dict"]["model.layers.0.weight"]
    assert weights.dtype == (torch.float64 if precision == "64-true" else torch.float32)


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path) -> None:
    done = train_there(tmp_path, TOY, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "toy").iterdir()
    assert checkpoint(run)["global_step"] == 40
    assert json.loads((run / "metrics.json").read_text())["steps"] == 40
