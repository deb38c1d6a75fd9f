"""What every op's tests share: native kernels against the reference, and results that do not depend on threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from zoo.ops import dispatch, native


def native_op(name: str) -> Callable[..., Any]:
    """The op as users reach it, after the native kernels have been looked for."""
    native.settle()
    return getattr(torch.ops.zoo, name)


def tensors_of(result: Any) -> list[torch.Tensor]:
    """The tensors of an op's result."""
    results = result if isinstance(result, (tuple, list)) else [result]
    return [value for value in results if isinstance(value, torch.Tensor)]


def assert_native_matches_reference(name: str, *arguments: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """The native kernel gives what the plain torch reference gives: shapes, dtypes, strides and values."""
    found = tensors_of(native_op(name)(*arguments))
    expected = tensors_of(dispatch.REFERENCES[name](*arguments))
    assert len(found) == len(expected)
    for position, (value, wanted) in enumerate(zip(found, expected, strict=True)):
        assert value.is_contiguous(), f"{name}[{position}]"
        torch.testing.assert_close(
            value, wanted, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text, at=position: f"{name}[{at}]: {text}"
        )


def assert_same_for_all_threads(function: Callable[[], Any], threads: Sequence[int] = (1, 2, 4)) -> None:
    """All tensors that ``function`` returns are bitwise equal whatever the number of threads."""
    native.settle()
    before, results = torch.get_num_threads(), []
    try:
        for number in threads:
            torch.set_num_threads(number)
            found = [value.detach() for value in tensors_of(function())]
            results.append([value.clone(memory_format=torch.contiguous_format) for value in found])
    finally:
        torch.set_num_threads(before)
    for number, result in zip(threads[1:], results[1:], strict=True):
        for position, (value, expected) in enumerate(zip(result, results[0], strict=True)):
            same = value.view(torch.uint8) == expected.view(torch.uint8) if value.numel() else torch.ones(1)
            assert value.shape == expected.shape, f"result {position} with {number} threads"
            assert bool(same.all()), f"result {position} with {number} threads differs from the one with {threads[0]}"
