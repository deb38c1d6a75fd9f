"""``tools/prepare_data.py`` and ``zoo prepare-data``: checks, prepares or generates a data set.

A data module takes part through three methods: ``prepare_data()``, ``check_data()``, which returns a
`zoo.data.bad_samples.DataReport`, and ``generate_data(overwrite)``. One that prepares more than a run would by itself
has ``prepare_files(overwrite)`` as well.
"""

from __future__ import annotations

import logging
import sys

import hydra
from omegaconf import DictConfig

__all__ = ["main", "prepare"]

log = logging.getLogger(__name__)

ACTIONS = ("check", "prepare", "generate")


@hydra.main(version_base="1.3", config_path="pkg://zoo.configs", config_name="prepare_data")
def main(cfg: DictConfig) -> None:
    """Do ``action`` on the data set of ``data=NAME``; exits 1 where the check finds something bad."""
    try:
        sound = prepare(cfg)
    except (ValueError, OSError) as error:
        log.error("%s", error)
        sys.exit(1)
    if not sound:
        sys.exit(1)


def prepare(cfg: DictConfig) -> bool:
    """Check, prepare or generate as the configuration says.

    Returns:
        Whether every sample can be used.

    Raises:
        ValueError: for an unknown action, no data set, or one that does not offer the action.
        OSError: if files cannot be read or written.
    """
    from zoo.training.configuration import build

    if cfg.action not in ACTIONS:
        raise ValueError(f"action: {cfg.action!r}, expected one of {', '.join(ACTIONS)}")
    if not cfg.get("data") or "_target_" not in cfg.data:
        raise ValueError("data: nothing chosen; say data=NAME (python tools/prepare_data.py --help lists them)")
    data = build(cfg.data)
    method = {"check": "check_data", "prepare": "prepare_data", "generate": "generate_data"}[cfg.action]
    if not hasattr(data, method):
        raise ValueError(f"action: {type(data).__name__} does not offer {cfg.action!r}")
    if cfg.action == "generate":
        data.generate_data(overwrite=cfg.overwrite)
        return True
    if cfg.action == "prepare":
        if hasattr(data, "prepare_files"):
            data.prepare_files(overwrite=cfg.overwrite)
        else:
            data.prepare_data()
        return True
    report = data.check_data()
    for line in report.lines:
        log.info("%s", line)
    for problem in report.problems:
        log.error("bad: %s", problem)
    log.info("%d bad samples", len(report.problems))
    return not report.problems


if __name__ == "__main__":
    main()
