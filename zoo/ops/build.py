"""Compiles the native kernels: ``python -m zoo.ops.build [--cuda] [--into FOLDER]``.

One shared library on the LibTorch stable ABI, without Python headers: it serves every Python and many torch versions.
Sources are compiled one by one by plain subprocesses into a temporary folder, linked, and put in place by an atomic
rename: there is no lock that could go stale, and processes that compile at once only do the same work twice. Objects
and binaries are kept in ``$ZOO_CACHE`` (else the XDG cache folder), keyed by the sources, the flags, the compiler and
the architecture.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zoo.files import cache_root

log = logging.getLogger("zoo.ops")

CSRC = Path(__file__).parent / "csrc"
PREBUILT = Path(__file__).parent / "_native"
ABI_TARGET = "0x020a000000000000"  # torch 2.10, the oldest release whose stable ABI has all that is used
CUDA_ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
LIBRARY_NAME = "libzoo_ops.so"
_SOURCES_THAT_SHARE = 8  # from this number on, compiling the headers first pays
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g1")
_ISA_FLAGS = {
    "baseline": ("-march=x86-64-v2",),
    "avx2": ("-march=x86-64-v3",),
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
}


class BuildError(RuntimeError):
    """The native kernels could not be built; the message says why and what to do."""


@dataclass(frozen=True)
class Unit:
    """One compilation: a source file and the flags that are its own."""

    source: Path
    flags: tuple[str, ...]

    @property
    def label(self) -> str:
        """The file's name below csrc, with the instruction set where there are several."""
        isa = next((flag.removeprefix("-DZOO_ISA=") for flag in self.flags if flag.startswith("-DZOO_ISA=")), None)
        return str(self.source.relative_to(CSRC)) + (f" [{isa}]" if isa else "")


# --------------------------------------------------------------------------------------------------- toolchain


def find_compiler() -> str:
    """The C++ compiler: ``$CXX``, else c++, g++ or clang++ on the PATH."""
    named = os.environ.get("CXX")
    candidates = [named] if named else ["c++", "g++", "clang++"]
    for candidate in candidates:
        path = shutil.which(candidate)
        if path:
            return path
    what = f"CXX={named} is not on the PATH" if named else "no C++ compiler (c++, g++, clang++) is on the PATH"
    raise BuildError(f"{what}; install one (Debian: apt-get install g++) or set CXX")


def find_nvcc() -> str:
    """The CUDA compiler: ``$CUDA_HOME/bin/nvcc``, the PATH, or /usr/local/cuda."""
    home = os.environ.get("CUDA_HOME")
    for candidate in ([f"{home}/bin/nvcc"] if home else []) + ["nvcc", "/usr/local/cuda/bin/nvcc"]:
        path = shutil.which(candidate)
        if path:
            return path
    raise BuildError("nvcc is not on the PATH; install the CUDA toolkit or set CUDA_HOME")


@functools.lru_cache
def compiler_version(compiler: str) -> str:
    """What the compiler says of itself; a compiler that does not answer is a BuildError."""
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the compiler {compiler} does not run: {error}") from error
    return done.stdout.strip()


def _torch_folder() -> Path:
    return Path(torch.__file__).parent


def common_flags() -> tuple[str, ...]:
    """Flags of every compilation, host and device."""
    include = _torch_folder() / "include"
    return ("-O3", "-std=c++20", f"-DTORCH_TARGET_VERSION={ABI_TARGET}", f"-I{include}", f"-I{CSRC}")


def cpu_flags() -> tuple[str, ...]:
    """Flags of the C++ compiler for all C++ sources."""
    if is_sanitized():  # slow, and never kept from a release: the flags are part of the key
        return (*common_flags(), "-O1", "-fPIC", "-fvisibility=hidden", *SANITIZERS, "-w")
    # selects of floats become vector instructions once nobody asks for their exceptions; no value changes
    quiet = ("-fno-trapping-math", "-fno-math-errno")
    return (*common_flags(), "-fPIC", "-fvisibility=hidden", *quiet, "-Wall", "-Wno-unknown-pragmas")


