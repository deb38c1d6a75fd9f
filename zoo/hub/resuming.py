"""Downloading one address into one file: what was fetched stays when the line breaks, and is continued."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from zoo.hub.drive import confirmed_url, looks_like_page
from zoo.hub.transport import Opener, Response

__all__ = ["Progress", "download", "file_sha256", "locked_part"]

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all where they are known
_CHUNK = 1 << 20
_ATTEMPTS = 4
_PAGE_LIMIT = 1 << 20


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked_part(path: Path) -> Iterator[IO[bytes]]:
    """Open a partial download for one process alone; others that want the same file wait here.

    The lock belongs to the open file and ends with it, so that none is left behind by a process that was killed.
    """
    while True:
        with path.open("ab+") as file:
            _lock(file)
            if _is_at(file, path):  # not one that another process finished or gave up meanwhile
                yield file
                return


def _lock(file: IO[bytes]) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system: two processes may fetch the same file twice
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def download(url: str, part: IO[bytes], *, opener: Opener, progress: Progress | None = None) -> None:
    """Fetch ``url`` into the open file ``part``, after what it already holds of the same address.

    A broken connection is taken up again a few times. Google Drive's page of confirmation is answered.

    Args:
        url: The address; beside ``part`` a file ``.json`` remembers it and the server's tag of the content.
        part: Opened for appending; its name ends in ``.part``.
        opener: Opens addresses.
        progress: Told how many bytes are there.

    Raises:
        OSError: The address does not answer or breaks off; what was fetched stays in ``part``.
    """
    state = Path(f"{part.name}.json")
    known = _read_state(state)
    if known.get("url") != url:
        part.truncate(0)
        known = {"url": url}
    place = url
    for attempt in range(_ATTEMPTS):
        before = part.seek(0, os.SEEK_END)
        try:
            following = _fetch_rest(place, part, known, state, opener, progress)
            if following is None:
                return
            place = following
        except urllib.error.HTTPError as error:
            if error.code != 416 or before == 0:
                raise OSError(f"{place}: the server answers {error.code} {error.reason}") from error
            if error.headers.get("Content-Range", "") == f"bytes */{before}":  # nothing follows: it is complete
                return
            part.truncate(0)
        except (OSError, http.client.HTTPException) as error:
            if attempt == _ATTEMPTS - 1 or part.seek(0, os.SEEK_END) == before:
                raise OSError(
                    f"{place}: broke off after {part.seek(0, os.SEEK_END)} bytes ({error or type(error).__name__}); "
                    "the same command continues there"
                ) from error
    raise OSError(f"{url}: no file after {_ATTEMPTS} attempts; the same command continues with what was fetched")


def _fetch_rest(
    url: str, part: IO[bytes], known: dict[str, str], state: Path, opener: Opener, progress: Progress | None
) -> str | None:
    """Append what is missing; returns another address where a page of confirmation names one."""
    start = part.seek(0, os.SEEK_END)
    headers = {"User-Agent": "voxelzoo", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if known.get("tag"):
            headers["If-Range"] = known["tag"]
    with opener(url, headers) as response:
        first = response.read(_CHUNK)
        if response.status != 206 and looks_like_page(first):
            page = first + b"".join(iter(lambda: response.read(_CHUNK), b""))
            return confirmed_url(page[:_PAGE_LIMIT].decode(errors="replace"), response.geturl())
        if start and (response.status != 206 or _range_start(response) != start):
            part.truncate(0)
            start = 0
        tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        known["tag"] = "" if tag.startswith("W/") else tag  # a weak tag does not promise the same bytes
        state.write_text(json.dumps(known))
        total = _total(response, start)
        done = start
        while first:
            part.write(first)
            done += len(first)
            if progress is not None:
                progress(done, total)
            first = response.read(_CHUNK)
        part.flush()
    if total is not None and done < total:
        raise ConnectionError(f"{done} of {total} bytes")
    return None


def _range_start(response: Response) -> int | None:
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _total(response: Response, start: int) -> int | None:
    length = response.headers.get("Content-Length")
    return None if length is None else start + int(length)


def _read_state(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}
