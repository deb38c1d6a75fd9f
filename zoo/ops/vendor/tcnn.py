"""Hash grid and fused MLP by tiny-cuda-nn, chosen with ``zoo.ops.use_backend("tcnn")`` (Hydra: ``ops=tcnn``).

Needs a CUDA GPU: the package refuses to import without one. The parameters stay ours; each call hands them to a native
module of the same settings, so results agree within its arithmetic: the encoding runs in float32, the fused MLP in half
precision.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from zoo.ops.hash_grid_layout import HashGridLayout

_GRID_TYPES = {"hash": "Hash", "dense": "Dense", "tiled": "Tiled"}
_HASHES = {"coherent_prime": "CoherentPrime", "prime": "Prime", "reversed_prime": "ReversedPrime"}
_ACTIVATIONS = {
    "none": "None",
    "relu": "ReLU",
    "leaky_relu": "LeakyReLU",
    "softplus": "Softplus",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "exp": "Exponential",
    "sine": "Sine",
    "squareplus": "Squareplus",
}
FUSED_WIDTHS = (16, 32, 64, 128)


def encoding_config(layout: HashGridLayout) -> dict[str, Any]:
    """The settings under which tiny-cuda-nn builds the same grid.

    Raises:
        ValueError: The layout follows another convention.
    """
    if layout.convention != "tcnn":
        raise ValueError(f"layout: found convention {layout.convention!r}, expected 'tcnn' on the tcnn back-end")
    return {
        "otype": "Grid",
        "type": _GRID_TYPES[layout.grid_type],
        "n_levels": layout.num_levels,
        "n_features_per_level": layout.features_per_level,
        "log2_hashmap_size": layout.log2_table_size,
        "base_resolution": layout.base_resolution,
        "per_level_scale": layout.per_level_scale,
        "interpolation": layout.interpolation.capitalize(),
        "hash": _HASHES[layout.hash_name],
    }


def network_config(hidden_dims: Sequence[int], activation: str, output_activation: str) -> dict[str, Any]:
    """The settings under which tiny-cuda-nn builds the same network: fully fused where the width allows it.

    Raises:
        ValueError: The hidden layers differ in width.
    """
    if len(set(hidden_dims)) > 1:
        raise ValueError(f"hidden_dims: found {list(hidden_dims)}, tiny-cuda-nn expects one width for all")
    width = hidden_dims[0] if hidden_dims else FUSED_WIDTHS[0]
    is_fused = bool(hidden_dims) and width in FUSED_WIDTHS
    return {
        "otype": "FullyFusedMLP" if is_fused else "CutlassMLP",
        "activation": _ACTIVATIONS[activation],
        "output_activation": _ACTIVATIONS[output_activation],
        "n_neurons": width,
        "n_hidden_layers": len(hidden_dims),
    }


def hash_encode(x: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """See `zoo.ops.hash_encode`; float32 CUDA tensors and the tcnn convention only."""
    if not x.is_cuda or table.dtype != torch.float32:
        raise ValueError(f"x: found device {x.device}, table {table.dtype}; tiny-cuda-nn expects CUDA and float32")
    module = _encoding(layout, x.device)
    return torch.func.functional_call(module, {"params": table.flatten()}, (x,))


def fused_mlp(
    x: Tensor,
    params: Tensor,
    *,
    out_dim: int,
    hidden_dims: Sequence[int],
    activation: str = "relu",
    output_activation: str = "none",
) -> Tensor:
    """A bias-free network ``(N, in) -> (N, out)``; ``params`` is its flat vector, whose padded columns are zero."""
    key = tuple(sorted(network_config(hidden_dims, activation, output_activation).items()))
    module = _network(x.shape[1], out_dim, key, x.device)
    return torch.func.functional_call(module, {"params": params}, (x,)).to(x.dtype)


@functools.lru_cache(maxsize=16)
def _encoding(layout: HashGridLayout, device: torch.device) -> torch.nn.Module:
    with torch.cuda.device(device):
        made = _package().Encoding(layout.num_dims, encoding_config(layout), dtype=torch.float32)
    if made.params.numel() != layout.num_parameters:
        raise ValueError(
            f"layout: tiny-cuda-nn on this GPU makes {made.params.numel()} parameters of it, expected "
            f"{layout.num_parameters}: its exp2 rounds a resolution differently; use ops=native"
        )
    return made


@functools.lru_cache(maxsize=16)
def _network(in_dim: int, out_dim: int, key: tuple[tuple[str, Any], ...], device: torch.device) -> torch.nn.Module:
    with torch.cuda.device(device):
        return _package().Network(in_dim, out_dim, dict(key))


def _package() -> ModuleType:
    try:
        import tinycudann  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError) as error:
        raise ImportError(
            f"ops=tcnn needs tiny-cuda-nn and a CUDA GPU, and it does not import here: {error}; use ops=native"
        ) from error
    return tinycudann