def is_sanitized() -> bool:
    """Whether ``ZOO_SANITIZE=1`` asks for kernels with AddressSanitizer and UndefinedBehaviorSanitizer."""
    return os.environ.get("ZOO_SANITIZE") == "1"


def is_x86() -> bool:
    """Whether this machine has the x86 instruction sets that the kernels are specialised for."""
    return platform.machine() in ("x86_64", "AMD64")


def cpu_units() -> list[Unit]:
    """All C++ compilations: plain sources once, those below ``cpu/isa`` once for each instruction set."""
    x86 = is_x86()
    plain = (*_ISA_FLAGS["baseline"], "-DZOO_X86=1") if x86 else ()
    units = [Unit(path, plain) for path in sorted((CSRC / "cpu").glob("*.cpp"))]
    # Order matters: the linker keeps the first copy of an inline function, which must be the baseline's.
    for isa in _ISA_FLAGS if x86 else ("baseline",):
        flags = (*_ISA_FLAGS[isa], "-DZOO_X86=1") if x86 else ()
        units += [Unit(path, (*flags, f"-DZOO_ISA={isa}")) for path in sorted((CSRC / "cpu" / "isa").glob("*.cpp"))]
    return units


def cuda_units(architectures: Sequence[int] = CUDA_ARCHITECTURES) -> list[Unit]:
    """All CUDA compilations, each for every architecture, with PTX of the newest for GPUs to come."""
    codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
    newest = max(architectures)
    codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    flags = ("-Xcompiler", "-fPIC,-fvisibility=hidden", "--expt-relaxed-constexpr", "--threads", "2", *codes)
    return [Unit(path, flags) for path in sorted((CSRC / "cuda").glob("*.cu"))]


# ---------------------------------------------------------------------------------------------------------- keys


def source_closure(source: Path) -> list[Path]:
    """A source file and all project headers that it reaches, sorted."""
    seen: set[Path] = set()
    pending = [source]
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _INCLUDE.findall(path.read_text()):
            pending += [found for found in ((path.parent / name).resolve(), CSRC / name) if found.is_file()][:1]
    return sorted(seen)


def unit_key(unit: Unit, compiler: str, flags: Sequence[str]) -> str:
    """The hash under which a compilation's object is kept; checkouts in different places share their objects."""
    digest = hashlib.sha256()
    placeless = (flag for flag in flags if flag != f"-I{CSRC}")
    for part in (compiler_version(compiler), torch.__version__, *placeless, *unit.flags):
        digest.update(part.encode() + b"\0")
    digest.update(sources_stamp(unit.source).encode())
    return digest.hexdigest()[:24]


def sources_stamp(source: Path) -> str:
    """One hash over a source file and the project headers that it reaches."""
    digest = hashlib.sha256()
    for path in source_closure(source):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def cache_folder() -> Path:
    """The folder of objects and binaries; a private temporary one, gone at exit, where it cannot be written.

    It is ``ops`` below ``$ZOO_CACHE``, else ``$XDG_CACHE_HOME/voxelzoo``, else ``~/.cache/voxelzoo``.
    """
    folder = cache_root() / "ops"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        return _temporary_cache(str(folder), str(error))


@functools.lru_cache
def _temporary_cache(folder: str, why: str) -> Path:
    private = Path(tempfile.mkdtemp(prefix="voxelzoo-"))
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    log.warning(
        "zoo.ops: the cache folder %s cannot be written (%s); compiling into %s, for this process only. "
        "Set ZOO_CACHE to a folder you own.",
        folder,
        why,
        private,
    )
    return private


# --------------------------------------------------------------------------------------------------------- build


