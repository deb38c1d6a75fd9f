"""Batches of point clouds with boxes."""

from __future__ import annotations

import pytest
import torch

from zoo.data.detection import DetectionBatch, Detections, DetectionSample, collate_detection


def make_sample(points: int, boxes: int, name: str, width: int = 7) -> DetectionSample:
    generator = torch.Generator().manual_seed(points * 10 + boxes)
    return DetectionSample(
        torch.rand(points, 4, generator=generator),
        torch.rand(boxes, width, generator=generator),
        torch.arange(boxes),
        name,
    )


def test_collate_keeps_empty_samples_in_their_place() -> None:
    samples = [make_sample(3, 2, "a"), make_sample(0, 0, "b"), make_sample(2, 1, "c")]
    batch = collate_detection(samples)
    assert batch.batch_size == 3
    assert batch.point_batch.tolist() == [0, 0, 0, 2, 2]
    assert batch.points.dtype == torch.float32
    assert batch.point_batch.dtype == torch.int64
    assert [len(boxes) for boxes in batch.boxes] == [2, 0, 1]
    for index, sample in enumerate(samples):
        found = batch.sample(index)
        assert torch.equal(found.points, sample.points)
        assert torch.equal(found.boxes, sample.boxes)
        assert torch.equal(found.labels, sample.labels)
        assert found.frame_id == sample.frame_id


def test_to_moves_every_tensor() -> None:
    moved = collate_detection([make_sample(3, 2, "a")]).to("meta")
    tensors = [moved.points, moved.point_batch, *moved.boxes, *moved.labels]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert isinstance(moved, DetectionBatch)
    assert moved.frame_ids == ["a"]
    found = Detections(torch.zeros(1, 7), torch.zeros(1), torch.zeros(1, dtype=torch.int64)).to("meta")
    assert {tensor.device.type for tensor in found} == {"meta"}


def test_boxes_with_velocities() -> None:
    assert collate_detection([make_sample(1, 2, "a", 9), make_sample(1, 0, "b", 9)]).boxes[0].shape == (2, 9)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "samples: found none"),
        ([make_sample(1, 1, "a", 7), make_sample(1, 1, "b", 9)], "boxes: found 7 in 'a', 9 in 'b' columns"),
        (
            [make_sample(1, 0, "a"), DetectionSample(torch.zeros(1, 5), frame_id="b")],
            "points: found 4 in 'a', 5 in 'b' columns",
        ),
    ],
)
def test_what_cannot_be_collated(samples: list[DetectionSample], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collate_detection(samples)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="points: sample 'x' has shape"):
        DetectionSample(torch.zeros(3), frame_id="x")
    with pytest.raises(ValueError, match=r"boxes: sample 'x' has shape \(1, 8\)"):
        DetectionSample(torch.zeros(3, 4), torch.zeros(1, 8), torch.zeros(1), "x")
    with pytest.raises(ValueError, match="labels: sample 'x'"):
        DetectionSample(torch.zeros(3, 4), torch.zeros(1, 7), torch.zeros(2), "x")
