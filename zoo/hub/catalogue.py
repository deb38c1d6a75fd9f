"""The cards there are: one YAML file for each weight, found by name, by network and by tag.

Cards stand in ``zoo/weights/cards/NAME.yaml``; ``$ZOO_CARDS`` names a folder with cards of your own (``cards``) and
their files (``files``).
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import importlib.resources
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml

from zoo.hub.cards import STATUSES, Card, Measured, Source, SourceKind, is_card_name

__all__ = ["find_card", "list_cards", "pretrained_card", "read_card"]

_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HASH = re.compile(r"[0-9a-f]{8,64}")


def find_card(name: str) -> Card:
    """The card of that name.

    Raises:
        ValueError: There is none; the message names the nearest.
    """
    if is_card_name(name):
        for folder in _folders():
            path = folder / "cards" / f"{name}.yaml"
            if path.is_file():
                return read_card(path)
    known = _names()
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`zoo download` lists all"
    raise ValueError(f"weights={name}: no weight has this name; {hint}")


def list_cards(pattern: str = "*") -> list[Card]:
    """The cards whose name, or whose network's, matches a shell pattern, by name."""
    found = {}
    for folder in reversed(_folders()):
        for path in sorted((folder / "cards").glob("*.yaml")):
            card = read_card(path)
            if fnmatch.fnmatch(card.name, pattern) or fnmatch.fnmatch(card.model, pattern):
                found[card.name] = card
    return [found[name] for name in sorted(found)]


def pretrained_card(model: str, tag: str | None = None) -> Card:
    """The weight of a network.

    Args:
        model: One of ``list_models()``.
        tag: The last part of the card's name, or all of it; None: the preferred one.

    Raises:
        ValueError: The network has none, none of that tag, or several that the tag does not tell apart.
    """
    if tag is not None and is_card_name(tag):
        card = find_card(tag)
        if card.model != model:
            raise ValueError(f"pretrained={tag!r}: is a weight of {card.model or 'no model'}, expected one of {model}")
        return card
    cards = [card for card in list_cards() if card.model == model]
    fitting = [card for card in cards if tag is None or card.name.rpartition(".")[2] == tag]
    usable = [card for card in fitting if card.is_usable]
    if len(usable) > 1:
        plain = [card for card in usable if card.preferred] or [card for card in usable if not card.overrides]
        usable = plain if len(plain) == 1 else usable
    if len(usable) == 1:
        return usable[0]
    if usable:
        names = ", ".join(card.name for card in usable)
        raise ValueError(f"pretrained: {model} has several weights; say which: {names}")
    reasons = "; ".join(_why_not(card) for card in fitting)
    others = ", ".join(card.name for card in cards if card.is_usable)
    which = f" of the tag {tag!r}" if tag else ""
    raise ValueError(
        f"pretrained: {model} has no weight{which} to load"
        + (f" ({reasons})" if reasons else "")
        + (f"; it has {others}" if others else "; train it, or give weights=FILE")
    )


def _why_not(card: Card) -> str:
    if card.layout == "archive":
        return f"{card.name} comes in an archive: fetch it (zoo download {card.name}), unpack it, convert what fits"
    return f"{card.name} is {card.status}: {STATUSES[card.status]}"


def read_card(path: Path) -> Card:
    """Read and check one card.

    Raises:
        ValueError: An unknown key or a value that cannot be; names file and key.
    """
    try:
        return _card_of(yaml.safe_load(path.read_text()), path)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: is no card ({error})") from error
    except (ValueError, OverflowError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: is no card ({error})") from error


def _card_of(content: Any, path: Path) -> Card:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"{path}: found {type(content).__name__}, expected a mapping of words")
    known = {entry.name for entry in dataclasses.fields(Card)} - {"folder"}
    unknown = sorted(content.keys() - known)
    if unknown:
        raise ValueError(f"{path}: unknown keys {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    values = dict(content)
    if values.get("sha256") == "unknown":
        values["sha256"] = None
    for name in ("overrides", "class_names"):
        values[name] = tuple(str(entry) for entry in values.get(name) or ())
    values["sources"] = tuple(
        _source(entry, str(values.get("file", "")), path) for entry in values.get("sources") or ()
    )
    values["measured"] = {
        str(name): Measured(float(entry["value"]), float(entry["tolerance"]))
        for name, entry in (values.get("measured") or {}).items()
    }
    card = Card(folder=path.parent.parent, **values)
    _check(card, path)
    return card


def _source(entry: Any, file: str, path: Path) -> Source:
    kinds = [kind for kind in get_args(SourceKind) if isinstance(entry, dict) and kind in entry]
    if len(kinds) != 1:
        raise ValueError(f"{path}: sources: found {entry}, expected one of {', '.join(get_args(SourceKind))}")
    return Source(kinds[0], str(entry[kinds[0]]), str(entry.get("path", file)) if kinds[0] == "hub" else "")


def _check(card: Card, path: Path) -> None:
    words = [field.name for field in dataclasses.fields(Card) if field.type in ("str", "Status")]
    wrong = [name for name in words if not isinstance(getattr(card, name), str)]
    problems = [f"{name}: found {getattr(card, name)!r:.60}, expected words" for name in wrong]
    if not isinstance(card.sha256, str | None):
        problems.append(f"sha256: found {card.sha256!r:.60}, expected words; quote a number")
    if not isinstance(card.size, int | None) or not isinstance(card.paper, Mapping):
        problems.append("size, paper: expected a whole number and figures by name")
    if problems:
        raise ValueError(f"{path}: " + "; ".join(problems))
    if not is_card_name(card.name) or card.name != path.stem:
        problems.append(f"name: found {card.name!r}, expected the file's name, system-variant.tag")
    if card.status not in STATUSES:
        problems.append(f"status: found {card.status!r}, expected one of {', '.join(STATUSES)}")
    if card.sha256 is not None and not _HASH.fullmatch(card.sha256):
        problems.append(f"sha256: found {card.sha256!r}, expected 8 to 64 hexadecimal digits or 'unknown'")
    if card.sources and not _FILE.fullmatch(card.file):
        problems.append(f"file: found {card.file!r}, expected a plain file name")
    if card.is_usable and not (card.sources and card.license and card.origin):
        problems.append("sources, license, origin: expected all three for a weight that can be loaded")
    problems += [
        f"sources: found {source.address!r}, expected https:// or file://"
        for source in card.sources
        if source.kind == "url" and not source.address.startswith(("https://", "file://"))
    ]
    problems += [
        f"sources: found the path {source.path!r}, expected one below the repository"
        for source in card.sources
        if source.kind == "hub" and (source.path.startswith("/") or ".." in source.path.split("/"))
    ]
    if problems:
        raise ValueError(f"{path}: " + "; ".join(problems))


def _folders() -> Sequence[Path]:
    """Folders that hold ``cards`` and ``files``; earlier ones win."""
    own = os.environ.get("ZOO_CARDS")
    shipped = Path(str(importlib.resources.files("zoo.weights")))
    return [Path(own), shipped] if own else [shipped]


def _names() -> list[str]:
    return sorted({path.stem for folder in _folders() for path in (folder / "cards").glob("*.yaml")})