def find_or_build(*, strict: bool = False) -> Path:
    """The binary to load: one shipped with the package, one in the cache, or one compiled now.

    Args:
        strict: A source that does not compile is an error; else it is left out with a warning, and its ops run their
            reference.

    Raises:
        BuildError: There is no compiler, or it compiles nothing.
    """
    shipped = None if is_sanitized() else prebuilt()
    if shipped is not None:
        return shipped
    cuda = torch.cuda.is_available() and shutil.which("nvcc") is not None
    architectures = (
        sorted(
            {
                10 * major + minor
                for major, minor in map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
            }
        )
        if cuda
        else ()
    )
    return build(cuda_architectures=architectures, strict=strict)


def prebuilt() -> Path | None:
    """The binary that a wheel carries, if it belongs to these sources."""
    path = PREBUILT / LIBRARY_NAME
    note = path.with_suffix(".json")
    if not path.is_file() or not note.is_file():
        return None
    if json.loads(note.read_text()).get("sources") != sources_hash():
        log.warning(
            "zoo.ops: %s was built from other sources and is not used; run `python -m zoo.ops.build --into %s`",
            path,
            PREBUILT,
        )
        return None
    return path


def sources_hash() -> str:
    """One hash over every native source file."""
    digest = hashlib.sha256()
    for path in sorted(p for p in CSRC.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(CSRC)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def build(*, cuda_architectures: Sequence[int] = (), strict: bool = False) -> Path:
    """Compile what is not in the cache, link, and return the binary's path in the cache."""
    compiler = find_compiler()
    cache = cache_folder()
    jobs = [_job(unit, compiler, cpu_flags(), cache) for unit in cpu_units()]
    linker = compiler
    if cuda_architectures:
        linker = find_nvcc()
        jobs += [_job(unit, linker, common_flags(), cache) for unit in cuda_units(cuda_architectures)]
    names = " ".join(job.object.stem for job in jobs)
    target = cache / f"{hashlib.sha256(names.encode()).hexdigest()[:24]}-{LIBRARY_NAME}"
    if target.is_file():
        return target
    missing = [job for job in jobs if not job.object.is_file()]
    start = time.monotonic()
    log.warning(
        "zoo.ops: compiling %d of %d native sources with %s, once (about %d s) ...",
        len(missing),
        len(jobs),
        compiler,
        4 + 3 * len(missing) // (2 * (os.cpu_count() or 1)),
    )
    with tempfile.TemporaryDirectory(dir=cache, prefix="build-") as scratch:
        missing = _share_header(missing, compiler, Path(scratch))
        failed = _compile_all(missing, Path(scratch), strict=strict)
        usable = [job for job in jobs if job.object.is_file() and not _needs_any(job, failed)]
        if not usable:
            raise BuildError(f"{compiler} compiled none of the native sources: {next(iter(failed.values()), 'none')}")
        linked = Path(scratch) / LIBRARY_NAME
        _run(_link_command(linker, [job.object for job in usable], linked), "linking")
        if failed:  # usable now, but never to be found again
            target = cache / f"partial-{os.getpid()}-{target.name}"
            atexit.register(target.unlink, missing_ok=True)
        os.replace(linked, target)
    log.warning("zoo.ops: native kernels ready after %.0f s", time.monotonic() - start)
    return target


@dataclass(frozen=True)
class _Job:
    unit: Unit
    command: tuple[str, ...]
    object: Path
    stamp: str


def _job(unit: Unit, compiler: str, flags: Sequence[str], cache: Path) -> _Job:
    command = (compiler, *flags, *unit.flags, "-c", str(unit.source))
    stamp = sources_stamp(unit.source)
    return _Job(unit, command, cache / f"{unit_key(unit, compiler, flags)}.o", stamp)


def _share_header(jobs: Sequence[_Job], compiler: str, scratch: Path) -> list[_Job]:
    """Torch's headers take half of the time of a plain source: where there are many, they are compiled once, before.

    A compiler that cannot do that reads the text of the header as before.
    """
    plain = [job for job in jobs if job.unit.source.parent == CSRC / "cpu"]
    if len(plain) < _SOURCES_THAT_SHARE:
        return list(jobs)
    header = scratch / "shared.h"
    header.write_text('#include "runtime/op.h"\n')
    try:
        flags = (*cpu_flags(), *plain[0].unit.flags)
        _run([compiler, *flags, "-x", "c++-header", str(header), "-o", f"{header}.gch"], "the shared header")
    except BuildError as error:
        log.debug("zoo.ops: %s", error)
        return list(jobs)
    with_header = [replace(job, command=(*job.command, "-include", str(header))) for job in plain]
    return [job for job in jobs if job not in plain] + with_header


def _compile_all(jobs: Sequence[_Job], scratch: Path, *, strict: bool) -> dict[_Job, str]:
    """Compile in parallel; returns what failed, and why."""

    def one(numbered: tuple[int, _Job]) -> str | None:
        number, job = numbered
        made = scratch / f"{number}.o"
        try:
            _run([*job.command, "-o", str(made)], job.unit.label)
            if sources_stamp(job.unit.source) != job.stamp:  # the object must not be found under the old sources' key
                raise BuildError(f"{job.unit.label}: its sources changed while they were compiled; run it again")
        except BuildError as error:
            if strict:
                raise
            return str(error)
        os.replace(made, job.object)
        return None

    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        failed = {job: why for job, why in zip(jobs, pool.map(one, enumerate(jobs)), strict=True) if why}
    for why in failed.values():
        log.warning("zoo.ops: %s; its ops run their plain torch reference", why)
    return failed


def _needs_any(job: _Job, failed: Iterable[_Job]) -> bool:
    """Whether a plain source calls into an instruction-set file that failed: its name begins the other's."""
    names = {other.unit.source.stem for other in failed if other.unit.source.parent.name == "isa"}
    return job.unit.source.parent.name != "cuda" and any(name.startswith(job.unit.source.stem) for name in names)


def _link_command(linker: str, objects: Sequence[Path], output: Path) -> list[str]:
    libraries = [f"-L{_torch_folder() / 'lib'}", "-ltorch_cpu"]
    if Path(linker).name.startswith("nvcc"):
        return [
            linker,
            "-shared",
            "-cudart",
            "static",
            *map(str, objects),
            "-o",
            str(output),
            *libraries,
            "-Xlinker",
            "--as-needed",
            "-ldl",
        ]
    sanitizers = SANITIZERS if is_sanitized() else ()
    return [
        linker,
        *sanitizers,
        "-shared",
        *map(str, objects),
        "-o",
        str(output),
        *libraries,
        "-Wl,--as-needed",
        "-ldl",
    ]


def _run(command: Sequence[str], what: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except OSError as error:
        raise BuildError(f"{what}: {command[0]} does not run: {error}") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line.lower()] or error.stderr.splitlines()[
            -3:
        ]
        raise BuildError(
            f"{what}: {command[0]} failed with exit status {error.returncode}: {' | '.join(lines[:3])}"
        ) from error


def install_into(folder: Path, built: Path) -> Path:
    """Copy a binary beside a note of its sources, as wheels carry it; both are placed atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / LIBRARY_NAME
    for name, content in (
        (target, built.read_bytes()),
        (target.with_suffix(".json"), json.dumps({"sources": sources_hash(), "abi_target": ABI_TARGET}).encode()),
    ):
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as scratch:
            scratch.write(content)
        os.chmod(scratch.name, 0o755)
        os.replace(scratch.name, name)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo.ops.build", description="Compile the native kernels of zoo.ops."
    )
    parser.add_argument(
        "--cuda",
        action="store_true",
        help=f"with CUDA kernels for sm_{', sm_'.join(map(str, CUDA_ARCHITECTURES))} and PTX; needs nvcc, no GPU",
    )
    parser.add_argument(
        "--arch",
        type=int,
        action="append",
        metavar="NN",
        help="only this CUDA architecture (repeatable), for example 90",
    )
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help=f"also place the binary here; {PREBUILT} makes it part of a wheel"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    try:
        path = build(cuda_architectures=(options.arch or CUDA_ARCHITECTURES) if options.cuda else (), strict=True)
    except BuildError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if options.into:
        path = install_into(options.into, path)
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
