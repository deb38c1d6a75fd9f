"""Loads sparse-convolution weights that other libraries saved.

Layouts of a weight, by the axes in the file (spatial axes in the order of the coordinate columns):

- ``"KRSC"``: ``[out, k.., in]``, spconv 2.x; also the layout of this package.
- ``"RSCK"``: ``[k.., in, out]``, spconv 1.x.
- ``"RSKC"``: ``[k.., out, in]``, early spconv 2.x (``SPCONV_SAVED_WEIGHT_LAYOUT=RSKC``).
- ``"minkowski"``: ``[K, in, out]`` (``[in, out]`` for K = 1), first spatial axis fastest; MinkowskiEngine, and
  TorchSparse for kernels of odd volume.
- ``"torchsparse_even"``: the same with the last spatial axis fastest; TorchSparse for kernels of even volume.

**Kernel-1 quirk.** Where the kernel has one cell (and, outside submanifold layers, stride 1), spconv 2.x multiplies by
``weight.reshape(in, out)``: the memory of the ``[out, 1.., in]`` tensor read as ``[in, out]``, which is not its
transpose. A network trained with spconv has learned that matrix, so it is what the layer here must hold: ``W =
weight.reshape(in, out).T``. spconv 1.x multiplies by its ``[in, out]`` matrix as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from zoo.models.layers.sparse_conv import SparseConvBase
from zoo.ops.checks import check_option

SPCONV_LAYOUTS = ("KRSC", "RSCK", "RSKC")
LAYOUTS = (*SPCONV_LAYOUTS, "minkowski", "torchsparse_even")


def convert_spconv_state(model: nn.Module, state: Mapping[str, Tensor], layout: str = "auto") -> dict[str, Tensor]:
    """Convert the sparse-convolution weights of a spconv checkpoint to this package's layout; other entries stay.

    Args:
        model: The network that will load the result; its `SparseConvBase` modules say which keys are weights.
        state: Upstream state dict with the model's key names.
        layout: ``"KRSC"`` (spconv 2.x), ``"RSCK"`` (1.x), ``"RSKC"``, or ``"auto"``: the one layout that fits the
            shapes of all weights.

    Returns:
        A new state dict for ``model.load_state_dict``.

    Raises:
        ValueError: No layout fits, or with ``"auto"`` more than one.
    """
    check_option("layout", layout, ("auto", *SPCONV_LAYOUTS))
    layers = {name + ".weight": module for name, module in model.named_modules() if isinstance(module, SparseConvBase)}
    weights = {key: layer for key, layer in layers.items() if key in state}
    if layout == "auto":
        layout = detect_layout({key: (state[key], layer) for key, layer in weights.items()})
    converted = dict(state)
    for key, layer in weights.items():
        converted[key] = convert_weight(state[key], layer, layout, name=key)
    return converted


def detect_layout(weights: Mapping[str, tuple[Tensor, SparseConvBase]]) -> str:
    """The one spconv layout in which every weight has the shape that its layer expects."""
    fitting = [
        layout
        for layout in SPCONV_LAYOUTS
        if all(tuple(weight.shape) == stored_shape(layer, layout) for weight, layer in weights.values())
    ]
    if len(fitting) == 1 or (fitting and not weights):
        return fitting[0]
    if fitting:
        raise ValueError(f"layout: the weights fit each of {fitting}; say which one the file has")
    for key, (weight, layer) in weights.items():
        shapes = {layout: stored_shape(layer, layout) for layout in SPCONV_LAYOUTS}
        if tuple(weight.shape) not in shapes.values():
            raise ValueError(f"{key}: found shape {tuple(weight.shape)}, expected one of {shapes}")
    raise ValueError("layout: the weights do not share one layout; convert them one by one with convert_weight")


def stored_shape(layer: SparseConvBase, layout: str) -> tuple[int, ...]:
    """The shape of a layer's weight in a file of the given layout."""
    out, *kernel, per_group = layer.weight.shape
    if layout == "KRSC":
        return (out, *kernel, per_group)
    if layout == "RSCK":
        return (*kernel, per_group, out)
    if layout == "RSKC":
        return (*kernel, out, per_group)
    volume = math.prod(kernel)
    return (per_group, out) if volume == 1 else (volume, per_group, out)


def convert_weight(weight: Tensor, layer: SparseConvBase, layout: str, *, name: str = "weight") -> Tensor:
    """One weight, from a file's layout to ``layer.weight``'s.

    Raises:
        ValueError: A shape that the layout does not have for this layer.
    """
    check_option("layout", layout, LAYOUTS)
    expected = stored_shape(layer, layout)
    if tuple(weight.shape) != expected:
        raise ValueError(f"{name}: found shape {tuple(weight.shape)}, expected {expected} in layout {layout}")
    if layout in ("KRSC", "RSKC") and reinterprets(layer):
        out, per_group = layer.weight.shape[0], layer.weight.shape[-1]
        return weight.reshape(per_group, out).T.reshape(layer.weight.shape).contiguous()
    ndim = layer.ndim
    spatial = list(range(ndim))
    if layout == "KRSC":
        return weight
    if layout == "RSCK":
        return weight.permute(ndim + 1, *spatial, ndim).contiguous()
    if layout == "RSKC":
        return weight.permute(ndim, *spatial, ndim + 1).contiguous()
    kernel = layer.kernel_size
    if layout == "minkowski":
        cells = weight.reshape(*reversed(kernel), *weight.shape[-2:])
        return cells.permute(ndim + 1, *reversed(spatial), ndim).contiguous()
    return weight.reshape(*kernel, *weight.shape[-2:]).permute(ndim + 1, *spatial, ndim).contiguous()


def reinterprets(layer: SparseConvBase) -> bool:
    """Whether spconv 2.x runs this layer as a plain product with its reinterpreted weight (the kernel-1 quirk)."""
    stride: tuple[int, ...] = getattr(layer, "stride", (1,))
    return math.prod(layer.kernel_size) == 1 and math.prod(stride) == 1


def to_spconv_weight(weight: Tensor, layer: SparseConvBase) -> Tensor:
    """The inverse of `convert_weight` for layout ``"KRSC"``: what spconv 2.x must hold to compute the same."""
    if not reinterprets(layer):
        return weight
    return weight.reshape(weight.shape[0], weight.shape[-1]).T.reshape(weight.shape).contiguous()
