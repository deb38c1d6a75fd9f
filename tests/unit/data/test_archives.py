"""Archives from elsewhere stay in their folder, and NumPy's files give no more memory than they can fill."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from zoo.data.bad_samples import SampleError
from zoo.data.formats.archives import unpack_zip
from zoo.data.formats.numpy_files import read_npy, read_npz


def member(name: str, kind: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # Unix, whose modes tell links and devices from files
    info.external_attr = (kind | 0o777) << 16
    return info


def archive(path: Path, *members: zipfile.ZipInfo, content: bytes = b"/etc/passwd") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for info in members:
            file.writestr(info, content)
    return path


@pytest.mark.parametrize(
    "name", ["../a.txt", "in/../../a.txt", "/tmp/a.txt", "..\\a.txt", "\\a.txt", "C:/a.txt", "C:a.txt"]
)
def test_members_outside_of_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", member("good.txt"), member(name))
    with pytest.raises(SampleError, match=r"a\.zip: holds .*, which lies outside of its folder"):
        unpack_zip(path, tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(kind: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", member("good.txt", stat.S_IFREG), member("link", kind))
    with pytest.raises(SampleError, match="a link or a device"):
        unpack_zip(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_that_grows_beyond_measure_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "a.zip", member("zeros"), content=bytes(10_000_000))
    unpack_zip(path, tmp_path / "out")  # small enough not to matter
    monkeypatch.setattr("zoo.data.formats.archives._SMALL", 1_000_000)
    with pytest.raises(SampleError, match=r"bytes and claims to unpack to 10000000"):
        unpack_zip(path, tmp_path / "other")


def test_files_are_unpacked_and_damaged_archives_leave_nothing(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", member("in/good.txt", stat.S_IFREG), content=b"text" * 100)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "of an earlier try").touch()
    unpack_zip(path, tmp_path / "out")
    assert [found.name for found in (tmp_path / "out").rglob("*")] == ["in", "good.txt"]
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    with pytest.raises(SampleError, match="cannot be unpacked"):
        unpack_zip(path, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def claim(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)[:2]), np.array("text")])
def test_arrays_are_read_as_numpy_reads_them(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=array, b=np.zeros((0, 3)))
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy"), array)
    found = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["a"], array)
    assert found["b"].shape == (0, 3)
    assert list(read_npz(tmp_path / "a.npz", ["b"])) == ["b"]
    with pytest.raises(SampleError, match="has no array 'c'; found a, b"):
        read_npz(tmp_path / "a.npz", ["c"])


def test_a_claim_beyond_the_file_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(claim((10**12,), bytes(400)))
    with pytest.raises(SampleError, match=r"a\.npy: .*claims \(1000000000000,\).* the file has"):
        read_npy(tmp_path / "a.npy")
    archive(tmp_path / "a.npz", member("a.npy"), content=claim((10**12,), bytes(400)))
    with pytest.raises(SampleError, match=r"a\.npz: .*claims \(1000000000000,\)"):
        read_npz(tmp_path / "a.npz")


def test_a_directory_that_lies_about_the_size_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", member("a.npy"), content=claim((2**28,), bytes(400)))
    content = path.read_bytes()
    size = len(claim((2**28,), bytes(400))).to_bytes(4, "little")
    path.write_bytes(content.replace(size, (2**31).to_bytes(4, "little")))
    with pytest.raises(SampleError, match="claims"):
        read_npz(path)


def test_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(SampleError, match="a pickle, which is never read"):
        read_npy(tmp_path / "a.npy")
