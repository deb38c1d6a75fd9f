"""From a card to a file on this machine: package, cache, mirror, then the places that the card names.

The cache is ``weights`` below ``$ZOO_CACHE`` (else the XDG cache folder), with one folder for each card: the file, and
its SHA-256 beside it. A mirror (``$ZOO_MIRROR``: ``https://``, ``file://`` or a folder) has the same folders, so that
what ``zoo download --all --to FOLDER`` writes is one.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import IO
from urllib.parse import quote

from zoo.files import cache_root, write_text
from zoo.hub.cards import STATUSES, Card, Source
from zoo.hub.drive import drive_url
from zoo.hub.resuming import Progress, download, file_sha256, locked_part
from zoo.hub.transport import Opener, check_url, open_url

__all__ = ["cached_file", "fetch", "is_offline", "weights_cache"]

log = logging.getLogger(__name__)

_OFFLINE = ("ZOO_OFFLINE", "HF_HUB_OFFLINE")


def weights_cache() -> Path:
    """The folder of fetched weights."""
    return cache_root() / "weights"


def is_offline() -> bool:
    """Whether ``ZOO_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    return any(os.environ.get(name, "").lower() not in ("", "0", "false", "no") for name in _OFFLINE)


def cached_file(card: Card, folder: Path | None = None) -> Path | None:
    """The file where it is on this machine already: in the package, or fetched and recorded; else None."""
    if card.packaged is not None and card.packaged.is_file():
        return card.packaged
    place = _place(card, folder)
    return place if place.is_file() and _recorded(place) is not None else None


def fetch(
    card: Card,
    *,
    folder: Path | None = None,
    mirror: str | None = None,
    offline: bool | None = None,
    opener: Opener = open_url,
    progress: Progress | None = None,
) -> Path:
    """The file of a weight, fetched unless it is here; complete and with the right hash, or not there at all.

    Args:
        card: What to fetch.
        folder: Where weights are kept; None: `weights_cache`.
        mirror: Asked before all others; None: ``$ZOO_MIRROR``.
        offline: Do not use the network; None: as the environment says (`is_offline`).
        opener: Opens addresses.
        progress: Told how many bytes are there.

    Raises:
        ValueError: There is no such file to be had, or it has another hash; the message says which.
        OSError: No place answers, or the network is needed and forbidden; the message lists what was tried.
    """
    if card.status not in ("available", "converted") or not card.sources:
        raise ValueError(f"{card.name}: {card.status}: {STATUSES[card.status]}. {card.note}".rstrip(". ") + ".")
    found = cached_file(card, folder)
    if found is not None:
        _check_record(card, found)
        return found
    place = _place(card, folder)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_name(f"{place.name}.part")
        with locked_part(part) as file:
            if place.is_file() and _recorded(place) is not None:  # another process was faster
                part.unlink()
                return place
            _fetch_anywhere(card, file, mirror, is_offline() if offline is None else offline, opener, progress, place)
            return _accept(card, part, place)
    except PermissionError as error:
        raise OSError(f"{place.parent}: cannot be written ({error}); set ZOO_CACHE to a folder of yours") from error


def _place(card: Card, folder: Path | None) -> Path:
    return (folder or weights_cache()) / card.name / card.file


def _record_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.sha256")


def _recorded(place: Path) -> str | None:
    """The hash that was recorded when the file came, or None."""
    try:
        return _record_of(place).read_text().split()[0]
    except (OSError, IndexError):
        return None


def _check_record(card: Card, path: Path) -> None:
    """A file of the package is hashed each time; one in the cache was, when it came."""
    found = file_sha256(path) if path == card.packaged else _recorded(path)
    if card.sha256 is not None and found is not None and not found.startswith(card.sha256):
        raise ValueError(
            f"{path}: found sha256 {found}, expected {card.sha256} for {card.name}; delete the file to fetch it anew"
        )


def _fetch_anywhere(
    card: Card,
    part: IO[bytes],
    mirror: str | None,
    offline: bool,
    opener: Opener,
    progress: Progress | None,
    place: Path,
) -> None:
    """Fill ``part`` from the first place that has the file."""
    failures = []
    if card.packaged is not None and not (mirror or os.environ.get("ZOO_MIRROR")):
        raise FileNotFoundError(f"{card.packaged}: missing, though it comes with the package; install it again")
    for address in _addresses(card, mirror or os.environ.get("ZOO_MIRROR")):
        if offline and not str(address).startswith("file://"):
            failures.append(f"{address}: the network is switched off ({' or '.join(_OFFLINE)})")
            continue
        log.info("%s: fetching %s", card.name, address)
        try:
            if isinstance(address, Source):
                _fetch_from_hub(address, part, place.parent)
            else:
                download(address, part, opener=opener, progress=progress)
            return
        except OSError as error:
            failures.append(str(error))
    if part.seek(0, os.SEEK_END) == 0:
        for name in (part.name, f"{part.name}.json"):
            Path(name).unlink(missing_ok=True)
    tried = "\n  ".join(failures)
    raise OSError(
        f"{card.name}: could not be fetched:\n  {tried}\n"
        f"With the file from elsewhere: put it as {card.name}/{card.file} into a folder and set ZOO_MIRROR to "
        "that folder"
    )


def _addresses(card: Card, mirror: str | None) -> list[str | Source]:
    addresses: list[str | Source] = []
    if mirror:
        base = mirror if "://" in mirror else Path(mirror).expanduser().resolve().as_uri()
        check_url(base)
        addresses.append(f"{base.rstrip('/')}/{quote(card.name)}/{quote(card.file)}")
    for source in card.sources:
        if source.kind == "url":
            addresses.append(source.address)
        elif source.kind == "drive":
            addresses.append(drive_url(source.address))
        elif source.kind == "hub":
            addresses.append(source)
    return addresses


def _fetch_from_hub(source: Source, part: IO[bytes], folder: Path) -> None:
    """By the Hub's own client, which continues, retries and knows ``HF_ENDPOINT`` and tokens."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    aside = folder / ".hub"
    try:
        path = hf_hub_download(source.address, source.path, local_dir=aside)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise OSError(f"{source}: {error}") from error
    part.truncate(0)
    with open(path, "rb") as fetched:
        shutil.copyfileobj(fetched, part)
    part.flush()
    shutil.rmtree(aside, ignore_errors=True)


def _accept(card: Card, part: Path, place: Path) -> Path:
    """Put a complete download in its place if it is what was promised; otherwise nothing is kept."""
    found, size = file_sha256(part), part.stat().st_size
    expected = card.sha256 or _recorded(place)
    wrong = None
    if expected is not None and not found.startswith(expected):
        wrong = f"found sha256 {found}, expected {expected}"
    elif card.size is not None and size != card.size:
        wrong = f"found {size} bytes, expected {card.size}"
    elif size == 0:
        wrong = "found an empty file"
    Path(f"{part}.json").unlink(missing_ok=True)
    if wrong is not None:
        part.unlink()
        raise ValueError(
            f"{card.name}: {wrong}; nothing was kept. The file at the source was changed, or somebody changed it on "
            f"the way; if upstream released it anew, {_record_of(place)} and the card say what was expected"
        )
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, place)
    write_text(_record_of(place), f"{found}  {place.name}\n")
    if card.sha256 is None:
        log.info("%s: sha256 %s, recorded: upstream publishes none to compare with", card.name, found)
    return place
