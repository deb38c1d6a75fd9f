"""The ``zoo`` command hands over, and says what it knows."""

from __future__ import annotations

import importlib.util
import sys

import pytest

import zoo
from zoo.cli import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_function(name: str) -> None:
    module, _, function = COMMANDS[name][0].partition(":")
    assert importlib.util.find_spec(module) is not None
    assert function == "main"


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.count("doctor") == 2
    assert main(["--version"]) == 0
    assert zoo.__version__ in capsys.readouterr().out


def test_an_unknown_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_arguments_are_handed_over(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["zoo"])
    assert main(["list", "hollow*"]) == 0
    output = capsys.readouterr().out
    assert "hollownerf" in output
    assert "ngp" not in output.split("hollownerf", 1)[0]


def test_lazy_names_of_the_package() -> None:
    assert "hollownerf" in zoo.list_models()
    assert "list_models" in dir(zoo)
    with pytest.raises(AttributeError, match="no attribute 'no_such'"):
        _ = zoo.no_such  # type: ignore[attr-defined]
