"""The messages that the page of troubles quotes are those that the code gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guides" / "troubleshooting.md"


def quoted_messages() -> list[str]:
    """What stands in backticks in the first column and is a sentence, no name."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [row.split(" | ")[0] for row in rows]
    return [text for cell in cells for text in re.findall(r"`([^`]+)`", cell) if " " in text and len(text) > 20]


def test_there_are_messages() -> None:
    assert len(quoted_messages()) > 30


@pytest.fixture(scope="module")
def source() -> str:
    """All code, with strings that go on in the next line joined."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "zoo").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("message", quoted_messages())
def test_a_message_is_in_the_code(message: str, source: str) -> None:
    for part in message.split("..."):
        assert part.strip() in source, f"no message of the code has {part.strip()!r}"
