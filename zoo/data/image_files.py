"""Reading photographs: decoding with checks, and area averaging."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from zoo.data.bad_samples import SampleError
from zoo.files import ClippedFile

_SMALL = 1 << 24  # pixels that any file may claim
_PIXELS_PER_BYTE = 4096  # an empty picture packs 1000 to 8000 pixels into a byte, a photograph less than 20


def read_image(path: Path | str, downscale: int = 1) -> np.ndarray:
    """A picture as uint8 ``(H, W, 3)``, or ``(H, W, 4)`` with straight alpha where the file has transparency.

    Args:
        path: PNG, JPEG or another format that Pillow reads.
        downscale: side of the blocks of pixels that are averaged (see `average_blocks`).

    Raises:
        SampleError: if the file is missing, truncated or no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(path, "no such image")
    try:
        with ClippedFile(path) as file, Image.open(file) as image:
            check_size(path, image, path.stat().st_size)
            if image.mode.startswith(("I", "F")):
                raise SampleError(
                    path, f"has the pixel format {image.mode}, expected 8 bits a channel; convert it first"
                )
            transparent = "A" in image.getbands() or "transparency" in image.info
            pixels = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    except SampleError:
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever they stumble over
        raise SampleError(path, f"not a readable image, or cut short ({error})") from error
    return average_blocks(pixels, downscale)


def image_size(path: Path | str) -> tuple[int, int]:
    """Width and height of a picture, read from its header.

    Raises:
        SampleError: if the file is missing or no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(path, "no such image")
    try:
        with ClippedFile(path) as file, Image.open(file) as image:
            check_size(path, image, path.stat().st_size)
            return image.size
    except SampleError:
        raise
    except Exception as error:  # as above
        raise SampleError(path, f"not a readable image ({error})") from error


def check_size(path: Path, image: Image.Image, size: int) -> None:
    """Refuse a picture whose header claims more pixels than ``size`` bytes can hold: Pillow makes them all at once.

    Raises:
        SampleError: it does; the message names ``path``.
    """
    width, height = image.size
    if width * height > max(_SMALL, _PIXELS_PER_BYTE * size):
        raise SampleError(path, f"claims {width} x {height} pixels in {size} bytes; is it what it says?")


def average_blocks(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Mean of each block of ``factor x factor`` pixels, rounded; colour is weighted by alpha where there is one.

    Rows and columns beyond the last whole block are cut.

    Args:
        pixels: ``(H, W, C)`` uint8, C = 3, or 4 with straight alpha.
        factor: at least 1.

    Returns:
        ``(H // factor, W // factor, C)`` uint8.
    """
    if factor == 1:
        return pixels
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: height * factor, : width * factor].astype(np.float32)
    blocks = blocks.reshape(height, factor, width, factor, -1)
    if blocks.shape[-1] == 3:
        mean = blocks.mean(axis=(1, 3))
    else:
        alpha = blocks[..., 3:]
        weight = alpha.sum(axis=(1, 3))
        colour = (blocks[..., :3] * alpha).sum(axis=(1, 3)) / np.maximum(weight, 1e-6)
        mean = np.concatenate((colour, weight / factor**2), axis=-1)
    return np.round(mean).clip(0, 255).astype(np.uint8)
