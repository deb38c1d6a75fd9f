"""Every configuration composes, and every object in it can be made with the arguments it is given."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf

from zoo.registry import create_model, describe_models, list_experiments, list_models
from zoo.training.configuration import compose, config_differences, name_run, plain, walk_targets

GROUPS = Path(__file__).resolve().parents[3] / "zoo" / "configs"
TOY = str(Path(__file__).resolve().parents[2] / "smoke" / "configs")
OPTIONS = sorted(
    f"{folder.name}={path.stem}"
    for folder in GROUPS.iterdir()
    if folder.name in ("callbacks", "debug", "logger", "ops", "optim", "paths", "trainer")
    for path in folder.glob("*.yaml")
)
HANDED_OVER = {  # arguments that the code adds to those of the configuration
    "task": ("model", "optimizer", "scheduler"),
    "trainer": ("callbacks", "logger", "plugins", "default_root_dir", "enable_progress_bar", "enable_model_summary"),
}


def bind_all(content: dict[str, Any]) -> int:
    """Bind each node with a ``_target_`` to the signature of what it names."""
    count = 0
    for path, node in walk_targets(content):
        target = get_object(node["_target_"])
        arguments = {key: value for key, value in node.items() if not key.startswith("_")}
        arguments |= dict.fromkeys(HANDED_OVER.get(path, ()))
        signature = inspect.signature(target)
        bind = signature.bind_partial if node.get("_partial_") else signature.bind
        try:
            bind(*node.get("_args_", ()), **arguments)
        except TypeError as error:
            raise AssertionError(f"{path}: {node['_target_']}: {error}") from error
        count += 1
    return count


@pytest.mark.parametrize("name", list_experiments())
def test_every_experiment_binds(name: str) -> None:
    cfg = compose([f"experiment={name}"])
    assert cfg.name == name
    assert "_target_" in cfg.task
    assert not OmegaConf.missing_keys(cfg)
    assert bind_all(plain(cfg)) >= 4


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_the_house_binds(option: str) -> None:
    group, _, choice = option.partition("=")
    chosen = f"{group}=[default,{choice}]" if group == "callbacks" and choice != "default" else option
    assert bind_all(plain(compose([chosen, "name=x"]))) >= 2


def test_a_misspelt_argument_is_found() -> None:
    content = plain(compose(["experiment=toy"], config_dir=TOY))
    content["model"]["widht"] = 3
    with pytest.raises(AssertionError, match="widht"):
        bind_all(content)


@pytest.mark.parametrize("override", ["seeed=1", "trainer.max_stesp=3", "experiment=no_such", "nothing"])
def test_unknown_overrides_are_named(override: str) -> None:
    with pytest.raises(
        HydraException, match=override.split("=")[-1] if "experiment" in override else override.split("=")[0]
    ):
        compose([override])


def test_later_layers_win() -> None:
    cfg = compose(["experiment=toy", "debug=fdr", "trainer.log_every_n_steps=3"], config_dir=TOY)
    assert cfg.optim.optimizer.lr == 0.01  # experiment over group
    assert cfg.trainer.max_steps == 2  # debug over experiment
    assert cfg.trainer.log_every_n_steps == 3  # command line over all


def test_a_run_is_named_after_its_experiment() -> None:
    assert compose(["experiment=toy"], config_dir=TOY).name == "toy"
    assert compose(["experiment=toy", "name=mine"], config_dir=TOY).name == "mine"
    assert compose().name == "train"
    assert name_run(OmegaConf.create({"name": None}), "x").name == "x"


def test_differences_are_listed_by_key() -> None:
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4}, "e": 5}
    assert config_differences(old, new) == ["b.c: 2 -> 4", "b.d: 3 -> absent", "e: absent -> 5"]


def test_models_are_read_from_the_configuration() -> None:
    infos = {info.name: info for info in describe_models()}
    assert list(infos) == list_models()
    for info in infos.values():
        assert info.target.startswith("zoo.models.")
        assert info.summary
    assert list_models("no-such*") == []


def test_an_unknown_model_gets_a_hint() -> None:
    with pytest.raises(ValueError, match="did you mean hollownerf"):
        create_model("holownerf")


def hydra_part(*overrides: str) -> Any:
    """The part of the composition that is Hydra's own."""
    with initialize_config_module("zoo.configs", version_base="1.3"):
        cfg = hydra_compose("train", overrides=list(overrides), return_hydra_config=True)
    return OmegaConf.to_container(cfg.hydra.launcher, resolve=True)


def test_slurm_starts_a_process_for_each_device() -> None:
    job = hydra_part("hydra/launcher=slurm", "trainer=ddp", "trainer.devices=8", "trainer.num_nodes=2")
    assert job["_target_"].endswith("SlurmLauncher")
    assert (job["nodes"], job["tasks_per_node"], job["gpus_per_node"]) == (2, 8, 8)
    assert job["submitit_folder"].endswith("/.submitit/%j")
    here = hydra_part("hydra/launcher=jobs")
    assert here["_target_"].endswith("LocalLauncher")
    assert here["tasks_per_node"] == 1


def test_sharded_training_is_composed() -> None:
    trainer = compose(["experiment=dsvt_waymo_voxel", "trainer=fsdp"]).trainer
    assert (trainer.strategy, trainer.accelerator, trainer.sync_batchnorm) == ("fsdp", "gpu", True)
