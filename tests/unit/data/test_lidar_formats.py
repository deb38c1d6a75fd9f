"""KITTI and SemanticKITTI: what the generator writes reads back, damaged files are named, the real frame reads."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from zoo.data.bad_samples import SampleError
from zoo.data.boxes import points_in_boxes
from zoo.data.formats.kitti import KittiObjects, read_calibration, read_frame, read_labels, read_split, write_labels
from zoo.data.formats.semantic_kitti import (
    CLASSES,
    LEARNING_MAP,
    SemanticKitti,
    read_poses,
    read_times,
    to_raw_ids,
    to_train_ids,
)
from zoo.data.formats.velodyne import read_velodyne, write_velodyne
from zoo.data.generated_folder import check_generated
from zoo.data.lidar_scene import make_frame
from zoo.data.lidar_sensor import Camera, LidarSensor
from zoo.data.lidar_street import StreetSpec
from zoo.data.lidar_writer import (
    KittiSettings,
    SemanticKittiSettings,
    camera_calibration,
    kitti_labels,
    write_kitti,
    write_semantic_kitti,
)

SENSOR = LidarSensor(beams=24, azimuth_steps=360)
KITTI = KittiSettings(
    num_train=2, num_val=1, num_test=1, sensor=SENSOR, camera=Camera(stride=6), street=StreetSpec(half_length=40)
)
SEMANTIC = SemanticKittiSettings(frames={"00": 2, "08": 1, "11": 1}, sensor=SENSOR, street=StreetSpec(half_length=40))


@pytest.fixture(scope="module")
def kitti(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "kitti"
    write_kitti(root, KITTI)
    return root


@pytest.fixture(scope="module")
def semantic(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets") / "semantic"
    write_semantic_kitti(root, SEMANTIC)
    return root


@pytest.fixture
def broken(kitti, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(kitti, tmp_path / "kitti"))


def sample_frame():
    root = (
        Path(os.environ.get("ZOO_SAMPLE_DATA") or Path(__file__).resolve().parents[4] / "shared" / "data")
        / "kitti_frame"
    )
    if not root.is_dir():
        if os.environ.get("ZOO_REQUIRE_SAMPLES") == "1":
            pytest.fail(f"ZOO_REQUIRE_SAMPLES=1, but {root} is absent")
        pytest.skip(f"no real KITTI frame: {root} is absent (set ZOO_SAMPLE_DATA)")
    return root


def test_the_real_frame_reads():
    frames = KittiObjects(sample_frame(), "val", in_view_only=True)
    frame = frames[0]
    assert (len(frames), frame.frame_id) == (1, "000008")
    assert len(read_frame(frames.folder, "000008", in_view_only=False).points) == 17238
    assert 17_200 < len(frame.points) <= 17238
    assert frame.image_shape == (375, 1242)
    labels = frame.labels
    assert labels is not None
    assert labels.names == ("Car",) * 6 + ("DontCare",) * 4
    assert labels.difficulty().tolist() == [-1, 1, -1, 1, 0, 0, -1, -1, -1, -1]
    cars = labels.without_dont_care()
    counts = points_in_boxes(frame.points, cars.lidar_boxes(frame.calibration)).sum(axis=1)
    assert (counts > 10).all()
    assert counts.max() > 500


def test_the_real_labels_write_back_as_they_were(tmp_path):
    path = sample_frame() / "training" / "label_2" / "000008.txt"
    write_labels(tmp_path / "labels.txt", read_labels(path))
    assert (tmp_path / "labels.txt").read_text().split() == path.read_text().split()


def test_generated_kitti_reads_back(kitti):
    assert [read_split(kitti, split) for split in ("train", "val", "test")] == [
        ["000000", "000001"],
        ["000002"],
        ["000003"],
    ]
    assert read_split(kitti, "trainval") == ["000000", "000001", "000002"]
    frame = KittiObjects(kitti, "train", in_view_only=False)[0]
    made = make_frame(0, "train", sensor=SENSOR, camera=KITTI.camera, spec=KITTI.street)
    np.testing.assert_array_equal(frame.points, made.sweep.points)
    assert frame.image_shape == (375, 1242)
    labels = frame.labels.without_dont_care()
    assert len(labels) > 2
    boxes = labels.lidar_boxes(frame.calibration)
    for name, box in zip(labels.names, boxes, strict=True):
        gaps = np.linalg.norm(made.boxes[:, :6] - box[:6], axis=1)
        assert gaps.min() < 0.03
        best = int(gaps.argmin())
        assert made.objects[best].kind == name
        assert np.abs(np.angle(np.exp(1j * (made.boxes[best, 6] - box[6])))) < 0.01
    viewed = KittiObjects(kitti, "train")[0]
    assert 0 < len(viewed.points) < len(frame.points)
    assert (kitti / "testing" / "velodyne" / "000003.bin").is_file()
    assert KittiObjects(kitti, "test")[0].frame_id == "000003"


def test_image_boxes_agree_with_projected_solids(kitti):
    """The box of an object that is wholly in view is close to that of its points and inside that of its corners."""
    frame = make_frame(3, sensor=SENSOR, camera=Camera(stride=2))
    calib = camera_calibration(Camera())
    labels = kitti_labels(frame, calib)
    whole = labels.select((labels.truncated == 0) & (labels.occluded == 0))
    assert len(whole) > 0
    boxes = whole.lidar_boxes(calib)
    for row, box in enumerate(boxes):
        inside = frame.sweep.points[points_in_boxes(frame.sweep.points, box[None])[0]]
        pixels, depth = calib.lidar_to_image(inside[:, :3])
        left, top, right, bottom = whole.bbox[row]
        assert (depth > 0).all()
        u, v = pixels[:, 0], pixels[:, 1]
        within = (u > left - 4) & (u < right + 4) & (v > top - 4) & (v < bottom + 4)
        assert not len(within) or within.mean() > 0.9


def test_truncation_and_occlusion_grow_as_they_should():
    seen = []
    for seed in range(6):
        frame = make_frame(seed, sensor=LidarSensor(beams=4, azimuth_steps=40), camera=Camera(stride=4))
        labels = kitti_labels(frame, camera_calibration(Camera(stride=4)))
        real = labels.without_dont_care()
        assert ((real.truncated >= 0) & (real.truncated <= 1)).all()
        assert set(real.occluded.tolist()) <= {0, 1, 2, 3}
        at_edge = (real.bbox[:, 0] <= 0) | (real.bbox[:, 2] >= 1236)
        assert (real.truncated[~at_edge & (real.bbox[:, 3] < 370)] < 0.1).all()
        seen += [*real.occluded.tolist(), *labels.names]
    assert {0, 1, 2, 3} <= set(seen)
    assert "DontCare" in seen


def test_generated_semantic_kitti_reads_back(semantic):
    frames = SemanticKitti(semantic, "train")
    assert [frame.frame_id for frame in frames] == ["000000", "000001"]
    frame = frames[1]
    assert len(frame.points) == len(frame.semantic) == len(frame.instance)
    assert (frame.instance > 0).any()
    assert (frame.instance[np.isin(frame.semantic, (40, 50, 70, 72))] == 0).all()
    poses, times = read_poses(semantic / "sequences" / "00"), read_times(semantic / "sequences" / "00")
    np.testing.assert_allclose(times, [0.0, 0.1])
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-9)
    assert 0.8 < np.linalg.norm(poses[1, :3, 3]) < 1.2
    assert len(SemanticKitti(semantic, "val")) == len(SemanticKitti(semantic, "test")) == 1
    assert len(SemanticKitti(semantic, sequences=("00", "08"))) == 3


def test_learning_map_is_the_published_one():
    assert len(CLASSES) == 19
    published = {
        -1: [0, 1, 52, 99], 0: [10, 252], 1: [11], 2: [15], 3: [18, 258], 4: [13, 16, 20, 256, 257, 259], 5: [30, 254],
        6: [31, 253], 7: [32, 255], 8: [40, 60], 9: [44], 10: [48], 11: [49], 12: [50], 13: [51], 14: [70], 15: [71],
        16: [72], 17: [80], 18: [81],
    }  # fmt: skip
    assert {raw: number for number, raws in published.items() for raw in raws} == LEARNING_MAP
    raws = to_raw_ids(np.arange(19))
    assert raws.tolist() == [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]
    assert to_train_ids(raws).tolist() == list(range(19))
    assert to_raw_ids(np.array([-1])).tolist() == [0]
    assert to_train_ids(np.array([0, 10, 81]), ignore=0, shift=1).tolist() == [0, 1, 19]
    assert to_train_ids(np.zeros(0, dtype=np.uint16)).shape == (0,)
    with pytest.raises(ValueError, match="id 2 at 1"):
        to_train_ids(np.array([0, 2]))
    with pytest.raises(ValueError, match="found 0 to 19"):
        to_raw_ids(np.array([0, 19]))


def damage_points(path, change):
    points = read_velodyne(path)
    path.write_bytes(change(points))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.tobytes()[:-3], "no whole number of rows"),
        (lambda p: b"", "an empty file"),
        (lambda p: np.where(np.arange(len(p))[:, None] == 7, np.nan, p).astype("<f4").tobytes(), "first is row 7"),
        (lambda p: np.column_stack([p, p[:, :1]])[: len(p) // 4 * 4].astype("<f4").tobytes(), "rows of four float32"),
        (lambda p: p.astype("<f8").tobytes(), "four float32"),
    ],
)
def test_damaged_points_are_named(broken, change, words):
    path = broken / "training" / "velodyne" / "000000.bin"
    damage_points(path, change)
    with pytest.raises(SampleError, match=words) as error:
        KittiObjects(broken, "train")[0]
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("label_2", "Car 0.00 0 -1.5", "line 1 has 4 columns, expected 15"),
        ("label_2", "Lorry " + " ".join(["1"] * 14), "unknown type 'Lorry'"),
        ("label_2", "Car x " + " ".join(["1"] * 13), "line 1: could not convert"),
        ("label_2", "Car nan " + " ".join(["1"] * 13), "NaN"),
        ("label_2", "Car 0 0 0 9 1 8 2 1 1 1 0 0 9 0", "left <= right"),
        ("label_2", "Car 0 0 0 1 1 8 2 1 0 1 0 0 9 0", "height, width, length"),
        ("calib", "P2: 1 2 3", "P2 has 3 numbers, expected 3 x 4"),
        ("calib", "P0: 1 2 3", "no line 'P2'"),
        ("calib", "P2: 1 2 x", "line 1: could not convert"),
        ("calib", "words", "expected a name, a colon"),
    ],
)
def test_damaged_text_is_named(broken, name, text, words):
    path = broken / "training" / name / "000001.txt"
    path.write_text(text)
    with pytest.raises(SampleError, match=words) as error:
        KittiObjects(broken, "train")[1]
    assert str(path) in str(error.value)


def test_missing_pieces_are_named(broken):
    (broken / "training" / "image_2" / "000000.png").unlink()
    with pytest.raises(SampleError, match="no such image"):
        read_frame(broken / "training", "000000")
    (broken / "training" / "velodyne" / "000000.bin").unlink()
    with pytest.raises(SampleError, match="no such point file"):
        read_frame(broken / "training", "000000")
    (broken / "training" / "label_2" / "000001.txt").unlink()
    with pytest.raises(SampleError, match="not a readable label file"):
        read_frame(broken / "training", "000001")
    with pytest.raises(SampleError, match="no such split"):
        KittiObjects(broken, "validation")
    (broken / "ImageSets" / "val.txt").write_text("")
    with pytest.raises(SampleError, match="lists no frame"):
        KittiObjects(broken, "val")
    (broken / "ImageSets" / "val.txt").write_text("000001\n000001\n")
    with pytest.raises(SampleError, match="000001 is listed twice"):
        KittiObjects(broken, "val")
    calib = broken / "training" / "calib" / "000001.txt"
    zero = "0 " * 12
    calib.write_text(f"P2: {zero}\nR0_rect: {'0 ' * 9}\nTr_velo_to_cam: {zero}\n")
    with pytest.raises(SampleError, match="no inverse"):
        read_calibration(calib)


def test_bad_frames_are_skipped_and_counted_once(broken):
    damage_points(broken / "training" / "velodyne" / "000000.bin", lambda p: p.tobytes()[:-1])
    frames = KittiObjects(broken, "train", on_bad_sample="skip")
    assert frames[0].frame_id == "000001"
    assert frames[0].frame_id == frames[1].frame_id
    assert len(frames.bad_samples) == 1
    assert [problem.path.name for problem in frames.check()] == ["000000.bin"]
    damage_points(broken / "training" / "velodyne" / "000001.bin", lambda p: b"")
    with pytest.raises(SampleError):
        KittiObjects(broken, "train", on_bad_sample="skip")[1]
    with pytest.raises(IndexError, match="index: found 2"):
        frames[2]
    with pytest.raises(ValueError, match="on_bad_sample"):
        KittiObjects(broken, "train", on_bad_sample="ignore")


def test_damaged_point_labels_are_named(semantic, tmp_path):
    root = Path(shutil.copytree(semantic, tmp_path / "semantic"))
    path = root / "sequences" / "00" / "labels" / "000000.label"
    labels = np.fromfile(path, dtype="<u4")
    labels[:-1].tofile(path)
    with pytest.raises(SampleError, match="one for each point"):
        SemanticKitti(root)[0]
    (labels | 0xFFFF).astype("<u4").tofile(path)
    with pytest.raises(SampleError, match="point 0 has the class 65535"):
        SemanticKitti(root)[0]
    path.unlink()
    frames = SemanticKitti(root, on_bad_sample="skip")
    assert frames[0].frame_id == "000001"
    shutil.rmtree(path.parent)
    assert SemanticKitti(root)[0].semantic is None
    with pytest.raises(SampleError, match="no such sequence"):
        SemanticKitti(root, sequences=("03",))
    shutil.rmtree(root / "sequences" / "08")
    with pytest.raises(SampleError, match="holds no sweep"):
        SemanticKitti(root, "val")
    with pytest.raises(ValueError, match="split: found 'valid'"):
        SemanticKitti(root, "valid")
    (root / "sequences" / "00" / "poses.txt").write_text("1 2 3\n")
    with pytest.raises(SampleError, match="line 1 has 3 numbers, expected 12"):
        read_poses(root / "sequences" / "00")


def test_nothing_is_overwritten_unasked(kitti, tmp_path):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_kitti(kitti, KITTI)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="not made by this generator"):
        write_kitti(tmp_path / "mine", KITTI, overwrite=True)
    check_generated(kitti, "kitti", KITTI)
    with pytest.raises(SampleError, match=r"other settings.*prepare_data"):
        check_generated(kitti, "kitti", KittiSettings())
    with pytest.raises(ValueError, match="'99'"):
        write_semantic_kitti(tmp_path / "new", SemanticKittiSettings(frames={"99": 1}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "zoo.data.lidar_writer.write_calibration", lambda *_: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        write_kitti(tmp_path / "kitti", KITTI)
    assert list(tmp_path.iterdir()) == []


def test_labels_need_a_picture_and_points_a_shape(tmp_path):
    with pytest.raises(ValueError, match="make the frame with a camera"):
        kitti_labels(make_frame(0, sensor=SENSOR, spec=KITTI.street), camera_calibration(Camera()))
    with pytest.raises(ValueError, match=r"points: found shape \(3, 3\)"):
        write_velodyne(tmp_path / "points.bin", np.zeros((3, 3), dtype=np.float32))
