"""Files of 3D Gaussians that other programs open: PLY with the names of the first implementation, and ``.splat``.

PLY: ``x y z [nx ny nz] f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3``, float32, opacity as logit, scales as
logarithms, rotations w, x, y, z as they are; ``f_rest`` holds all coefficients of red, then of green, then of blue.
``.splat``: 32 bytes a Gaussian: position and scales as float32, colour and opacity as four bytes, rotation as four.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.formats.ply_files import read_ply_vertices
from zoo.files import write_bytes

SH_C0 = 0.28209479177387814
_SPLAT = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])
_REQUIRED = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3)))


@dataclass
class GaussianParameters:
    """Gaussians as they are trained.

    Args:
        means: ``(N, 3)``.
        scales: Logarithms of the standard deviations ``(N, 3)``.
        quats: ``(N, 4)`` w, x, y, z, of any length.
        opacities: Logits ``(N,)``.
        sh0: Constant band ``(N, 1, 3)``.
        shN: Higher bands ``(N, K - 1, 3)``.

    Raises:
        ValueError: Shapes that do not fit together.
    """

    means: Tensor
    scales: Tensor
    quats: Tensor
    opacities: Tensor
    sh0: Tensor
    shN: Tensor  # noqa: N815 - the field's name

    def __post_init__(self) -> None:
        count = len(self.means)
        rest = self.shN.shape[1] if self.shN.dim() == 3 else -1
        wanted = {"means": (count, 3), "scales": (count, 3), "quats": (count, 4), "opacities": (count,)}
        for name, shape in (wanted | {"sh0": (count, 1, 3), "shN": (count, max(rest, 0), 3)}).items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"{name}: found shape {found}, expected {shape}")


def write_gaussian_ply(path: str | os.PathLike[str], gaussians: GaussianParameters, *, normals: bool = False) -> None:
    """Write Gaussians as binary PLY.

    Args:
        path: The file.
        gaussians: What to write.
        normals: Write ``nx ny nz`` (zeros), which some readers expect between position and colour.
    """
    count = len(gaussians.means)
    rest = gaussians.shN.transpose(1, 2).flatten(1)
    columns = {
        "xyz": gaussians.means,
        **({"n": torch.zeros_like(gaussians.means)} if normals else {}),
        "f_dc_": gaussians.sh0.reshape(count, 3),
        "f_rest_": rest,
        "opacity": gaussians.opacities[:, None],
        "scale_": gaussians.scales,
        "rot_": gaussians.quats,
    }
    names: list[str] = []
    for prefix, value in columns.items():
        if prefix == "xyz":
            names += ["x", "y", "z"]
        elif prefix == "n":
            names += ["nx", "ny", "nz"]
        else:
            names += [prefix] if prefix == "opacity" else [f"{prefix}{i}" for i in range(value.shape[1])]
    table = torch.cat([value.detach().cpu().float() for value in columns.values()], dim=1).numpy().astype("<f4")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in names] + ["end_header"]
    write_bytes(Path(path), ("\n".join(header) + "\n").encode() + table.tobytes())


def read_gaussian_ply(path: str | os.PathLike[str]) -> GaussianParameters:
    """Read Gaussians from a PLY file, by the names of its properties, in whatever order they stand.

    Raises:
        SampleError: The file is no PLY, is cut short, lacks a property or holds NaN; names the file and what is wrong.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    names = read_ply_vertices(path)
    count = len(next(iter(names.values()), ()))
    missing = [name for name in (*_REQUIRED, *(f"rot_{i}" for i in range(4))) if name not in names]
    if missing:
        raise SampleError(path, f"properties {', '.join(missing)} are missing; is it a PLY file of Gaussians?")

    def columns(*wanted: str) -> Tensor:
        if not wanted:
            return torch.zeros(count, 0)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is refused below
            columns = [np.asarray(names[name], dtype=np.float32) for name in wanted]
        return torch.from_numpy(np.stack(columns, axis=-1))

    num_rest = sum(name.startswith("f_rest_") for name in names)
    if num_rest % 3 or any(f"f_rest_{i}" not in names for i in range(num_rest)):
        raise SampleError(path, f"{num_rest} properties f_rest_*, expected numbers from 0 on, a multiple of 3")
    rest = columns(*(f"f_rest_{i}" for i in range(num_rest))).reshape(count, 3, num_rest // 3)
    gaussians = GaussianParameters(
        means=columns("x", "y", "z"),
        scales=columns("scale_0", "scale_1", "scale_2"),
        quats=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        opacities=columns("opacity")[:, 0],
        sh0=columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None],
        shN=rest.transpose(1, 2).contiguous(),
    )
    for name, value in vars(gaussians).items():
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise SampleError(path, f"{bad} numbers of {name} are NaN or infinite")
    return gaussians


