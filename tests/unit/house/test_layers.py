"""Import layers, light imports, and the size of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_layers_hold() -> None:
    pytest.importorskip("importlinter")
    ask = [str(Path(sys.executable).with_name("lint-imports")), "--no-logo", "--no-cache"]
    done = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", ["zoo", "zoo.train", "zoo.cli", "zoo.listing", "zoo.registry"])
def test_entry_modules_import_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_tools_only_call_the_package() -> None:
    for path in (ROOT / "tools").glob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert imports, path
        assert all(module and module.startswith("zoo.") for module in imports), path
        assert len(path.read_text().splitlines()) <= 30, path


def test_files_keep_to_their_size() -> None:
    limits = {"models": 600}
    long = []
    for path in (ROOT / "zoo").rglob("*"):
        if path.suffix in (".py", ".cpp", ".cu", ".h", ".cuh"):
            limit = limits.get(path.relative_to(ROOT / "zoo").parts[0], 500)
            if len(path.read_text().splitlines()) > limit:
                long.append(str(path.relative_to(ROOT)))
    long += [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if len(path.read_text().splitlines()) > 700
    ]
    assert not long


def test_names_say_something() -> None:
    vague = {"utils", "util", "misc", "common", "helpers"}
    assert not [path for path in (ROOT / "zoo").rglob("*") if path.stem in vague]
