"""``tools/train.py`` and ``zoo train``: trains, tests and reports one run.

torch and lightning are imported inside the functions, so that ``--help`` and tab completion answer at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

__all__ = ["main", "train"]

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="pkg://zoo.configs", config_name="train")
def main(cfg: DictConfig) -> None:
    """Train, then test. ``train=false ckpt=FILE`` only tests; ``ckpt=last`` continues the experiment's newest run.

    ``train=false weights=NAME expect=true`` fails unless the figures are those of the weight's card.
    """
    from hydra.core.hydra_config import HydraConfig

    from zoo.training.configuration import name_run
    from zoo.training.expectations import UnexpectedFigures
    from zoo.training.signals import RunInterrupted

    runtime = HydraConfig.get()
    try:
        train(name_run(cfg, runtime.runtime.choices.get("experiment")), overrides=runtime.overrides.task)
    except RunInterrupted as interruption:
        log.info("%s", interruption)
        sys.exit(interruption.exit_code)
    except UnexpectedFigures as difference:
        log.error("%s", difference)
        sys.exit(1)


def train(cfg: DictConfig, *, overrides: Sequence[str] = ()) -> dict[str, float]:
    """Run what a configuration says and return its final metrics, which also stand in ``metrics.json``.

    Args:
        cfg: As ``zoo.training.configuration.compose`` gives it.
        overrides: The command line's, for the record in ``overrides.txt``.

    Returns:
        Flat mapping from name to number: test metrics, steps, wall time in seconds, peak memory in MB.

    Raises:
        ValueError: The configuration contradicts itself; the message names the key.
        FileNotFoundError: ``ckpt`` or ``weights`` names no file.
        zoo.training.expectations.UnexpectedFigures: With ``expect``, figures differ from the card's.
        zoo.training.signals.RunInterrupted: A signal ended the run; during training the state is saved.
    """
    from zoo.training.session import run_session

    return run_session(cfg, overrides=overrides)


if __name__ == "__main__":
    main()
