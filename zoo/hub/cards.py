"""What a card says of a weight: what it is, where it is, what it measures and on whose terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["STATUSES", "Card", "Measured", "Source", "SourceKind", "is_card_name"]

Status = Literal["available", "converted", "withheld", "unpublished", "unusable"]
SourceKind = Literal["url", "hub", "drive", "package"]
STATUSES: dict[str, str] = {
    "available": "can be fetched",
    "converted": "can be fetched; converted from a file of upstream",
    "withheld": "exists, but upstream may not or does not give it away",
    "unpublished": "upstream published none",
    "unusable": "published, but no model of this package takes it",
}
_NAME = re.compile(r"[a-z0-9_]+-[a-z0-9_]+\.[a-z0-9_]+")
_SUFFIXES = ("ckpt", "pth", "pt", "pkl", "safetensors", "ply", "splat", "zip")
_UNKNOWN = "unknown, recorded at first download"


@dataclass(frozen=True)
class Source:
    """One place that has a weight's file.

    Args:
        kind: ``url``, ``hub`` (Hugging Face), ``drive`` (Google) or ``package`` (comes with this package).
        address: URL; ``owner/repository``; the file's id; or the name below ``files``.
        path: Within a repository of the Hub; elsewhere empty.
    """

    kind: SourceKind
    address: str
    path: str = ""

    def __str__(self) -> str:
        """An address that a person can open."""
        links = {
            "url": self.address,
            "hub": f"https://huggingface.co/{self.address}/blob/main/{self.path}",
            "drive": f"https://drive.google.com/file/d/{self.address}/view",
            "package": f"zoo/weights/files/{self.address}",
        }
        return links[self.kind]


@dataclass(frozen=True)
class Measured:
    """A figure that this project measured, and how far another measurement may lie from it."""

    value: float
    tolerance: float


@dataclass(frozen=True, kw_only=True)
class Card:
    """All about one weight.

    Attributes:
        name: ``system-variant.tag``.
        summary: One line.
        status: One of ``STATUSES``.
        folder: The folder whose ``cards`` it stands in.
        model: Configuration of the network (``list_models()``); empty where no network of the zoo takes the weight.
        experiment: The recipe that measures it, whose model it then is; empty: ``model`` as configured.
        overrides: Changes to the configuration: ``model.backbone.depths=[3,4,23,3]``.
        file: Name of the file.
        layout: Whose names the tensors have: ``zoo`` or see ``zoo.training.upstream_layouts``; ``archive``: to be
            unpacked by hand.
        sources: Where the file is; the first that answers is taken.
        sha256: 64 digits, or as many of the first as are known; None: recorded at the first download.
        size: Bytes; None: unknown.
        license: Of the weights.
        origin: Who made it, from what.
        class_names: What the outputs number; empty: nothing.
        paper: Figures that its authors state.
        measured: Figures of this project, by their names in ``metrics.json``.
        trained: How this project made it, where it did.
        note: What else one has to know.
        preferred: Taken by ``create_model(model, pretrained=True)`` where a model has several.
    """

    name: str
    summary: str
    status: Status
    folder: Path
    model: str = ""
    experiment: str = ""
    overrides: tuple[str, ...] = ()
    file: str = ""
    layout: str = ""
    sources: tuple[Source, ...] = ()
    sha256: str | None = None
    size: int | None = None
    license: str = ""
    origin: str = ""
    class_names: tuple[str, ...] = ()
    paper: Mapping[str, float] = field(default_factory=dict)
    measured: Mapping[str, Measured] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    preferred: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether ``create_model`` and ``weights=NAME`` take it."""
        return self.status in ("available", "converted") and self.layout != "archive" and bool(self.model)

    @property
    def packaged(self) -> Path | None:
        """The file, where it comes with the package."""
        names = [source.address for source in self.sources if source.kind == "package"]
        return self.folder / "files" / names[0] if names else None

    @property
    def config_overrides(self) -> list[str]:
        """What composes the configuration of its network."""
        return [f"experiment={self.experiment}" if self.experiment else f"model={self.model}", *self.overrides]

    @property
    def command(self) -> str:
        """The command that measures it again; empty where no experiment does."""
        if not self.experiment:
            return ""
        words = [*self.config_overrides, "train=false", f"weights={self.name}", "expect=true"]
        return " ".join(["python tools/train.py", *(word if _is_plain(word) else f"'{word}'" for word in words)])

    @property
    def hash_text(self) -> str:
        """The hash, or what is known of it."""
        if self.sha256 is None:
            return _UNKNOWN
        return self.sha256 if len(self.sha256) == 64 else f"begins with {self.sha256}"


def is_card_name(text: str) -> bool:
    """Whether a text has the form of a card's name, ``system-variant.tag``, and not that of a file's.

    Example:
        >>> is_card_name("dsvt-nuscenes.upstream"), is_card_name("my-model.ckpt")
        (True, False)
    """
    return _NAME.fullmatch(text) is not None and text.rpartition(".")[2] not in _SUFFIXES


def _is_plain(word: str) -> bool:
    return re.search(r"[^\w./=:@%+,-]", word) is None
