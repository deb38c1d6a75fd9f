"""Families of everyday shapes with random proportions and variants, as a CAD collection has them.

Each family is a function of a `ShapeDraw`; the z axis points up, sizes are in arbitrary units. Variants overlap on
purpose (benches with and without back, stools with one foot or four legs), so that proportions alone tell little.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zoo.data.lidar_objects import ShapeDraw
from zoo.data.shape_meshes import Part, box, extrude, join, lathe, rod, rotation, tube

__all__ = ["FAMILIES", "make_shape"]


def _chance(draw: ShapeDraw, share: float) -> bool:
    return bool(draw.rng.random() < share)


def _disc(radius: float, height: float) -> Part:
    return lathe([(0, 0), (radius, 0), (radius, height), (0, height)])


def _legs(draw: ShapeDraw, width: float, depth: float, height: float) -> list[Part]:
    """Four round or square legs, straight or splayed, or three."""
    thick, splay = draw(0.03, 0.08), draw(0.0, 0.16)
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)] if _chance(draw, 0.8) else [(0, -1), (0.87, 0.5), (-0.87, 0.5)]
    x, y = width / 2 - thick, depth / 2 - thick
    if _chance(draw, 0.5):
        foot = 1 + splay
        return [rod((sx * x * foot, sy * y * foot, 0), (sx * x, sy * y, height), thick / 2) for sx, sy in corners]
    return [box(thick, thick, height).moved(sx * x, sy * y) for sx, sy in corners]


def _pedestal(draw: ShapeDraw, width: float, height: float) -> list[Part]:
    foot = width * draw(0.25, 0.45)
    base = _disc(foot, draw(0.02, 0.06)) if _chance(draw, 0.5) else box(foot * 1.7, foot * 1.7, draw(0.02, 0.06))
    return [base, rod((0, 0, 0), (0, 0, height), draw(0.03, 0.07))]


def _plate(draw: ShapeDraw, width: float, depth: float, thick: float, z: float) -> Part:
    """A round or rectangular plate."""
    if _chance(draw, 0.4) and abs(width - depth) < 0.25 * width:
        return _disc(width / 2, thick).moved(z=z)
    return box(width, depth, thick).moved(z=z)


def _back(draw: ShapeDraw, width: float, depth: float, seat: float, height: float) -> list[Part]:
    """A solid back, a frame with bars, or two rails."""
    thick, y = draw(0.02, 0.07), depth / 2 - 0.03
    lean = rotation(0, -draw(0.0, 14.0))
    kind = draw.rng.integers(3)
    if kind == 0:
        parts = [box(width, thick, height)]
    else:
        posts = [box(thick, thick, height).moved(side * (width / 2 - thick)) for side in (-1, 1)]
        count = int(draw(2, 6))
        if kind == 1:
            bars = [box(thick * 0.7, thick * 0.7, height).moved(x) for x in np.linspace(-0.4, 0.4, count) * width]
            parts = [*posts, *bars, box(width, thick, 0.08 * height).moved(z=0.92 * height)]
        else:
            rails = np.linspace(0.4, 0.9, max(2, count // 2)) * height
            parts = [*posts, *(box(width, thick, 0.12 * height).moved(z=z) for z in rails)]
    return [part.turned(lean).moved(y=y, z=seat) for part in parts]


def chair(draw: ShapeDraw) -> list[Part]:
    """Seat, back, legs or pedestal, sometimes arms."""
    width, depth, seat = draw(0.7, 1.1), draw(0.7, 1.0), draw(0.6, 1.0)
    parts = [_plate(draw, width, depth, draw(0.04, 0.16), seat)]
    parts += _legs(draw, width, depth, seat) if _chance(draw, 0.7) else _pedestal(draw, width, seat)
    parts += _back(draw, width, depth, seat, draw(0.5, 1.2))
    if _chance(draw, 0.4):
        rise = draw(0.2, 0.4)
        for side in (-1, 1):
            x = side * width / 2
            parts.append(box(0.07, depth * 0.9, 0.05).moved(x, z=seat + rise))
            parts.append(box(0.05, 0.05, rise).moved(x, -0.4 * depth, seat))
    return parts


def stool(draw: ShapeDraw) -> list[Part]:
    """A seat without back on legs or a pedestal, often with a ring."""
    width, height = draw(0.45, 0.9), draw(0.6, 1.5)
    parts = [_plate(draw, width, width * draw(0.9, 1.1), draw(0.05, 0.2), height)]
    if _chance(draw, 0.65):
        parts += _legs(draw, width, width, height)
    else:
        parts += _pedestal(draw, width * 1.3, height)
    if _chance(draw, 0.6):
        angle, radius = np.linspace(0, 2 * np.pi, 17), width * 0.42
        ring = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(17, height * 0.35)], axis=1)
        parts.append(tube(ring, 0.02))
    return parts


def table(draw: ShapeDraw) -> list[Part]:
    """A wide plate on legs, a pedestal or two side panels."""
    width, depth, height = draw(1.0, 2.2), draw(0.8, 1.3), draw(0.5, 1.0)
    parts = [_plate(draw, width, depth, draw(0.04, 0.12), height)]
    kind = draw.rng.integers(4)
    if kind == 0:
        return parts + _pedestal(draw, width, height)
    if kind == 1:
        panels = [box(0.06, depth * 0.9, height).moved(side * width * 0.45) for side in (-1, 1)]
        return [*parts, *panels, box(width * 0.9, 0.05, height * 0.3).moved(z=height * 0.6)]
    return parts + _legs(draw, width, depth, height)


def bench(draw: ShapeDraw) -> list[Part]:
    """A long seat on legs or panels, with or without a back."""
    width, depth, seat = draw(1.6, 2.8), draw(0.45, 0.8), draw(0.4, 0.75)
    boards = int(draw(1, 5))
    board = depth / boards
    places = (np.arange(boards) - (boards - 1) / 2) * board
    parts = [box(width, board * 0.85, draw(0.04, 0.12)).moved(y=y, z=seat) for y in places]
    if _chance(draw, 0.5):
        parts += [box(0.08, depth * 0.9, seat).moved(side * width * 0.4) for side in (-1, 1)]
    else:
        parts += _legs(draw, width, depth, seat)
    if _chance(draw, 0.6):
        parts += _back(draw, width, depth, seat, draw(0.3, 0.7))
    return parts


def sofa(draw: ShapeDraw) -> list[Part]:
    """A block with a thick back, arms and cushions."""
    width, depth, seat = draw(1.4, 2.6), draw(0.8, 1.1), draw(0.3, 0.5)
    back, arm, rise = draw(0.35, 0.7), draw(0.12, 0.3), draw(0.12, 0.35)
    parts = [box(width, depth, seat), box(width, draw(0.15, 0.3), back).moved(y=depth / 2 - 0.12, z=seat)]
    if _chance(draw, 0.85):
        parts += [box(arm, depth, seat + rise).moved(side * (width - arm) / 2) for side in (-1, 1)]
    count = int(draw(1, 4))
    cushion = (width - 2 * arm) / count
    for x in (np.arange(count) - (count - 1) / 2) * cushion:
        parts.append(box(cushion * 0.95, depth * 0.7, 0.12).moved(x, -0.1 * depth, seat))
    if _chance(draw, 0.4):
        parts = [part.moved(z=0.12) for part in parts] + _legs(draw, width * 0.95, depth * 0.95, 0.12)
    return parts


def bed(draw: ShapeDraw) -> list[Part]:
    """A mattress on a frame with a head board, sometimes a foot board and pillows."""
    width, length, height = draw(0.9, 1.8), draw(1.8, 2.2), draw(0.2, 0.45)
    parts = [box(width, length, height * 0.4).moved(z=height * 0.5), box(width * 0.96, length * 0.96, height * 0.5)]
    parts[1] = parts[1].moved(z=height * 0.9)
    parts.append(box(width, 0.08, height + draw(0.3, 0.8)).moved(y=length / 2))
    if _chance(draw, 0.5):
        parts.append(box(width, 0.06, height + draw(0.05, 0.35)).moved(y=-length / 2))
    parts += _legs(draw, width, length, height * 0.5)
    for x in (-0.25, 0.25) if width > 1.3 else (0.0,):
        parts.append(box(width * 0.4, 0.35, 0.12, 0.8).moved(x * width, length * 0.36, height * 1.4))
    return parts


def bookshelf(draw: ShapeDraw) -> list[Part]:
    """Two sides with shelves, with or without a back, sometimes divided."""
    width, depth, height, thick = draw(0.6, 1.6), draw(0.25, 0.5), draw(1.2, 2.2), draw(0.03, 0.07)
    parts = [box(thick, depth, height).moved(side * width / 2) for side in (-1, 1)]
    parts += [box(width, depth, thick).moved(z=z) for z in np.linspace(0, height, int(draw(3, 8)))]
    if _chance(draw, 0.6):
        parts.append(box(width, 0.02, height).moved(y=depth / 2))
    if _chance(draw, 0.35):
        parts.append(box(thick, depth, height).moved(draw(-0.2, 0.2) * width))
    return parts


def monitor(draw: ShapeDraw) -> list[Part]:
    """A thin panel, a neck and a foot, or an old deep case."""
    width, height, rise = draw(0.9, 1.6), draw(0.6, 1.0), draw(0.1, 0.4)
    parts = [box(width, draw(0.03, 0.1), height).moved(z=rise)]
    if _chance(draw, 0.25):
        case = box(width * 0.9, height * 0.9, draw(0.4, 0.8), 0.55).turned(rotation(0, -90.0))
        parts.append(case.moved(y=0.03, z=rise + height / 2))
    parts.append(box(draw(0.08, 0.25), 0.06, rise + height * 0.4).moved(y=0.05))
    foot = draw(0.3, 0.6)
    parts.append(_disc(foot / 2, 0.04) if _chance(draw, 0.5) else box(foot, foot * 0.7, 0.04))
    return [part.turned(rotation(0, draw(-8.0, 8.0))) for part in parts]


def bottle(draw: ShapeDraw) -> list[Part]:
    """A body that narrows to a neck, sometimes with a cap."""
    body, height, neck = draw(0.18, 0.4), draw(0.5, 0.9), draw(0.06, 0.12)
    shoulder, top = height + draw(0.05, 0.4), height + draw(0.45, 0.8)
    profile = [(0, 0), (body, 0), (body * draw(0.85, 1.1), height), (neck, shoulder), (neck, top), (0, top)]
    parts = [lathe(profile)]
    if _chance(draw, 0.5):
        parts.append(_disc(neck * 1.3, 0.1).moved(z=top - 0.05))
    return parts


def vase(draw: ShapeDraw) -> list[Part]:
    """A wavy open body of revolution."""
    height, count = draw(0.8, 1.6), 12
    z = np.linspace(0, 1, count)
    belly, place = draw(0.08, 0.3), draw(0.25, 0.75)
    radius = draw(0.12, 0.25) + belly * np.exp(-(((z - place) / draw(0.15, 0.35)) ** 2))
    radius += draw(0.0, 0.22) * np.maximum(0, z - 0.75) * 4 * 0.5
    inner = 0.9 * radius[::-1]
    profile = [(0, 0), *zip(radius, z * height, strict=True), *zip(inner, z[::-1] * height, strict=True)]
    return [lathe(profile)]


def cup(draw: ShapeDraw) -> list[Part]:
    """A low open vessel with a handle."""
    radius, height, taper = draw(0.3, 0.5), draw(0.5, 1.1), draw(0.65, 1.0)
    wall = 0.92
    outer, foot = radius, radius * taper
    profile = [(0, 0), (foot, 0), (outer, height), (outer * wall, height), (foot * wall, 0.06), (0, 0.06)]
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 9)
    reach, rise = draw(0.15, 0.35), height * draw(0.25, 0.38)
    side = (foot + outer) / 2 - 0.03
    handle = np.stack([side + reach * np.cos(angle), np.zeros(9), height * 0.5 + rise * np.sin(angle)], axis=1)
    return [lathe(profile), tube(handle, draw(0.03, 0.06))]


def lamp(draw: ShapeDraw) -> list[Part]:
    """A foot, a straight or bent pole and a shade."""
    height, shade, low = draw(0.8, 2.0), draw(0.3, 0.6), draw(0.2, 0.5)
    upper = low * draw(0.3, 0.9)
    if _chance(draw, 0.6):
        pole, tip, tilt = rod((0, 0, 0), (0, 0, height), draw(0.02, 0.06)), (0.0, height), 0.0
    else:
        reach, bend = draw(0.3, 0.8), draw(0.5, 0.8) * height
        path = [(0, 0, 0), (0, 0, bend * 0.5), (0, 0, bend), (reach / 2, 0, height), (reach, 0, height)]
        pole, tip, tilt = tube(path, draw(0.02, 0.04)), (reach, height), draw(0.0, 40.0)
    cone = lathe([(low, -shade / 2), (upper, shade / 2)]).turned(rotation(1, tilt)).moved(tip[0], z=tip[1])
    foot = draw(0.2, 0.4)
    base = _disc(foot, draw(0.03, 0.12)) if _chance(draw, 0.6) else box(foot * 1.6, foot * 1.6, 0.06)
    return [base, pole, cone]


def airplane(draw: ShapeDraw) -> list[Part]:
    """A fuselage with swept wings, tail, fin and sometimes engines."""
    length, radius, span = draw(1.8, 2.6), draw(0.1, 0.2), draw(0.8, 1.5)
    z = np.linspace(0, 1, 9)
    profile = np.stack([radius * np.sqrt(np.clip(1 - (2 * z - 1) ** 4, 0, 1)), z * length - length / 2], axis=1)
    parts = [lathe(profile, 14).turned(rotation(1, 90.0))]
    parts += _wings(draw(-0.1, 0.3), draw(0.3, 0.6), span, draw(0.0, 0.6), draw(0.0, 0.2))
    tail = -length / 2 + 0.2
    parts += _wings(tail + 0.1, 0.25, span * draw(0.25, 0.4), draw(0.0, 0.3), 0.0)
    fin = extrude([(0.15, 0), (-0.2, 0), (-0.25, 0.45), (-0.1, 0.45)][::-1], 0.03)
    parts.append(fin.turned(rotation(0, 90.0)).moved(tail, 0.015, radius * 0.5))
    if _chance(draw, 0.6):
        pod = lathe([(0.05, -0.15), (0.07, 0), (0.05, 0.15)], 10).turned(rotation(1, 90.0))
        parts += [pod.moved(0.05, side * span * 0.4, -0.09) for side in (-1, 1)]
    return parts


def _wings(x: float, chord: float, span: float, sweep: float, rise: float) -> list[Part]:
    """Both wings; the right one is the left one mirrored."""
    outline = [(x, 0.0), (x - chord, 0.0), (x - chord * 0.8 - sweep, span), (x - chord * 0.3 - sweep, span)]
    left = extrude(outline[::-1], 0.04).moved(z=-0.02)
    vertices = left.vertices + np.array([0.0, 0.0, 1.0]) * left.vertices[:, 1:2] * rise
    mirrored = vertices * [1, -1, 1]
    return [Part(vertices, left.triangles), Part(mirrored, left.triangles[:, ::-1])]


def guitar(draw: ShapeDraw) -> list[Part]:
    """A waisted flat body, a long neck and a head, upright."""
    size, waist, thick = draw(0.35, 0.5), draw(0.2, 0.45), draw(0.06, 0.2)
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    radius = size * (1 - waist * np.cos(2 * angle) * -0.5 - 0.12 * np.sin(angle))
    body = extrude(np.stack([radius * np.cos(angle) * 0.8, radius * np.sin(angle) * 1.25], axis=1), thick)
    length, width = draw(0.8, 1.2), draw(0.08, 0.13)
    neck = box(width, length, 0.05).moved(y=length / 2 + size * 0.6, z=thick)
    head = box(width * 1.8, 0.22, 0.05).moved(y=length + size * 0.6 + 0.1, z=thick)
    lean = rotation(0, 90.0 - draw(0.0, 25.0))
    return [part.turned(lean) for part in (body, neck, head)]


FAMILIES: dict[str, Callable[[ShapeDraw], list[Part]]] = {
    "airplane": airplane,
    "bed": bed,
    "bench": bench,
    "bookshelf": bookshelf,
    "bottle": bottle,
    "chair": chair,
    "cup": cup,
    "guitar": guitar,
    "lamp": lamp,
    "monitor": monitor,
    "sofa": sofa,
    "stool": stool,
    "table": table,
    "vase": vase,
}


def make_shape(name: str, draw: ShapeDraw) -> Part:
    """A mesh of the family ``name`` with the z axis up.

    Raises:
        ValueError: no such family.
    """
    if name not in FAMILIES:
        raise ValueError(f"name: found {name!r}, expected one of {', '.join(FAMILIES)}")
    return join(FAMILIES[name](draw))
