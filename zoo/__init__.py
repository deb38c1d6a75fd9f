"""voxelzoo: sparse 3D vision models over one layer of sparse-voxel, hash-grid, ray and Gaussian ops."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.registry import create_model, list_experiments, list_models

__version__ = "0.1.0"
__all__ = ["create_model", "list_experiments", "list_models"]


def __getattr__(name: str) -> Any:
    """Names of the registry are fetched on first use, so that ``import zoo`` costs nothing."""
    if name in __all__:
        return getattr(importlib.import_module("zoo.registry"), name)
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
