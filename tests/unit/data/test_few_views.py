"""Few views of a capture: which are chosen, which lie between them, and pictures without a lens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.samples import sample_data
from tests.unit.data.scenes import write_blender, write_ngp
from tests.unit.data.test_cameras import make_cameras
from zoo.data.cameras import Cameras, look_at
from zoo.data.few_views import lies_between, spread_views
from zoo.data.posed_images import PosedImages
from zoo.data.radiance_fields import RadianceFieldData
from zoo.data.undistortion import undistorted


def opened(root: Path, **options) -> RadianceFieldData:
    data = RadianceFieldData(root=root, **options)
    data.setup()
    return data


def test_views_are_spread_or_named() -> None:
    assert spread_views(50, 9) == [0, 6, 12, 18, 24, 31, 37, 43, 49]
    assert spread_views(5, [4, 1]) == [1, 4]
    for views, problem in ((1, "found 1, expected 2 to 5"), (6, "found 6"), ([2], "2 different"), ([1, 1], "different"),
                           ([0, 5], "0 to 4")):  # fmt: skip
        with pytest.raises(ValueError, match=problem):
            spread_views(5, views)


def test_a_view_lies_between_others_by_its_direction() -> None:
    places = torch.tensor([[1.0, 0, 1], [-1, 0, 1], [0, 1, 1], [0, 0.2, 3], [0, -1, 1], [2, 0, 0.5]]).double()
    poses = look_at(places, torch.zeros(3).double(), torch.tensor([0.3, 0.8, 0.1]).double())
    # at any distance; neither below the triangle nor beyond its corner
    assert lies_between(poses, [0, 1, 2]).tolist() == [True, True, True, True, False, False]


def test_few_views_of_a_capture(tmp_path: Path) -> None:
    ring = write_ngp(tmp_path / "ngp", 24)
    data = opened(ring, views=list(range(0, 24, 2)))
    assert data.train.names == tuple(f"images/{i:02d}.png" for i in range(0, 24, 2))
    assert data.val is data.train
    assert data.test.names == tuple(f"images/{i:02d}.png" for i in range(1, 24, 2))
    with pytest.raises(ValueError, match="views that have others between them"):
        opened(ring, views=[0, 8, 16])
    blender = write_blender(tmp_path / "blender")
    few, all_views = opened(blender, views=[0, 2]), opened(blender)
    assert len(few.train) == 2
    assert few.test.names == all_views.test.names
    with pytest.raises(ValueError, match="views: found 1, expected 2 to 24"):
        opened(ring, views=1)


def smooth_pictures(cameras: Cameras, channels: int) -> torch.Tensor:
    """What cameras see of a smooth sphere of colours at infinity, in [0, 1]."""
    directions = torch.stack([cameras.image_rays(i).directions for i in range(len(cameras))])
    values = 0.5 + 0.5 * torch.sin(5 * directions @ torch.eye(3, channels) + 1)
    return values.reshape(len(cameras), cameras.height, cameras.width, channels)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("model", ["opencv", "full_opencv", "fov", "skewed"])
def test_pictures_without_a_lens_show_what_a_pinhole_camera_sees(model: str, channels: int) -> None:
    cameras = make_cameras(model)
    taken = smooth_pictures(cameras, channels)
    taken[..., 3:] = 0.25 + 0.5 * taken[..., 3:]
    images = PosedImages((taken * 255).round().to(torch.uint8), cameras, ("a", "b", "c"))
    found = undistorted(images)
    assert found.cameras.model == "pinhole"
    assert float((found.cameras.intrinsics[:, 0] / cameras.intrinsics[:, 0]).min()) >= 1
    wanted = smooth_pictures(found.cameras, channels)
    wanted[..., 3:] = 0.25 + 0.5 * wanted[..., 3:]
    error = (found.images.float() / 255 - wanted).abs()
    assert float(error.max()) < 0.02
    assert float((images.images.float() / 255 - wanted).abs().max()) > 2 * float(error.max()), "the lens matters"


def test_pinhole_pictures_stay_and_a_fisheye_is_refused() -> None:
    cameras = make_cameras()
    images = PosedImages(torch.zeros(3, 48, 64, 3, dtype=torch.uint8), cameras, ("a", "b", "c"))
    assert undistorted(images) is images
    fisheye = PosedImages(images.images, make_cameras("opencv_fisheye"), images.names)
    with pytest.raises(ValueError, match="fisheye lens 'opencv_fisheye'"):
        undistorted(fisheye)


def test_nine_views_of_the_fox() -> None:
    data = opened(sample_data("fox"), downscale=8, views=9, undistort=True)
    assert (len(data.train), data.train.cameras.model) == (9, "pinhole")
    assert 20 <= len(data.test) < 41
    former = opened(sample_data("fox"), downscale=8, views=9)
    change = (data.train.images.float() - former.train.images.float()).abs().mean()
    assert 0 < float(change) < 25, "the lens moves pixels by little"
