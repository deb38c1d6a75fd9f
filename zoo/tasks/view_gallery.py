"""What a radiance-field run shows in its report: test pictures beside photographs, figures, added sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zoo.rendering.field_renderer import RenderedImage
from zoo.rendering.images import color_depth
from zoo.rendering.report import Picture, ReportSection, Table

__all__ = ["ViewGallery"]


class ViewGallery:
    """Collects measured views; ``sections`` turns them into parts of the report.

    Args:
        max_pictures: So many views are shown as pictures (the first ones); the table holds all.
    """

    def __init__(self, *, max_pictures: int = 6) -> None:
        if max_pictures < 0:
            raise ValueError(f"max_pictures: found {max_pictures}, expected 0 or more")
        self.max_pictures = max_pictures
        self._pictures: list[Picture] = []
        self._rows: list[tuple[str, dict[str, float]]] = []
        self._added: dict[str, ReportSection] = {}

    def clear(self) -> None:
        """Forget the views, not the added sections."""
        self._pictures.clear()
        self._rows.clear()

    def add(self, name: str, rendered: RenderedImage, truth: Tensor, figures: Mapping[str, float]) -> None:
        """Add a view: its name, rendering, photograph ``(H, W, 3)`` and measured figures."""
        if len(self._rows) < self.max_pictures:
            depth = color_depth(rendered.depth, rendered.opacity)
            row = torch.cat([truth.cpu(), rendered.rgb.cpu(), depth.cpu()], dim=1)
            first = next(iter(figures.items()), None)
            measured = "" if first is None else f", {first[0].split('/')[-1].upper()} {first[1]:.2f}"
            self._pictures.append(Picture(row, f"{name}: photograph, rendering, depth{measured}"))
        self._rows.append((name, dict(figures)))

    def add_section(self, section: ReportSection) -> None:
        """Add a section, or replace the one with the same title."""
        self._added[section.title] = section

    def sections(self) -> Sequence[ReportSection]:
        """The views, then the added sections in the order in which they came."""
        if not self._rows:
            return list(self._added.values())
        names = list(dict.fromkeys(name for _, figures in self._rows for name in figures))
        rows: list[Sequence[object]] = [(name, *(figures.get(key) for key in names)) for name, figures in self._rows]
        means = [sum(figures[key] for _, figures in self._rows) / len(self._rows) for key in names]
        table = Table(("view", *names), [*rows, ("mean", *means)])
        views = ReportSection("Test views", tables=[table], pictures=self._pictures)
        return [views, *self._added.values()]
