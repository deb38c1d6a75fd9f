"""KITTI's object benchmark as labelled frames; generated scenes come in the same layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.bad_samples import SampleError
from zoo.data.boxes import Calibration, points_in_boxes
from zoo.data.detection_frames import (
    CameraView,
    DetectionFrame,
    DetectionFrames,
    DetectionSource,
    OnBadSample,
    check_frame,
)
from zoo.data.formats.kitti import TYPES, KittiFrame, KittiObjects
from zoo.data.formats.velodyne import read_velodyne
from zoo.data.generated_folder import check_generated
from zoo.data.lidar_writer import KittiSettings, write_kitti
from zoo.data.openpcdet import read_kitti_infos

__all__ = ["KittiFrames", "KittiSource", "labelled_frame", "read_plane"]


def read_plane(path: Path, calibration: Calibration) -> NDArray[np.float64]:
    """The ground ``a, b, c, d`` of a file of ``planes``, brought from the camera's frame into the LiDAR's.

    Raises:
        SampleError: missing file, or a fourth line that is no plane.
    """
    try:
        lines = path.read_text().splitlines()
        plane = np.array([float(word) for word in lines[3].split()])
    except (OSError, UnicodeDecodeError, ValueError, IndexError) as error:
        raise SampleError(path, f"no plane in its fourth line ({error})") from error
    if plane.shape != (4,) or not np.isfinite(plane).all() or abs(plane[1]) < 1e-6:
        raise SampleError(path, f"the fourth line is {lines[3]!r}, expected a b c d of a plane below the camera")
    if plane[1] > 0:  # the camera's y points down, the normal up
        plane = -plane
    plane /= np.linalg.norm(plane[:3])
    matrix = np.eye(4)
    matrix[:3] = calibration.r0_rect @ calibration.velo_to_cam
    return plane @ matrix


def labelled_frame(frame: KittiFrame, source: Path, ground: NDArray[np.float64] | None = None) -> DetectionFrame:
    """A frame of KITTI's files as detectors see it; DontCare stays in ``labels`` only.

    Raises:
        SampleError: a number that cannot be; the message names ``source``.
    """
    view = CameraView(frame.image_path, frame.calibration, frame.image_shape)
    if frame.labels is None:
        nothing = np.zeros(0, dtype=np.int64)
        return DetectionFrame(frame.frame_id, frame.points, np.zeros((0, 7)), (), nothing, nothing, view, None, ground)
    real = frame.labels.without_dont_care()
    boxes = real.lidar_boxes(frame.calibration)
    counts = points_in_boxes(frame.points, boxes).sum(axis=1).astype(np.int64)
    made = DetectionFrame(
        frame.frame_id, frame.points, boxes, real.names, real.difficulty(), counts, view, frame.labels, ground
    )
    return check_frame(made, source)


class KittiFrames(DetectionFrames):
    """The frames of one split in KITTI's folders.

    Args:
        root: folder with ``ImageSets``, ``training`` and ``testing``.
        split: train, val, trainval, test or another file of ``ImageSets``.
        in_view_only: keep only points that fall on the picture, as nothing else is labelled.
        planes: read ``training/planes``, on which gt-sampling sets objects.
        rename: see `KittiSource`.
        infos: frames, calibrations and labels that were read before; None: those of ``ImageSets`` and their files.
        on_bad_sample: see `zoo.data.formats.frame_files.FrameFiles`.
    """

    class_names = tuple(name for name in TYPES if name != "DontCare")

    def __init__(
        self,
        root: Path | str,
        split: str,
        *,
        in_view_only: bool = True,
        planes: bool = False,
        rename: Mapping[str, str] | None = None,
        infos: Path | None = None,
        on_bad_sample: OnBadSample = "error",
    ) -> None:
        super().__init__(on_bad_sample)
        self.files = KittiObjects(root, split, in_view_only=in_view_only)
        self.source, self.infos = infos, None
        if infos is not None:
            self.infos = {info.frame_id: info for info in read_kitti_infos(infos)}
            self.files.frame_ids = list(self.infos)
        self.planes, self.rename = planes, dict(rename or {})

    @property
    def frame_ids(self) -> Sequence[str]:
        """Six digits each."""
        return self.files.frame_ids

    def read(self, number: int) -> DetectionFrame:
        """Read one frame."""
        frame = self._read_files(number)
        folder, name = self.files.folder, frame.frame_id
        ground = read_plane(folder / "planes" / f"{name}.txt", frame.calibration) if self.planes else None
        made = labelled_frame(frame, self.source or folder / "label_2" / f"{name}.txt", ground)
        return replace(made, names=tuple(self.rename.get(kind, kind) for kind in made.names))

    def _read_files(self, number: int) -> KittiFrame:
        if self.infos is None:
            return self.files.read(number)
        info = self.infos[self.files.frame_ids[number]]
        points = read_velodyne(self.files.folder / "velodyne" / f"{info.frame_id}.bin")
        image_path = self.files.folder / "image_2" / f"{info.frame_id}.png"
        if self.files.in_view_only:
            points = points[info.calibration.in_view(points, info.image_shape)]
        return KittiFrame(info.frame_id, points, info.calibration, info.labels, image_path, info.image_shape)


class KittiSource(DetectionSource):
    """KITTI object detection, or scenes generated in its layout.

    Args:
        root: folder with ``ImageSets``, ``training`` and ``testing``.
        splits: the files of ``ImageSets`` to train, watch and measure on; KITTI's own test split has no labels.
        in_view_only: see `KittiFrames`.
        planes: see `KittiFrames`.
        infos: OpenPCDet's ``kitti_infos_SPLIT.pkl`` by split, relative to ``root``; None: the files themselves.
        rename: other names for classes, so that recipes of other data sets run on KITTI's layout: ``{Car: Vehicle}``.
        extra_classes: classes that such a recipe names and this data set never shows.
        generate: make the synthetic scenes of `zoo.data.lidar_writer` if ``root`` does not exist.
        generator: what to generate then; None: its defaults.
    """

    def __init__(
        self,
        *,
        root: str | Path,
        splits: Mapping[str, str] | None = None,
        in_view_only: bool = True,
        planes: bool = False,
        infos: Mapping[str, str] | None = None,
        rename: Mapping[str, str] | None = None,
        extra_classes: Sequence[str] = (),
        generate: bool = False,
        generator: KittiSettings | None = None,
    ) -> None:
        super().__init__(root, splits or {"train": "train", "val": "val", "test": "val"})
        self.in_view_only, self.planes, self.rename = in_view_only, planes, dict(rename or {})
        self.infos, self.generate, self.generator = dict(infos or {}), generate, generator
        unknown = sorted(set(self.rename) - set(KittiFrames.class_names))
        if unknown:
            raise ValueError(f"rename: no class {unknown[0]!r}, expected some of {', '.join(KittiFrames.class_names)}")
        shown = [self.rename.get(name, name) for name in KittiFrames.class_names]
        self.class_names = tuple(dict.fromkeys([*shown, *extra_classes]))

    def open_split(self, name: str, on_bad_sample: OnBadSample = "error") -> DetectionFrames:
        """The frames that ``ImageSets/NAME.txt`` lists.

        Raises:
            SampleError: no such list, or scenes that were generated with other settings.
        """
        if self.generate:
            check_generated(self.root, "kitti", self.generator or KittiSettings())
        return KittiFrames(
            self.root,
            name,
            in_view_only=self.in_view_only,
            planes=self.planes,
            rename=self.rename,
            infos=self.root / self.infos[name] if name in self.infos else None,
            on_bad_sample=on_bad_sample,
        )

    def ensure(self) -> None:
        """Generate the scenes where that is asked for and ``root`` does not exist."""
        if self.generate and not self.root.exists():
            self.generate_files()

    def generate_files(self, overwrite: bool = False) -> None:
        """Make the synthetic scenes in ``root``.

        Raises:
            FileExistsError: ``root`` exists and may not be replaced.
        """
        write_kitti(self.root, self.generator, overwrite=overwrite)
