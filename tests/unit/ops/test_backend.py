"""The choice of the back-end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import zoo.ops
from zoo.ops import backend, dispatch


def test_reference_answers_inside_the_block_only(monkeypatch):
    directions = torch.eye(3)
    expected = zoo.ops.spherical_harmonics(directions, 3)
    with zoo.ops.use_backend("reference"):
        assert zoo.ops.active_backend() == "reference"
        torch.testing.assert_close(zoo.ops.spherical_harmonics(directions, 3), expected)
    assert zoo.ops.active_backend() == "native"
    torch.testing.assert_close(zoo.ops.spherical_harmonics(directions, 3), expected, rtol=0, atol=0)


def test_reference_stays_when_it_was_chosen_before_the_first_call():
    program = (
        "import torch, zoo.ops, zoo.ops.dispatch as d\n"
        "zoo.ops.set_backend('reference'); zoo.ops.spherical_harmonics(torch.eye(3), 2)\n"
        "table = torch._C._dispatch_dump_table('zoo::spherical_harmonics')\n"
        "line = next(x for x in table.splitlines() if x.startswith('CPU:')); print(line)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "backend.py" in done.stdout


def test_unknown_backend_is_an_error():
    with pytest.raises(ValueError, match="backend: found 'cudnn', expected one of 'native', 'reference', 'spconv'"):
        zoo.ops.set_backend("cudnn")


def test_a_missing_vendor_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs the package spconv, .*pip install 'voxelzoo\[spconv\]'"):
        zoo.ops.set_backend("spconv")
    assert zoo.ops.active_backend() == "native"


def test_every_op_is_examined_by_opcheck():
    tests = Path(__file__).resolve().parents[2]
    examined = "".join(text for path in tests.rglob("test_*.py") if "opcheck(" in (text := path.read_text()))
    names = {name for name in dispatch.REFERENCES if not name.startswith("toy")}
    assert names >= {"spherical_harmonics", "hash_encode", "sparse_conv", "march_rays"}
    assert not {name for name in names if name not in examined}
