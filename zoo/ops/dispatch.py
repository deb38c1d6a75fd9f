"""How an op is defined: one schema, one reference, one fake, one backward and one autocast rule, all in Python.

The native binary adds kernels for CPU and CUDA under the same names; where it is missing, the reference (registered as
CompositeExplicitAutograd) answers. Graphs, ``opcheck``, ``torch.compile`` and ``torch.export`` are the same either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from zoo.ops import native

LIBRARY = torch.library.Library("zoo", "DEF")
REFERENCES: dict[str, Callable[..., Any]] = {}

AutocastRule = Sequence[str] | Literal["float32"] | None


def define_op(
    schema: str,
    *,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    backward: tuple[Callable[..., None], Callable[..., Any]] | None = None,
    autocast: AutocastRule = None,
) -> Callable[..., Any]:
    """Define the op ``zoo::NAME`` and return the function that calls it.

    Args:
        schema: The signature in torch's schema language, without namespace.
        reference: Plain torch implementation with the schema's arguments.
        fake: The same for shapes only.
        backward: ``(setup_context, backward)`` as ``torch.library.register_autograd`` takes them.
        autocast: Names of the arguments that follow the autocast dtype, or ``"float32"`` for an op that computes in
            float32 whatever autocast says. None leaves every argument as it is.
    """
    name = schema.split("(", 1)[0].strip()
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    REFERENCES[name] = reference
    qualified = f"zoo::{name}"
    torch.library.register_fake(qualified, fake, lib=LIBRARY)
    if backward is not None:
        setup_context, backward_function = backward
        torch.library.register_autograd(qualified, backward_function, setup_context=setup_context, lib=LIBRARY)
    op = getattr(torch.ops.zoo, name).default
    if autocast is not None:
        _register_autocast(op, name, autocast)

    def call(*args: Any) -> Any:
        if not native.is_settled():
            native.settle()
        return op(*args)

    call.__name__ = call.__qualname__ = name
    return call


def _register_autocast(op: torch._ops.OpOverload, name: str, rule: AutocastRule) -> None:
    names = [argument.name for argument in op._schema.arguments]
    chosen = None if rule == "float32" else {names.index(argument) for argument in rule or ()}

    def kernel_for(device_type: str) -> Callable[..., Any]:
        def kernel(*args: Any) -> Any:
            dtype = torch.float32 if chosen is None else torch.get_autocast_dtype(device_type)
            cast = [
                _cast(value, dtype) if chosen is None or position in chosen else value
                for position, value in enumerate(args)
            ]
            with torch.autocast(device_type, enabled=False):
                return op(*cast)

        return kernel

    LIBRARY.impl(name, kernel_for("cpu"), "AutocastCPU")
    LIBRARY.impl(name, kernel_for("cuda"), "AutocastCUDA")


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating tensors go to ``dtype``; float64 stays, as everywhere under autocast."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float64:
        return value.to(dtype)
    return value
