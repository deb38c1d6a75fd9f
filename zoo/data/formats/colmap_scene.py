"""A COLMAP reconstruction as a scene to train on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from zoo.data.bad_samples import BadSamples, SampleError
from zoo.data.cameras import pose_from_colmap, pose_problem
from zoo.data.formats.colmap import find_model, lens_of, read_colmap_model
from zoo.data.formats.instant_ngp import DEFAULT_OFFSET, DEFAULT_SCALE, NEAR
from zoo.data.posed_images import View
from zoo.data.scene_frame import apply_similarity, canonical_frame
from zoo.data.scene_index import SceneIndex

LARGEST_BOX = 16


def is_colmap(root: Path) -> bool:
    """Whether a folder holds this layout."""
    return find_model(root) is not None


def read_colmap(root: Path, bad_samples: BadSamples, images_folder: str = "images") -> SceneIndex:
    """The views of a reconstruction, without a split, ordered by file name.

    The world is turned and scaled as instant-ngp's converter does (see `canonical_frame`), then moved to its unit cube.
    The box has the smallest power of two as its side, up to 16, that holds 95 % of the 3D points; 4 where there are
    none.

    Raises:
        SampleError: if the model cannot be read or has no image, and for a bad image under the policy ``"error"``.
    """
    folder = find_model(root)
    if folder is None:
        raise SampleError(root, "holds no COLMAP model (cameras.bin or cameras.txt in sparse/0, sparse or here)")
    model = read_colmap_model(folder)
    if not model.images:
        raise SampleError(folder, "an empty split: the model has no registered image")
    views = []
    for image in sorted(model.images.values(), key=lambda entry: entry.name):
        camera = model.cameras[image.camera_id]
        intrinsics, lens, distortion = lens_of(camera)
        pose = pose_from_colmap(torch.from_numpy(image.quaternion), torch.from_numpy(image.translation))
        path = root / images_folder / image.name
        try:
            problem = pose_problem(pose)
            if problem is not None or not np.linalg.norm(image.quaternion) > 0.5:
                raise SampleError(folder, f"pose of {image.name}: {problem or 'the quaternion is zero'}")
            if not path.is_file():
                raise SampleError(path, f"no such image ({folder} names it)")
        except SampleError as error:
            bad_samples.handle(error)
            continue
        views.append(View(path, image.name, folder, pose, intrinsics, camera.width, camera.height, lens, distortion))
    if not views:
        raise SampleError(folder, f"an empty split: none of its {len(model.images)} images can be used")
    poses = torch.stack([view.camera_to_world for view in views])
    similarity = canonical_frame(poses)
    views = [
        replace(view, camera_to_world=pose)
        for view, pose in zip(views, apply_similarity(similarity, poses), strict=True)
    ]
    points = model.points @ similarity[:3, :3].numpy().T + similarity[:3, 3].numpy()
    half = _half_side(points * DEFAULT_SCALE) / DEFAULT_SCALE
    index = SceneIndex(folder, {"all": views}, (-half, -half, -half, half, half, half), NEAR / DEFAULT_SCALE)
    index = replace(index, world_to_scene=similarity)
    return index.transformed(DEFAULT_SCALE, DEFAULT_OFFSET)


def _half_side(points: np.ndarray) -> float:
    if len(points) == 0:
        return 2.0
    reach = 2 * float(np.quantile(np.abs(points).max(axis=1), 0.95))
    return min(LARGEST_BOX, 2 ** max(0, math.ceil(math.log2(max(reach, 1e-9))))) / 2
