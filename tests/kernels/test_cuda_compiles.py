"""Every CUDA source compiles for every architecture, and the binary with CUDA kernels loads where no GPU is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from zoo.benchmark import cuda_resources
from zoo.ops import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed"),
]
SOURCES = sorted((build.CSRC / "cuda").glob("*.cu"))
ROOT = Path(build.__file__).parents[2]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of objects."""
    return tmp_path_factory.mktemp("objects")


@pytest.fixture(scope="module")
def kernels(objects: Path) -> Iterator[dict[Path, Future[list[cuda_resources.Kernel]]]]:
    """What the kernels of each source take. Two are compiled at a time: half of nvcc's work has one thread."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {
            source: pool.submit(cuda_resources.measure, source, output=objects / f"{source.stem}.o")
            for source in SOURCES
        }
        pool.shutdown(cancel_futures=True)


def examine(binary: Path) -> None:
    """It loads without a GPU, registers its ops for both devices, and needs no library of CUDA or Python."""
    program = f"import torch, zoo.ops; torch.ops.load_library({str(binary)!r}); " + (
        "print(torch._C._dispatch_dump('zoo::spherical_harmonics'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "\nCUDA: registered" in done.stdout
    assert "\nCPU: registered" in done.stdout
    needed = subprocess.run(["readelf", "-d", str(binary)], capture_output=True, text=True, check=True).stdout
    for library in ("libtorch_cuda", "libcudart", "libcuda.", "libpython"):
        assert library not in needed


@pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])
def test_compiles_for_all_architectures_within_the_registers_of_a_thread(source, kernels):
    found = kernels[source].result()
    assert {kernel.architecture for kernel in found} == set(build.CUDA_ARCHITECTURES)
    assert all(0 < kernel.registers <= 255 for kernel in found)


def test_all_sources_make_one_binary_that_loads_without_a_gpu(kernels, objects, tmp_path):
    for compiled in kernels.values():
        compiled.result()
    compiler, cache = build.find_compiler(), build.cache_folder()
    build.build(strict=True)  # the objects of the CPU
    cpu = [build._job(unit, compiler, build.cpu_flags(), cache).object for unit in build.cpu_units()]
    binary = tmp_path / build.LIBRARY_NAME
    cuda = [objects / f"{source.stem}.o" for source in SOURCES]
    build._run(build._link_command(build.find_nvcc(), [*cpu, *cuda], binary), "linking")
    examine(binary)


def test_the_build_compiles_cuda_sources(tmp_path, monkeypatch):
    """With the sources of one op, as all of them take minutes."""
    csrc = tmp_path / "csrc"
    shutil.copytree(build.CSRC / "runtime", csrc / "runtime")
    for name in ("cpu/spherical_harmonics.cpp", "cuda/spherical_harmonics.cu", "kernels/spherical_harmonics.h"):
        (csrc / name).parent.mkdir(exist_ok=True)
        shutil.copy(build.CSRC / name, csrc / name)
    monkeypatch.setattr(build, "CSRC", csrc)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    examine(build.build(cuda_architectures=(75,), strict=True))
