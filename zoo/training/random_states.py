"""The random generators of Python, NumPy and torch: saved, restored, and kept apart from what is not training."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["RandomStates", "capture_random_states", "restore_random_states"]

States = dict[str, Any]


def capture_random_states() -> States:
    """The states of all generators of this process as tensors, numbers and lists, which every safe unpickler reads."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 - libraries draw from it
    states: States = {
        "python": [version, list(words), gauss],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: States) -> None:
    """Put every generator into the state that ``capture_random_states`` took."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


class RandomStates(Callback):
    """Makes the random numbers of training depend on training steps alone.

    The states after a step are those before the next one, whatever happened in between: validation, a new iterator of
    the data loader, a checkpoint or a restart. The states travel in the checkpoint, so a resumed run draws what the
    uninterrupted one draws. Batches are drawn elsewhere: samplers are functions of (seed, step).
    """

    def __init__(self) -> None:
        self._states: States | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the first batch moves to its device: hooks on that way may draw."""
        self._restore()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before each step, as the step before left them."""
        self._restore()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After each step."""
        self._states = capture_random_states()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What validation drew is forgotten."""
        self._restore()

    def state_dict(self) -> dict[str, Any]:
        """The states after the last step, for the checkpoint."""
        return self._states or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The states with which the next step begins."""
        self._states = state_dict or None

    def _restore(self) -> None:
        if self._states is not None:
            restore_random_states(self._states)