def _morton_order(means: np.ndarray) -> np.ndarray:
    """The order of points along a Z-curve of 1024 cells a side: neighbours in space are neighbours in the file."""
    if len(means) == 0:
        return np.zeros(0, dtype=np.int64)
    low = means.min(axis=0)
    extent = np.maximum(means.max(axis=0) - low, np.finfo(np.float32).tiny)
    # The last point of an axis falls into cell 1024 and wraps to 0, as it does in gsplat's files.
    cells = np.floor((means - low) / extent * 1024).astype(np.int64) & 1023
    key = np.zeros(len(means), dtype=np.int64)
    for bit in range(10):
        for axis in range(3):
            key |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return np.argsort(key, kind="stable")


def write_splat(path: str | os.PathLike[str], gaussians: GaussianParameters) -> None:
    """Write Gaussians as ``.splat``, along a Z-curve; view-dependent colour and precision are lost."""
    means = gaussians.means.detach().cpu().float().numpy()
    order = torch.from_numpy(_morton_order(means))
    table = np.zeros(len(means), dtype=_SPLAT)
    table["position"] = means[order.numpy()]
    table["scale"] = gaussians.scales.detach().cpu().float()[order].exp().numpy()
    rgb = gaussians.sh0.detach().cpu().float()[order, 0] * SH_C0 + 0.5
    alpha = torch.sigmoid(gaussians.opacities.detach().cpu().float()[order])
    table["rgba"] = (torch.cat((rgb, alpha[:, None]), dim=1) * 255).clamp(0, 255).to(torch.uint8).numpy()
    quats = torch.nn.functional.normalize(gaussians.quats.detach().cpu().float()[order], dim=-1)
    table["rotation"] = (quats * 128 + 128).clamp(0, 255).to(torch.uint8).numpy()
    write_bytes(Path(path), table.tobytes())


def read_splat(path: str | os.PathLike[str]) -> GaussianParameters:
    """Read a ``.splat`` file, in the order of its rows.

    Raises:
        SampleError: The size is no multiple of 32 bytes, or numbers are NaN; names the file.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    raw = path.read_bytes()
    if len(raw) % _SPLAT.itemsize:
        raise SampleError(path, f"{len(raw)} bytes, expected a multiple of {_SPLAT.itemsize}; it may be cut short")
    table = np.frombuffer(raw, dtype=_SPLAT)
    position, scale = (torch.from_numpy(table[name].astype(np.float32)) for name in ("position", "scale"))
    if not bool(torch.isfinite(position).all() & torch.isfinite(scale).all()):
        raise SampleError(path, "positions or scales that are NaN or infinite; is it a .splat file?")
    rgba = torch.from_numpy(table["rgba"].astype(np.float32)) / 255
    quats = (torch.from_numpy(table["rotation"].astype(np.float32)) - 128) / 128
    return GaussianParameters(
        means=position,
        scales=scale.clamp_min(torch.finfo(torch.float32).tiny).log(),
        quats=quats,
        opacities=torch.logit(rgba[:, 3], eps=1 / 512),
        sh0=((rgba[:, :3] - 0.5) / SH_C0)[:, None],
        shN=torch.zeros(len(table), 0, 3),
    )
