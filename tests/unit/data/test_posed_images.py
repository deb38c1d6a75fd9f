"""Batches of rays and area averages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.data.scenes import HEIGHT, WIDTH, picture, poses
from zoo.data.cameras import Cameras
from zoo.data.image_files import average_blocks
from zoo.data.posed_images import PosedImages, sample_rays, step_generator


def make_views(count: int = 3, channels: int = 3) -> PosedImages:
    images = torch.from_numpy(np.stack([picture(i, channels) for i in range(count)]))
    cameras = Cameras(poses(count).float(), torch.tensor([[11.0, 10.5, 6.1, 3.9]]).repeat(count, 1), WIDTH, HEIGHT)
    return PosedImages(images, cameras, tuple(f"view {i}" for i in range(count)))


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("scheme", ["all_images", "one_image"])
def test_a_batch_holds_the_colours_of_its_pixels(channels: int, scheme) -> None:
    views = make_views(channels=channels)
    batch = sample_rays(views, seed=1, step=2, num_rays=500, scheme=scheme)
    assert len(batch) == 500
    assert batch.rgba.dtype == torch.float32
    for i in range(0, 500, 50):
        column, row = batch.pixels[i].tolist()
        expected = views.images[batch.image_index[i], row, column].float() / 255
        assert torch.equal(batch.rgba[i, :channels], expected)
        assert channels == 4 or batch.rgba[i, 3] == 1
    rays = views.cameras.rays(batch.image_index, batch.pixels)
    assert torch.equal(rays.directions, batch.rays.directions)
    assert batch.pixels.amin() == 0
    assert batch.pixels.amax(0).tolist() == [WIDTH - 1, HEIGHT - 1]
    assert len(batch.image_index.unique()) == (3 if scheme == "all_images" else 1)
    assert torch.equal(views.rgba(1)[..., :channels], views.images[1].float() / 255)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    views = make_views()
    state = torch.get_rng_state()
    first = sample_rays(views, seed=3, step=7, num_rays=64)
    torch.rand(3)
    again = sample_rays(views, seed=3, step=7, num_rays=64)
    assert torch.equal(first.pixels, again.pixels)
    assert torch.equal(first.image_index, again.image_index)
    torch.set_rng_state(state)
    sample_rays(views, seed=3, step=7, num_rays=64)
    assert torch.equal(torch.get_rng_state(), state)
    for seed, step in ((3, 8), (4, 7), (2, 6)):
        assert not torch.equal(first.pixels, sample_rays(views, seed=seed, step=step, num_rays=64).pixels)


def test_pixels_are_drawn_evenly() -> None:
    views = make_views()
    batch = sample_rays(views, seed=0, step=0, num_rays=60_000)
    cell = (batch.image_index * HEIGHT + batch.pixels[:, 1]) * WIDTH + batch.pixels[:, 0]
    counts = torch.bincount(cell, minlength=3 * WIDTH * HEIGHT).double()
    mean = 60_000 / len(counts)
    assert float((counts - mean).abs().max()) < 6 * mean**0.5
    firsts = torch.stack([torch.rand(1, generator=step_generator(5, step)) for step in range(400)])
    assert abs(float(firsts.mean()) - 0.5) < 0.05


def test_empty_batches_and_bad_arguments() -> None:
    views = make_views()
    assert sample_rays(views, seed=0, step=0, num_rays=0).rgba.shape == (0, 4)
    with pytest.raises(ValueError, match="no picture"):
        sample_rays(views[0:0], seed=0, step=0, num_rays=4)
    with pytest.raises(ValueError, match="scheme"):
        sample_rays(views, seed=0, step=0, num_rays=4, scheme="some")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="names"):
        PosedImages(views.images, views.cameras, ("one",))
    with pytest.raises(ValueError, match="images"):
        PosedImages(views.images.float(), views.cameras, views.names)
    assert views[[2, 0]].names == ("view 2", "view 0")


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_averages_of_blocks(factor: int) -> None:
    pixels = picture(5, 4, width=11, height=7)
    pixels[:2, :2, 3] = 0
    small = average_blocks(pixels, factor)
    assert small.shape == (7 // factor, 11 // factor, 4)
    for row in range(small.shape[0]):
        for column in range(small.shape[1]):
            block = pixels[row * factor :, column * factor :][:factor, :factor].reshape(-1, 4).astype(np.float64)
            alpha = block[:, 3].sum()
            colour = (block[:, :3] * block[:, 3:]).sum(0) / alpha if alpha else np.zeros(3)
            expected = [*colour, alpha / factor**2]
            if factor > 1:
                assert np.abs(small[row, column] - expected).max() <= 0.501
    opaque = average_blocks(np.ascontiguousarray(pixels[..., :3]), factor)
    assert abs(float(opaque.mean()) - float(pixels[: 7 // factor * factor, : 11 // factor * factor, :3].mean())) < 0.5
