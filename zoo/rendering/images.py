"""Pictures and films on disk, false colours for depth, and sheets of pictures. Files are written all or nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from zoo.files import atomic_path

__all__ = ["color_depth", "error_map", "image_sheet", "to_uint8", "write_film", "write_gif", "write_mp4", "write_png"]

Picture = Tensor | np.ndarray

# dark violet to light yellow, even steps in lightness
_DEPTH_COLOURS = (
    (0.050, 0.030, 0.180),
    (0.270, 0.060, 0.430),
    (0.520, 0.130, 0.450),
    (0.770, 0.240, 0.360),
    (0.940, 0.430, 0.240),
    (0.990, 0.680, 0.250),
    (0.980, 0.950, 0.640),
)


def to_uint8(image: Picture) -> np.ndarray:
    """``(H, W, 3 or 4)`` as uint8; floats are clamped to [0, 1] and rounded, NaN becomes 0.

    Raises:
        ValueError: for another shape.
    """
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        raise ValueError(f"image: shape {tuple(image.shape)}, expected (H, W, 3 or 4)")
    array = image.detach().cpu().float().numpy() if isinstance(image, Tensor) and image.is_floating_point() else image
    array = array.detach().cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    if array.dtype == np.uint8:
        return array
    return np.round(np.nan_to_num(array, nan=0.0).clip(0, 1) * 255).astype(np.uint8)


def write_png(path: Path | str, image: Picture) -> None:
    """Write one picture; the extension may also be another that Pillow knows (``.jpg``, ``.webp``)."""
    kind = Path(path).suffix.lower().lstrip(".").replace("jpg", "jpeg") or "png"
    with atomic_path(path) as temporary:
        Image.fromarray(to_uint8(image)).save(temporary, format=kind, **({"quality": 92} if kind == "jpeg" else {}))


def write_gif(path: Path | str, frames: Iterable[Picture], *, fps: float = 24.0) -> None:
    """Write an endless GIF; the frames share a palette of 256 colours, made from frames all along the film.

    Raises:
        ValueError: without a frame.
    """
    pictures = [Image.fromarray(to_uint8(frame)[..., :3]) for frame in frames]
    if not pictures:
        raise ValueError("frames: none given, expected at least one")
    chosen = pictures[:: max(1, len(pictures) // 12)]
    strip = Image.new("RGB", (chosen[0].width, chosen[0].height * len(chosen)))
    for number, picture in enumerate(chosen):
        strip.paste(picture, (0, number * chosen[0].height))
    palette = strip.quantize(256, method=Image.Quantize.MEDIANCUT)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]
    with atomic_path(path) as temporary:
        indexed[0].save(
            temporary,
            format="gif",
            save_all=True,
            append_images=indexed[1:],
            duration=max(20, round(1000 / fps)),
            loop=0,
            optimize=True,
        )


def write_mp4(path: Path | str, frames: Iterable[Picture], *, fps: float = 24.0, quality: int = 7) -> None:
    """Write an H.264 film by imageio-ffmpeg; odd sizes get one more row or column, which the codec needs.

    Args:
        path: of the film.
        frames: ``(H, W, 3)`` each, taken one at a time.
        fps: frames for each second.
        quality: 0 to 10.

    Raises:
        ImportError: if imageio-ffmpeg is not installed.
        ValueError: without a frame.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ImportError("MP4 needs imageio-ffmpeg: pip install 'voxelzoo[viz]', or write a .gif") from error
    pictures: Iterator[np.ndarray] = (_even(to_uint8(frame)[..., :3]) for frame in frames)
    first = next(pictures, None)
    if first is None:
        raise ValueError("frames: none given, expected at least one")
    with atomic_path(path) as temporary:
        writer: Any = imageio_ffmpeg.write_frames(
            str(temporary),
            (first.shape[1], first.shape[0]),
            fps=fps,  # pyright: ignore[reportArgumentType]  # any number will do for ffmpeg
            quality=quality,
            macro_block_size=2,
            output_params=["-f", "mp4", "-movflags", "+faststart"],
            ffmpeg_log_level="error",
        )
        writer.send(None)
        try:
            for picture in chain([first], pictures):
                if picture.shape != first.shape:
                    raise ValueError(f"frames: sizes {picture.shape} and {first.shape} in one film")
                writer.send(np.ascontiguousarray(picture))
        finally:
            writer.close()


