"""Sets of pictures: layouts, damaged files, augmentation as a function of (seed, step), mixing."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.samples import sample_data
from zoo.data.bad_samples import SampleError
from zoo.data.cifar import Cifar
from zoo.data.epoch_batches import epoch_batch, repeated_batch
from zoo.data.image_data import ImageData
from zoo.data.image_folder import ImageFolder
from zoo.data.image_mixing import Mixing, smooth_targets
from zoo.data.image_samples import ImageBatch, denormalize, normalize, read_rgb
from zoo.data.imagenet import ImageNet
from zoo.data.joined_pictures import JoinedPictures
from zoo.data.synthetic_pictures import FAMILIES, PictureSettings, draw_picture

SMALL = PictureSettings(num_train=2, num_test=1, size=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    source = ImageFolder(root=tmp_path_factory.mktemp("pictures") / "set", generate=True, generator=SMALL)
    source.ensure()
    return source


def make_data(source: Any, **options: Any) -> ImageData:
    train = {
        "crop": v2.RandomResizedCrop(16, scale=(0.5, 1.0), interpolation=3),
        "flip": v2.RandomHorizontalFlip(),
        "trivial": v2.TrivialAugmentWide(),
    }
    settings = {"train_transforms": train, "eval_transforms": {"resize": v2.Resize(16)}, "batch_size": 4}
    return ImageData(source=source, max_steps=8, **{**settings, **options})


def test_generated_folder_is_read_back(folder: ImageFolder) -> None:
    data = make_data(folder)
    assert data.class_names == tuple(sorted(FAMILIES))
    assert len(data.samples("train")), len(data.samples("test")) == (20, 10)
    sample = data.samples("train")[0]
    assert (sample.name, sample.label) == ("train/bar/0000.png", 0)
    assert np.array_equal(sample.pixels, draw_picture("bar", "train", 0, SMALL))
    report = data.check_data()
    assert not report.problems
    assert report.lines[0] == "train: 20 of 20 pictures, 10 classes; 20 of 16 x 16"
    with pytest.raises(SampleError, match="with other settings; rebuild"):
        ImageFolder(root=folder.root, generate=True, generator=PictureSettings()).ensure()
    assert not np.array_equal(draw_picture("bar", "test", 0, SMALL), sample.pixels)


def test_folders_without_classes_and_joined_sets(folder: ImageFolder) -> None:
    plain = ImageFolder(root=folder.root, labelled=False, splits={"train": ".", "val": "test", "test": "test"})
    assert plain.class_names == ()
    joined = JoinedPictures(sources={"a": folder, "b": plain})
    train = joined.open_split("train")
    assert len(train) == 20 + 30
    assert (train[0].name, train[0].label) == ("a/train/bar/0000.png", None)
    assert train[20].name == "b/test/bar/0000.png"
    assert train[49].name == "b/train/triangle/0001.png"
    batch = next(iter(make_data(joined).train_dataloader()))
    assert batch.label is None
    (folder.root.parent / "empty").mkdir()
    with pytest.raises(SampleError, match="holds no picture"):
        ImageFolder(root=folder.root.parent, labelled=False).open_split("empty")


def test_missing_and_unknown_folders_are_named(folder: ImageFolder, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"nowhere: no such folder; set data\.source\.root"):
        ImageFolder(root=tmp_path / "nowhere").ensure()
    with pytest.raises(SampleError, match="has the class folders"):
        ImageFolder(root=folder.root, class_names=["bar"]).open_split("train")


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "YCbCr"])
def test_other_colour_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    red = Image.new("RGB", (8, 6), (250, 10, 10))
    (red.convert("L").convert(mode) if mode == "LA" else red.convert(mode)).save(path)
    pixels = read_rgb(path)
    assert pixels.shape == (6, 8, 3)
    if mode in ("P", "CMYK", "RGBA", "YCbCr"):
        assert np.abs(pixels.mean((0, 1)) - [250, 10, 10]).max() < 30
    else:
        assert (pixels[..., 0] == pixels[..., 2]).all()


def test_unreadable_pictures_are_named_or_skipped(folder: ImageFolder, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(draw_picture("star", "train", 0, SMALL)).save(tmp_path / "train" / name / "0.png")
    whole = (tmp_path / "train" / "a" / "0.png").read_bytes()
    for name, content in {"1.png": whole[: len(whole) // 2], "2.png": b"", "3.jpg": b"<html>"}.items():
        (tmp_path / "train" / "a" / name).write_bytes(content)
    Image.new("I;16", (4, 4)).save(tmp_path / "train" / "b" / "deep.png")
    source = ImageFolder(root=tmp_path, splits={"train": "train", "val": "train", "test": "train"})
    report = make_data(source).check_data()
    assert len(report.problems) == 4
    assert "deep.png: has the pixel format I;16, expected 8 bits" in report.problems[-1]
    assert "1.png: not a readable image, or cut short" in report.problems[0]
    with pytest.raises(SampleError, match=r"1\.png: not a readable image"):
        list(source.open_split("train"))
    data = make_data(source, on_bad_sample="skip")
    assert [sample.name[-5:] for sample in data.samples("train")][:2] == ["0.png", "0.png"]
    assert data.num_skipped == 4


def test_pictures_of_two_sizes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for number in range(2):
        Image.new("RGB", (8 + number, 8)).save(tmp_path / "train" / "a" / f"{number}.png")
    data = make_data(ImageFolder(root=tmp_path), train_transforms={}, batch_size=2)
    with pytest.raises(SampleError, match="end with a crop or a resize"):
        next(iter(data.train_dataloader()))
    bad = make_data(ImageFolder(root=tmp_path), train_transforms={"odd": v2.RandomCrop(99)})
    with pytest.raises(SampleError, match="the transform 'odd' failed"):
        next(iter(bad.train_dataloader()))


def test_batches_are_functions_of_seed_and_step(folder: ImageFolder) -> None:
    options = {
        "mixing": Mixing(num_classes=10),
        "tensor_transforms": {"erase": v2.RandomErasing(p=0.5, value="random")},  # type: ignore[arg-type]
    }
    state = torch.get_rng_state()
    alone = next(iter(make_data(folder, **options).train_dataloader()._steps))
    assert torch.equal(torch.get_rng_state(), state)
    first = list(make_data(folder, **options).train_dataloader())
    assert torch.equal(first[0].image, alone.image)
    torch.rand(3)
    again = list(make_data(folder, **options, num_workers=2).train_dataloader())
    assert len(first) == 8
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.target, other.target)
    changed = next(iter(make_data(folder, **options, seed=1).train_dataloader()))
    assert not torch.equal(changed.image, first[0].image)
    assert len({name for batch in first[:5] for name in batch.names}) == 20  # an epoch sees every picture


def test_repeated_augmentation_deals_copies_to_processes(folder: ImageFolder) -> None:
    indices = repeated_batch(0, num_samples=20, batch_size=12, repeats=3, seed=4)
    assert [indices.count(index) for index in dict.fromkeys(indices)] == [3] * 4
    parts = [
        repeated_batch(0, num_samples=20, batch_size=12, repeats=3, seed=4, world_size=3, rank=r) for r in range(3)
    ]
    assert parts[0] == parts[1] == parts[2] == list(dict.fromkeys(indices))
    assert indices != repeated_batch(1, num_samples=20, batch_size=12, repeats=3, seed=4)
    with pytest.raises(ValueError, match="no larger than the data set"):
        repeated_batch(0, num_samples=20, batch_size=24, repeats=3)
    batch = next(iter(make_data(folder, repeats=2, seed=0).train_dataloader()))
    assert batch.names[0] == batch.names[1]
    assert not torch.equal(batch.image[0], batch.image[1])
    assert (
        epoch_batch(0, num_samples=20, batch_size=4, seed=0)[:2]
        == repeated_batch(0, num_samples=20, batch_size=4, repeats=2, seed=0)[::2]
    )


def test_mixing_conserves_shares() -> None:
    batch = ImageBatch(torch.stack([torch.full((3, 8, 8), float(i)) for i in range(4)]), list("abcd"), torch.arange(4))
    mixup = Mixing(num_classes=5, cutmix_alpha=0.0, label_smoothing=0.0)(batch, np.random.default_rng(0))
    cut = Mixing(num_classes=5, mixup_alpha=0.0, label_smoothing=0.0)(batch, np.random.default_rng(3))
    for mixed in (mixup, cut):
        assert mixed.target is not None
        torch.testing.assert_close(mixed.target.sum(1), torch.ones(4))
        expected = (mixed.target @ torch.arange(5.0))[:, None]  # pictures are as bright as their class
        torch.testing.assert_close(mixed.image.mean((1, 2, 3))[:, None], expected)
    assert len(cut.image[0].unique()) == 2
    assert len(mixup.image[0].unique()) == 1
    plain = Mixing(num_classes=5, probability=0.0, label_smoothing=0.1)(batch, np.random.default_rng(0))
    assert torch.equal(plain.image, batch.image)
    torch.testing.assert_close(plain.target[1], torch.tensor([0.02, 0.92, 0.02, 0.02, 0.02]))
    assert torch.equal(plain.target, smooth_targets(batch.label, 5, 0.1))
    switched = [
        Mixing(num_classes=5)(batch, np.random.default_rng(seed)).image[0].unique().numel() for seed in range(40)
    ]
    assert 8 < switched.count(2) < 32
    with pytest.raises(ValueError, match=r"mixing\.num_classes: found 3"):
        Mixing(num_classes=3)(batch, np.random.default_rng(0))
    with pytest.raises(ValueError, match="three shares"):
        Mixing(num_classes=3, label_smoothing=2.0)


def test_normalization_is_undone() -> None:
    pixels = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(denormalize(normalize(pixels)), pixels)


def test_imagenet_in_class_folders_and_in_kaggles_layout(tmp_path: Path) -> None:
    source = ImageNet(root=tmp_path / "sorted", generator=SMALL)
    source.generate_files(overwrite=False)
    with pytest.raises(FileExistsError):
        source.generate_files(overwrite=False)
    assert source.class_names[3] == "n00000003"
    labels = [sample.label for sample in source.open_split("val")]
    assert labels == list(range(10))
    flat = tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    flat.mkdir(parents=True)
    (tmp_path / "sorted" / "train").rename(flat / "train")
    (flat / "val").mkdir()
    rows = ["ImageId,PredictionString"]
    for number in range(10):
        (tmp_path / "sorted" / "val" / f"n{number:08d}" / "0000.JPEG").rename(flat / "val" / f"v{9 - number}.JPEG")
        rows.append(f"v{9 - number},n{number:08d} 1 2 3 4 ")
    kaggle = ImageNet(root=tmp_path / "kaggle")
    with pytest.raises(SampleError, match=r"LOC_val_solution\.csv: no such file"):
        kaggle.open_split("val")
    (tmp_path / "kaggle" / "LOC_val_solution.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(SampleError, match=r"v0\.JPEG: has the class None, expected one of the 10 folders"):
        kaggle.open_split("val")
    (tmp_path / "kaggle" / "LOC_val_solution.csv").write_text("\n".join(rows))
    assert [sample.label for sample in kaggle.open_split("val")] == list(range(9, -1, -1))
    assert len(kaggle.open_split("train")) == 20


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes bytes as Python 2 wrote its strings, as the published archives have them."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_bytes(self, obj: bytes) -> None:
        self.write(b"T" + struct.pack("<i", len(obj)) + obj)

    dispatch[bytes] = save_bytes


def dump(path: Path, content: dict[bytes, Any]) -> None:
    with path.open("wb") as file:
        Python2Pickler(file, protocol=2).dump(content)


def test_cifar_in_both_versions(tmp_path: Path) -> None:
    binary = Cifar(root=tmp_path / "binary", generator=SMALL)
    binary.generate_files(overwrite=False)
    train = binary.open_split("train")
    assert binary.class_names == tuple(FAMILIES)
    assert (len(train), train[3].label, train[3].pixels.shape) == (20, 3, (32, 32, 3))
    small = PictureSettings(num_train=2, num_test=1, size=32)
    assert np.array_equal(train[3].pixels, draw_picture("rectangle", "train", 0, small))
    root = tmp_path / "python"
    root.mkdir()
    for number in range(5):
        rows = train.pixels[number * 4 : number * 4 + 4].reshape(4, -1)
        labels = train.labels[number * 4 : number * 4 + 4]
        dump(root / f"data_batch_{number + 1}", {b"data": np.ascontiguousarray(rows), b"labels": labels})
    dump(root / "batches.meta", {b"label_names": [name.encode() for name in FAMILIES]})
    python = Cifar(root=root)
    assert python.class_names == binary.class_names
    for ours, theirs in zip(python.open_split("train"), train, strict=True):
        assert ours.label == theirs.label
        assert np.array_equal(ours.pixels, theirs.pixels)
    with pytest.raises(SampleError, match="test_batch: no such file"):
        python.open_split("test")


def test_cifar_100_and_damaged_files(tmp_path: Path) -> None:
    rows = np.zeros((3, 3074), dtype=np.uint8)
    rows[:, 1] = [5, 99, 0]
    rows.tofile(tmp_path / "train.bin")
    source = Cifar(root=tmp_path, num_classes=100)
    assert source.open_split("train").labels == [5, 99, 0]
    (tmp_path / "train.bin").write_bytes(rows.tobytes()[:-1])
    with pytest.raises(SampleError, match=r"train\.bin: has 9221 bytes"):
        source.open_split("train")
    (tmp_path / "train.bin").unlink()
    dump(tmp_path / "train", {b"data": np.zeros((2, 3071), dtype=np.uint8), b"fine_labels": [1, 2]})
    with pytest.raises(SampleError, match="another form than uint8"):
        source.open_split("train")
    dump(tmp_path / "train", {b"labels": []})
    with pytest.raises(SampleError, match="no entry 'data'"):
        source.open_split("train")
    with pytest.raises(ValueError, match="expected 10 to generate"):
        source.generate_files(overwrite=False)


@pytest.mark.parametrize(("name", "split", "count"), [("imagenet_sample", ".", 1000), ("cifar10_subset", "test", 1000)])
def test_real_samples(name: str, split: str, count: int) -> None:
    source = ImageFolder(root=sample_data(name), splits={"train": "."}, labelled=False)
    pictures = source.open_split(split)
    assert len(pictures) == count
    assert min(pictures[0].pixels.shape[:2]) == (192 if name == "imagenet_sample" else 32)
