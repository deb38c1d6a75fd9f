"""Which classes a file may ask for: checkpoints and field files hold configurations, and may come from anywhere."""

from __future__ import annotations

import functools
import importlib.resources
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_targets"]

_TARGET = re.compile(r"_target_:\s*([\w.]+)")


def check_targets(config: Any, source: str) -> None:
    """Refuse a configuration that would call anything but what the package's own configurations call.

    Hydra calls whatever a ``_target_`` names with the arguments beside it. Known names are those that stand in
    ``zoo/configs``, and what lies below the dotted prefixes in ``$ZOO_TRUST`` (comma-separated, for models of your
    own). Interpolations are refused too, as they could make a ``_target_`` later; what the package writes has none.

    Args:
        config: Mappings, lists and plain values, as a file holds them.
        source: The file, for the message.

    Raises:
        ValueError: Another name, or an interpolation.
    """
    trusted = tuple(f"{name.strip()}." for name in os.environ.get("ZOO_TRUST", "").split(",") if name.strip())
    pending: list[Any] = [config]
    seen: set[int] = set()
    while pending:
        node = pending.pop()
        if isinstance(node, str) and "${" in node:
            raise ValueError(
                f"{source}: its configuration holds the interpolation {node[:60]!r}, expected plain values"
            )
        if not isinstance(node, Mapping | Sequence) or isinstance(node, str | bytes) or id(node) in seen:
            continue
        seen.add(id(node))
        if not isinstance(node, Mapping):
            pending += node
            continue
        pending += [*node.keys(), *node.values()]
        if "_target_" in node:
            target = node["_target_"]
            known = isinstance(target, str) and (target in _own_targets() or target.startswith(trusted))
            if not known:
                raise ValueError(
                    f"{source}: its configuration asks for {target!r}, which none of this package's configurations "
                    "name. If that is code of yours, and you know who made the file, set ZOO_TRUST to its package"
                )


@functools.lru_cache
def _own_targets() -> frozenset[str]:
    """All that the configurations of the package name."""
    found: set[str] = set()
    pending = [importlib.resources.files("zoo.configs")]
    while pending:
        for entry in pending.pop().iterdir():
            if entry.is_dir():
                pending.append(entry)
            elif entry.name.endswith(".yaml"):
                found.update(_TARGET.findall(entry.read_text(encoding="utf-8")))
    return frozenset(found)
