"""Pictures and films on disk, read back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.rendering.images import (
    color_depth,
    error_map,
    image_sheet,
    to_uint8,
    write_film,
    write_gif,
    write_mp4,
    write_png,
)


def frames(count: int, height: int = 15, width: int = 21) -> list[torch.Tensor]:
    ramp = torch.linspace(0, 1, width).expand(height, width)
    return [
        torch.stack((ramp, ramp.flip(1), torch.full_like(ramp, i / max(count - 1, 1))), dim=-1) for i in range(count)
    ]


def test_conversion() -> None:
    image = torch.tensor([[[-1.0, 0.5, 2.0], [float("nan"), 0.0, 1.0]]])
    assert to_uint8(image).tolist() == [[[0, 128, 255], [0, 0, 255]]]
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    assert np.array_equal(to_uint8(torch.from_numpy(pixels)), pixels)
    assert to_uint8(image.requires_grad_().bfloat16()).dtype == np.uint8
    with pytest.raises(ValueError, match="expected"):
        to_uint8(torch.zeros(3, 4))


@pytest.mark.parametrize("channels", [3, 4])
def test_png(tmp_path: Path, channels: int) -> None:
    image = torch.rand(5, 7, channels)
    write_png(tmp_path / "new" / "a.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), to_uint8(image))
    write_png(tmp_path / "a.jpg", image[..., :3])
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"


def test_gif(tmp_path: Path) -> None:
    write_film(tmp_path / "a.gif", frames(4), fps=10)
    film = Image.open(tmp_path / "a.gif")
    assert (film.n_frames, film.size, film.info["duration"]) == (4, (21, 15), 100)


def test_mp4(tmp_path: Path) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    write_film(tmp_path / "a.mp4", (frame for frame in frames(6)), fps=12)
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4"))
    meta = next(reader)
    pictures = [np.frombuffer(data, np.uint8).reshape(16, 22, 3) for data in reader]
    assert meta["size"] == (22, 16)  # the codec wants even sizes
    assert len(pictures) == 6
    assert np.abs(pictures[2][:15, :21].astype(int) - to_uint8(frames(6)[2])).mean() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_failures_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(ValueError, match="sizes"):
        write_mp4(tmp_path / "a.mp4", [*frames(2), *frames(1, 17, 21)])
    for write in (write_gif, write_mp4):
        with pytest.raises(ValueError, match="none given"):
            write(tmp_path / "a", [])
    with pytest.raises(ValueError, match=r"\.gif or \.mp4"):
        write_film(tmp_path / "a.avi", frames(1))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"voxelzoo\[viz\]"):
        write_mp4(tmp_path / "a.mp4", frames(1))
    assert list(tmp_path.iterdir()) == []


def test_depth_colours() -> None:
    depth = torch.linspace(1, 3, 50).repeat(10, 1)
    colours = color_depth(depth)
    lightness = colours.mean(-1)[0]
    assert (lightness[1:] <= lightness[:-1] + 1e-6).all()
    assert colours.min() >= 0
    assert colours.max() <= 1
    alpha = torch.ones(10, 50)
    alpha[:5] = 0
    assert (color_depth(depth, alpha)[:5] == 1).all()
    assert (color_depth(depth, torch.zeros(10, 50)) == 1).all()
    assert torch.isfinite(color_depth(torch.full((2, 2), torch.inf))).all()
    assert torch.equal(color_depth(depth, near=0, far=10)[0, 0], color_depth(depth[:, :1], near=0, far=10)[0, 0])


def test_sheets() -> None:
    sheet = image_sheet([frames(3), frames(2)], column_titles=("target", "render", "error"), padding=2)
    assert sheet.shape == (18 + 2 + 2 * 17, 2 + 3 * 23, 3)
    assert np.array_equal(sheet[20:35, 2:23], to_uint8(frames(3)[0]))
    assert (sheet[:18] < 100).any()
    assert (sheet[-10:, -20:] == 255).all()  # the second row is shorter
    with pytest.raises(ValueError, match="one size"):
        image_sheet([[*frames(1), *frames(1, 3, 3)]])
    assert torch.allclose(error_map(frames(1)[0], frames(1)[0] + 0.1), torch.tensor(0.4), atol=1e-5)
