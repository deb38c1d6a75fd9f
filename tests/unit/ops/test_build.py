"""The build of the native kernels: what a user meets without a compiler, with a broken one or a read-only cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.ops import build

PROGRAM = """
import pathlib, sys, torch
from zoo.ops import build
build.CSRC = pathlib.Path(sys.argv[1])
import zoo.ops
values = zoo.ops.spherical_harmonics(torch.eye(3), 3)
assert values.shape == (3, 9)
print("NATIVE" if zoo.ops.native.binary() else "REFERENCE", zoo.ops.native.reason())
"""


@pytest.fixture
def sources(tmp_path):
    """A copy of the native sources with one op: quick to compile."""
    csrc = tmp_path / "csrc"
    for name in ("cpu/spherical_harmonics.cpp", "kernels/spherical_harmonics.h"):
        (csrc / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(build.CSRC / name, csrc / name)
    shutil.copytree(build.CSRC / "runtime", csrc / "runtime")
    return csrc


def run(sources: Path, **environment: str) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if name not in ("ZOO_OPS", "CXX")} | environment
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(sources)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(build.__file__).parents[2],
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    out, err = process.communicate(timeout=240)
    return out, err, process.returncode


def test_two_processes_compile_at_once_and_the_third_finds_the_binary(sources, tmp_path):
    cache = tmp_path / "cache"
    for process in [run(sources, ZOO_CACHE=str(cache)) for _ in range(2)]:
        out, err, code = finish(process)
        assert code == 0, err
        assert out.startswith("NATIVE")
        assert "compiling 1 of 1" in err
    assert sorted(path.suffix for path in (cache / "ops").iterdir()) == [".o", ".so"], "nothing half-written stays"
    out, err, _ = finish(run(sources, ZOO_CACHE=str(cache)))
    assert out.startswith("NATIVE")
    assert "compiling" not in err


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"CXX": "/nonexistent/c++"}, "CXX=/nonexistent/c++ is not on the PATH"),
        ({"PATH": "/nonexistent"}, "no C++ compiler"),
        ({"CXX": shutil.which("false") or "false"}, "does not run"),
    ],
)
def test_no_or_broken_compiler_means_reference_and_one_warning(sources, tmp_path, environment, told):
    out, err, code = finish(run(sources, ZOO_CACHE=str(tmp_path / "cache"), **environment))
    assert code == 0, err
    assert out.startswith("REFERENCE")
    assert told in out
    assert err.count("native kernels are not available") == 1
    assert "zoo doctor" in err


def test_native_asked_for_but_not_to_be_had_is_an_error(sources, tmp_path):
    _, err, code = finish(run(sources, ZOO_CACHE=str(tmp_path / "cache"), CXX="/nonexistent/c++", ZOO_OPS="native"))
    assert code != 0
    assert "ZOO_OPS=native asks for the native kernels, but CXX=/nonexistent/c++" in err


def test_a_source_that_does_not_compile_is_named_and_left_out(sources, tmp_path):
    (sources / "cpu" / "broken.cpp").write_text("this is not C++\n")
    out, err, code = finish(run(sources, ZOO_CACHE=str(tmp_path / "cache")))
    assert code == 0, err
    assert out.startswith("NATIVE")
    assert "cpu/broken.cpp" in err
    assert "run their plain torch reference" in err


def test_unwritable_cache_compiles_into_a_private_folder(sources, tmp_path):
    (tmp_path / "file").write_text("")
    out, err, code = finish(run(sources, ZOO_CACHE=str(tmp_path / "file" / "cache")))
    assert code == 0, err
    assert out.startswith("NATIVE")
    assert err.count("cannot be written") == 1
    private = Path(out.split(" from ", 1)[1].strip())
    assert not private.exists(), "the private folder goes with the process"


def test_unknown_mode_is_an_error(sources):
    _, err, code = finish(run(sources, ZOO_OPS="fast"))
    assert code != 0
    assert "ZOO_OPS: found 'fast', expected 'native', 'reference'" in err


def test_a_prebuilt_binary_of_other_sources_is_not_used(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(build, "PREBUILT", tmp_path)
    (tmp_path / build.LIBRARY_NAME).write_bytes(b"")
    (tmp_path / build.LIBRARY_NAME).with_suffix(".json").write_text('{"sources": "others"}')
    assert build.prebuilt() is None
    assert "was built from other sources" in caplog.text


def test_a_header_change_changes_the_key(sources, monkeypatch):
    monkeypatch.setattr(build, "CSRC", sources)
    (unit,) = build.cpu_units()
    before = build.unit_key(unit, build.find_compiler(), build.cpu_flags())
    header = sources / "runtime" / "launch.h"
    header.write_text(header.read_text() + "\n// changed\n")
    assert build.unit_key(unit, build.find_compiler(), build.cpu_flags()) != before


def test_sanitized_objects_have_keys_of_their_own_and_no_prebuilt_binary(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CSRC", sources)
    monkeypatch.setattr(build, "prebuilt", lambda: tmp_path / "shipped.so")
    unit, compiler = build.cpu_units()[0], build.find_compiler()
    plain = build.unit_key(unit, compiler, build.cpu_flags())
    assert build.find_or_build() == tmp_path / "shipped.so"
    monkeypatch.setenv("ZOO_SANITIZE", "1")
    monkeypatch.setattr(build, "build", lambda **_: tmp_path / "sanitized.so")
    assert build.unit_key(unit, compiler, build.cpu_flags()) != plain
    assert build.find_or_build() == tmp_path / "sanitized.so"
    assert set(build.SANITIZERS) <= set(build._link_command(compiler, [], tmp_path / "a.so"))


def test_checkouts_of_the_same_sources_share_objects(sources, tmp_path, monkeypatch):
    keys = set()
    for csrc in (sources, shutil.copytree(sources, tmp_path / "elsewhere")):
        monkeypatch.setattr(build, "CSRC", csrc)
        keys |= {build.unit_key(unit, build.find_compiler(), build.cpu_flags()) for unit in build.cpu_units()}
    assert len(keys) == 1


def test_many_sources_share_a_compiled_header(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CSRC", sources)
    monkeypatch.setattr(build, "_SOURCES_THAT_SHARE", 1)
    compiler = build.find_compiler()
    jobs = [build._job(unit, compiler, build.cpu_flags(), tmp_path) for unit in build.cpu_units()]
    (shared,) = build._share_header(jobs, compiler, tmp_path)
    assert (tmp_path / "shared.h.gch").stat().st_size > 1_000_000
    assert shared.command == (*jobs[0].command, "-include", str(tmp_path / "shared.h"))
    assert not build._compile_all([shared], tmp_path, strict=True)
    assert shared.object.is_file()
    assert build._share_header(jobs, "false", tmp_path) == jobs


def test_sources_that_change_while_they_are_compiled_leave_no_object(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "CSRC", sources)
    compiler = build.find_compiler()
    jobs = [build._job(unit, compiler, build.cpu_flags(), tmp_path) for unit in build.cpu_units()]
    header = sources / "runtime" / "launch.h"
    header.write_text(header.read_text() + "\n// changed\n")
    failed = build._compile_all(jobs, tmp_path, strict=False)
    assert "changed while they were compiled" in failed[jobs[0]]
    assert not jobs[0].object.exists()
