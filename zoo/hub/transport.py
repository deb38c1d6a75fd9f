"""Opening addresses: https and files, nothing else, not even after a redirection."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import unquote, urlsplit

__all__ = ["Opener", "Response", "check_url", "open_url"]

TIMEOUT = 30.0  # seconds without a byte


class Response(Protocol):
    """What an opened address offers."""

    @property
    def status(self) -> int:
        """200, or 206 for the rest of a file."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What the server says of the content."""
        ...

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none at the end."""
        ...

    def geturl(self) -> str:
        """The address after redirections."""
        ...


Opener = Callable[[str, Mapping[str, str]], AbstractContextManager[Response]]


def check_url(url: str, *, schemes: tuple[str, ...] = ("https", "file")) -> None:
    """Refuse addresses that are neither encrypted nor on this machine.

    Raises:
        ValueError: Another scheme, or a file on another host.

    Example:
        >>> check_url("https://example.org/a.pth")
        >>> check_url("http://example.org/a.pth")
        Traceback (most recent call last):
        ValueError: url: found 'http://example.org/a.pth', expected https:// or file://
    """
    parts = urlsplit(url)
    if parts.scheme not in schemes or (parts.scheme == "file" and parts.netloc not in ("", "localhost")):
        expected = " or ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"url: found {url!r}, expected {expected}")


def open_url(url: str, headers: Mapping[str, str]) -> AbstractContextManager[Response]:
    """Open ``https://`` or ``file://``; ``headers`` may ask for the rest of a file (``Range: bytes=N-``).

    Raises:
        ValueError: Another scheme, also after a redirection.
        OSError: The address does not answer, or there is no such file.
    """
    check_url(url)
    if urlsplit(url).scheme == "file":
        return _FileResponse(url, headers)
    return _encrypted().open(urllib.request.Request(url, headers=dict(headers)), timeout=TIMEOUT)


def _encrypted() -> urllib.request.OpenerDirector:
    """An opener for https alone; it remembers cookies, which Drive's confirmation needs."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPCookieProcessor(),
        _EncryptedRedirection(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        director.add_handler(handler)
    return director


class _EncryptedRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_url(newurl, schemes=("https",))
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _FileResponse:
    """A file on this machine that answers as a server would."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url, self.path = url, Path(unquote(urlsplit(url).path))
        self.file = self.path.open("rb")
        facts = os.fstat(self.file.fileno())
        size, tag = facts.st_size, f'"{facts.st_mtime_ns}-{facts.st_size}"'
        self.status, self.headers = 200, {"Content-Length": str(size), "ETag": tag}
        start = int(headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if 0 < start <= size and headers.get("If-Range", tag) == tag:
            self.file.seek(start)
            self.status = 206
            self.headers |= {
                "Content-Length": str(size - start),
                "Content-Range": f"bytes {start}-{size - 1}/{size}",
            }

    def read(self, size: int, /) -> bytes:
        return self.file.read(size)

    def geturl(self) -> str:
        return self.url

    def __enter__(self) -> _FileResponse:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
