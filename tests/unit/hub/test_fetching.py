"""Weights arrive whole, with the right hash, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.unit.hub.site import Site, running_site
from zoo.hub import Card, Source, cached_file, fetch, weights_cache
from zoo.hub.drive import confirmed_url, drive_url
from zoo.hub.resuming import file_sha256
from zoo.hub.transport import _EncryptedRedirection, check_url, open_url

CONTENT = bytes(range(256)) * 400
HASH = hashlib.sha256(CONTENT).hexdigest()
ADDRESS = "files.test/weights/a.pth"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("ZOO_MIRROR", "ZOO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as site:
        site.files[ADDRESS] = CONTENT
        yield site


def card(sha256: str | None = HASH, *sources: Source, **more: Any) -> Card:
    places = sources or (Source("url", f"https://{ADDRESS}"),)
    facts = {"summary": "", "status": "available", "folder": Path(), "file": "a.pth", "model": "m", **more}
    return Card(name="toy-a.b", sources=places, sha256=sha256, **facts)


def kept(cache: Path) -> list[str]:
    return sorted(str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file())


def test_a_file_is_fetched_once(site: Site, cache: Path) -> None:
    assert cached_file(card()) is None
    shown: list[tuple[int, int | None]] = []
    path = fetch(card(), opener=site.open, progress=lambda done, total: shown.append((done, total)))
    assert path == cache / "toy-a.b" / "a.pth" == weights_cache() / "toy-a.b" / "a.pth"
    assert path.read_bytes() == CONTENT
    assert shown[-1] == (len(CONTENT), len(CONTENT))
    assert kept(cache) == ["toy-a.b/a.pth", "toy-a.b/a.pth.sha256"]
    assert path.with_name("a.pth.sha256").read_text() == f"{HASH}  a.pth\n"
    assert fetch(card(), opener=site.open) == path == cached_file(card())
    assert site.asked == [(ADDRESS, None)]


def test_a_broken_line_is_taken_up_where_it_broke(site: Site, cache: Path) -> None:
    site.cut = [1000, 50_000]
    assert fetch(card(), opener=site.open).read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [None, "bytes=1000-", "bytes=51000-"]
    assert kept(cache) == ["toy-a.b/a.pth", "toy-a.b/a.pth.sha256"]


def test_the_next_call_continues_and_the_same_content_only(site: Site, cache: Path) -> None:
    site.cut = [1000, 0]
    with pytest.raises(OSError, match=r"broke off after 1000 bytes .*the same command continues"):
        fetch(card(), opener=site.open)
    assert kept(cache) == ["toy-a.b/a.pth.part", "toy-a.b/a.pth.part.json"]
    site.asked.clear()
    assert fetch(card(), opener=site.open).read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == ["bytes=1000-"]


def test_content_that_changed_meanwhile_is_fetched_anew(site: Site) -> None:
    site.cut = [1000, 0]
    with pytest.raises(OSError, match="broke off"):
        fetch(card(), opener=site.open)
    site.files[ADDRESS] = CONTENT[::-1]
    assert fetch(card(None), opener=site.open).read_bytes() == CONTENT[::-1]


def test_a_download_that_was_complete_but_not_placed_is_placed(site: Site, cache: Path) -> None:
    site.tags = False
    part = cache / "toy-a.b" / "a.pth.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    Path(f"{part}.json").write_text(f'{{"url": "https://{ADDRESS}", "tag": ""}}')
    assert fetch(card(), opener=site.open).read_bytes() == CONTENT
    assert [asked for _, asked in site.asked] == [f"bytes={len(CONTENT)}-"]


@pytest.mark.parametrize("expected", ["0" * 64, "00000000"])
def test_a_wrong_hash_keeps_nothing(site: Site, cache: Path, expected: str) -> None:
    with pytest.raises(ValueError, match=f"found sha256 {HASH}, expected {expected}; nothing was kept"):
        fetch(card(expected), opener=site.open)
    assert kept(cache) == []


def test_known_digits_of_a_hash_are_enough(site: Site) -> None:
    assert fetch(card(HASH[:8]), opener=site.open).is_file()


def test_a_file_cut_short_at_the_source_is_refused(site: Site, cache: Path) -> None:
    site.files[ADDRESS] = CONTENT[:-1]
    with pytest.raises(ValueError, match=f"found {len(CONTENT) - 1} bytes, expected {len(CONTENT)}"):
        fetch(card(None, size=len(CONTENT)), opener=site.open)
    assert kept(cache) == []
    site.files[ADDRESS] = CONTENT
    site.cut = [0] * 9
    with pytest.raises(OSError, match=f"0 of {len(CONTENT)} bytes"):
        fetch(card(), opener=site.open)
    assert kept(cache) == []


def test_the_hash_of_the_first_download_is_remembered(site: Site, cache: Path) -> None:
    path = fetch(card(None), opener=site.open)
    path.unlink()
    site.files[ADDRESS] = CONTENT[1:]
    with pytest.raises(ValueError, match=f"expected {HASH}"):
        fetch(card(None), opener=site.open)
    assert not path.exists()
    site.files[ADDRESS] = CONTENT
    assert fetch(card(None), opener=site.open) == path


def test_a_cached_file_of_another_hash_is_named(site: Site) -> None:
    path = fetch(card(None), opener=site.open)
    with pytest.raises(ValueError, match=rf"{path}: found sha256 {HASH}, expected {'1' * 64}"):
        fetch(card("1" * 64), opener=site.open)


def test_two_at_once_fetch_once(site: Site) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(fetch(card(), opener=site.open))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3
    assert len(site.asked) == 1


@pytest.mark.parametrize("variable", ["ZOO_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(site: Site, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(OSError, match=r"network is switched off[^$]*put it as toy-a\.b/a\.pth into a folder"):
        fetch(card(), opener=site.open)
    assert site.asked == []
    fetch(card(), opener=site.open, offline=False)
    assert cached_file(card()) == fetch(card(), opener=site.open)


def test_a_mirror_is_asked_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.files["mirror.test/zoo/toy-a.b/a.pth"] = CONTENT
    monkeypatch.setenv("ZOO_MIRROR", "https://mirror.test/zoo/")
    fetch(card(), opener=site.open).unlink()
    assert [address for address, _ in site.asked] == ["mirror.test/zoo/toy-a.b/a.pth"]
    site.asked.clear()
    fetch(card(), opener=site.open, mirror="https://elsewhere.test")
    assert [address for address, _ in site.asked] == ["elsewhere.test/toy-a.b/a.pth", ADDRESS]


def test_a_folder_of_one_machine_is_the_mirror_of_another(site: Site, tmp_path: Path) -> None:
    fetch(card(), folder=tmp_path / "stick", opener=site.open)
    site.asked.clear()
    path = fetch(card(), mirror=str(tmp_path / "stick"), offline=True)
    assert path.read_bytes() == CONTENT
    assert file_sha256(path) == HASH
    assert site.asked == []


def test_a_file_address_is_continued_too(tmp_path: Path) -> None:
    file = tmp_path / "a file.pth"
    file.write_bytes(CONTENT)
    with open_url(file.as_uri(), {"Range": "bytes=100-"}) as response:
        assert response.status == 206
        assert response.read(1 << 20) == CONTENT[100:]
    with open_url(file.as_uri(), {"Range": "bytes=100-", "If-Range": '"other"'}) as response:
        assert response.status == 200


def test_every_failure_is_listed(site: Site) -> None:
    places = Source("url", "https://gone.test/a"), Source("url", "https://lost.test/a")
    with pytest.raises(OSError, match=r"gone\.test/a: the server answers 404[^$]*lost\.test/a: the server answers 404"):
        fetch(card(HASH, *places), opener=site.open)


@pytest.mark.parametrize("url", ["http://files.test/a", "ftp://files.test/a", "file://server/share/a", "/a", "data:,a"])
def test_other_schemes_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected https:// or file://"):
        open_url(url, {})
    if "://" in url:
        with pytest.raises(ValueError, match="expected https"):
            fetch(card(), mirror=url)


def test_a_redirection_may_not_leave_https() -> None:
    handler, request = _EncryptedRedirection(), open_request("https://files.test/a")
    for place in ("http://files.test/a", "file:///etc/passwd"):
        with pytest.raises(ValueError, match=r"expected https://"):
            handler.redirect_request(request, None, 302, "Found", {}, place)  # type: ignore[arg-type]
    assert handler.redirect_request(request, None, 302, "Found", {}, "https://b.test/a") is not None  # type: ignore[arg-type]
    check_url("https://b.test/a")


def open_request(url: str) -> Any:
    import urllib.request

    return urllib.request.Request(url)


FORM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="{action}" method="get"><input type="hidden" name="id" value="42">
<input type="hidden" name="export" value="download"><input type="hidden" name="confirm" value="t">
<input type="hidden" name="uuid" value="a-b"><input type="submit" value="Download anyway"></form></body></html>"""
ACTION = "https://drive.usercontent.google.com/download"
PAGE_ADDRESS = drive_url("42").removeprefix("https://")


