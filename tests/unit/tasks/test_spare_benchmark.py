"""A submission from a split: trained, interrupted, continued, packed, scored, and refused for another request."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.smoke.runs import PATIENCE, ROOT, environment
from tests.smoke.twins import SAMPLES
from zoo.data.spare_scene import SpareFolder
from zoo.data.spare_submission import check_submission
from zoo.render import run_benchmark
from zoo.training.configuration import compose
from zoo.training.leave_one_out import LeaveOneOut
from zoo.training.spare_benchmark import SpareBenchmark


def benchmark(tmp_path: Path, **options) -> SpareBenchmark:
    tiny = [line for line in SAMPLES["zoo.data.spare_data.SpareData"] if not line.startswith("data=")]
    return SpareBenchmark(
        **{
            "folder": tmp_path / "out",
            "experiment": "spare_field_plain",
            "size": (40, 30),
            "overrides": (*tiny, f"paths.data_dir={tmp_path}", "trainer.max_steps=2", "threads=1"),
            **options,
        }
    )


@pytest.mark.parametrize("experiment", ["spare_field_plain", "spare_gaussians"])
def test_a_submission_from_a_split(experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = benchmark(tmp_path, experiment=experiment)
    folder = first.run()
    root = next(tmp_path.glob("synthetic_spare_*"))
    scenes = SpareFolder(root).split(1)
    assert check_submission(folder / "submission.zip", scenes, size=(40, 30)) == []
    scores = json.loads((folder / "scores.json").read_text())
    assert {"psnr", "psnr_m", "ssim"} <= scores["data_sets"]["synth"].keys()
    assert "gaussian_valid" in scores["figures"]
    whole = (folder / "submission.zip").read_bytes()

    (folder / "submission.zip").unlink()  # killed between training and packing
    next((folder / "renders").rglob("*.png")).unlink()
    monkeypatch.setattr("zoo.training.leave_one_out.run_session", lambda *_, **__: pytest.fail("trained again"))
    first.run()
    assert (folder / "submission.zip").read_bytes() == whole
    with pytest.raises(ValueError, match="holds results of"):
        benchmark(tmp_path, experiment=experiment, track=2).run()
    with pytest.raises(ValueError, match=r"scenes: found \['Teapot'\]"):
        benchmark(tmp_path, experiment=experiment, scenes=("Teapot",)).run()


@pytest.mark.slow  # seven runs
def test_the_best_candidate_by_the_views_left_out_is_used(tmp_path: Path) -> None:
    candidates = {"still": ["optim.optimizer.lr=0.0"], "learning": ["trainer.max_steps=12"]}
    options = {"selection": LeaveOneOut(candidates=candidates, overrides=("task.log_every=5",))}
    folder = benchmark(tmp_path, **options).run()
    found = json.loads((folder / "selection.json").read_text())
    means = {name: figures["psnr"] for name, figures in found["candidates"].items()}
    assert found["chosen"] == max(means, key=lambda name: means[name])
    assert len(list((folder / "selection").rglob("*_[012].json"))) == 6
    (run,) = (folder / "runs").iterdir()
    steps = json.loads((run / "metrics.json").read_text())["steps"]
    assert steps == (12 if found["chosen"] == "learning" else 2)
    with pytest.raises(ValueError, match=r"selection\.scenes: found \['Teapot'\]"):
        LeaveOneOut(candidates=candidates, scenes=("Teapot",)).choose(tmp_path, {}, lambda: [])


def test_the_command_examines_an_archive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = benchmark(tmp_path).run()
    tiny = [f"'{line}'" for line in benchmark(tmp_path).overrides]
    cfg = compose(
        ["benchmark=spare", "spare.experiment=spare_field_plain", "spare.size=[40,30]", f"overrides=[{','.join(tiny)}]",
         f"paths.output_dir={tmp_path}", f"spare.check={folder}/submission.zip"], config_name="render",
    )  # fmt: skip
    assert run_benchmark(cfg) == folder / "submission.zip"
    cfg.spare.size = [80, 60]
    with pytest.raises(ValueError, match="2 faults"):
        run_benchmark(cfg)
    assert "has 40 x 30 pixels, expected 80 x 60" in caplog.text


@pytest.mark.slow  # three scenes by the command line, twice
def test_a_split_of_three_scenes_interrupted_in_the_second(tmp_path: Path) -> None:
    tiny = [line for line in benchmark(tmp_path).overrides if "num_scenes" not in line and "max_steps" not in line]
    small = ["model.num_levels=2", "model.log2_table_size=8"]
    changes = [*tiny, *small, "data.generator.num_scenes=3", "trainer.max_steps=200", "checkpoint_every=20"]
    folder = tmp_path / "out"
    command = [
        sys.executable, "tools/render.py", "benchmark=spare", "track=1", "spare.experiment=spare_field_plain",
        "spare.size=[40,30]", f"output={folder}", f"overrides=[{','.join(repr(line) for line in changes)}]",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    second, end = folder / "runs" / "Rocket" / "checkpoints" / "last.ckpt", time.monotonic() + PATIENCE
    while not second.is_file() and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert sorted(path.name for path in (folder / "renders").iterdir()) == ["House"]
    assert not (folder / "submission.zip").exists()
    first = folder / "runs" / "House" / "metrics.json"
    finished = first.stat().st_mtime_ns

    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert first.stat().st_mtime_ns == finished, "the first scene was not trained again"
    assert "ckpt=" in (folder / "runs" / "Rocket" / "overrides.txt").read_text(), "the second went on where it was"
    scenes = SpareFolder(next(tmp_path.glob("synthetic_spare_*"))).split(1)
    assert list(scenes) == ["House", "Rocket", "Robot"]
    assert check_submission(folder / "submission.zip", scenes, size=(40, 30)) == []
    assert sorted(json.loads((folder / "scores.json").read_text())["scenes"]) == ["House", "Robot", "Rocket"]
