"""Pictures of boxes: things are drawn where they are."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.data.kitti_sets import small_kitti
from zoo.data.bad_samples import SampleError
from zoo.data.boxes import box_corners
from zoo.data.kitti_detection import KittiSource
from zoo.rendering.detection_pictures import (
    FOUND,
    TRUTH,
    BoxSet,
    bev_picture,
    perspective_picture,
    photo_picture,
)

BOX = np.array([[20.0, 5.0, -1.0, 4.0, 2.0, 1.5, 0.0]])
RANGE = (0.0, -20.0, 40.0, 20.0)


def colored(picture: np.ndarray, color: tuple[int, int, int], tolerance: int = 25) -> np.ndarray:
    """Rows and columns of the pixels of a colour."""
    return np.argwhere((np.abs(picture.astype(int) - color) <= tolerance).all(axis=-1))


def test_from_above() -> None:
    picture = bev_picture(np.zeros((0, 3)), [BoxSet.truth(BOX)], view_range=RANGE, width=400)
    assert picture.shape == (400, 400, 3)
    rows, columns = colored(picture, TRUTH).T
    # 10 pixels a metre; y points up, so y = 4..6 are rows 140..160; the heading reaches 0.4 of a half length ahead
    assert abs(rows.min() - 140) <= 2
    assert abs(rows.max() - 160) <= 2
    assert abs(columns.min() - 180) <= 2
    assert abs(columns.max() - 228) <= 3


def test_points_from_above() -> None:
    picture = bev_picture(
        np.array([[10.0, -10.0, 5.0], [np.nan, 0, 0], [500.0, 0, 0]]), [], view_range=RANGE, width=400
    )
    blank = bev_picture(np.zeros((0, 3)), [], view_range=RANGE, width=400)
    changed = np.argwhere((picture != blank).any(axis=-1))
    np.testing.assert_allclose(changed.mean(axis=0), [300, 100], atol=1.5)


def test_in_perspective() -> None:
    near, far = BOX.copy(), BOX.copy()
    far[0, 0] = 60
    heights = []
    for box in (near, far):
        rows, columns = colored(perspective_picture(np.zeros((0, 3)), [BoxSet.found(box)]), FOUND).T
        heights.append(rows.max() - rows.min())
        assert columns.max() < 450  # y is positive: left of the middle
    assert heights[0] > 2 * heights[1]
    behind = BOX - np.array([[60.0, 0, 0, 0, 0, 0, 0]])
    assert not len(colored(perspective_picture(np.zeros((0, 3)), [BoxSet.found(behind)]), FOUND))


def test_over_the_photograph() -> None:
    frame = KittiSource(root=small_kitti()).open_split("train")[0]
    assert frame.view is not None
    box = frame.boxes[[int(frame.num_points.argmax())]]
    picture = photo_picture(frame.view, [BoxSet(box, (255, 0, 255))])
    assert picture.shape[:2] == frame.view.shape
    drawn = colored(picture, (255, 0, 255))
    pixels, _ = frame.view.calibration.lidar_to_image(box_corners(box)[0])
    inside = pixels.clip(0, np.array(frame.view.shape)[::-1] - 1)
    assert abs(drawn[:, 1].min() - inside[:, 0].min()) <= 3
    assert abs(drawn[:, 0].min() - inside[:, 1].min()) <= 3


def test_texts_are_drawn() -> None:
    plain = bev_picture(np.zeros((0, 3)), [BoxSet.truth(BOX)], view_range=RANGE)
    named = bev_picture(np.zeros((0, 3)), [BoxSet.truth(BOX, ["Car 0.9"])], view_range=RANGE)
    assert (plain != named).any()


def test_what_goes_wrong() -> None:
    with pytest.raises(ValueError, match="view_range"):
        bev_picture(np.zeros((0, 3)), [], view_range=(1, 0, 0, 1))
    frame = KittiSource(root=small_kitti()).open_split("train")[0]
    assert frame.view is not None
    with pytest.raises(SampleError, match="no such image"):
        photo_picture(type(frame.view)(frame.view.path / "x", frame.view.calibration, frame.view.shape), [])
