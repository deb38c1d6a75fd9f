"""Compiles the shipped CUDA sources for the host on the fibre emulator: their ops are ``torch.ops.zoo_emulated``."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import zoo.ops  # defines the schemas
import zoo.ops.dispatch
from zoo.ops import build

EMULATOR = Path(__file__).parent / "emulator" / "cuda_emulator.h"
_LIBRARY = torch.library.Library("zoo_emulated", "DEF")


def emulated_sources() -> list[Path]:
    return sorted((build.CSRC / "cuda").glob("*.cu"))


def compile_emulated(*, sanitize: bool = False) -> list[Path]:
    """A shared library of each .cu file on the emulator; cached like the product's own objects."""
    compiler, flags = build.find_compiler(), _flags(sanitize)
    targets = {source: _target(source, compiler, flags) for source in emulated_sources()}
    missing = [source for source, target in targets.items() if not target.is_file()]
    if missing:
        with (
            tempfile.TemporaryDirectory(dir=build.cache_folder()) as scratch,
            ThreadPoolExecutor(max_workers=2) as pool,
        ):
            header = _compile_header(compiler, flags, Path(scratch))
            list(pool.map(lambda source: _compile(compiler, flags, header, source, targets[source]), missing))
    return list(targets.values())


def _flags(sanitize: bool) -> list[str]:
    flags = [*build.common_flags(), "-O1", "-fPIC", "-DZOO_EMULATE_CUDA", "-w"]
    return [*flags, *build.SANITIZERS] if sanitize else flags


def _target(source: Path, compiler: str, flags: Sequence[str]) -> Path:
    unit = build.Unit(source, ())
    key = hashlib.sha256((build.unit_key(unit, compiler, flags) + EMULATOR.read_text()).encode()).hexdigest()[:24]
    return build.cache_folder() / f"emulated-{source.stem}-{key}.so"


def _compile_header(compiler: str, flags: Sequence[str], scratch: Path) -> Path:
    """The emulator and what every source includes, compiled once: torch's headers take most of a source's time."""
    header = scratch / "emulated.h"
    header.write_text(f'#include "{EMULATOR}"\n#include "runtime/op.h"\n')
    _run([compiler, *flags, "-x", "c++-header", str(header), "-o", f"{header}.gch"], header.name)
    return header


def _compile(compiler: str, flags: Sequence[str], header: Path, source: Path, target: Path) -> None:
    made = header.parent / f"{source.stem}.so"
    link = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"]
    command = [compiler, *flags, "-shared", "-include", str(header), "-x", "c++", str(source), "-o", str(made), *link]
    _run(command, source.name)
    os.replace(made, target)


def _run(command: Sequence[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{name} does not compile for the emulator:\n{done.stderr[:4000]}"


@functools.lru_cache
def emulated_ops() -> torch._ops._OpNamespace:
    """The ops of every .cu file, under the namespace ``zoo_emulated``, on CPU tensors."""
    for name in zoo.ops.dispatch.REFERENCES:
        schema = str(getattr(torch.ops.zoo, name).default._schema).split("::", 1)[1]
        _LIBRARY.define(schema)
    sanitize = os.environ.get("ZOO_EMULATOR_SANITIZE") == "1"
    for path in compile_emulated(sanitize=sanitize):
        torch.ops.load_library(str(path))
    return torch.ops.zoo_emulated