def test_drive_wants_a_confirmation(site: Site) -> None:
    site.files[PAGE_ADDRESS] = FORM.format(action=ACTION).encode()
    confirmed = f"{ACTION.removeprefix('https://')}?id=42&export=download&confirm=t&uuid=a-b"
    site.files[confirmed] = CONTENT
    site.cut = [10_000, 1000]  # the page whole, then a broken line
    assert fetch(card(HASH, Source("drive", "42")), opener=site.open).read_bytes() == CONTENT
    assert [address for address, _ in site.asked] == [PAGE_ADDRESS, confirmed, confirmed]


def test_drive_s_confirmation_does_not_undo_what_was_fetched(site: Site) -> None:
    site.files[PAGE_ADDRESS] = FORM.format(action=ACTION).encode()
    site.files[f"{ACTION.removeprefix('https://')}?id=42&export=download&confirm=t&uuid=a-b"] = CONTENT
    site.cut = [10_000, 1000, 0]
    with pytest.raises(OSError, match="broke off after 1000"):
        fetch(card(HASH, Source("drive", "42")), opener=site.open)
    site.asked.clear()
    fetch(card(HASH, Source("drive", "42")), opener=site.open)
    assert [asked for _, asked in site.asked] == ["bytes=1000-"] * 2


def test_drive_s_other_pages_are_no_weights(site: Site, cache: Path) -> None:
    site.files[PAGE_ADDRESS] = b"<html><head><title>Google Drive - Quota exceeded</title></head></html>"
    with pytest.raises(OSError, match=r"serves a page instead of the file \(Google Drive - Quota exceeded\)"):
        fetch(card(None, Source("drive", "42")), opener=site.open)
    site.files[PAGE_ADDRESS] = FORM.format(action="https://evil.test/download").encode()
    with pytest.raises(OSError, match=r"leads to https://evil\.test"):
        fetch(card(None, Source("drive", "42")), opener=site.open)
    site.files[ADDRESS] = b"<!DOCTYPE html><title>Please log in</title>"
    with pytest.raises(OSError, match="serves a web page, expected a file"):
        fetch(card(None), opener=site.open)
    assert kept(cache) == []


