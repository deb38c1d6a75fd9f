"""The harness of speed measurements, and the records of runs."""

from __future__ import annotations

import base64
import csv
import io
import json
import types

import pytest
import torch
from PIL import Image

from zoo.benchmark import harness, limits, record
from zoo.benchmark.cli import main


def test_limits_are_positive_and_an_fma_counts_as_two():
    found = limits.measure_limits(1)
    assert found.flops > 1e9
    assert found.copy_bytes > 1e8


def test_the_probe_is_a_sound_op():
    torch.library.opcheck(torch.ops.zoo.multiply_add_probe.default, (torch.zeros(1), 1000), test_utils=("test_schema",))


def test_measure_compares_interleaves_and_restores_the_threads():
    calls = []
    case = harness.Case(
        case="toy",
        what="forward",
        threads=2,
        ours=lambda: calls.append(("ours", torch.get_num_threads())) or torch.ones(3),
        peer_name="peer",
        peer=lambda: calls.append(("peer", torch.get_num_threads())) or torch.ones(3),
        peer_threads=1,
        compare=harness.close,
        limit="flops",
        work=1e6,
    )
    before = torch.get_num_threads()
    row = harness.measure("toy", case, limits.Limits(2, 1e9, 1e9))
    assert torch.get_num_threads() == before
    assert calls[:4] == [("ours", 2), ("peer", 1), ("ours", 2), ("peer", 1)]
    assert len(calls) == 2 * (harness.REPEATS + 1)
    assert row.ratio == pytest.approx(row.peer_ms / row.ours_ms)
    assert row.of_limit == pytest.approx(1.0 / row.ours_ms)


def test_a_wrong_result_stops_the_measurement():
    case = harness.Case(
        case="toy", what="forward", threads=1, ours=lambda: torch.ones(3), peer=lambda: torch.zeros(3) + 2,
        compare=harness.close,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="ours differs from the peer's by 1"):
        harness.measure("toy", case, limits.Limits(1, 1e9, 1e9))


def test_groups_csv_and_table(tmp_path, monkeypatch):
    toy = types.SimpleNamespace(
        cases=lambda: [
            harness.Case(case="toy", what="forward", threads=1, ours=lambda: None),
            harness.Row("toy", "toy", "memory", 1, 3.0),
        ]
    )
    monkeypatch.setitem(harness.GROUPS, "toy", ("toy_cases",))
    monkeypatch.setattr(harness.importlib, "import_module", lambda name: toy)
    monkeypatch.setattr(harness, "measure_limits", lambda threads: limits.Limits(threads, 1e9, 1e9))
    assert main(["toy", "--out", str(tmp_path / "a" / "rows.csv"), "--table", str(tmp_path / "table.md")]) == 0
    with (tmp_path / "a" / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    expected = "group,case,what,threads,ours_ms,peer,peer_ms,ratio,limit,of_limit"
    assert ",".join(rows[0]) == expected
    assert [row["what"] for row in rows] == ["forward", "memory"]
    assert "| toy | memory | 1 | 3 |" in (tmp_path / "table.md").read_text()


def test_unknown_group_is_an_error(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["nothing"])
    assert stopped.value.code == 2
    assert "group: found 'nothing', expected one of fields, sparse" in capsys.readouterr().err


def test_record_writes_metrics_and_small_pictures(tmp_path):
    run = tmp_path / "outputs" / "toy" / "2026-01-01"
    run.mkdir(parents=True)
    (run / "metrics.json").write_text(json.dumps({"psnr": 30.0, "wall_time_s": 1.5}))
    (run / "overrides.txt").write_text("experiment=toy\nckpt=/some/where/toy/first\npaths.output_dir=elsewhere\n")
    (run / "environment.txt").write_text("commit: abc\nZOO_DATA=/somewhere\nOMP_NUM_THREADS=1\n")
    noise = torch.randint(0, 256, (900, 900, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    buffer = io.BytesIO()
    Image.fromarray(noise.numpy()).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    (run / "report.html").write_text(f'<img src="data:image/png;base64,{picture}">')
    (run / "metrics.csv").write_text("step,seconds,train/loss,val/psnr\n1,0.5,2.0,\n2,1.0,,30.0\n")
    path = record.record(run, results=tmp_path / "results")
    content = json.loads(path.read_text())
    assert path.name == "toy.json"
    assert content["command"] == "python tools/train.py experiment=toy ckpt=toy/first"
    assert content["commit"] == "abc"
    assert content["environment"] == ["commit: abc", "OMP_NUM_THREADS=1"]
    assert content["metrics"]["psnr"] == 30.0
    assert content["validation"] == [{"step": 2.0, "seconds": 1.0, "val/psnr": 30.0}]
    assert (tmp_path / "results" / content["pictures"][0]).stat().st_size <= record.MAX_THUMBNAIL_BYTES


def test_record_of_an_unfinished_run_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json is missing"):
        record.record(tmp_path)


def test_union_of_intervals_counts_overlaps_once():
    from zoo.benchmark.step_profile import covered

    assert covered([(4.0, 6.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.0)]) == 5.0
    assert covered([]) == 0.0


def test_rows_of_sources_that_were_not_compiled_again_stay():
    from zoo.benchmark.cuda_resources import with_rows_of_others

    head = "| file | kernel | sm_75 |\n|---|---|---|\n"
    page = (
        f"# Title\n\n{head}| a.cu | `x` | 1 |\n| b.cu | `gone` | 2 |\n| b.cu | `y<float> ` | 3 |\n| c.cu | `z` | 4 |\n"
    )
    new = f"{head}| b.cu | `y<float> ` | 5 |\n| b.cu | `w` | 6 |\n"
    expected = f"{head}| a.cu | `x` | 1 |\n| b.cu | `w` | 6 |\n| b.cu | `y<float> ` | 5 |\n| c.cu | `z` | 4 |\n"
    assert with_rows_of_others(new, page, ["b.cu"]) == expected
