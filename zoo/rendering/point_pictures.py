"""Pictures of point clouds and confusion matrices, drawn without a graphics library."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.rendering.report import Picture, ReportSection, Table

__all__ = ["class_colors", "confusion_section", "draw_cloud", "draw_confusion"]

_IGNORED = (0.75, 0.75, 0.75)


def class_colors(num_classes: int) -> Tensor:
    """Well separated colours ``(K + 1, 3)`` in [0, 1]; the last one, for label -1, is grey."""
    colors = []
    for number in range(num_classes):
        hue, ring = (number * 0.61803399) % 1.0, number % 3
        colors.append(colorsys.hsv_to_rgb(hue, (0.85, 0.6, 1.0)[ring], (0.85, 0.7, 0.55)[ring]))
    return torch.tensor([*colors, _IGNORED])


def draw_cloud(
    coord: Tensor,
    colors: Tensor | None = None,
    *,
    size: int = 200,
    azimuth: float = 30.0,
    elevation: float = 25.0,
    dot: int = 2,
) -> Tensor:
    """Points ``(N, 3)`` in parallel projection on white, nearer ones over farther ones: ``(size, size, 3)``.

    Args:
        coord: positions, z up.
        colors: ``(N, 3)`` in [0, 1]; None: shaded by depth.
        size: of the picture in pixels.
        azimuth: direction from which the cloud is seen, degrees.
        elevation: of the viewer; 90 looks straight down.
        dot: side of a point in pixels.
    """
    image = torch.ones(size, size, 3, dtype=torch.float32)
    if len(coord) == 0:
        return image
    a, e = math.radians(azimuth), math.radians(elevation)
    axes = [
        [-math.sin(a), math.cos(a), 0.0],  # to the right
        [-math.sin(e) * math.cos(a), -math.sin(e) * math.sin(a), math.cos(e)],  # up
        [math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)],  # towards the viewer
    ]
    right, up, towards = torch.tensor(axes, dtype=torch.float32)  # whatever the precision of the run
    centred = coord.float().cpu() - (coord.amin(dim=0) + coord.amax(dim=0)).float().cpu() / 2
    x, y, near = centred @ right, centred @ up, centred @ towards
    reach = torch.stack([x.abs().amax(), y.abs().amax()]).amax().clamp(min=1e-9)
    columns = ((x / reach * 0.47 + 0.5) * (size - dot)).long()
    rows = ((0.5 - y / reach * 0.47) * (size - dot)).long()
    if colors is None:
        shade = 0.75 * (1 - (near - near.amin()) / (near.amax() - near.amin()).clamp(min=1e-9))
        colors = shade[:, None].expand(-1, 3)
    order = torch.argsort(near, stable=True)
    rows, columns, colors = rows[order], columns[order], colors.float().cpu()[order]
    depth = torch.full((size * size,), -1, dtype=torch.int64)
    rank = torch.arange(len(order))
    for dy in range(dot):
        for dx in range(dot):
            depth.scatter_reduce_(0, (rows + dy) * size + columns + dx, rank, "amax")
    drawn = depth >= 0
    image.view(-1, 3)[drawn] = colors[depth[drawn]]
    return image


def draw_confusion(counts: Tensor, *, cell: int = 14) -> Tensor:
    """A confusion matrix ``(K, K)`` as a picture: a row of squares for each true class, dark for its larger shares."""
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    image = 1.0 - share.float()[:, :, None] * torch.tensor([0.85, 0.6, 0.2])
    image = image.repeat_interleave(cell, dim=0).repeat_interleave(cell, dim=1).clone()
    image[::cell], image[:, ::cell] = 0.8, 0.8
    return image


def confusion_section(counts: Tensor, class_names: Sequence[str], iou: Tensor, recall: Tensor) -> ReportSection:
    """The matrix as a picture, and for each class its figures and what it is mostly taken for."""
    rows = []
    for number, name in enumerate(class_names):
        total = int(counts[number].sum())
        others = counts[number].clone()
        others[number] = 0
        worst = int(others.argmax())
        taken = f"{class_names[worst]} ({int(others[worst]) / total:.1%})" if total and others[worst] > 0 else ""
        if total:
            rows.append((name, total, float(recall[number]), float(iou[number]), taken))
    columns = ("class", "number", "accuracy", "IoU", "mostly taken for")
    return ReportSection(
        "Classes",
        tables=[Table(columns, rows, "Classes that the test set has")],
        pictures=[Picture(draw_confusion(counts), "rows: true class, columns: predicted, in the order of the table")],
    )
