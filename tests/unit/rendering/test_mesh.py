"""Marching cubes of a ball: size, orientation, colours, files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import trimesh
from torch import Tensor

from zoo.rendering.mesh import extract_mesh, write_mesh

BOX = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])


class Ball:
    """Density 20 at radius 0.5, more inside; colour from the view direction."""

    def density(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return 20 * torch.exp(-5 * (positions.norm(dim=-1) - 0.5)), positions

    def color(self, directions: Tensor, geometry: Tensor) -> Tensor:
        return (directions + 1) / 2


def test_a_ball_comes_back() -> None:
    mesh = extract_mesh(Ball(), BOX, resolution=32, threshold=20.0, chunk=500)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * 3.14159 * 0.125, rel=0.01)  # positive: normals point out
    top = mesh.visual.vertex_colors[mesh.vertices[:, 2].argmax()]
    assert int(top[2]) < 5  # seen from above, along -z


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".glb"])
def test_files(suffix: str, tmp_path: Path) -> None:
    mesh = extract_mesh(Ball(), BOX, resolution=12, threshold=20.0)
    path = write_mesh(mesh, tmp_path / f"ball{suffix}")
    read = trimesh.load(path, force="mesh")
    assert len(read.faces) == len(mesh.faces)
    assert [file.name for file in tmp_path.iterdir()] == [f"ball{suffix}"]


def test_bad_requests_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threshold: found 1e\\+06"):
        extract_mesh(Ball(), BOX, resolution=8, threshold=1e6)
    with pytest.raises(ValueError, match="resolution: found 1"):
        extract_mesh(Ball(), BOX, resolution=1)
    with pytest.raises(ValueError, match=r"suffix '\.stl'"):
        write_mesh(extract_mesh(Ball(), BOX, resolution=8, threshold=20.0), tmp_path / "ball.stl")
