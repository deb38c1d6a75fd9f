"""Compiles the shipped CUDA sources for the host on the fibre emulator: their ops are ``torch.ops.zoo_emulated``."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

import zoo.ops  # defines the schemas
import zoo.ops.dispatch
from zoo.ops import build

EMULATOR = Path(__file__).parent / "emulator" / "cuda_emulator.h"
_LIBRARY = torch.library.Library("zoo_emulated", "DEF")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1")


def emulated_sources() -> list[Path]:
    return sorted((build.CSRC / "cuda").glob("*.cu"))


def compile_emulated(source: Path, *, sanitize: bool = False) -> Path:
    """A shared library of one .cu file on the emulator; cached like the product's own objects."""
    flags = [
        *build.common_flags(),
        "-O1",
        "-fPIC",
        "-shared",
        "-x",
        "c++",
        "-DZOO_EMULATE_CUDA",
        "-w",
        "-include",
        str(EMULATOR),
    ]
    if sanitize:
        flags += SANITIZERS
    compiler = build.find_compiler()
    unit = build.Unit(source, tuple(flags))
    key = hashlib.sha256((build.unit_key(unit, compiler, ()) + EMULATOR.read_text()).encode()).hexdigest()[:24]
    target = build.cache_folder() / f"emulated-{source.stem}-{key}.so"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch) / "library.so"
            link = [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu"]
            done = subprocess.run(
                [compiler, *flags, str(source), "-o", str(made), *link], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{source.name} does not compile for the emulator:\n{done.stderr[:4000]}"
            os.replace(made, target)
    return target


@functools.lru_cache
def emulated_ops() -> torch._ops._OpNamespace:
    """The ops of every .cu file, under the namespace ``zoo_emulated``, on CPU tensors."""
    for name in zoo.ops.dispatch.REFERENCES:
        schema = str(getattr(torch.ops.zoo, name).default._schema).split("::", 1)[1]
        _LIBRARY.define(schema)
    sanitize = os.environ.get("ZOO_EMULATOR_SANITIZE") == "1"
    with ThreadPoolExecutor(max_workers=2) as pool:
        for path in pool.map(lambda source: compile_emulated(source, sanitize=sanitize), emulated_sources()):
            torch.ops.load_library(str(path))
    return torch.ops.zoo_emulated
