"""A web site on this machine that misbehaves as told, and an opener that reaches it under https addresses."""

from __future__ import annotations

import hashlib
import re
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class Site:
    """Files by ``host/path?query``; ``cut`` holds how many bytes each of the next answers may send."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.tags = True
        self.asked: list[tuple[str, str | None]] = []  # address and Range of each request
        self.port = 0

    def open(self, url: str, headers: Mapping[str, str]) -> Any:
        """What `zoo.hub.transport.open_url` would do with a real server; plain http on this machine."""
        parts = urlsplit(url)
        assert parts.scheme == "https", url
        query = f"?{parts.query}" if parts.query else ""
        here = f"http://127.0.0.1:{self.port}/{parts.netloc}{parts.path}{query}"
        response = urllib.request.urlopen(urllib.request.Request(here, headers=dict(headers)), timeout=20)
        response.geturl = lambda: url
        return response


@contextmanager
def running_site() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            site.asked.append((self.path[1:], asked))
            content = site.files.get(self.path[1:])
            if content is None:
                self.send_error(404)
                return
            tag = f'"{hashlib.sha256(content).hexdigest()[:8]}"' if site.tags else None
            start, status = 0, 200
            is_page = content.startswith(b"<!DOCTYPE html>")  # made anew for each visitor, as Drive's are
            match = None if is_page else re.fullmatch(r"bytes=(\d+)-", asked or "")
            if match and self.headers.get("If-Range", tag) == tag:
                start, status = int(match[1]), 206
            if status == 206 and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(content) - start))
            if tag:
                self.send_header("ETag", tag)
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            rest = content[start:]
            self.wfile.write(rest[: site.cut.pop(0)] if site.cut else rest)
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
