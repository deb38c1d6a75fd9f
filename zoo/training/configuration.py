"""From overrides to a configuration, and from a configuration to objects."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from zoo.targets import check_targets

if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningDataModule, LightningModule
    from lightning.pytorch.loggers import Logger
    from torch import nn

__all__ = [
    "RunParts",
    "build",
    "build_callbacks",
    "build_loggers",
    "build_parts",
    "compose",
    "config_differences",
    "load_run",
    "name_run",
    "plain",
    "read_config",
    "use_ops",
    "walk_targets",
]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParts:
    """What a run is made of, ready for the trainer."""

    task: LightningModule
    data: LightningDataModule


def compose(overrides: Sequence[str] = (), *, config_name: str = "train", config_dir: str | None = None) -> DictConfig:
    """The configuration that the command line would give for these overrides.

    Args:
        overrides: As on the command line: ``["experiment=hollownerf_quickstart", "trainer.max_steps=100"]``.
        config_name: The primary file.
        config_dir: A folder with groups of your own (``--config-dir``).

    Raises:
        hydra.errors.HydraException: An override names nothing; the message says what.

    Example:
        >>> compose(["seed=7", "trainer.max_steps=10"]).trainer.max_steps
        10
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    search = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    former = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("zoo.configs", version_base="1.3"):
            cfg = hydra_compose(config_name, overrides=[*search, *overrides], return_hydra_config=True)
    finally:
        GlobalHydra.instance().clear()
        if former is not None:
            GlobalHydra.instance().initialize(former)
    choice = cfg.hydra.runtime.choices.get("experiment")
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    OmegaConf.set_struct(cfg, True)
    return name_run(cfg, choice)


def name_run(cfg: DictConfig, experiment: str | None) -> DictConfig:
    """Give the run the experiment's name unless it has one."""
    if "name" in cfg and cfg.name is None:
        cfg.name = experiment or "train"
    return cfg


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration with interpolations resolved, in dicts, lists, strings and numbers."""
    content = OmegaConf.to_container(cfg, resolve=True)
    if not isinstance(content, dict):
        raise TypeError(f"cfg: found {type(content).__name__}, expected a mapping")
    return {str(key): value for key, value in content.items()}


def build_parts(cfg: DictConfig) -> RunParts:
    """Instantiate model, data and task.

    Raises:
        ValueError: The configuration names no model, data or task.
    """
    for node in ("task", "model", "data"):
        if not cfg.get(node) or "_target_" not in cfg[node]:
            raise ValueError(
                f"{node}: found nothing to build; choose an experiment (experiment=NAME, `zoo list` names them)"
            )
    model: nn.Module = build(cfg.model)
    weights = None
    if cfg.weights:
        from zoo.training.weights import find_weights, load_task_state, load_weights

        weights = find_weights(cfg.weights)
        load_weights(model, weights)
    if cfg.compile:
        model.compile()  # in place: the names in the state dict stay what they are
    optimizer, scheduler = build(cfg.optim.optimizer), build(cfg.optim.scheduler)
    task = build(cfg.task, partial=True)(model=model, optimizer=optimizer, scheduler=scheduler)
    if weights is not None and not cfg.train:
        load_task_state(task, weights)
        if weights.class_names:
            task.on_load_checkpoint({"class_names": list(weights.class_names)})
    return RunParts(task=task, data=build(cfg.data))


def build(node: DictConfig | None, *, partial: bool = False) -> Any:
    """Instantiate a ``_target_`` with plain containers as arguments; null stays None.

    Args:
        node: The configuration of one object.
        partial: Return a function that takes the remaining arguments: objects handed to Hydra itself would be copied.
    """
    from hydra.utils import instantiate

    if node is None:
        return None
    return instantiate(node, _convert_="all", _partial_=True) if partial else instantiate(node, _convert_="all")


def build_callbacks(cfg: DictConfig) -> list[Callback]:
    """The callbacks of the group ``callbacks``; entries that are null are left out."""
    return [build(node) for node in (cfg.get("callbacks") or {}).values() if node]


def build_loggers(cfg: DictConfig) -> list[Logger]:
    """The loggers of the group ``logger``, which come beside metrics.csv."""
    return [build(node) for node in (cfg.get("logger") or {}).values() if node]


def use_ops(cfg: DictConfig) -> None:
    """Switch the ops of this process to the back-end that the group ``ops`` names."""
    from zoo.ops.backend import set_backend

    set_backend(cfg.ops.backend)


def load_run(checkpoint: str | Path, overrides: Sequence[str] = ()) -> tuple[DictConfig, RunParts]:
    """Rebuild the task and data of a run from its checkpoint, with the trained state.

    Args:
        checkpoint: The file, which holds its configuration.
        overrides: Changes to that configuration, ``["data.root=/elsewhere"]``; ``+`` in front adds a key.

    Raises:
        ValueError: The file is no checkpoint of this package, its configuration asks for code that is not known (see
            `zoo.targets.check_targets`), or an override names nothing.
    """
    content = _read_checkpoint(checkpoint)
    cfg = DictConfig(content["config"])
    _override(cfg, overrides)
    cfg.weights = None
    parts = build_parts(cfg)
    parts.task.on_load_checkpoint(content)
    parts.task.load_state_dict(content["state_dict"])
    parts.task.eval()
    return cfg, parts


def read_config(checkpoint: str | Path) -> dict[str, Any]:
    """The configuration of the run that wrote a checkpoint.

    Raises:
        ValueError: The file is no checkpoint of this package.
    """
    return _read_checkpoint(checkpoint)["config"]


def _read_checkpoint(path: str | Path) -> dict[str, Any]:
    from zoo.training.upstream_layouts import read_content

    content = read_content(path)
    if not isinstance(content.get("config"), dict) or not isinstance(content.get("state_dict"), dict):
        raise ValueError(f"{path}: expected a checkpoint with 'config' and 'state_dict' as tools/train.py writes it")
    check_targets(content["config"], str(path))
    return content


def _override(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Set keys in place; one that is not there needs a ``+``, as on the command line."""
    for override in overrides:
        key, found, _ = override.lstrip("+").partition("=")
        if not found:
            raise ValueError(f"override {override!r}: expected key=value")
        if not override.startswith("+") and OmegaConf.select(cfg, key, default=cfg) is cfg:
            raise ValueError(
                f"override {override!r}: the checkpoint's configuration has no {key!r}; +{override} adds it"
            )
        cfg.merge_with(OmegaConf.from_dotlist([override.lstrip("+")]))


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines ``key: old -> new`` for every leaf in which two configurations differ."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        name, before, after = f"{prefix}{key}", old.get(key, "absent"), new.get(key, "absent")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += config_differences(before, after, f"{name}.")
        elif before != after:
            lines.append(f"{name}: {before} -> {after}")
    return lines


def walk_targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a plain configuration that has a ``_target_``, with its path."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, dict(node)
        for key, value in node.items():
            yield from walk_targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for index, value in enumerate(node):
            yield from walk_targets(value, f"{path}[{index}]")
