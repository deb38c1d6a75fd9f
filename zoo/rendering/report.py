"""A report that is one HTML file: curves, pictures and tables inside it, nothing fetched from anywhere.

A task or callback that has something to show implements ``report_sections()``; see ``ReportsSections``.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from zoo.files import write_text
from zoo.rendering.chart import Chart, Series, chart_svg

__all__ = ["Chart", "Picture", "ReportSection", "ReportsSections", "Series", "Table", "write_report"]

_LARGE_PNG = 150_000  # bytes; above, a picture is stored as JPEG


@dataclass(frozen=True)
class Picture:
    """An image with its caption.

    Args:
        image: ``(H, W, 3)`` or ``(H, W)``, uint8 in 0..255 or floating in 0..1; array or tensor.
        caption: One line below it.
    """

    image: Any
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under column names; numbers are aligned right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass(frozen=True)
class ReportSection:
    """One part of a report: a heading, then text, charts, tables and pictures in this order."""

    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


@runtime_checkable
class ReportsSections(Protocol):
    """What a task or callback implements to show something of its own in the report, asked once after the test."""

    def report_sections(self) -> Sequence[ReportSection]:
        """The sections, in the order in which they are shown."""
        ...


def write_report(
    path: str | Path,
    *,
    title: str,
    sections: Sequence[ReportSection],
    details: Mapping[str, str] | None = None,
) -> None:
    """Write the report, all or nothing.

    Args:
        path: The HTML file.
        title: Heading and window title.
        sections: In order.
        details: Long texts by name (configuration, environment), folded away at the end.
    """
    body = [f"<h1>{escape(title)}</h1>", *(_section(section) for section in sections)]
    for name, text in (details or {}).items():
        body.append(f"<details><summary>{escape(name)}</summary><pre>{escape(text)}</pre></details>")
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    write_text(
        path, f"<!doctype html>\n<html lang='en'><head>{head}</head><body>\n{chr(10).join(body)}\n</body></html>\n"
    )


def encode_picture(image: Any) -> str:
    """The image as a ``data:`` address: PNG, or JPEG where the PNG is large.

    Raises:
        ValueError: The array is not an image.
    """
    picture = Image.fromarray(_as_uint8(image))
    png = io.BytesIO()
    picture.save(png, "PNG", optimize=True)
    kind, content = "png", png.getvalue()
    if len(content) > _LARGE_PNG:
        jpeg = io.BytesIO()
        picture.convert("RGB").save(jpeg, "JPEG", quality=90)
        kind, content = "jpeg", jpeg.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _as_uint8(image: Any) -> np.ndarray:
    array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"image: found shape {array.shape}, expected (H, W), (H, W, 3) or (H, W, 4)")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    scaled = np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0).clip(0, 1)
    return (scaled * 255 + 0.5).astype(np.uint8)


def _section(section: ReportSection) -> str:
    parts = [f"<section><h2>{escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>")
    if section.charts:
        parts.append(f'<div class="charts">{"".join(chart_svg(chart) for chart in section.charts)}</div>')
    parts += [_table(table) for table in section.tables]
    if section.pictures:
        parts.append(f'<div class="pictures">{"".join(_figure(picture) for picture in section.pictures)}</div>')
    return "".join([*parts, "</section>"])


def _figure(picture: Picture) -> str:
    caption = escape(picture.caption)
    image = f'<img src="{encode_picture(picture.image)}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(str(column))}</th>" for column in table.columns)
    rows = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in table.rows)
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if isinstance(value, bool | str) or value is None:
        return f"<td>{escape('' if value is None else str(value))}</td>"
    return f'<td class="number">{escape(_figures(value))}</td>'


def _figures(value: Any) -> str:
    """Integers with thousands apart, other numbers with five significant digits."""
    number = float(value)
    if not math.isfinite(number):
        return str(number)
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.5g}"


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2937;max-width:1000px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #e5e7eb;padding-bottom:.2rem}
table{border-collapse:collapse;margin:.8rem 0;font-size:14px}
th,td{padding:.2rem .8rem;border-bottom:1px solid #e5e7eb;text-align:left}
td.number{text-align:right;font-variant-numeric:tabular-nums}caption{text-align:left;color:#6b7280}
.charts{display:flex;flex-wrap:wrap;gap:.8rem}.chart{width:460px;max-width:100%}
.chart .title{font-size:13px;font-weight:600}.chart .tick{font-size:10.5px;fill:#6b7280}
.chart .grid{stroke:#e5e7eb;stroke-width:1}
.pictures{display:flex;flex-wrap:wrap;gap:.8rem}figure{margin:0;max-width:100%}figure img{max-width:100%;display:block}
figcaption{font-size:12.5px;color:#6b7280}details{margin-top:1rem}pre{background:#f9fafb;padding:.8rem;overflow-x:auto;font-size:12.5px}
"""
