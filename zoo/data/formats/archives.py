"""ZIP archives from elsewhere: what reading one may raise, and unpacking that cannot leave its folder."""

from __future__ import annotations

import shutil
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from zoo.data.bad_samples import SampleError

__all__ = ["ZIP_ERRORS", "most_bytes", "unpack_zip"]

# what zipfile raises for damaged archives, and for those that are encrypted or packed in a way it does not know
ZIP_ERRORS = (
    *(OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, IndexError),
    *(struct.error, NotImplementedError, RuntimeError, OverflowError),
)
_LARGEST_RATIO = 1040  # deflate makes at most 1032 bytes of one
_USUAL_RATIO = 100
_SMALL = 1 << 30  # bytes


def most_bytes(member: zipfile.ZipInfo) -> int:
    """How many bytes a member can have, whatever the directory of its archive claims."""
    return min(member.file_size, _LARGEST_RATIO * (member.compress_size + 1))


def unpack_zip(path: Path, folder: Path) -> None:
    """Unpack an archive into a new folder, all or nothing.

    Raises:
        SampleError: It is damaged, a member would land outside of the folder or is a link or a device, or it grows
            more than anything of pictures and numbers does.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive.infolist())
            archive.extractall(folder)
    except SampleError:
        raise
    except ZIP_ERRORS as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SampleError(path, f"cannot be unpacked ({error}); download it again") from error


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        name = member.filename
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in name:
            raise SampleError(path, f"holds {name!r}, which lies outside of its folder")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise SampleError(path, f"holds {name!r}, which is a link or a device, expected files and folders only")
    total, packed = sum(member.file_size for member in members), path.stat().st_size
    if total > _SMALL and total > _USUAL_RATIO * packed:
        raise SampleError(path, f"has {packed} bytes and claims to unpack to {total}; is it what it says?")
