"""Transforms of point clouds: functions ``transform(sample, generator)`` whose random numbers come from the generator.

A recipe holds them by name, in their order; an entry that is null is left out. With a generator seeded by
`sample_generator`, what a sample becomes is a function of (seed, number of the draw).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from zoo.data.bad_samples import SampleError
from zoo.data.point_samples import PointSample
from zoo.data.posed_images import step_generator
from zoo.ops import grid_sample_points

__all__ = [
    "GridSample",
    "NormalizeCoord",
    "PointClip",
    "PointTransform",
    "RandomFlip",
    "RandomJitter",
    "RandomRotate",
    "RandomScale",
    "RandomShift",
    "ShufflePoint",
    "apply_transforms",
    "rotation_about",
    "sample_generator",
]

Axis = Literal["x", "y", "z"]
_AXES: dict[Axis, int] = {"x": 0, "y": 1, "z": 2}
_NORMAL = "normal"  # turns with the cloud
_SAMPLE_STREAM = 3 << 32  # added to the seed: the order of samples is drawn with the seed itself


def sample_generator(seed: int, draw: int) -> torch.Generator:
    """The random numbers of one sample: a function of the seed and of how many samples were drawn before."""
    return step_generator(seed + _SAMPLE_STREAM, draw)


class PointTransform(ABC):
    """One step of a recipe."""

    @abstractmethod
    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """The changed sample; the given one stays as it is."""


def apply_transforms(
    transforms: Mapping[str, PointTransform | None], sample: PointSample, generator: torch.Generator
) -> PointSample:
    """All transforms in their order.

    Raises:
        SampleError: a transform cannot work on the sample; names the sample and the transform.
    """
    for name, transform in transforms.items():
        if transform is None:
            continue
        try:
            sample = transform(sample, generator)
        except SampleError:
            raise
        except ValueError as error:
            raise SampleError(sample.name, f"transform {name}: {error}") from error
    return sample


class NormalizeCoord(PointTransform):
    """Moves the mean to the origin and scales the farthest point to distance 1; a single place stays at the origin."""

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """``(x - mean) / max |x - mean|``."""
        centred = sample.coord - sample.coord.mean(dim=0)
        radius = centred.norm(dim=1).amax()
        return replace(sample, coord=centred / radius if radius > 0 else torch.zeros_like(centred))


class RandomScale(PointTransform):
    """Multiplies by a factor from ``[low, high)``, the same on all axes unless ``anisotropic``."""

    def __init__(self, *, low: float = 0.9, high: float = 1.1, anisotropic: bool = False) -> None:
        if not 0 < low <= high:
            raise ValueError(f"low, high: found {low}, {high}, expected 0 < low <= high")
        self.low, self.high, self.count = low, high, 3 if anisotropic else 1

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """``factor * x``."""
        return replace(sample, coord=sample.coord * _uniform(self.low, self.high, self.count, generator))


class RandomShift(PointTransform):
    """Adds a vector with components from ``[-limit, limit)``, a limit for each axis."""

    def __init__(self, *, limit: Sequence[float] = (0.2, 0.2, 0.2)) -> None:
        if len(limit) != 3:
            raise ValueError(f"limit: found {len(limit)} values, expected 3")
        self.limit = torch.tensor([float(value) for value in limit])

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """``x + shift``."""
        return replace(sample, coord=sample.coord + self.limit * _uniform(-1.0, 1.0, 3, generator))


class RandomRotate(PointTransform):
    """Turns cloud and normals about an axis through the origin.

    Args:
        axis: ``x``, ``y`` or ``z``.
        low: smallest angle in degrees.
        high: largest angle.
        probability: of turning at all.
    """

    def __init__(self, *, axis: Axis = "z", low: float = -180.0, high: float = 180.0, probability: float = 1.0) -> None:
        if axis not in _AXES:
            raise ValueError(f"axis: found {axis!r}, expected 'x', 'y' or 'z'")
        self.axis: Axis = axis
        self.low, self.high, self.probability = low, high, _share("probability", probability)

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """Two random numbers are drawn whether the cloud turns or not."""
        happens, place = torch.rand(2, generator=generator).tolist()
        if happens >= self.probability:
            return sample
        return turn(sample, rotation_about(self.axis, self.low + (self.high - self.low) * place))


class RandomFlip(PointTransform):
    """Mirrors cloud and normals: each of the given axes changes its sign with ``probability``."""

    def __init__(self, *, probability: float = 0.5, axes: Sequence[Axis] = ("x", "y")) -> None:
        self.probability = _share("probability", probability)
        self.axes = [_AXES[axis] for axis in axes]

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """``x * sign``."""
        sign = torch.ones(3)
        for axis, draw in zip(self.axes, torch.rand(len(self.axes), generator=generator).tolist(), strict=True):
            sign[axis] = -1.0 if draw < self.probability else 1.0
        return turn(sample, torch.diag(sign))


class RandomJitter(PointTransform):
    """Adds normal noise of standard deviation ``sigma``, cut at ``clip``, to each coordinate."""

    def __init__(self, *, sigma: float = 0.005, clip: float = 0.02) -> None:
        if sigma < 0 or clip <= 0:
            raise ValueError(f"sigma, clip: found {sigma}, {clip}, expected sigma >= 0 and clip > 0")
        self.sigma, self.clip = sigma, clip

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """``x + noise``."""
        noise = torch.randn(sample.coord.shape, generator=generator) * self.sigma
        return replace(sample, coord=sample.coord + noise.clamp_(-self.clip, self.clip))


class PointClip(PointTransform):
    """Clamps positions to a box, as upstream: points outside move to its faces and stay in the cloud."""

    def __init__(self, *, point_range: Sequence[float] = (-35.2, -35.2, -4.0, 35.2, 35.2, 2.0)) -> None:
        if len(point_range) != 6 or not all(point_range[i] < point_range[i + 3] for i in range(3)):
            raise ValueError(
                f"point_range: found {list(point_range)}, expected xmin ymin zmin xmax ymax zmax with min < max"
            )
        self.low, self.high = torch.tensor(point_range[:3]).float(), torch.tensor(point_range[3:]).float()

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """``min(max(x, low), high)``."""
        return replace(sample, coord=torch.minimum(torch.maximum(sample.coord, self.low), self.high))


class GridSample(PointTransform):
    """Keeps one random point of each cell, with its own position and features, and notes the cell."""

    def __init__(self, *, grid_size: float) -> None:
        if not grid_size > 0:
            raise ValueError(f"grid_size: found {grid_size}, expected a size above 0")
        self.grid_size = grid_size

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """See `zoo.ops.grid_sample_points`."""
        found = grid_sample_points(sample.coord, self.grid_size, mode="train", generator=generator)
        return replace(sample, grid_coord=found.grid_coords).rows(found.fragments[0])


class ShufflePoint(PointTransform):
    """Puts the points into random order."""

    def __call__(self, sample: PointSample, generator: torch.Generator) -> PointSample:
        """Also cells, features and labels."""
        return sample.rows(torch.randperm(len(sample), generator=generator))


def rotation_about(axis: Axis, degrees: float) -> Tensor:
    """The rotation ``(3, 3)`` that turns columns about a coordinate axis, counter-clockwise."""
    angle = math.radians(degrees)
    first, second = (number for number in range(3) if number != _AXES[axis])
    sign = -1.0 if axis == "y" else 1.0
    matrix = torch.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -sign * math.sin(angle), sign * math.sin(angle)
    return matrix


def turn(sample: PointSample, matrix: Tensor) -> PointSample:
    """Positions and normals multiplied by an orthogonal matrix."""
    features = {name: values @ matrix.T if name == _NORMAL else values for name, values in sample.features.items()}
    return replace(sample, coord=sample.coord @ matrix.T, features=features)


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: found {value}, expected a share in [0, 1]")
    return value
