"""Tables of recorded figures in the pages are those that the records give."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.benchmark.filled_tables import END, fill_tables, pages_with_tables
from zoo.benchmark.record import RESULTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("page", [path.relative_to(ROOT).as_posix() for path in pages_with_tables(ROOT)])
def test_pages_hold_what_the_records_give(page: str) -> None:
    text = (ROOT / page).read_text()
    assert text == fill_tables(text, ROOT / RESULTS), "run: python tools/benchmark.py results"
    assert "not recorded" not in text


def record(folder: Path, name: str, **metrics: float) -> None:
    (folder / f"{name}.json").write_text(json.dumps({"metrics": {k.replace("__", "/"): v for k, v in metrics.items()}}))


def test_runs_by_figures_and_seeds_by_mean_and_deviation(tmp_path: Path) -> None:
    record(tmp_path, "a", test__iou=0.87654, train_seconds=1659.2)
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        record(tmp_path, f"b{seed}", test__accuracy=accuracy)
    block = "runs: {one: a, 'none': c}\nfigures: {test/iou: IoU, train_seconds: 'training, s'}"
    page = f"before\n<!-- figures\n{block}\n-->\nold\n{END}\nafter\n"
    filled = fill_tables(page, tmp_path)
    assert "| one | 0.877 | 1,659 |" in filled
    assert "| none | not recorded | not recorded |" in filled
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith("\nafter\n")
    assert fill_tables(filled, tmp_path) == filled
    seeds = "runs: {three: [b0, b1, b2], missing: [b0, b9]}\nfigures: {test/accuracy: top-1}"
    filled = fill_tables(f"<!-- figures\n{seeds}\n-->\n{END}\n", tmp_path)
    assert "| three | 60.0 ± 10.0 % |" in filled
    assert "| missing | not recorded |" in filled


def test_rows_over_systems(tmp_path: Path) -> None:
    record(tmp_path, "a", test__psnr=31.234, train_seconds=99.94)
    page = f"<!-- figures\nrows:\n- [Field, a, test/psnr, 'PSNR, dB']\n-->\n{END}\n"
    assert "| Field | `a` | PSNR, dB | 31.2 | 99.9 |" in fill_tables(page, tmp_path)


def test_blocks_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without its end"):
        fill_tables("<!-- figures\nrows: []\n-->\n", tmp_path)
    with pytest.raises(ValueError, match="expected the entries 'runs' and 'figures'"):
        fill_tables(f"<!-- figures\nrun: a\n-->\n{END}\n", tmp_path)
