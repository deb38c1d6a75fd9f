"""The page of model cards is what the cards say."""

from __future__ import annotations

from pathlib import Path

from zoo.hub.page import PAGE, cards_page

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_made_from_the_cards():
    assert (ROOT / PAGE).read_text() == cards_page(), f"run: python tools/download.py --page {PAGE}"
