"""The doctor looks at everything, says what to do, and survives what it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo import doctor
from zoo.doctor import Finding, examine, main
from zoo.ops import build


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_a_healthy_installation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    output = capsys.readouterr().out
    for word in ("python", "torch", "GPU", "C++ compiler", "native kernels", "self-test", "root links", "disk"):
        assert word in output


def test_no_compiler_comes_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    finding = by_name(examine())["C++ compiler"]
    assert finding.state == "note"
    assert "no-such-compiler" in finding.found
    assert "apt-get install g++" in finding.remedy


def test_a_part_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(build, "cache_folder", broken)
    finding = by_name(examine())["cache"]
    assert (finding.state, finding.found) == ("bad", "RuntimeError: no home")
    assert main([]) == 1
    assert "no home" in capsys.readouterr().out


def test_missing_extras_name_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_importable", lambda module: False)
    assert main([]) == 0
    assert "pip install 'voxelzoo[viz]'" in capsys.readouterr().out


def test_kernels_that_disagree_are_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    values = iter([torch.zeros(3), torch.ones(3)])
    monkeypatch.setattr(doctor, "_probes", lambda: {"odd": lambda: next(values)})
    finding = by_name(examine())["self-test odd"]
    assert finding.state == "bad"
    assert "ZOO_OPS=reference" in finding.remedy


def test_all_extras_are_examined() -> None:
    import tomllib

    root = Path(__file__).resolve().parents[3]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(doctor.EXTRAS) == set(extras) - {"dev", "docs"}
