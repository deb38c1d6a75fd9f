"""Google Drive: large files are given only to those who confirm, by a form, that nobody searched them for viruses."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

__all__ = ["confirmed_url", "drive_url", "looks_like_page"]

_HOSTS = ("google.com", "googleusercontent.com")


def drive_url(file_id: str) -> str:
    """The address from which Drive serves a file, or the page before it.

    Example:
        >>> drive_url("abc")
        'https://drive.usercontent.google.com/download?id=abc&export=download'
    """
    return "https://drive.usercontent.google.com/download?" + urlencode({"id": file_id, "export": "download"})


def looks_like_page(start: bytes) -> bool:
    """Whether a download begins as a web page, not as weights do."""
    return start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))


def confirmed_url(page: str, url: str) -> str:
    """The address that the page's form, or its link, leads to.

    Args:
        page: HTML of the page that was served in place of the file.
        url: Its address.

    Raises:
        OSError: The page is not Drive's, or offers no download: too many people fetched the file today, or it is gone
            or private.
    """
    if not _is_google(url):
        raise OSError(f"{url}: serves a web page, expected a file; is somebody between you and the server?")
    parser = _ConfirmForm()
    parser.feed(page)
    target = parser.link
    if parser.action is not None:
        parts = urlsplit(parser.action)
        fields = [*parse_qsl(parts.query), *parser.fields.items()]
        target = parts._replace(query=urlencode(fields)).geturl()
    if target is None:
        raise OSError(
            f"{url}: Google Drive serves a page instead of the file ({_title(page)}): it is gone, private, or was "
            "fetched too often today; try later, or open the address in a browser and put the file into the cache"
        )
    found = urljoin(url, target)
    if urlsplit(found).scheme != "https" or not _is_google(found):
        raise OSError(f"{url}: the page leads to {found}, expected an https address of Google Drive")
    return found


def _is_google(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return any(host == name or host.endswith(f".{name}") for name in _HOSTS)


class _ConfirmForm(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.link: str | None = None
        self.fields: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and (given.get("id") == "download-form" or "download" in given.get("action", "")):
            self.action, self._inside = given.get("action", ""), True
        elif tag == "input" and self._inside and given.get("type") == "hidden" and "name" in given:
            self.fields[given["name"]] = given.get("value", "")
        elif tag == "a" and "confirm=" in given.get("href", ""):
            self.link = given["href"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


def _title(page: str) -> str:
    _, found, rest = page.partition("<title>")
    return rest.partition("</title>")[0].strip() if found else "without a title"
