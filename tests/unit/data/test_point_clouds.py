"""Point clouds: transforms, batches, Mix3D, fragments, exact steps, and what happens to bad ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.data import point_transforms as transforms
from zoo.data.bad_samples import SampleError
from zoo.data.formats.frame_files import FrameFiles
from zoo.data.point_clouds import PointCloudData, PointSource
from zoo.data.point_fragments import PointFragments
from zoo.data.point_samples import PointSample, check_sample, collate_points


def cloud(count: int = 200, seed: int = 0, name: str = "cloud") -> PointSample:
    generator = torch.Generator().manual_seed(seed)
    coord = torch.rand(count, 3, generator=generator) * 4 - 2
    normal = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    return PointSample(name, coord, {"normal": normal}, torch.arange(count) % 3, category=1)


def applied(transform: transforms.PointTransform, sample: PointSample, draw: int = 0) -> PointSample:
    return transform(sample, transforms.sample_generator(0, draw))


def test_normalize_centres_and_scales() -> None:
    coord = applied(transforms.NormalizeCoord(), cloud()).coord
    assert coord.mean(dim=0).abs().max() < 1e-6
    assert coord.norm(dim=1).max() == pytest.approx(1.0)
    single = PointSample("one", torch.full((1, 3), 7.0))
    assert applied(transforms.NormalizeCoord(), single).coord.tolist() == [[0, 0, 0]]


def test_the_golden_normalisation_and_clip() -> None:
    from tests.parity.cases import find_cases

    for parameter in find_cases("e3dsnn"):
        case = parameter.values[0]
        if case is None or case.stem != "grid_sample":
            continue
        atol = case.meta["tolerance"]["coord_atol"]
        sample = PointSample("golden", case["input/coord"])
        found = applied(transforms.NormalizeCoord(), sample).coord
        assert (found - case["output/normalized_coord"]).abs().max() <= atol
        clip = transforms.PointClip(point_range=case.config["point_cloud_range"])
        clipped = applied(clip, sample)
        assert (clipped.coord - case["output/clipped_coord"]).abs().max() <= atol
        pieces = PointFragments(grid_size=case.config["grid_size"], angles=[0.0], max_points=0)(clipped, ["coord"])
        assert len(pieces.fragments) == case.config["n_parts"]
        for number, (fragment, rows) in enumerate(zip(pieces.fragments, pieces.rows, strict=True)):
            cells = case["output/grid_coord_all"][rows]
            assert torch.equal(fragment.grid_coord, cells)
            assert torch.equal(cells, case[f"output/part{number}.grid_coord"])
        return
    pytest.skip("no golden cases: ZOO_PARITY_DIR is not set")


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_rotation_turns_normals_too_and_keeps_the_axis(axis: transforms.Axis) -> None:
    sample = cloud()
    turned = applied(transforms.RandomRotate(axis=axis, low=90, high=90), sample)
    number = "xyz".index(axis)
    assert torch.allclose(turned.coord[:, number], sample.coord[:, number], atol=1e-6)
    assert torch.allclose(turned.coord.norm(dim=1), sample.coord.norm(dim=1), atol=1e-5)
    inner = (sample.coord * sample.features["normal"]).sum(1)
    assert torch.allclose((turned.coord * turned.features["normal"]).sum(1), inner, atol=1e-5)
    unit = torch.eye(3)[(number + 1) % 3]  # 90 degrees counter-clockwise take this axis to the one after it
    assert torch.allclose(transforms.rotation_about(axis, 90) @ unit, torch.eye(3)[(number + 2) % 3], atol=1e-6)


def test_random_transforms_stay_in_their_ranges_and_follow_the_generator() -> None:
    sample = cloud()
    scale = applied(transforms.RandomScale(low=0.5, high=0.6), sample).coord / sample.coord
    assert scale.min() >= 0.499
    assert scale.max() <= 0.601
    shift = applied(transforms.RandomShift(limit=[0.1, 0.0, 0.2]), sample).coord - sample.coord
    assert shift.abs().amax(dim=0)[1] == 0
    assert torch.allclose(shift, shift[:1].expand_as(shift), atol=1e-5)
    jitter = applied(transforms.RandomJitter(sigma=0.1, clip=0.05), sample).coord - sample.coord
    assert 0.0 < jitter.abs().max() <= 0.0501
    flips = {tuple(applied(transforms.RandomFlip(), sample, draw).coord[0].tolist()) for draw in range(40)}
    assert len(flips) == 4
    assert applied(transforms.RandomFlip(probability=0.0), sample).coord.equal(sample.coord)
    shuffled = applied(transforms.ShufflePoint(), sample)
    assert sorted(shuffled.coord[:, 0].tolist()) == sorted(sample.coord[:, 0].tolist())
    for transform in (transforms.RandomScale(), transforms.RandomRotate(), transforms.RandomJitter()):
        assert applied(transform, sample, 3).coord.equal(applied(transform, sample, 3).coord)
        assert not applied(transform, sample, 3).coord.equal(applied(transform, sample, 4).coord)


def test_grid_sample_keeps_one_point_of_each_cell_with_all_its_columns() -> None:
    sample = cloud(500)
    found = applied(transforms.GridSample(grid_size=1.0), sample)
    assert found.grid_coord is not None
    assert len(torch.unique(found.grid_coord, dim=0)) == len(found) < 500
    rows = [int((sample.coord == point).all(1).nonzero()) for point in found.coord]
    assert found.features["normal"].equal(sample.features["normal"][rows])
    assert found.segment is not None
    assert found.segment.tolist() == [row % 3 for row in rows]


def test_bad_arguments_of_transforms() -> None:
    for make, match in (
        (lambda: transforms.GridSample(grid_size=0.0), "grid_size"),
        (lambda: transforms.PointClip(point_range=[0, 0, 0, 0, 1, 1]), "point_range"),
        (lambda: transforms.RandomScale(low=2.0, high=1.0), "low, high"),
        (lambda: transforms.RandomFlip(probability=2.0), "probability"),
        (lambda: transforms.RandomRotate(axis="w"), "axis"),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(ValueError, match=match):
            make()


def gridded(seed: int, name: str) -> PointSample:
    return applied(transforms.GridSample(grid_size=1.0), cloud(60, seed, name), seed)


def test_batches_become_sparse_tensors_in_the_order_of_their_points() -> None:
    batch = collate_points([gridded(0, "a"), gridded(1, "b")], ["coord", "normal"])
    voxels = batch.sparse()
    assert (voxels.batch_size, voxels.num_channels) == (2, 6)
    assert voxels.to_caller_order().equal(batch.features)
    assert batch.category is not None
    assert batch.category.tolist() == [1, 1]
    with pytest.raises(ValueError, match="feature_names: found 'strength'"):
        collate_points([gridded(0, "a")], ["strength"])
    with pytest.raises(ValueError, match="cloud has no cells"):
        collate_points([cloud()], ["coord"])


def test_mix3d_joins_pairs_and_keeps_the_first_point_of_a_cell() -> None:
    samples = [gridded(seed, str(seed)) for seed in range(5)]
    batch = collate_points(samples, ["coord"], mix=True)
    assert batch.names == ["0 + 1", "2 + 3", "4"]
    rows = torch.cat([batch.point_batch[:, None], batch.grid_coord], dim=1)
    assert len(torch.unique(rows, dim=0)) == len(rows)
    both = [{tuple(cell) for cell in sample.grid_coord.tolist()} for sample in samples[:2]]  # pyright: ignore
    assert int((batch.point_batch == 0).sum()) == len(both[0] | both[1])
    assert batch.coord[: len(samples[0])].equal(samples[0].coord)
    assert batch.segment is not None
    assert len(batch.segment) == len(batch.coord)


def test_fragments_cover_every_point_in_every_turn() -> None:
    sample = cloud(400)
    pieces = PointFragments(grid_size=1.0, angles=[0.0, 90.0], max_points=150)(sample, ["coord"])
    counts = torch.bincount(torch.cat(pieces.rows), minlength=400)
    assert int(counts.min()) >= 2
    for fragment, rows in zip(pieces.fragments, pieces.rows, strict=True):
        assert len(fragment.coord) == len(rows)
        assert fragment.sparse().to_caller_order().shape == (len(rows), 3)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"coord": torch.zeros(0, 3), "features": {}, "segment": None}, "an empty cloud"),
        ({"coord": torch.full((2, 3), torch.nan), "features": {}, "segment": None}, "NaN or infinite, first 0"),
        ({"coord": torch.full((2, 3), torch.inf), "features": {}, "segment": None}, "NaN or infinite"),
        ({"segment": torch.zeros(3, dtype=torch.int64)}, "3 labels, expected 2"),
        ({"features": {"normal": torch.zeros(3, 3)}}, "normal has shape"),
    ],
)
def test_unusable_clouds_are_refused_with_their_path(change: dict, match: str) -> None:
    good = {"name": "x", "coord": torch.zeros(2, 3), "features": {}, "segment": None}
    with pytest.raises(SampleError, match=f"^file.bin: .*{match}"):
        check_sample(PointSample(**(good | change)), "file.bin")


class Clouds(FrameFiles[PointSample]):
    bad: tuple[int, ...] = ()

    def __len__(self) -> int:
        return 10

    def read(self, number: int) -> PointSample:
        sample = cloud(50, number, f"cloud {number}")
        if number in self.bad:
            sample = PointSample(sample.name, torch.full((5, 3), torch.nan))
        return check_sample(sample, f"{number}.bin")


class Source(PointSource):
    root, class_names, splits = Path("nowhere"), ("a", "b", "c"), {"train": "all", "val": "all", "test": "all"}

    def open_split(self, name, on_bad_sample="error"):
        return Clouds(on_bad_sample)

    def ensure(self) -> None:
        pass


def data(**changes) -> PointCloudData:
    grid = {"grid": transforms.GridSample(grid_size=1.0)}
    train = {"scale": transforms.RandomScale(), "left out": None, **grid}
    options = {"batch_size": 3, "eval_batch_size": 4, "max_steps": 8, "mix_probability": 0.5, "seed": 5}
    arguments = {"source": Source(), "feature_names": ["coord"], "train_transforms": train, "eval_transforms": grid}
    return PointCloudData(**(arguments | options | changes))


def test_batches_are_functions_of_seed_and_step() -> None:
    loaders = [data(), data(), data(num_workers=2), data(seed=6)]
    runs = [[batch.features for batch in module.train_dataloader()] for module in loaders]
    assert len(runs[0]) == 8
    for other in runs[1:3]:
        assert all(a.equal(b) for a, b in zip(runs[0], other, strict=True))
    assert not all(a.shape == b.shape and a.equal(b) for a, b in zip(runs[0], runs[3], strict=True))
    late = data()
    late._first_batch = lambda: 5
    assert all(a.equal(b.features) for a, b in zip(runs[0][5:], late.train_dataloader(), strict=True))


def test_a_share_of_the_training_clouds_is_used() -> None:
    count = len(data().samples("train"))
    names = [
        {name for batch in data(train_share=share).train_dataloader() for name in batch.names} for share in (1, 0.5)
    ]
    alone = {name for group in names[1] for name in group.split(" + ")}
    assert len(alone) == round(count / 2) < len({name for group in names[0] for name in group.split(" + ")})
    assert len(data(train_share=0.5).samples("test")) == len(data().samples("test"))
    with pytest.raises(ValueError, match="train_share: found 0"):
        data(train_share=0)


def test_evaluation_is_in_order_and_the_same_every_time() -> None:
    module = data()
    names = [name for batch in module.val_dataloader() for name in batch.names]
    assert names == [f"cloud {number}" for number in range(10)]
    twice = [torch.cat([batch.features for batch in module.test_dataloader()]) for _ in range(2)]
    assert twice[0].equal(twice[1])
    fragmented = data(test_fragments=PointFragments(grid_size=1.0))
    assert [whole.name for whole in fragmented.test_dataloader()] == names


def test_bad_clouds_are_errors_or_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clouds, "bad", (2, 7))
    with pytest.raises(SampleError, match=r"[27]\.bin"):
        list(data().train_dataloader())
    module = data(on_bad_sample="skip")
    assert len(list(module.train_dataloader())) == 8
    assert module.num_skipped == 2
    report = data().check_data()
    assert len(report.problems) == 2
    assert "8 of 10 clouds" in report.lines[0]
    with pytest.raises(ValueError, match="on_bad_sample"):
        data(on_bad_sample="ignore")


def test_a_transform_that_fails_is_named_with_the_cloud() -> None:
    class Fails(transforms.PointTransform):
        def __call__(self, sample, generator):
            raise ValueError("impossible")

    with pytest.raises(SampleError, match="cloud: transform mine: impossible"):
        transforms.apply_transforms({"mine": Fails()}, cloud(), torch.Generator())
    assert np.isfinite(cloud().coord.numpy()).all()
