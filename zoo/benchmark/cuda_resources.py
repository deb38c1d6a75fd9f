"""Registers, spills and shared memory of every CUDA kernel, as the compiler states them for each architecture.

``python -m zoo.benchmark.cuda_resources [--out FILE.md] [--sources NAME.cu ...]``; needs nvcc, no GPU.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from zoo.files import write_text
from zoo.ops import build

_ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_ROW = re.compile(r"\| (\S+\.cu) \| `(.*?)` \|")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes on one architecture."""

    source: str
    name: str
    architecture: int
    registers: int
    spill_bytes: int  # stores plus loads
    shared_bytes: int  # static shared memory


def measure(
    source: Path, architectures: Sequence[int] = build.CUDA_ARCHITECTURES, *, output: Path | None = None
) -> list[Kernel]:
    """Compile one .cu file for the architectures and return what its kernels take.

    Args:
        source: The file.
        architectures: As 10 * major + minor.
        output: Where the object goes; None: it is not kept.

    Raises:
        zoo.ops.build.BuildError: nvcc is missing or does not compile the file.
    """
    nvcc = build.find_nvcc()
    (unit,) = (unit for unit in build.cuda_units(architectures) if unit.source == source)
    with tempfile.TemporaryDirectory() as scratch:
        made = str(output or f"{scratch}/x.o")
        command = [nvcc, *build.common_flags(), *unit.flags, "-Xptxas", "-v", "-c", str(source), "-o", made]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise build.BuildError(f"{unit.label}: nvcc failed: {done.stderr[-2000:]}")
    return list(_parse(source.name, done.stderr + done.stdout))


def _parse(source: str, text: str) -> Iterable[Kernel]:
    name, architecture, spilled = "", 0, 0
    for line in text.splitlines():
        if found := _ENTRY.search(line):
            name, architecture = found[1], int(found[2])
        elif found := _STACK.search(line):
            spilled = int(found[2]) + int(found[3])
        elif (found := _USED.search(line)) and name:
            yield Kernel(source, name, architecture, int(found[1]), spilled, int(found[2] or 0))
            name, spilled = "", 0


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Readable names of mangled kernels, without namespaces and argument lists."""
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = {}
    for name, plain in zip(names, done.stdout.splitlines(), strict=True):
        text = re.sub(r"zoo::(device::)?|void |\(anonymous namespace\)::", "", plain)
        text = re.sub(r"grid_stride_kernel<(.*?)>\(.*$", r"\1", text)
        short[name] = re.sub(r"\(.*$", "", text)
    return short


def table(kernels: Sequence[Kernel]) -> str:
    """Markdown: a line for each kernel, a column for each architecture: registers, and spilled bytes if any."""
    architectures = sorted({kernel.architecture for kernel in kernels})
    names = short_names(sorted({kernel.name for kernel in kernels}))
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for kernel in kernels:
        text = str(kernel.registers)
        if kernel.shared_bytes:
            text += f", {kernel.shared_bytes} B shared"
        if kernel.spill_bytes:
            text += f", {kernel.spill_bytes} B spilled"
        cells.setdefault((kernel.source, names[kernel.name]), {})[kernel.architecture] = text
    lines = [
        "| file | kernel | " + " | ".join(f"sm_{architecture}" for architecture in architectures) + " |",
        "|---" * (2 + len(architectures)) + "|",
    ]
    for (source, name), by_architecture in sorted(cells.items()):
        row = " | ".join(by_architecture.get(architecture, "") for architecture in architectures)
        lines.append(f"| {source} | `{name}` | {row} |")
    return "\n".join(lines) + "\n"


def measure_all(sources: Sequence[Path], architectures: Sequence[int] = build.CUDA_ARCHITECTURES) -> list[Kernel]:
    """All kernels of CUDA sources."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        results = pool.map(lambda source: measure(source, architectures), sources)
        return [kernel for kernels in results for kernel in kernels]


def with_rows_of_others(new: str, page: str, sources: Sequence[str]) -> str:
    """A new table and the rows that a page has for other files than ``sources``, in order."""
    head, *rows = new.splitlines()
    rows += [line for line in page.splitlines() if (row := _ROW.match(line)) and row[1] not in sources]
    found = {row.groups(): line for line in rows if (row := _ROW.match(line))}
    return "\n".join([head, rows[0], *(found[key] for key in sorted(found))]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m zoo.benchmark.cuda_resources", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the table here instead of the screen")
    parser.add_argument("--sources", nargs="+", metavar="NAME.cu", help="only these; other rows of --out stay")
    options = parser.parse_args(arguments)
    known = {path.name: path for path in sorted((build.CSRC / "cuda").glob("*.cu"))}
    wanted = options.sources or list(known)
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"--sources: found {unknown}, expected some of {', '.join(known)}")
    rows = table(measure_all([known[name] for name in wanted]))
    if options.sources and options.out and options.out.is_file():
        rows = with_rows_of_others(rows, options.out.read_text(), wanted)
    version = build.compiler_version(build.find_nvcc()).splitlines()[-1]
    text = (
        "# Registers and spills of the CUDA kernels\n\n"
        "Registers a thread of every kernel, static shared memory and spilled bytes where there are any, as the "
        f"compiler states them ({version}).\nThe kernels are not benchmarked on a GPU.\n\n"
        "Command: `python -m zoo.benchmark.cuda_resources --out docs/ops/cuda_resources.md`\n\n" + rows
    )
    if options.out:
        write_text(options.out, text)
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
