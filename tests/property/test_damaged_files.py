"""Damaged files: every reader gives a valid result or a documented error. ``python -m tests.fuzz`` runs longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.harness import Case, Tally, attempt, kept_files, search
from tests.fuzz.readers import READERS

CASES = {case.name: case for reader in READERS.values() for case in reader.cases}
KEPT = [(case, path) for case in CASES.values() for path in kept_files(case)]


@pytest.mark.parametrize("name", CASES)
def test_damaged_files(name: str, tmp_path: Path) -> None:
    tally = Tally()
    search(CASES[name], tmp_path, tally, examples=10, number=None)
    assert tally.files >= 10
    assert not tally.broken


@pytest.mark.parametrize(("case", "kept"), KEPT, ids=[f"{case.name}-{path.name}" for case, path in KEPT])
def test_files_that_once_broke_a_reader(case: Case, kept: Path, tmp_path: Path) -> None:
    case.make(tmp_path)
    attempt(case, tmp_path, kept.read_bytes())


def test_every_kept_file_belongs_to_a_reader() -> None:
    folder = Path(__file__).parents[1] / "fuzz" / "kept"
    assert {path.name for path in folder.iterdir()} <= CASES.keys()
