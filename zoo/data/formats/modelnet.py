"""ModelNet in both published layouts: resampled clouds as text with normals, and OFF meshes.

- resampled: ``<class>/<class>_NNNN.txt``, lines ``x,y,z,nx,ny,nz``; lists ``<set>_train.txt``, ``<set>_test.txt`` and
  ``<set>_shape_names.txt`` with ``<set>`` such as ``modelnet40``,
- meshes: ``<class>/<split>/<class>_NNNN.off``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError

__all__ = [
    "ShapeFile",
    "find_layout",
    "list_shapes",
    "read_class_names",
    "read_off",
    "read_resampled",
    "sample_surface",
    "write_lists",
    "write_resampled",
]

Layout = Literal["resampled", "off"]
Array = NDArray[np.float32]


@dataclass(frozen=True)
class ShapeFile:
    """One shape on disk: its name, file and the number of its class."""

    name: str
    path: Path
    category: int


def find_layout(root: Path, list_name: str) -> Layout:
    """Which of the layouts a folder holds.

    Raises:
        SampleError: neither.
    """
    if (root / f"{list_name}_train.txt").is_file():
        return "resampled"
    if next(root.glob("*/train/*.off"), None) is not None:
        return "off"
    what = "holds no ModelNet" if root.is_dir() else "no such folder"
    raise SampleError(
        root,
        f"{what}: expected {list_name}_train.txt and <class>/<class>_NNNN.txt, or <class>/train/<class>_NNNN.off; "
        "set data.source.root",
    )


def read_class_names(root: Path, list_name: str) -> tuple[str, ...]:
    """The classes of a folder in the order of their numbers.

    Raises:
        SampleError: neither layout, or an empty list.
    """
    if find_layout(root, list_name) == "off":
        return tuple(sorted(path.name for path in root.iterdir() if (path / "train").is_dir()))
    return tuple(_read_list(root / f"{list_name}_shape_names.txt"))


def list_shapes(root: Path, list_name: str, split: str, class_names: Sequence[str]) -> list[ShapeFile]:
    """The shapes of ``train`` or ``test``.

    Raises:
        SampleError: a missing list, a shape of a class that is not in ``class_names``, or no shape at all.
    """
    numbers = {name: number for number, name in enumerate(class_names)}
    shapes = []
    if find_layout(root, list_name) == "off":
        for name in class_names:
            folder = root / name / split
            if not folder.is_dir():
                raise SampleError(folder, f"no such folder, expected the {split} meshes of the class {name!r}")
            shapes += [ShapeFile(path.stem, path, numbers[name]) for path in sorted(folder.glob("*.off"))]
    else:
        index = root / f"{list_name}_{split}.txt"
        for name in _read_list(index):
            label = name.rpartition("_")[0]
            if label not in numbers:
                raise SampleError(index, f"{name} is of the class {label!r}, expected one of {', '.join(class_names)}")
            shapes.append(ShapeFile(name, root / label / f"{name}.txt", numbers[label]))
    if not shapes:
        raise SampleError(root, f"holds no {split} shape")
    return shapes


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise SampleError(path, "no such list")
    names = path.read_text().split()
    if not names:
        raise SampleError(path, "an empty list")
    return names


def read_resampled(path: Path | str) -> Array:
    """Points and normals ``(N, 6)`` of a resampled cloud.

    Raises:
        SampleError: missing, empty or damaged file, or values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(path, "no such point file")
    lines = path.read_text(errors="replace").splitlines()
    wrong = next((number for number, line in enumerate(lines, 1) if line.count(",") != 5), None)
    if wrong is not None:
        raise SampleError(
            path, f"line {wrong} is {lines[wrong - 1]!r}, expected x,y,z,nx,ny,nz; is the file cut short?"
        )
    if not lines:
        raise SampleError(path, "an empty file, expected lines x,y,z,nx,ny,nz")
    try:
        points = np.array(",".join(lines).split(","), dtype=np.float32).reshape(-1, 6)
    except ValueError as error:
        raise SampleError(path, f"not a table of numbers ({error})") from error
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise SampleError(path, f"{len(bad)} of {len(points)} lines hold a NaN or infinity, the first is {bad[0] + 1}")
    return points


