"""The configurations, and what their files may compute: ``${share:0.5,${trainer.max_steps}}``, rounded."""

from omegaconf import OmegaConf


def _share(share: float, number: int) -> int:
    """For schedules that follow the length of a run."""
    return round(share * number)


# Hydra imports this package to find its files, so the name is known before anything is resolved
OmegaConf.register_new_resolver("share", _share, replace=True)
