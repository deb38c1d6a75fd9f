"""The page of recorded runs is what the records say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zoo.benchmark import claim, recipe_cost, spare_page, spiking_twins
from zoo.benchmark.record import MAX_THUMBNAIL_BYTES, RESULTS, RESULTS_PAGE, results_page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_from_the_records():
    assert (ROOT / RESULTS_PAGE).read_text() == results_page(ROOT / RESULTS), "run: python tools/benchmark.py results"


def test_the_table_of_spiking_twins_is_made_from_the_records():
    page = (ROOT / spiking_twins.PAGE).read_text()
    assert page == spiking_twins.fill_page(page, ROOT / RESULTS), "run: python tools/benchmark.py results"


def test_the_table_of_costs_is_made_from_the_recipes():
    page = (ROOT / recipe_cost.PAGE).read_text()
    assert page == recipe_cost.fill_page(page), "run: python tools/benchmark.py results"
    nuscenes = next(line for line in page.splitlines() if line.startswith("| `dsvt_nuscenes`")).split(" | ")
    one, four, eight = (float(cell.replace(",", "")) for cell in nuscenes[4:7])
    samples = float(nuscenes[1].replace(",", "")) * float(nuscenes[2])
    assert one == round(samples / 3600)
    assert (four, eight) == (round(samples / 3600 / 4), round(samples / 3600 / 8))
    with pytest.raises(ValueError, match="end of the costs"):
        recipe_cost.fill_page(recipe_cost.BEGIN)


def test_spiking_runs_stand_beside_their_twins(tmp_path):
    def keep(name, **metrics):
        record = {"metrics": {f"test/{key}".replace("energy_", "energy/"): value for key, value in metrics.items()}}
        (tmp_path / f"{name}.json").write_text(json.dumps(record))

    assert spiking_twins.twin_table(tmp_path) == "No run is recorded yet.\n"
    keep("a", accuracy=0.9314, baseline_accuracy=0.5, energy_mj=0.25, energy_firing_rate=0.125)
    keep("a_ann", accuracy=0.94, energy_mj=1.0, energy_firing_rate=0.0)
    keep("b", miou_present=0.6, accuracy=0.9, energy_mj=2.0, energy_firing_rate=0.25)
    keep("c", psnr=30.0)
    rows = spiking_twins.twin_table(tmp_path).splitlines()[2:]
    assert rows == [
        "| `a` | accuracy | 50.0 | 93.1 | 94.0 | 0.25 | 1 | 4.0 | 0.125 |",
        "| `b` | mIoU of the classes present |  | 60.0 |  | 2 |  |  | 0.25 |",
    ]
    with pytest.raises(ValueError, match="end of the spiking twins"):
        spiking_twins.fill_page(spiking_twins.BEGIN, tmp_path)


def test_pictures_are_small_and_named():
    page = (ROOT / RESULTS_PAGE).read_text()
    for picture in (ROOT / RESULTS).glob("*.jpg"):
        assert picture.stat().st_size <= MAX_THUMBNAIL_BYTES
        assert picture.name in page


def test_the_claim_s_table_is_made_from_its_runs():
    recorded = json.loads((ROOT / RESULTS / "claim" / "runs.json").read_text())
    assert (ROOT / claim.PAGE).read_text() == claim.page(recorded["runs"], recorded["machine"])


def test_the_tables_of_few_views_are_made_from_their_runs():
    records = spare_page.read_records(ROOT / RESULTS / "spare")
    assert (ROOT / spare_page.PAGE).read_text() == spare_page.spare_page(records), (
        "run: python tools/benchmark.py results"
    )
