"""Where runs go and how they are found again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoo.training.run_folder import RunFolder, environment_text, find_checkpoint


def make_checkpoint(run: Path, seconds: int) -> Path:
    path = run / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    os.utime(path, (seconds, seconds))
    return path


def test_runs_of_the_same_second_do_not_meet(tmp_path: Path) -> None:
    folders = {RunFolder.create(tmp_path, "toy").path for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.is_dir() and folder.parent == tmp_path / "toy" for folder in folders)


def test_other_processes_of_a_run_share_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = RunFolder.create(tmp_path, "toy")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert RunFolder.create(tmp_path, "toy").path == first.path.resolve()


def test_a_process_that_slurm_started_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_RUN_FOLDER", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert RunFolder.create(tmp_path, "toy").path.parent == tmp_path / "toy"
    assert not list(tmp_path.iterdir())


def test_last_is_the_newest_checkpoint_of_the_experiment(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "toy" / "b", 100)
    newest = make_checkpoint(tmp_path / "toy" / "a", 200)
    make_checkpoint(tmp_path / "other" / "c", 300)
    (tmp_path / "toy" / "d").mkdir()
    assert find_checkpoint("last", output_dir=tmp_path, name="toy") == newest


def test_a_folder_means_its_last_checkpoint(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run", 1)
    assert find_checkpoint(str(tmp_path / "run"), output_dir=tmp_path, name="toy") == path
    assert find_checkpoint(str(path), output_dir=tmp_path, name="toy") == path


@pytest.mark.parametrize(
    ("ckpt", "message"),
    [
        ("last", r"no run of 'toy' below .* has written a checkpoint"),
        ("nowhere.ckpt", r"ckpt=nowhere.ckpt: no such file"),
    ],
)
def test_missing_checkpoints_are_named(tmp_path: Path, ckpt: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        find_checkpoint(ckpt, output_dir=tmp_path, name="toy")


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no checkpoints/last\.ckpt"):
        find_checkpoint(str(tmp_path), output_dir=tmp_path, name="toy")


def test_a_checkpoint_knows_its_run_folder(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "run", 1)
    assert RunFolder.of_checkpoint(path) is None
    (tmp_path / "run" / "config.yaml").write_text("a: 1")
    found = RunFolder.of_checkpoint(path)
    assert found is not None
    assert found.path.resolve() == (tmp_path / "run").resolve()


def test_environment_names_versions_and_commit() -> None:
    lines = dict(line.split(": ", 1) for line in environment_text().splitlines() if ": " in line)
    assert {"commit", "python", "platform", "processor", "torch", "lightning", "hydra-core"} <= set(lines)
