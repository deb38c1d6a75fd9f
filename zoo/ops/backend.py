"""Which implementation answers: ours (native kernels or reference), or a vendor's library where one is asked for."""

from __future__ import annotations

import contextlib
import importlib.util
import warnings
from collections.abc import Iterator

import torch

from zoo.ops import native
from zoo.ops.checks import check_option

VENDORS = {
    "spconv": ("spconv", "pip install 'voxelzoo[spconv]'"),
    "nerfacc": ("nerfacc", "pip install 'voxelzoo[nerfacc]'"),
    "tcnn": ("tinycudann", "a build from source: see docs/guides/backends.md"),
}
BACKENDS = ("native", "reference", *VENDORS)

_active = "native"
_override: torch.library.Library | None = None


def active_backend() -> str:
    """The name of the back-end in use."""
    return _active


def set_backend(name: str) -> None:
    """Choose the back-end for this process; see :func:`use_backend`."""
    global _active, _override
    check_option("backend", name, BACKENDS)
    if name in VENDORS:
        package, remedy = VENDORS[name]
        if importlib.util.find_spec(package) is None:
            raise ImportError(f"backend {name!r} needs the package {package}, which is not installed: {remedy}")
    if _override is not None:
        _override._destroy()
        _override = None
    if name == "reference":
        _override = _reference_over_native()
    _active = name


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the enclosed ops on a chosen back-end.

    ``native`` is the default: our kernels, or the reference where no binary could be had. ``reference`` is the plain
    torch implementation. ``spconv`` (sparse convolution), ``nerfacc`` (ray sampling and rendering) and ``tcnn`` (hash
    grid, fused MLP) are third-party libraries that give the same results for the ops that they have; all other ops stay
    ours.

    Raises:
        ValueError: Unknown name.
        ImportError: The vendor's package is not installed; the message says how to install it.

    Example:
        >>> import torch, zoo.ops
        >>> with zoo.ops.use_backend("reference"):
        ...     values = zoo.ops.spherical_harmonics(torch.eye(3), degree=2)
        >>> values.shape
        torch.Size([3, 4])
    """
    before = _active
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def _reference_over_native() -> torch.library.Library:
    """Put the references over the native kernels until the returned library is destroyed."""
    from zoo.ops.dispatch import REFERENCES

    native.settle()  # else the binary would be loaded over the references later
    library = torch.library.Library("zoo", "IMPL")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*Overriding a previously registered kernel.*")
        for name, reference in REFERENCES.items():
            for key in ("CPU", "CUDA"):
                library.impl(name, reference, key, allow_override=True)
    return library
