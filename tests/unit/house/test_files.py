"""Files are complete or not there, whatever fails while they are written."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest

from zoo import files
from zoo.files import ClippedFile, atomic_path, write_bytes, write_json, write_text


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_clipped_file_gives_what_it_has_and_asks_for_no_more_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)))
    with ClippedFile(tmp_path / "a") as file:
        assert file.read(10) == bytes(range(10))
        assert file.read(2**62) == bytes(range(10, 100))  # Python alone would make room for 2^62 bytes first
        assert file.read(5) == b""
        file.seek(90)
        assert file.read() == bytes(range(90, 100))
        file.seek(200)
        assert file.read(1) == b""


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.json"
    write_json(target, {"a": 1.5})
    write_json(target, {"a": 2.5})
    assert json.loads(target.read_text()) == {"a": 2.5}
    assert not leftovers(target.parent)


def test_mode_is_that_of_an_ordinary_file(tmp_path: Path) -> None:
    write_text(tmp_path / "ours", "x")
    (tmp_path / "ordinary").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_an_error_in_the_block_leaves_the_former_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_text(target, "before")
    with pytest.raises(UnicodeEncodeError), atomic_path(target) as temporary:
        temporary.write_text("half of it, then \ud800", encoding="utf-8")
    assert target.read_text() == "before"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("there_before", [True, False])
def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool) -> None:
    target = tmp_path / "model.ckpt"
    if there_before:
        write_text(target, "before")

    def no_space(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(files, "_sync", no_space)
    with pytest.raises(OSError, match=r"the disk is full.*Free some space") as caught:
        write_text(target, "after")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(target)
    assert (target.read_text() == "before") if there_before else not target.exists()
    assert not leftovers(tmp_path)


def write_under_limit(target: Path) -> None:
    """In a process of its own: the system itself refuses to write more than 4 kB."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        write_bytes(target, b"x" * 100_000)
    except OSError as error:
        os._exit(17 if "too large" in str(error) and str(target) in str(error) else 18)
    os._exit(19)


def test_a_write_that_the_system_cuts_short(tmp_path: Path) -> None:
    target = tmp_path / "model.ckpt"
    write_bytes(target, b"before")
    process = multiprocessing.get_context("fork").Process(target=write_under_limit, args=(target,))
    process.start()
    process.join(60)
    assert process.exitcode == 17
    assert target.read_bytes() == b"before"
    assert not leftovers(tmp_path)


def test_other_errors_pass_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "file" / "inside", "x")
