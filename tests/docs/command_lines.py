"""Finding the commands that stand in the documentation's code blocks, and asking the tools whether they know them."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from zoo.cli import COMMANDS
from zoo.hub import list_cards
from zoo.training.configuration import compose

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
CONFIGURED = {"train": "train", "predict": "predict", "render": "render", "export": "export"} | {
    "prepare-data": "prepare_data"
}
_STAND_IN = "hollownerf_quickstart"  # for the experiment of the reader's choice
_PYTHON = ("python", "python3", ".venv/bin/python")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line of the page that it begins in."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """One command: the page and line that it stands in, and its words."""

    place: str
    words: tuple[str, ...]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, and its indented ones as blocks without a language."""
    found: list[Block] = []
    language, start, lines = "", 0, list[str]()
    for number, line in enumerate([*page.read_text().splitlines(), ""], start=1):
        fence = re.match(r"^\s*(```+)(\S*)", line)
        if start:
            if fence:
                found.append(Block(language, "\n".join(lines) + "\n", start))
                start = 0
            else:
                lines.append(line)
        elif fence:
            language, start, lines = fence.group(2), number + 1, []
        elif line.startswith("    "):
            found.append(Block("", line.strip() + "\n", number))
    return found


def commands() -> list[Command]:
    """Every ``python ...`` and ``zoo ...`` in a code block that is no Python, without comments and redirections."""
    return list(_commands())


def _commands() -> Iterator[Command]:
    for page in PAGES:
        for block in blocks(page):
            if block.language in ("python", "{eval-rst}", "{toctree}", "yaml"):
                continue
            text = block.text.replace("\\\n", " ")
            for offset, line in enumerate(text.splitlines()):
                for part in re.split(r"\s&&\s|\s\|\s", line):
                    words = _words(part)
                    if words[:1] == ["zoo"] or (len(words) > 1 and words[0] in _PYTHON):
                        yield Command(f"{page.relative_to(ROOT)}:{block.line + offset}", tuple(words))


def _words(line: str) -> list[str]:
    """The words of a command line behind assignments to the environment and ``srun``."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a line of something that is no shell
        return []
    words = words[: next((place for place, word in enumerate(words) if word.startswith((">", "<"))), len(words))]
    while words and (words[0] == "srun" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
        words = words[1:]
    return words


def understand(words: Sequence[str]) -> None:
    """Compose or parse what a command says, without doing it.

    Raises:
        AssertionError: There is no such tool, experiment, key or option; the message says which.
    """
    if words[0] != "zoo":
        if words[1] == "-m":
            assert importlib.util.find_spec(words[2]) is not None, f"no module {words[2]}"
            return
        if not words[1].startswith("tools/"):
            return
        assert (ROOT / words[1]).is_file(), f"no {words[1]}"
        name = words[1].removeprefix("tools/").removesuffix(".py").replace("_", "-")
        words = ["zoo", {"list-models": "list"}.get(name, name), *words[2:]]
    if len(words) == 1:
        return
    name, rest = words[1], list(words[2:])
    assert name in COMMANDS, f"zoo has no command {name!r}"
    if name in CONFIGURED:
        _compose(CONFIGURED[name], rest)
    else:
        _parse(COMMANDS[name][0], rest)


def _compose(config: str, words: list[str]) -> None:
    overrides, own_folder = list[str](), False
    while words:
        word = words.pop(0)
        if word in ("-m", "--multirun"):
            continue
        if word in ("--cfg", "--config-dir"):
            own_folder = own_folder or word == "--config-dir"
            assert words, f"{word} has no value"
            words.pop(0)
        else:
            overrides.append(re.sub(r"^(\+?experiment)=[A-Z]+$", rf"\1={_STAND_IN}", word))
    parsed = OverridesParser.create().parse_overrides(overrides)
    if own_folder:  # made by the page itself, whose commands are run by another test
        return
    groups, values = [], []
    for override, text in zip(parsed, overrides, strict=True):
        chosen = next(iter(override.sweep_string_iterator())) if override.is_sweep_override() else None
        folder = ROOT / "zoo" / "configs" / override.key_or_group
        is_group = not text[0].isalpha() or text.startswith("hydra") or folder.is_dir()
        (groups if is_group else values).append(text if chosen is None else f"{override.key_or_group}={chosen}")
    cfg = _composed(config, tuple(groups))
    for text in values:
        key = text.partition("=")[0]
        above, _, last = key.rpartition(".")
        node = OmegaConf.select(cfg, above) if above else cfg
        assert isinstance(node, DictConfig), f"no key {above}"
        assert last in node.keys(), f"no key {key}"  # noqa: SIM118 - `in node` leaves out values that are missing


@functools.cache
def _composed(config: str, groups: tuple[str, ...]) -> DictConfig:
    """The composition by what chooses files, adds or removes; many commands of the pages share one."""
    cfg = compose(groups, config_name=config)
    if config == "train":
        missing = [part for part in ("task", "model", "data") if "_target_" not in (cfg.get(part) or {})]
        assert not missing, f"chooses no {missing[0]}"
    return cfg


class _ParsedError(Exception):
    """Options were read; nothing more is to happen."""


def _parse(entry: str, words: list[str]) -> None:
    module, _, function = entry.partition(":")
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *arguments: object) -> None:
        raise _ParsedError(parse(self, *arguments))  # pyright: ignore[reportArgumentType]

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            getattr(importlib.import_module(module), function)(words)
        except _ParsedError as parsed:
            options = parsed.args[0]
        except SystemExit as end:
            raise AssertionError(f"its options are refused (exit code {end.code})") from end
        else:
            raise AssertionError(f"{entry} reads no options")
    if module == "zoo.download":
        for name in options.names:
            assert list_cards(name), f"no weight {name}"


def extras() -> set[str]:
    """The optional dependencies of the package."""
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
