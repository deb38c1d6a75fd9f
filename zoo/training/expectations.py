"""Whether a measurement of pretrained weights gives what their card promises."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig

from zoo.hub import Card, find_card, is_card_name, list_cards
from zoo.training.configuration import compose, config_differences, plain

__all__ = ["Expectation", "UnexpectedFigures", "expectation_for", "pretrained_weights"]

log = logging.getLogger(__name__)

_MEASURED_PARTS = ("data", "model", "task", "seed")  # what decides the figures of a test
_ELSEWHERE = ("root", "num_workers")  # where samples lie and who reads them: not which


class UnexpectedFigures(RuntimeError):  # noqa: N818 - what it says is in its name
    """A measurement lies outside of what the weight's card allows."""


@dataclass(frozen=True)
class Expectation:
    """What a card promises for this run.

    Attributes:
        card: The card.
        differences: Lines in which the run's configuration is not that of the card's command; no figure is expected
            of such a run.
        strict: Whether other figures are an error.
    """

    card: Card
    differences: tuple[str, ...]
    strict: bool

    def check(self, metrics: Mapping[str, float]) -> None:
        """Say what was expected and what was measured.

        Raises:
            UnexpectedFigures: If strict, and a figure differs by more than the card's tolerance or is missing.
        """
        for name, value in self.card.paper.items():
            log.info("%s: its authors state %s: %g", self.card.name, name, value)
        if self.differences:
            log.info("%s: the card's figures are of another configuration: %s", self.card.name, self.differences[0])
            return
        wrong = []
        for name, expected in self.card.measured.items():
            found = metrics.get(name, math.nan)
            near = abs(found - expected.value) <= expected.tolerance
            line = f"{name}: expected {expected.value:.6g} within {expected.tolerance:g}, measured {found:.6g}"
            log.info("%s: %s%s", self.card.name, line, "" if near else ": NOT AS EXPECTED")
            if not near:
                wrong.append(line)
        if wrong and self.strict:
            raise UnexpectedFigures(f"weights={self.card.name}: {'; '.join(wrong)}")


def expectation_for(cfg: DictConfig) -> Expectation | None:
    """What is to be expected of a run, if it measures a weight of the zoo.

    Raises:
        ValueError: ``expect=true`` for a run of which nothing can be expected; the message says why.
    """
    name, expect = str(cfg.weights), bool(cfg.get("expect", False))  # older runs' configurations have no such key
    is_measured = not cfg.train and bool(cfg.test) and bool(cfg.weights) and is_card_name(name)
    if not is_measured:
        if expect:
            raise ValueError("expect=true: needs train=false test=true and weights=NAME, a name of `zoo download`")
        return None
    card = find_card(name)
    differences = tuple(_differences(card, cfg))
    if expect and not card.measured:
        raise ValueError(f"expect=true: the card of {name} has no measured figure; run without expect to see one")
    if expect and differences:
        raise ValueError(
            f"expect=true: the figures of {name} are of another configuration ({'; '.join(differences[:5])}); "
            f"measure it with: {card.command}"
        )
    return Expectation(card, differences, expect)


def pretrained_weights(experiment: str) -> str:
    """The weight that ``ckpt=pretrained`` means: the one that was made by this experiment.

    Raises:
        ValueError: There is none, or several.
    """
    names = [card.name for card in list_cards() if card.experiment == experiment and card.is_usable]
    if len(names) != 1:
        found = f"it has several, say which as weights=NAME: {', '.join(names)}" if names else "train it"
        raise ValueError(f"ckpt=pretrained: expected one weight of the experiment {experiment!r}; {found}")
    return names[0]


def _differences(card: Card, cfg: DictConfig) -> list[str]:
    """Where this run's configuration is not that of the card's command, as far as figures depend on it."""
    if not card.experiment:
        return ["it has no command"]
    try:
        reference = compose(card.config_overrides, config_dir=_config_dir())
    except HydraException as error:
        return [f"its command does not compose ({error})"]
    reference.paths = cfg.paths
    lines = config_differences(_measured_parts(reference), _measured_parts(cfg))
    return [line for line in lines if line.partition(":")[0].rpartition(".")[2] not in _ELSEWHERE]


def _measured_parts(cfg: DictConfig) -> dict[str, Any]:
    content = plain(cfg)
    return {name: content.get(name) for name in _MEASURED_PARTS}


def _config_dir() -> str | None:
    """The folder of ``--config-dir``, where the command line has one."""
    if not HydraConfig.initialized():
        return None
    sources = HydraConfig.get().runtime.config_sources
    return next((str(source.path) for source in sources if source.provider == "command-line"), None)
