"""All generators come back to where they were, through a checkpoint file as well."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from zoo.training.random_states import capture_random_states, restore_random_states


def draw() -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),  # noqa: NPY002
        float(np.random.randn()),  # noqa: NPY002
        float(torch.rand(())),
    ]


def test_states_survive_a_file(tmp_path: Path) -> None:
    random.gauss(0, 1)  # leaves a second value for the next call
    np.random.randn()  # noqa: NPY002
    torch.save(capture_random_states(), tmp_path / "states")
    expected = draw()
    draw()
    restore_random_states(torch.load(tmp_path / "states", weights_only=True))
    assert draw() == expected