def write_film(path: Path | str, frames: Iterable[Picture], *, fps: float = 24.0) -> None:
    """Write a GIF or an MP4, as the extension says.

    Raises:
        ValueError: for another extension.
    """
    writers = {".gif": write_gif, ".mp4": write_mp4}
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise ValueError(f"path: {path}, expected .gif or .mp4")
    writers[suffix](path, frames, fps=fps)


def _even(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def color_depth(
    depth: Tensor, alpha: Tensor | None = None, *, near: float | None = None, far: float | None = None
) -> Tensor:
    """False colours of distances: near is light, far is dark, what has no opacity is white.

    Args:
        depth: ``(H, W)``.
        alpha: ``(H, W)`` opacity in [0, 1].
        near: distance of the lightest colour; None: the 1st percentile of the opaque pixels.
        far: distance of the darkest; None: the 99th.

    Returns:
        ``(H, W, 3)`` float32 in [0, 1].
    """
    depth = depth.detach().float().cpu()
    opacity = torch.ones_like(depth) if alpha is None else alpha.detach().float().cpu()
    seen = depth[(opacity > 0.5) & torch.isfinite(depth)]
    if len(seen) == 0:
        seen = torch.zeros(1)
    low = float(seen.quantile(0.01)) if near is None else near
    high = float(seen.quantile(0.99)) if far is None else far
    share = 1 - ((depth.nan_to_num(nan=high, posinf=high) - low) / max(high - low, 1e-9)).clamp(0, 1)
    colours = torch.tensor(_DEPTH_COLOURS)
    position = share * (len(colours) - 1)
    index = position.floor().long().clamp(max=len(colours) - 2)
    mixed = torch.lerp(colours[index], colours[index + 1], (position - index).unsqueeze(-1))
    return mixed * opacity.unsqueeze(-1) + (1 - opacity).unsqueeze(-1)


def error_map(prediction: Tensor, target: Tensor, *, scale: float = 4.0) -> Tensor:
    """Mean absolute difference of two pictures ``(H, W, 3)`` as grey ``(H, W, 3)``, ``scale`` times as bright."""
    error = (prediction.float() - target.float()).abs().mean(-1, keepdim=True)
    return (scale * error).clamp(0, 1).expand(-1, -1, 3)


def image_sheet(
    rows: Sequence[Sequence[Picture]],
    *,
    column_titles: Sequence[str] = (),
    padding: int = 4,
    background: tuple[int, int, int] = (255, 255, 255),
) -> np.ndarray:
    """Pictures of one size laid out in rows, with titles above the columns.

    Args:
        rows: pictures ``(H, W, 3)``, float in [0, 1] or uint8; rows may differ in length.
        column_titles: one for each column, or none.
        padding: pixels between pictures and around them.
        background: colour between them.

    Returns:
        ``(H', W', 3)`` uint8.

    Raises:
        ValueError: without a picture, or where sizes differ.
    """
    pictures = [[to_uint8(picture)[..., :3] for picture in row] for row in rows]
    shapes = {picture.shape for row in pictures for picture in row}
    if len(shapes) != 1:
        raise ValueError(f"rows: pictures of sizes {sorted(shapes)}, expected one size")
    height, width, _ = shapes.pop()
    columns = max(len(row) for row in pictures)
    top = 18 if column_titles else 0
    sheet = np.empty((top + padding + len(pictures) * (height + padding), padding + columns * (width + padding), 3))
    sheet = np.broadcast_to(np.array(background, dtype=np.uint8), sheet.shape).copy()
    for i, row in enumerate(pictures):
        for j, picture in enumerate(row):
            y, x = top + padding + i * (height + padding), padding + j * (width + padding)
            sheet[y : y + height, x : x + width] = picture
    if column_titles:
        canvas = Image.fromarray(sheet)
        draw, font = ImageDraw.Draw(canvas), ImageFont.load_default()
        for j, title in enumerate(column_titles):
            draw.text((padding + j * (width + padding), 4), title, fill=(60, 60, 60), font=font)
        sheet = np.asarray(canvas)
    return sheet
