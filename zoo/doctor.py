"""``tools/doctor.py`` and ``zoo doctor``: what this installation can do, what it lacks, and what changes it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Finding", "examine", "main"]

State = Literal["ok", "note", "bad"]
_COLOURS: dict[State, str] = {"ok": "green", "note": "yellow", "bad": "red"}
_LINKS = ("ops", "configs", "data")
EXTRAS: dict[str, tuple[str, ...]] = {
    "open3d": ("open3d",),
    "spconv": ("spconv",),
    "nerfacc": ("nerfacc",),
    "image": ("timm",),
    "viz": ("viser", "plotly", "imageio_ffmpeg"),
    "sfm": ("pycolmap",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "cluster": ("hydra_plugins.hydra_submitit_launcher",),
    "sweep": ("hydra_plugins.hydra_optuna_sweeper", "hydra_plugins.hydra_joblib_launcher"),
    "loggers": ("tensorboard", "wandb"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Args:
        state: ``ok``, ``note`` (works, could be better) or ``bad`` (does not work).
        what: What was looked at.
        found: What was found.
        remedy: What to do, where there is something to do.
    """

    state: State
    what: str
    found: str
    remedy: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; the exit code is 1 if something does not work."""
    parser = argparse.ArgumentParser(
        prog="zoo doctor", description="Say what is installed, what is missing and what to do about it."
    )
    parser.parse_args(argv)
    findings = examine()
    table = Table(title="voxelzoo doctor", show_lines=False)
    for heading in ("", "what", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        mark = Text(finding.state, style=_COLOURS[finding.state])
        table.add_row(mark, *(Text(text) for text in (finding.what, finding.found, finding.remedy)))
    console = Console()
    if not console.is_terminal:
        console.width = 160  # a log file has no edge to keep away from
    console.print(table)
    return 1 if any(finding.state == "bad" for finding in findings) else 0


def examine() -> list[Finding]:
    """Look at everything; a part that fails is a finding, not an end."""
    findings: list[Finding] = []
    for part in (_python, _torch, _gpu, _processor, _compilers, _kernels, _self_test, _cache, _extras, _links, _disk):
        try:
            findings += part()
        except Exception as error:  # the doctor reports, it does not die
            findings.append(
                Finding("bad", part.__name__.strip("_").replace("_", " "), f"{type(error).__name__}: {error}")
            )
    return findings


def _python() -> list[Finding]:
    found = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    return [Finding("ok", "python", found)]


def _torch() -> list[Finding]:
    import torch

    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    state: State = "ok" if version >= (2, 10) else "bad"
    remedy = "" if state == "ok" else "pip install 'torch>=2.10'"
    findings = [Finding(state, "torch", f"{torch.__version__}, {torch.get_num_threads()} threads", remedy)]
    findings += [Finding("ok", name, importlib.metadata.version(name)) for name in ("lightning", "hydra-core", "numpy")]
    return findings


def _gpu() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        names = ", ".join(
            f"{torch.cuda.get_device_name(index)} (sm_{''.join(map(str, torch.cuda.get_device_capability(index)))})"
            for index in range(torch.cuda.device_count())
        )
        return [Finding("ok", "GPU", names)]
    built = torch.version.cuda
    if built is None:
        return [Finding("note", "GPU", "this torch was built without CUDA", "with a GPU: install torch with CUDA")]
    return [Finding("note", "GPU", f"none seen by torch (built for CUDA {built})", "everything runs on the CPU")]


def _processor() -> list[Finding]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    return [Finding("ok", "processor", f"{os.cpu_count()} threads, {capability}")]


def _compilers() -> list[Finding]:
    from zoo.ops import build

    findings = []
    for name, find, remedy in (
        ("C++ compiler", build.find_compiler, "Debian/Ubuntu: apt-get install g++; or set CXX"),
        ("nvcc", build.find_nvcc, "only needed to build CUDA kernels: install the CUDA toolkit or set CUDA_HOME"),
    ):
        try:
            path = find()
            findings.append(Finding("ok", name, f"{path}: {build.compiler_version(path).splitlines()[0]}"))
        except build.BuildError as error:
            findings.append(Finding("note", name, str(error), remedy))
    return findings


def _kernels() -> list[Finding]:
    from zoo.ops import native

    native.settle()
    binary = native.binary()
    if binary is not None:
        kind = "shipped with the package" if "_native" in binary.parts else "compiled on this machine"
        return [Finding("ok", "native kernels", f"{binary} ({kind})")]
    remedy = "install a C++ compiler and run again; until then all works, several times slower"
    if native.requested_mode() == "reference":
        remedy = "unset ZOO_OPS to use the native kernels"
    return [Finding("note", "native kernels", f"not in use: {native.reason()}", remedy)]


def _self_test() -> list[Finding]:
    """A few ops on the kernels in use against plain torch."""
    import torch

    from zoo.ops.backend import use_backend

    findings = []
    for name, call in _probes().items():
        ours = call()
        with use_backend("reference"):
            theirs = call()
        error = float((ours - theirs).abs().max())
        right = bool(torch.isfinite(ours).all()) and error <= 1e-4
        found = f"largest difference from plain torch {error:.1e}"
        remedy = "" if right else "set ZOO_OPS=reference and report this table with your compiler's version"
        findings.append(Finding("ok" if right else "bad", f"self-test {name}", found, remedy))
    return findings


def _probes() -> dict[str, Callable]:
    """Small calls of public ops, one for each family of kernels."""
    import torch

    from zoo import ops

    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(64, 3, generator=generator), dim=-1)
    coords = torch.cat([torch.zeros(27, 1), torch.cartesian_prod(*[torch.arange(3)] * 3)], dim=1).int()
    features = torch.randn(27, 4, generator=generator)
    weight = torch.randn(4, 3, 3, 3, 4, generator=generator)

    def convolve() -> torch.Tensor:
        grid = ops.VoxelGrid(coords, (3, 3, 3), 1)
        return ops.subm_conv(ops.SparseTensor(features, grid), weight).features

    box = torch.tensor([[-1.0, -1, -1, 1, 1, 1]])
    cells = torch.rand(1, 8, 8, 8, generator=generator) < 0.5
    layout = ops.HashGridLayout.build(num_levels=4, base_resolution=4, log2_table_size=8)
    table = torch.randn(layout.num_rows, 2, generator=generator)
    packed = torch.tensor([[0, 10], [10, 0], [10, 54]])
    return {
        "spherical harmonics": lambda: ops.spherical_harmonics(directions, degree=4),
        "hash grid": lambda: ops.hash_encode(directions.abs(), table, layout),
        "packed scan": lambda: ops.exclusive_sum(directions[:, 0].contiguous(), packed),
        "ray marching": lambda: ops.march_rays(-3 * directions, directions, cells, box, step_size=0.05).t_starts,
        "sparse convolution": convolve,
    }


def _cache() -> list[Finding]:
    from zoo.ops import build

    folder = build.cache_folder()
    named = os.environ.get("ZOO_CACHE")
    private = "voxelzoo-" in folder.name
    remedy = "set ZOO_CACHE to a folder that you can write" if private else ""
    return [Finding("note" if private else "ok", "cache", f"{folder}{' (from ZOO_CACHE)' if named else ''}", remedy)]


def _extras() -> list[Finding]:
    findings = []
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not _importable(module)]
        if missing:
            remedy = f"pip install 'voxelzoo[{extra}]'"
            findings.append(Finding("note", f"extra {extra}", f"without {', '.join(missing)}", remedy))
        else:
            findings.append(Finding("ok", f"extra {extra}", ", ".join(modules)))
    has_tcnn = _importable("tinycudann")
    remedy = "" if has_tcnn else "optional, needs a GPU: see docs/guides/backends.md"
    findings.append(Finding("ok" if has_tcnn else "note", "tiny-cuda-nn", "there" if has_tcnn else "not there", remedy))
    return findings


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a package above it
        return False


def _links() -> list[Finding]:
    """The short names in the root of a checkout; an installed package has none."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        return [Finding("ok", "root links", "an installed package, which needs none")]
    broken = [name for name in _LINKS if not (root / name).is_symlink() or not (root / name).is_dir()]
    if broken:
        remedy = "git config core.symlinks true && git checkout -- " + " ".join(broken)
        return [Finding("note", "root links", f"not links: {', '.join(broken)}", remedy)]
    return [Finding("ok", "root links", ", ".join(f"{name} -> zoo/{name}" for name in _LINKS))]


def _disk() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    if free < 1:
        return [Finding("note", "disk", f"{free:.2f} GB free here", "make room before a long run: checkpoints need it")]
    return [Finding("ok", "disk", f"{free:.0f} GB free here")]
