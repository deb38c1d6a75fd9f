"""Examples in docstrings run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import pytest

import zoo

MODULES = sorted(
    info.name for info in pkgutil.walk_packages(zoo.__path__, "zoo.") if not info.name.endswith("__main__")
)

# State of the process, and what needs open3d.
NO_EXAMPLE = {"active_backend", "set_backend", "sparse_from_open3d", "sparse_to_open3d"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, verbose=False
    )
    assert result.failed == 0


def test_public_ops_have_examples() -> None:
    from zoo import ops

    functions = {name: getattr(ops, name) for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    without = {name for name, function in functions.items() if ">>>" not in (function.__doc__ or "")}
    assert without <= NO_EXAMPLE