def test_the_older_page_has_a_link() -> None:
    page = (
        '<html><a id="uc-download-link" href="/uc?export=download&amp;confirm=x1&amp;id=42">Download anyway</a></html>'
    )
    assert confirmed_url(page, "https://drive.google.com/uc?id=42") == (
        "https://drive.google.com/uc?export=download&confirm=x1&id=42"
    )


def test_the_hub_fetches_by_its_own_client(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def client(repository: str, name: str, *, local_dir: Path) -> str:
        asked.append((repository, name))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes(CONTENT)
        return str(local_dir / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", client)
    path = fetch(card(HASH, Source("hub", "someone/something", "a.pth")))
    assert path.read_bytes() == CONTENT
    assert asked == [("someone/something", "a.pth")]
    assert kept(cache) == ["toy-a.b/a.pth", "toy-a.b/a.pth.sha256"]
    path.unlink()
    with pytest.raises(ValueError, match="nothing was kept"):
        fetch(card("0" * 64, Source("hub", "someone/something", "a.pth")))
    assert kept(cache) == ["toy-a.b/a.pth.sha256"]

    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(OSError, match=r"huggingface\.co/someone/something/blob/main/a\.pth: no connection"):
        fetch(card(HASH, Source("hub", "someone/something", "a.pth")))


def test_what_nobody_has_is_said(tmp_path: Path) -> None:
    for status in ("withheld", "unpublished", "unusable"):
        with pytest.raises(ValueError, match=rf"toy-a\.b: {status}: .*Why\."):
            fetch(card(None, status=status, note="Why."))
    missing = card(HASH, Source("package", "a.pth"), folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="comes with the package; install it again"):
        fetch(missing)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.pth").write_bytes(CONTENT)
    assert fetch(missing) == tmp_path / "files" / "a.pth" == cached_file(missing)
    (tmp_path / "files" / "a.pth").write_bytes(CONTENT[1:])
    with pytest.raises(ValueError, match=f"expected {HASH}"):
        fetch(missing)


def test_a_cache_that_cannot_be_written_is_named(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match=r"cannot be written .*set ZOO_CACHE"):
        fetch(card(), opener=site.open)
