"""Weights of other projects under this package's names: which file holds what, and how it becomes a state dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from zoo.data.formats.gaussian_ply import read_gaussian_ply, read_splat
from zoo.data.formats.restricted_pickle import numpy_scalars
from zoo.files import ClippedFile
from zoo.models import dsvt, e3dsnn, gridformer, hollownerf, spark
from zoo.models.gaussians.scene import GaussianScene

__all__ = ["LAYOUTS", "Layout", "layout_of", "read_content", "remap"]


class Layout(NamedTuple):
    """Names and shapes that a project gives its tensors."""

    text: str  # what has it
    models: tuple[type[nn.Module], ...]  # which networks it fits
    remap: Callable[[Mapping[str, Any], Any], dict[str, Tensor]]  # from a file's content, for a network


def read_content(path: str | Path) -> dict[str, Any]:
    """What a file holds, read without running code from it.

    Known are safetensors, checkpoints of torch (tensors, plain containers and NumPy's scalars; a pickle that asks for
    anything else is refused), and Gaussians as ``.ply`` and ``.splat``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or holds no mapping.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"weights={path}: no such file; expected a .safetensors file or a checkpoint")
    if file.suffix in (".ply", ".splat"):
        read = read_gaussian_ply if file.suffix == ".ply" else read_splat
        return {f"rows.{name}": value for name, value in vars(read(file)).items()}
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        with torch.serialization.safe_globals(numpy_scalars()), ClippedFile(file) as stream:
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights={path}: cannot be read ({error})") from error
    except Exception as error:  # torch raises many types for a file that is not its own
        raise ValueError(f"weights={path}: cannot be read as a checkpoint of tensors ({error})") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"weights={path}: found a {type(content).__name__}, expected a checkpoint")
    return {str(key): value for key, value in content.items()}


def layout_of(model: nn.Module) -> str | None:
    """The layout of a network's upstream project, or None where it has none."""
    return next((name for name, layout in LAYOUTS.items() if isinstance(model, layout.models)), None)


def remap(content: Mapping[str, Any], model: nn.Module, layout: str) -> dict[str, Tensor]:
    """The tensors of an upstream file as a state dict for ``model``.

    Args:
        content: Of `read_content`.
        model: The network that will load the result.
        layout: One of ``LAYOUTS``.

    Raises:
        ValueError: No such layout, a network that it does not fit, or tensors of something else.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: found {layout!r}, expected one of {', '.join(LAYOUTS)}")
    known = LAYOUTS[layout]
    if not isinstance(model, known.models):
        expected = ", ".join(kind.__name__ for kind in known.models)
        raise ValueError(f"layout={layout}: is that of {expected}; found a {type(model).__name__}")
    return known.remap(content, model)


def _inner(content: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The entry that holds the tensors, or the content itself, without the prefix of distributed training."""
    state = next((content[name] for name in names if isinstance(content.get(name), Mapping)), content)
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _dsvt(content: Mapping[str, Any], _: nn.Module) -> dict[str, Tensor]:
    return dsvt.remap_upstream(_tensors(_inner(content, "model_state")))


def _gridformer(content: Mapping[str, Any], _: nn.Module) -> dict[str, Tensor]:
    return _tensors(gridformer.remap_upstream(content))


def _spark(content: Mapping[str, Any], _: nn.Module) -> dict[str, Tensor]:
    return _tensors(spark.remap_upstream(_inner(content, "module")))


def _fields(content: Mapping[str, Any], field: hollownerf.HollowNeRF) -> dict[str, Tensor]:
    inner = _inner(content, "model", "radiance_field_state_dict", "state_dict")
    return hollownerf.remap_upstream(_tensors(inner), field)


def _gaussians(content: Mapping[str, Any], scene: GaussianScene) -> dict[str, Tensor]:
    """Rows of a PLY file for a scene of whatever degree; statistics of growth start anew."""
    from zoo.models.gaussians.parameters import PARAMETER_NAMES, GaussianRows

    missing = [name for name in PARAMETER_NAMES if f"rows.{name}" not in content]
    if missing:
        raise ValueError(f"weights: found no {', '.join(missing)}, expected the Gaussians of a .ply or .splat file")
    filled = GaussianScene(sh_degree=scene.sh_degree, scene_scale=float(scene.scene_scale))
    filled.set_rows(GaussianRows({name: content[f"rows.{name}"] for name in PARAMETER_NAMES}))
    return filled.state_dict()


LAYOUTS: dict[str, Layout] = {
    "dsvt": Layout("checkpoint of the DSVT repository or of OpenPCDet (model_state)", (dsvt.DSVT,), _dsvt),
    "e3dsnn": Layout(
        "checkpoint of E-3DSNN's forks of Pointcept (state_dict) and OpenPCDet (model_state), spconv 1.x or 2.x",
        (e3dsnn.E3DSNNClassifier, e3dsnn.E3DSNNSegmentor, e3dsnn.E3DSNNDetector),
        e3dsnn.remap_upstream,
    ),
    "gridformer": Layout("GridFormer's model.pt", (gridformer.GridFormer,), _gridformer),
    "spark": Layout("SparK's files with or without decoder", (spark.SparK, spark.ImageClassifier), _spark),
    "ngp": Layout(
        "checkpoint of torch-ngp, or of nerfacc's fields with tiny-cuda-nn", (hollownerf.HollowNeRF,), _fields
    ),
    "gaussians": Layout("Gaussians of gsplat and Inria's code, .ply or .splat", (GaussianScene,), _gaussians),
}
