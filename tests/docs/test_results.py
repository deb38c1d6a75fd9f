"""The page of recorded runs is what the records say."""

from __future__ import annotations

import json
from pathlib import Path

from zoo.benchmark import claim
from zoo.benchmark.record import MAX_THUMBNAIL_BYTES, RESULTS, RESULTS_PAGE, results_page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_from_the_records():
    assert (ROOT / RESULTS_PAGE).read_text() == results_page(ROOT / RESULTS), "run: python tools/benchmark.py results"


def test_pictures_are_small_and_named():
    page = (ROOT / RESULTS_PAGE).read_text()
    for picture in (ROOT / RESULTS).glob("*.jpg"):
        assert picture.stat().st_size <= MAX_THUMBNAIL_BYTES
        assert picture.name in page


def test_the_claim_s_table_is_made_from_its_runs():
    recorded = json.loads((ROOT / RESULTS / "claim" / "runs.json").read_text())
    assert (ROOT / claim.PAGE).read_text() == claim.page(recorded["runs"], recorded["machine"])
