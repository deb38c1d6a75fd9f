"""The page of model cards, in Markdown, made from the cards alone."""

from __future__ import annotations

from pathlib import Path

from zoo.hub.cards import STATUSES, Card
from zoo.hub.catalogue import list_cards

__all__ = ["PAGE", "card_row", "cards_page", "size_text"]

PAGE = Path("docs/guides/model_cards.md")


def cards_page() -> str:
    """All cards: a table, then a section for each."""
    cards = list_cards()
    lines = [
        "# Model cards",
        "",
        f"Made from `zoo/weights/cards/*.yaml` by `python tools/download.py --page {PAGE}`.",
        "How weights are fetched, checked and loaded is described in [](weights.md).",
        "",
        "| weight | network | figure | size | status |",
        "|---|---|---|---|---|",
    ]
    for card in cards:
        name, *rest = card_row(card)
        lines.append(f"| [{name}](#{_anchor(name)}) | " + " | ".join(rest) + " |")
    for card in cards:
        lines += ["", *_section(card)]
    return "\n".join(lines) + "\n"


def card_row(card: Card) -> tuple[str, str, str, str, str]:
    """Name, network, the first measured figure (else the paper's), size and status."""
    figure = ""
    if card.measured:
        name, measured = next(iter(card.measured.items()))
        figure = f"{name} {measured.value:.4g}"
    elif card.paper:
        name, value = next(iter(card.paper.items()))
        figure = f"paper: {name} {value:g}"
    return card.name, card.model, figure, size_text(card.size), card.status


def size_text(size: int | None) -> str:
    """Bytes for people.

    Example:
        >>> size_text(1_500_000), size_text(None)
        ('1.5 MB', 'unknown')
    """
    if size is None:
        return "unknown"
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.1f} kB"


def _anchor(name: str) -> str:
    """What the documentation calls the section of that heading."""
    return name.replace(".", "")


def _section(card: Card) -> list[str]:
    facts = {
        "status": f"{card.status}: {STATUSES.get(card.status, '')}",
        "network": f"`{card.model}`" + "".join(f" `{override}`" for override in card.overrides) if card.model else "",
        "classes": ", ".join(card.class_names),
        "file": f"`{card.file}`" if card.file else "",
        "from": ", ".join(f"<{source}>" if "://" in str(source) else f"`{source}`" for source in card.sources),
        "sha256": f"`{card.hash_text}`" if card.sources else "",
        "size": size_text(card.size) if card.sources else "",
        "names of tensors": card.layout,
        "licence": card.license,
        "origin": card.origin,
    }
    lines = [f"## {card.name}", "", card.summary, "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items() if value]
    lines += [f"| its authors state | {name}: {value:g} |" for name, value in card.paper.items()]
    lines += [
        f"| measured | {name}: {entry.value:.6g}, reproduced within {entry.tolerance:g} |"
        for name, entry in card.measured.items()
    ]
    lines += [f"| trained: {name} | {_trained(value)} |" for name, value in card.trained.items()]
    if card.note:
        lines += ["", card.note]
    if card.command and card.measured:
        lines += ["", "```bash", card.command, "```"]
    return lines


def _trained(value: object) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`" if " " in text else text
