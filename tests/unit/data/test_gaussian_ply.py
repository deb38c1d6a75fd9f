"""Files of Gaussians: what is written is read, and broken files are named."""

from __future__ import annotations

import pytest
import torch

from zoo.data.formats.gaussian_ply import (
    GaussianParameters,
    read_gaussian_ply,
    read_splat,
    write_gaussian_ply,
    write_splat,
)


def gaussians(count: int, rest: int = 15) -> GaussianParameters:
    g = torch.Generator().manual_seed(0)
    shapes = [(count, 3), (count, 3), (count, 4), (count,), (count, 1, 3), (count, rest, 3)]
    return GaussianParameters(*(torch.randn(*shape, generator=g) for shape in shapes))


@pytest.mark.parametrize("normals", [False, True])
@pytest.mark.parametrize(("count", "rest"), [(0, 15), (1, 0), (9, 8)])
def test_ply_round_trip(tmp_path, count, rest, normals):
    written = gaussians(count, rest)
    write_gaussian_ply(tmp_path / "a.ply", written, normals=normals)
    for name, value in vars(read_gaussian_ply(tmp_path / "a.ply")).items():
        assert torch.equal(value, getattr(written, name)), name


@pytest.mark.parametrize("count", [0, 1, 9])
def test_splat_keeps_positions_and_scales(tmp_path, count):
    written = gaussians(count)
    write_splat(tmp_path / "a.splat", written)
    read = read_splat(tmp_path / "a.splat")
    assert sorted(read.means.tolist()) == sorted(written.means.tolist())
    torch.testing.assert_close(read.scales.sum(), written.scales.sum(), rtol=1e-5, atol=1e-5)


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "a.ply"
    write_gaussian_ply(path, gaussians(4))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"a\.ply: its header claims"):
        read_gaussian_ply(path)
    path.write_bytes(whole.replace(b"rot_3", b"rat_3"))
    with pytest.raises(ValueError, match="properties rot_3 are missing"):
        read_gaussian_ply(path)
    path.write_bytes(whole[:-4] + b"\x00\x00\xc0\x7f")
    with pytest.raises(ValueError, match="1 numbers of quats are NaN"):
        read_gaussian_ply(path)
    (tmp_path / "a.splat").write_bytes(b"0" * 33)
    with pytest.raises(ValueError, match="33 bytes, expected a multiple of 32"):
        read_splat(tmp_path / "a.splat")


def test_shapes_must_fit():
    values = vars(gaussians(3))
    with pytest.raises(ValueError, match="quats: found shape"):
        GaussianParameters(**{**values, "quats": torch.zeros(3, 3)})
