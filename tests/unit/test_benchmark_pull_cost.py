"""The table of what GridPull costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh

from zoo.benchmark import pull_cost
from zoo.benchmark.cli import main


def _row(points: int, seconds: float) -> dict[str, float | str]:
    return {
        "points": points, "commit": "abc", "steps": 400.0, "train_seconds": seconds, "wall_seconds": seconds + 5,
        "peak_memory_mb": 1000.0 * seconds, "test/mesh_distance": 0.0004, "test/f_score_0.005": 0.9995,
    }  # fmt: skip


def test_the_page_states_the_rows_and_how_cost_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(file: Path, count: int, overrides: list[str]) -> dict[str, float | str]:
        asked.append((file.name, count, *overrides))
        return _row(count, count / 1000)

    monkeypatch.setattr(pull_cost, "run_count", run)
    (tmp_path / "a.obj").write_text("")
    page, records = tmp_path / "page.md", tmp_path / "records"
    arguments = ["gridpull", str(tmp_path / "a.obj"), "--counts", "50000", "20000", "--more", "seed=1"]
    assert main([*arguments, "--page", str(page), "--records", str(records)]) == 0
    assert asked == [("a.obj", 20000, "threads=2", "seed=1"), ("a.obj", 50000, "threads=2", "seed=1")]
    text = page.read_text()
    assert "| 50,000 | 50.0 | 55.0 | 50000 | 0.00040 | 0.9995 |" in text
    assert "2 times the points take 2.2 times the time and 2.5 times the memory" in text
    assert "`python tools/benchmark.py gridpull FILE --more seed=1`" in text
    assert pull_cost.cost_page(json.loads((records / "runs.json").read_text())) == text
    assert str(tmp_path) not in text + (records / "runs.json").read_text()


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["gridpull", str(tmp_path / "none.obj")])
    assert "none.obj" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_by_the_command_line(tmp_path: Path) -> None:
    trimesh.creation.icosphere(subdivisions=2).export(tmp_path / "ball.ply")
    small = ["model.resolution=20", "task.level=3", "task.num_queries=200", "task.num_scored=2000", "threads=1"]
    row = pull_cost.run_count(tmp_path / "ball.ply", 300, [*small, "trainer.max_steps=3"])
    assert row["points"] == 300
    assert row["steps"] == 3
    assert row["peak_memory_mb"] > 100
    with pytest.raises(ChildProcessError, match=r"300 points: the run failed:(.|\n)*level, resolution: found 0"):
        pull_cost.run_count(tmp_path / "ball.ply", 300, [*small, "task.level=0"])
