"""metrics.csv: rows, resuming, and files that somebody else wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.training.history import History, read_history


def test_one_row_for_a_step(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv")
    history.log_metrics({"train/loss": 0.5, "epoch": 0}, step=4)
    history.log_metrics({"val/loss": 0.25, "epoch": 0}, step=4)
    history.log_metrics({"train/loss": 0.125, "epoch": 0}, step=9)
    history.finalize("success")
    rows = read_history(tmp_path / "metrics.csv")
    assert [row["step"] for row in rows] == [4, 9]
    assert rows[0]["train/loss"] == 0.5
    assert rows[0]["val/loss"] == 0.25
    assert "val/loss" not in rows[1]
    assert history.metric_names() == ["train/loss", "val/loss"]
    steps, seconds, values = history.series("train/loss")
    assert steps == [4, 9]
    assert values == [0.5, 0.125]
    assert seconds == sorted(seconds)


def test_a_resumed_run_drops_the_steps_that_it_repeats(tmp_path: Path) -> None:
    first = History(tmp_path / "metrics.csv")
    for step in (10, 20, 30):
        first.log_metrics({"loss": float(step)}, step=step)
    first.save()
    second = History(tmp_path / "metrics.csv")
    second.log_metrics({"loss": -20.0}, step=20)
    second.save()
    rows = read_history(tmp_path / "metrics.csv")
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 10.0), (20, -20.0)]
    assert rows[1]["seconds"] >= rows[0]["seconds"]


def test_non_finite_values_survive(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv")
    history.log_metrics({"loss": float("nan"), "other": float("inf")}, step=1)
    history.save()
    (row,) = read_history(tmp_path / "metrics.csv")
    assert row["loss"] != row["loss"]
    assert row["other"] == float("inf")


def test_foreign_text_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,0.5\n2,good\n")
    with pytest.raises(ValueError, match=r"metrics\.csv, row 3: .*good"):
        read_history(path)


def test_nothing_logged_writes_nothing(tmp_path: Path) -> None:
    History(tmp_path / "metrics.csv").finalize("success")
    assert not (tmp_path / "metrics.csv").exists()
