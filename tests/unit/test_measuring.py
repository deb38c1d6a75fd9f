"""The commands that state coverage and memory: their arithmetic on made-up reports."""

from __future__ import annotations

from tests.coverage_table import summarize, table
from tests.leaks import TOLERANCE, growth


def summary(statements: int, covered: int) -> dict[str, dict[str, int]]:
    return {"summary": {"num_statements": statements, "covered_lines": covered}}


REPORT = {
    "files": {
        "zoo/ops/rays.py": summary(10, 10),
        "zoo/ops/reference/rays.py": summary(20, 18),
        "zoo/data/formats/pcd.py": summary(30, 15),
        "zoo/data/boxes.py": summary(10, 5),
        "zoo/train.py": summary(4, 4),
    }
}


def test_coverage_is_summed_by_folder() -> None:
    assert summarize(REPORT) == [
        ("data", 2, 40, 20),
        ("entry functions", 1, 4, 4),
        ("ops", 1, 10, 10),
        ("ops/reference", 1, 20, 18),
        ("total", 5, 74, 52),
    ]
    text = table(REPORT)
    assert "| `zoo/data` | 2 | 40 | 50.0 % (below) |" in text
    assert "| `zoo/ops/reference` | 1 | 20 | 90.0 % |" in text
    assert "| total | 5 | 74 | 70.3 % (below) |" in text


def test_growth_after_warm_up_is_seen_and_noise_is_not() -> None:
    flat = [100.0, 300.0, 310.0, 320.0] + [400.0, 401.0, 399.0, 480.0] * 4
    first, last = growth(flat)
    assert abs(last - first) < TOLERANCE
    leaking = [value + 3 * number for number, value in enumerate([400.0] * 20)]
    first, last = growth(leaking)
    assert last - first > TOLERANCE