def read_off(path: Path | str) -> tuple[Array, NDArray[np.int64]]:
    """Vertices ``(V, 3)`` and triangles ``(F, 3)`` of a mesh; larger faces are cut into fans.

    Some files of ModelNet glue the counts to the magic word (``OFF490 518 0``), which is accepted.

    Raises:
        SampleError: missing or damaged file, no face, an index without vertex, or values that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(path, "no such mesh file")
    text = path.read_text(errors="replace").lstrip()
    if not text.startswith("OFF"):
        raise SampleError(path, f"begins with {text[:12]!r}, expected OFF")
    words = "\n".join(line.partition("#")[0] for line in text[3:].splitlines()).split()
    try:
        num_vertices, num_faces = int(words[0]), int(words[1])
        end = 3 + 3 * num_vertices
        vertices = np.array(words[3:end], dtype=np.float32).reshape(num_vertices, 3)
        triangles = _triangles(np.array(words[end:], dtype=np.float64).astype(np.int64), num_faces)
    except (ValueError, IndexError) as error:
        raise SampleError(path, f"does not hold what its counts say ({error}); is it cut short?") from error
    if len(triangles) == 0:
        raise SampleError(path, "a mesh without faces")
    if triangles.min() < 0 or triangles.max() >= num_vertices:
        raise SampleError(path, f"a face names the vertex {triangles.max()}, expected 0 to {num_vertices - 1}")
    if not np.isfinite(vertices).all():
        raise SampleError(path, "holds a NaN or infinite vertex")
    return vertices, triangles


def _triangles(words: NDArray[np.int64], num_faces: int) -> NDArray[np.int64]:
    if len(words) == 4 * num_faces and (words[::4] == 3).all():
        return words.reshape(num_faces, 4)[:, 1:]
    fans, at = [], 0
    for _ in range(num_faces):
        count = int(words[at])
        corners = words[at + 1 : at + 1 + count]
        if len(corners) < count or count < 3:
            raise ValueError(f"face {len(fans)} has {len(corners)} of {count} corners")
        fans.append(np.stack([np.full(count - 2, corners[0]), corners[1:-1], corners[2:]], axis=1))
        at += 1 + count  # what follows in the line, a colour, is not ModelNet's
    return np.concatenate(fans) if fans else np.zeros((0, 3), dtype=np.int64)


def sample_surface(
    vertices: NDArray[np.floating], triangles: NDArray[np.integer], count: int, rng: np.random.Generator
) -> Array:
    """Points and face normals ``(count, 6)``, spread evenly over the area of a mesh.

    Raises:
        ValueError: the mesh has no area.
    """
    corners = vertices[triangles].astype(np.float64)  # (F, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    if not areas.sum() > 0:
        raise ValueError("triangles: found a mesh without area")
    chosen = rng.choice(len(areas), size=count, p=areas / areas.sum())
    u, v = rng.random((2, count, 1))
    root = np.sqrt(u)
    a, b, c = corners[chosen].swapaxes(0, 1)
    points = (1 - root) * a + root * (1 - v) * b + root * v * c
    return np.concatenate([points, normals[chosen] / areas[chosen, None]], axis=1).astype(np.float32)


def write_resampled(path: Path | str, points: NDArray[np.floating]) -> None:
    """Write points and normals ``(N, 6)`` with six decimals.

    Raises:
        ValueError: another shape.
    """
    if points.ndim != 2 or points.shape[1] != 6:
        raise ValueError(f"points: found shape {points.shape}, expected (N, 6): x, y, z and the normal")
    lines = ",".join(["%.6f"] * 6)
    Path(path).write_text("\n".join(lines % tuple(row) for row in points.tolist()) + "\n")


def write_lists(root: Path, list_name: str, class_names: Sequence[str], splits: dict[str, list[str]]) -> None:
    """Write the lists of the resampled layout."""
    (root / f"{list_name}_shape_names.txt").write_text("".join(f"{name}\n" for name in class_names))
    for split, names in splits.items():
        (root / f"{list_name}_{split}.txt").write_text("".join(f"{name}\n" for name in names))
