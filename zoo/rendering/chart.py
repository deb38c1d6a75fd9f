"""Line charts as SVG text: small, sharp and without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Chart", "Series", "chart_svg"]

_COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4b5563")
_WIDTH, _HEIGHT = 460, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 28, 40
_MOST_POINTS = 600  # a line on paper this wide shows no more


@dataclass(frozen=True)
class Series:
    """One line of a chart; points that are not finite are left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Chart:
    """Lines over one pair of axes.

    Args:
        title: Stands above the chart.
        series: The lines; a series of one point is drawn as a dot.
        x_label: Of the horizontal axis, with its unit.
        y_label: Of the vertical axis, with its unit.
        log_y: Logarithmic vertical axis; it needs values above zero and is dropped where they are not.
    """

    title: str
    series: Sequence[Series]
    x_label: str = "step"
    y_label: str = ""
    log_y: bool = False


def chart_svg(chart: Chart) -> str:
    """The chart as one ``<svg>`` element."""
    lines = [_finite(series) for series in chart.series]
    xs = [x for points in lines for x, _ in points]
    ys = [y for points in lines for _, y in points]
    log = chart.log_y and bool(ys) and min(ys) > 0
    x_axis = _Axis.around(xs, _LEFT, _WIDTH - _RIGHT)
    y_axis = _Axis.around([math.log10(y) for y in ys] if log else ys, _HEIGHT - _BOTTOM, _TOP, margin=0.04)
    parts = [_frame(chart)]
    parts += _grid(x_axis, y_axis, log=log)
    for index, (series, points) in enumerate(zip(chart.series, lines, strict=True)):
        colour = _COLOURS[index % len(_COLOURS)]
        placed = [(x_axis.place(x), y_axis.place(math.log10(y) if log else y)) for x, y in _thin(points)]
        parts.append(_line(placed, colour))
        if len(chart.series) > 1:
            parts.append(_legend(series.name, colour, index))
    if not ys:
        parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle" class="tick">no values</text>')
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Axis:
    """Maps a range of values onto a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, margin: float = 0.0) -> _Axis:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        span = high - low or max(abs(high), 1.0) * 0.1
        extra = span * margin if high > low else span / 2
        return cls(low - extra, high + extra, start, end)

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers inside the range: 1, 2 or 5 times a power of ten apart."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def _finite(series: Series) -> list[tuple[float, float]]:
    pairs = zip(series.x, series.y, strict=True)
    return [(float(x), float(y)) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Every n-th point of a long line, and its last."""
    stride = -(-len(points) // _MOST_POINTS) or 1
    thinned = points[::stride]
    return thinned if not points or thinned[-1] == points[-1] else [*thinned, points[-1]]


def _frame(chart: Chart) -> str:
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    upright = (_TOP + _HEIGHT - _BOTTOM) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" class="chart" role="img">'
        f'<text x="{_LEFT}" y="16" class="title">{escape(chart.title)}</text>'
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle" class="tick">{escape(chart.x_label)}</text>'
        f'<text transform="translate(12 {upright}) rotate(-90)" text-anchor="middle" class="tick">'
        f"{escape(chart.y_label)}</text>"
    )


def _grid(x_axis: _Axis, y_axis: _Axis, *, log: bool) -> list[str]:
    parts = []
    for value in x_axis.ticks():
        x = x_axis.place(value)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" class="grid"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 14}" text-anchor="middle" class="tick">{_number(value)}</text>'
        )
    for value in y_axis.ticks():
        y = y_axis.place(value)
        shown = float(f"{10.0**value:.2g}") if log else value
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end" class="tick">{_number(shown)}</text>')
    return parts


def _line(points: list[tuple[float, float]], colour: str) -> str:
    if len(points) == 1:
        (x, y), *_ = points
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _legend(name: str, colour: str, index: int) -> str:
    y = _TOP + 12 + 14 * index
    x = _WIDTH - _RIGHT - 6
    return f'<text x="{x}" y="{y}" text-anchor="end" class="tick" style="fill:{colour}">{escape(name)}</text>'


def _number(value: float) -> str:
    if value != 0 and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.2g}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:.4g}"
