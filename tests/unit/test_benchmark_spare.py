"""The comparison from few views: its runs are recipes that compose, it goes on where it was, its tables are right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.smoke.runs import PATIENCE, ROOT, environment
from zoo.benchmark import spare, spare_page
from zoo.benchmark.cli import main
from zoo.benchmark.spare_cases import CHANGES, METHODS, TABLES, cases_of
from zoo.training.configuration import build, compose, config_differences, plain

TINY = (
    "data.generator.width=40", "data.generator.height=30", "data.generator.samples=1", "data.generator.num_scenes=1",
    "data.generator.num_test=2", "model.num_levels=2", "model.log2_table_size=8",
)  # fmt: skip

CHANGED = {"without matching": 2, "without matched points": 2, "planes that face the camera": 3}  # entries; others: 1


def figures(table: str, method: str, scene: str, psnr: float, change: str = "") -> spare_page.Record:
    metrics = {"psnr_m": psnr, "ssim_m": psnr / 40, "psnr": psnr + 1, "ssim": psnr / 50}
    return {
        "table": table, "method": method, "scene": scene, "change": change, "machine": {"processor": "toy, 2 cores"},
        "metrics": {f"test/{name}": value for name, value in metrics.items()}
        | {"steps": 100.0, "train_seconds": 50.0 + psnr},
    }  # fmt: skip


def test_the_tables_hold_means_and_differences_on_common_scenes() -> None:
    assert "No run is recorded yet." in spare_page.spare_page([])
    page = spare_page.spare_page(
        [
            figures("track1", "spare_gaussians", "House", 20.0),
            figures("track1", "spare_gaussians", "Truck", 24.0),
            figures("track1", "spare_field_plain", "House", 15.5),
            figures("ablation", "spare_field", "House", 18.0),
            figures("ablation", "spare_field", "House", 17.0, "without entropy"),
        ]
    )
    assert "The longest training took 74 s." in page
    assert "## 9 views" not in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert rows[0].startswith(
        "| recipe |  | PSNR-M | SSIM-M | PSNR | SSIM | PSNR-M of `spare_gaussians` over it | House"
    )
    titles = METHODS["spare_gaussians"], METHODS["spare_field_plain"]
    assert rows[2] == (
        f"| `spare_gaussians` | {titles[0]} | 22.00 | 0.5500 | 23.00 | 0.4400 |  | 20.00 | 24.00 | 100 | 72 |"
    )
    assert rows[3] == (
        f"| `spare_field_plain` | {titles[1]} | 15.50 | 0.3875 | 16.50 | 0.3100 | +4.50 | 15.50 |  | 100 | 66 |"
    )
    assert rows[-1] == "| `spare_field` | without entropy | 17.00 | 0.4250 | +1.00 | +0.0250 | House |"


def test_every_change_of_a_recipe_changes_what_it_says() -> None:
    for table in TABLES:
        cases = cases_of(table, minutes=1, scenes=["House"], fox=Path("fox"))
        assert len({case.name for case in cases}) == len(cases)
    whole: dict[str, dict] = {}  # recipes without a change, which come first
    for case in cases_of("ablation", minutes=2, scenes=["House"], steps={"spare_field": 700}):
        cfg = plain(compose(case.overrides))
        assert cfg["trainer"]["max_time"] == {"seconds": 45}
        assert (cfg["data"]["downscale"], cfg["data"]["track"]) == (2, 1)
        own = compose([f"experiment={case.method}"]).trainer.max_steps
        assert cfg["trainer"]["max_steps"] == (700 if case.method == "spare_field" else own)
        recipe = {"task": cfg["task"], "model": cfg["model"]}
        differences = config_differences(whole.setdefault(case.method, recipe), recipe)
        assert len(differences) == (CHANGED.get(case.change, 1) if case.change else 0)
    assert set(whole) == set(CHANGES)


def test_the_capture_is_read_without_silhouettes() -> None:
    cases = cases_of("fox", minutes=1, scenes=["House"], fox=Path("fox"))
    assert {case.method for case in cases} == set(METHODS) - {"spare_gaussians_hull"}
    for case in cases:
        cfg = compose(case.overrides)
        data = build(cfg.data)
        assert (data.few_views, data.undistort, data.downscale) == (9, True, 2)
        assert not cfg.task.carve
        assert cfg.task.terms.get("silhouette") is None
    assert cases_of("fox", minutes=1, scenes=["House"]) == []


def test_wrong_requests_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, problem in (
        (["--part", "3/2"], "expected K/N with 1 <= K <= N"),
        (["--fox", "/nowhere"], "no such folder"),
        (["--tables", "track3"], "invalid choice"),
        (["--steps", "spare_field=many"], "a number of steps"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["spare", *arguments])
        assert stopped.value.code == 2
        assert problem in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"scenes: found \['Teapot'\]"):
        cases_of("track1", minutes=1, scenes=["Teapot"])


def command(tmp_path: Path, *more: str) -> list[str]:
    return [
        "spare", "--tables", "track1", "--scenes", "House", "--methods", "spare_field_plain", "--runs",
        str(tmp_path / "runs"), "--records", str(tmp_path / "records"), "--page", str(tmp_path / "spare.md"), "--more",
        *TINY, f"paths.data_dir={tmp_path}", "checkpoint_every=20", *more,
    ]  # fmt: skip


@pytest.mark.slow  # three processes that train
def test_an_interrupted_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = command(tmp_path, "trainer.max_steps=400", "callbacks.progress.seconds_between_lines=0")
    process = subprocess.Popen([sys.executable, "tools/benchmark.py", *arguments], cwd=ROOT, env=environment())
    (run,) = (tmp_path / "runs" / "track1-spare_field_plain-House",)
    end = time.monotonic() + PATIENCE
    while not (run / "checkpoints" / "last.ckpt").is_file() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert not (tmp_path / "spare.md").exists()
    started = (run / "environment.txt").stat().st_mtime_ns

    assert main(arguments) == 0
    record = json.loads((tmp_path / "records" / f"{run.name}.json").read_text())
    assert record["metrics"]["steps"] == 400
    assert record["command"].startswith(
        "python tools/train.py experiment=spare_field_plain data.scene=House data.track=1"
    )
    assert "ckpt" not in record["command"]
    assert "ckpt=" in (run / "overrides.txt").read_text()
    assert (run / "environment.txt").stat().st_mtime_ns > started
    assert "`spare_field_plain`" in (tmp_path / "spare.md").read_text()

    monkeypatch.setattr(spare, "_train", lambda overrides: pytest.fail("trained again"))
    assert main(arguments) == 0


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    assert main(command(tmp_path, "trainer.max_steps=2", "model.num_levels=0")) == 1
    assert not (tmp_path / "spare.md").exists()
