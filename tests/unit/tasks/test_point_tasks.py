"""Metrics, baselines and tasks of point clouds on tiny networks."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from zoo.data.point_fragments import PointFragments
from zoo.data.point_samples import PointBatch, PointSample, collate_points
from zoo.data.point_transforms import GridSample, sample_generator
from zoo.metrics.segmentation import ConfusionMatrix
from zoo.metrics.trivial_baselines import height_intensity_3nn, occupancy_3nn, occupancy_grid, vote
from zoo.models.e3dsnn import E3DSNNClassifier, E3DSNNSegmentor
from zoo.rendering.point_pictures import class_colors, draw_cloud, draw_confusion
from zoo.tasks.point_segmentation import PointSegmentationTask
from zoo.tasks.step_decay import step_decay
from zoo.tasks.voxel_classification import VoxelClassificationTask

SMALL = {"embed_channels": 4, "enc_channels": (4, 4, 4, 4), "enc_depths": (1, 1, 1, 1)}
SGD = functools.partial(torch.optim.SGD, lr=0.1)


def batch_of(*clouds: torch.Tensor) -> PointBatch:
    samples = [
        GridSample(grid_size=0.1)(
            PointSample(str(number), coord, segment=torch.zeros(len(coord), dtype=torch.int64), category=number % 2),
            sample_generator(0, number),
        )
        for number, coord in enumerate(clouds)
    ]
    return collate_points(samples, ["coord"])


def classifier(num_classes: int = 2) -> VoxelClassificationTask:
    torch.manual_seed(0)
    model = E3DSNNClassifier(in_channels=3, num_classes=num_classes, **SMALL)
    return VoxelClassificationTask(model=model, optimizer=SGD, num_classes=num_classes, label_smoothing=0.2)


def segmentor() -> PointSegmentationTask:
    torch.manual_seed(0)
    model = E3DSNNSegmentor(in_channels=3, num_classes=3, dec_channels=(4, 4, 4, 4), **SMALL)
    weights = [1.0, 2.0, 3.0]
    return PointSegmentationTask(
        model=model, optimizer=SGD, num_classes=3, class_weights=weights, lovasz_weight=1.0, log_every=10**6
    )


def test_confusion_matrix_against_plain_loops() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.integers(0, 4, 300), rng.integers(-1, 3, 300)  # class 3 occurs in predictions only
    metric = ConfusionMatrix(num_classes=5)
    for part in np.array_split(np.arange(300), 4):
        metric.update(torch.from_numpy(prediction[part]), torch.from_numpy(target[part]))
    kept = target >= 0
    prediction, target = prediction[kept], target[kept]
    ious, recalls = [], []
    for number in range(5):
        hit = ((prediction == number) & (target == number)).sum()
        union = ((prediction == number) | (target == number)).sum()
        ious.append(hit / (union + 1e-10))
        recalls.append(hit / max((target == number).sum(), 1))
    values = metric.compute()
    assert values["miou"] == pytest.approx(np.mean(ious))
    assert values["miou_present"] == pytest.approx(np.mean(ious[:3]))
    assert values["class_accuracy"] == pytest.approx(np.mean(recalls))
    assert values["accuracy"] == pytest.approx((prediction == target).mean())


def test_confusion_matrix_refuses_other_classes() -> None:
    metric = ConfusionMatrix(num_classes=2)
    with pytest.raises(ValueError, match="do classes and weights fit"):
        metric.update(torch.tensor([0]), torch.tensor([2]))
    with pytest.raises(ValueError, match="shapes"):
        metric.update(torch.tensor([0, 1]), torch.tensor([0]))


def test_votes_and_occupancy() -> None:
    assert vote(torch.tensor([[2, 1, 1], [2, 1, 0], [0, 0, 1]]), 3).tolist() == [1, 2, 0]
    assert occupancy_grid(torch.tensor([[0.0, 0, 0], [1, 0, 0]]), 4).nonzero()[:, 0].tolist() == [10, 58]
    line = torch.stack([torch.linspace(0, 1, 50), torch.zeros(50), torch.zeros(50)], dim=1)
    train = [line, line + 0.01, line[:, [1, 0, 2]], line[:, [1, 0, 2]]]
    labels = torch.tensor([0, 0, 1, 1])
    assert occupancy_3nn(train, labels, [line * 2, line[:, [1, 0, 2]] - 3], 2).tolist() == [0, 1]


def test_height_and_intensity_tell_ground_from_roof() -> None:
    def street(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(90) % 3 - 1
        values = torch.stack([labels.float(), torch.rand(90, generator=generator)], dim=1)
        return values + 0.01 * torch.randn(90, 2, generator=generator), labels

    predicted, target = height_intensity_3nn([street(0), street(1)], [street(2)], 2)
    assert len(target) == 60
    assert predicted.equal(target)


def test_steps_of_both_tasks_have_gradients() -> None:
    batch = batch_of(torch.rand(200, 3), torch.rand(150, 3))
    for task in (classifier(), segmentor()):
        task.log_every = 10**6
        loss = task.training_step(batch, 0)
        loss.backward()
        assert loss.isfinite()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in task.model.parameters())


@pytest.mark.parametrize(
    "coord", [torch.zeros(1, 3), torch.zeros(50, 3), torch.rand(50, 3) * 0.09], ids=["one", "same", "one voxel"]
)
def test_one_voxel_is_classified_and_segmented(coord: torch.Tensor) -> None:
    batch = batch_of(coord)
    assert len(batch.coord) == 1
    assert classifier().eval().predict_step(batch, 0).shape == (1, 2)
    assert segmentor().eval().predict(batch).shape == (1,)


def test_one_voxel_can_be_trained_on() -> None:
    task = classifier()
    task.log_every = 10**6
    loss = task.training_step(batch_of(torch.zeros(5, 3)), 0)
    loss.backward()
    assert loss.isfinite()
    assert all(values.isfinite().all() for values in task.state_dict().values())


def test_a_network_that_refuses_a_batch_names_the_clouds() -> None:
    class Refuses(torch.nn.Module):
        def forward(self, x: object) -> torch.Tensor:
            raise ValueError("too few")

    task = VoxelClassificationTask(model=Refuses(), optimizer=SGD, num_classes=2)
    with pytest.raises(ValueError, match=r"^0, 1: 2 voxels in all: too few"):
        task.training_step(batch_of(torch.zeros(5, 3), torch.zeros(2, 3)), 0)


def test_fragments_sum_scores_of_every_point() -> None:
    task = segmentor().eval()
    coord = torch.rand(300, 3)
    sample = PointSample("x", coord, segment=torch.zeros(300, dtype=torch.int64))
    pieces = PointFragments(grid_size=0.2, angles=[0.0], max_points=0)(sample, ["coord"])
    scores = torch.zeros(300, 3)
    for fragment, rows in zip(pieces.fragments, pieces.rows, strict=True):
        for row, values in zip(rows.tolist(), task.point_logits(fragment).softmax(dim=1), strict=True):
            scores[row] += values
    assert task.predict(pieces).equal(scores.argmax(dim=1))


def test_classes_of_weights_and_data_must_match() -> None:
    class Data:
        class_names = ("chair", "monitor")

    class Trainer:
        datamodule = Data()

    task = classifier()
    saved: dict = {}
    task._trainer = Trainer()  # pyright: ignore
    task.on_save_checkpoint(saved)
    assert saved == {"class_names": ["chair", "monitor"]}
    Data.class_names = ("monitor", "chair")
    with pytest.raises(ValueError, match="trained on the classes chair, monitor; the data has monitor, chair"):
        task.on_load_checkpoint(saved)
    Data.class_names = ("a", "b", "c")
    with pytest.raises(ValueError, match="the network has 2 classes, the data 3"):
        classifier_with(task).check_classes()


def classifier_with(other: VoxelClassificationTask) -> VoxelClassificationTask:
    task = classifier()
    task._trainer = other._trainer
    return task


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="class_weights: found 2, expected 3"):
        PointSegmentationTask(model=torch.nn.Identity(), optimizer=SGD, num_classes=3, class_weights=[1.0, 2.0])


def test_the_rate_falls_at_shares_of_the_run() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = step_decay(optimizer, total_steps=10), []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 2)
    with pytest.raises(ValueError, match="shares"):
        step_decay(optimizer, total_steps=10, shares=[2.0])


def test_pictures() -> None:
    assert len(torch.unique(class_colors(19), dim=0)) == 20
    picture = draw_cloud(torch.tensor([[0.0, 0, 0], [0, 0, 1]]), torch.tensor([[1.0, 0, 0], [0, 0, 1]]), size=40)
    red = (picture == torch.tensor([1.0, 0, 0])).all(-1).nonzero()
    blue = (picture == torch.tensor([0.0, 0, 1])).all(-1).nonzero()
    assert len(red) == len(blue) == 4
    assert blue[:, 0].max() < red[:, 0].min()  # up is up
    assert draw_cloud(torch.zeros(0, 3), size=8).min() == 1
    assert draw_confusion(torch.eye(3, dtype=torch.int64)).shape == (42, 42, 3)
