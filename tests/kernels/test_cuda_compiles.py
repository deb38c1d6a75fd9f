"""Every CUDA source compiles for every architecture, and the binary with CUDA kernels loads where no GPU is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.benchmark import cuda_resources
from zoo.ops import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed"),
]
SOURCES = sorted((build.CSRC / "cuda").glob("*.cu"))


@pytest.mark.parametrize("source", SOURCES, ids=[path.stem for path in SOURCES])
def test_compiles_for_all_architectures_within_the_registers_of_a_thread(source):
    kernels = cuda_resources.measure(source)
    assert {kernel.architecture for kernel in kernels} == set(build.CUDA_ARCHITECTURES)
    assert all(0 < kernel.registers <= 255 for kernel in kernels)


def test_cuda_binary_loads_without_a_gpu():
    path = build.build(cuda_architectures=(75,), strict=True)
    program = f"import torch, zoo.ops; torch.ops.load_library({str(path)!r}); " + (
        "print(torch._C._dispatch_dump('zoo::spherical_harmonics'))"
    )
    root = Path(build.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert "\nCUDA: registered" in done.stdout
    assert "\nCPU: registered" in done.stdout
    needed = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    for library in ("libtorch_cuda", "libcudart", "libcuda.", "libpython"):
        assert library not in needed
