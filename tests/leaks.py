"""Whether memory stays flat in training: ``python -m tests.leaks [SYSTEM ...] [--steps 1000] [--out TABLE.md]``.

The small twin of one recipe of each system trains in a process of its own. Every 50 steps the garbage collector runs,
the C library gives free pages back, and the resident memory is noted: what still grows then is held by somebody.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from lightning.pytorch import Callback

from tests.smoke.twins import twin
from zoo.files import write_json, write_text

SYSTEMS = {
    "DSVT": "dsvt_kitti",
    "GridFormer": "gridformer_solids",
    "GridPull": "gridpull",
    "HollowNeRF": "hollownerf_quickstart",
    "E-3DSNN": "e3dsnn_shapes",
    "SparK": "spark_pictures",
    "SparK-3D": "spark3d_shapes",
    "Sparse views, Gaussians": "spare_gaussians",
    "Sparse views, field": "spare_field",
}
EVERY = 50
TOLERANCE = 16.0  # MiB between the first and the last quarter after warm-up
WARM_UP = 0.2  # of the steps: lazily made buffers, kernel maps of the few samples, the allocator's arenas


class MemoryLog(Callback):
    """Notes the resident memory in MiB every 50 steps."""

    def __init__(self, out: str) -> None:
        self.out, self.noted = Path(out), []
        self._process, self._libc = psutil.Process(), ctypes.CDLL(None)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a step."""
        if trainer.global_step % EVERY:
            return
        gc.collect()
        if hasattr(self._libc, "malloc_trim"):
            self._libc.malloc_trim(0)
        self.noted.append(self._process.memory_info().rss / 2**20)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write what was noted."""
        write_json(self.out, {"steps": trainer.global_step, "mib": self.noted})


def growth(noted: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and the last quarter after warm-up, so that one odd value decides nothing."""
    rest = list(noted[int(WARM_UP * len(noted)) :])
    quarter = max(1, len(rest) // 4)
    return median(rest[:quarter]), median(rest[-quarter:])


def measure(experiment: str, steps: int) -> dict[str, Any]:
    """Train the twin of an experiment and return what was noted."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "memory.json"
        command = [
            *(sys.executable, "tools/train.py"),
            *twin(experiment, Path(folder) / "data", steps),
            *("test=false", f"trainer.val_check_interval={steps}", "++trainer.limit_val_batches=0"),
            f"paths.output_dir={folder}/runs",
            "+callbacks.memory._target_=tests.leaks.MemoryLog",
            f"+callbacks.memory.out={out}",
            f"hydra.searchpath=[file://{Path(__file__).parent / 'smoke' / 'configs'}]",
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        if not out.is_file():
            raise RuntimeError(f"{experiment}: {(done.stdout + done.stderr)[-3000:]}")
        return json.loads(out.read_text())


def main() -> int:
    """Measure the systems one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.leaks", description=__doc__)
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"of {', '.join(SYSTEMS)}; default: all")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="table for the documentation")
    arguments = parser.parse_args()
    rows, leaks = [], 0
    for system in arguments.systems or SYSTEMS:
        found = measure(SYSTEMS[system], arguments.steps)
        first, last = growth(found["mib"])
        flat = last - first <= TOLERANCE
        leaks += not flat
        rows.append(
            f"| {system} | `{SYSTEMS[system]}` | {found['steps']} | {first:.1f} | {last:.1f} | {last - first:+.1f} | "
            f"{'yes' if flat else 'no'} |"
        )
        print(rows[-1], flush=True)
    if arguments.out is not None:
        write_text(
            arguments.out,
            "# Memory in training\n\n"
            f"`python -m tests.leaks --steps {arguments.steps}` on the CPU, torch {torch.__version__}, Python "
            f"{platform.python_version()}: the small twin of a recipe of each system trains, and resident memory is "
            f"noted every {EVERY} steps, after the garbage collector ran and free pages were given back.\n"
            f"The first {WARM_UP:.0%} of the steps are warm-up. Then the medians of the first and the last quarter are "
            f"compared; up to {TOLERANCE:g} MiB count as flat. A training step here holds some MiB, so a step of every "
            "hundred that is kept would show, and the arenas of the C library move by a few.\n\n"
            "| System | Recipe | Steps | MiB at first | MiB at last | Growth | Flat |\n|---|---|---|---|---|---|---|\n"
            + "\n".join(rows)
            + "\n",
        )
    return 1 if leaks else 0


if __name__ == "__main__":
    raise SystemExit(main())
