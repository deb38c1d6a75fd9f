"""Reading within a file's size; writing so that a reader never meets half of a file: temporary name, sync, rename."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["ClippedFile", "atomic_path", "cache_root", "write_bytes", "write_json", "write_text"]

_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is too large",
}


def cache_root() -> Path:
    """Where all that can be made or fetched again is kept.

    It is ``$ZOO_CACHE``, else ``$XDG_CACHE_HOME/voxelzoo``, else ``~/.cache/voxelzoo``.
    """
    named = os.environ.get("ZOO_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voxelzoo"


class ClippedFile(io.BufferedReader):
    """A file to read that is never asked for more bytes than it has left.

    Python makes room for all bytes that a reader asks for, and readers ask for what a damaged file claims.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(os.fspath(path)))
        self._end = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes, all that are left for a negative size or None."""
        rest = max(self._end - self.tell(), 0)
        return super().read(rest if size is None or size < 0 else min(size, rest))


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path in the same folder; when the block ends without an error it takes the place of ``path``.

    Whatever goes wrong, ``path`` is either what it was before or complete, and no temporary file is left behind.
    Folders on the way are made.

    Raises:
        OSError: The file cannot be written; a full disk is named as such, with the path.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "table.csv"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("a,b")
        >>> target.read_text()
        'a,b'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _set_default_mode(temporary)
        _sync(temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        kept = "the file that stood there is untouched" if target.exists() else "nothing was left there"
        raise OSError(
            error.errno,
            f"could not be written, {_FULL[error.errno]}; {kept}. Free some space and try again",
            str(target),
        ) from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Put ``content`` into the file ``path``, all or nothing."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Put ``content`` into the file ``path`` as UTF-8, all or nothing."""
    write_bytes(path, content.encode())


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Put ``content`` into the file ``path`` as indented JSON, all or nothing."""
    write_text(path, json.dumps(content, indent=2, allow_nan=True) + "\n")


def _set_default_mode(path: Path) -> None:
    """Temporary files are for the owner alone; a result gets the mode that an ordinary ``open`` would have given."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
