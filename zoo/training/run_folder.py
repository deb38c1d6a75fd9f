"""The folder of one run, ``outputs/<experiment>/<time>/``, and how a later run finds it again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.files import write_json, write_text
from zoo.hub import is_card_name

__all__ = ["LAST", "RunFolder", "environment_text", "find_checkpoint"]

LAST = "last.ckpt"
_SHARED_VARIABLE = "ZOO_RUN_FOLDER"  # how the processes of a distributed run agree on one folder


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run; nothing is created before it is written."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The checkpoint that is kept up to date."""
        return self.checkpoints / LAST

    @property
    def config(self) -> Path:
        """The configuration, resolved."""
        return self.path / "config.yaml"

    @property
    def history(self) -> Path:
        """All logged metrics."""
        return self.path / "metrics.csv"

    @property
    def metrics(self) -> Path:
        """The final figures."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """What a person reads."""
        return self.path / "report.html"

    @classmethod
    def create(cls, output_dir: str | Path, name: str) -> RunFolder:
        """Claim a new folder below ``output_dir/name``; two runs that start in the same second get two folders."""
        shared = os.environ.get(_SHARED_VARIABLE)
        parent = Path(output_dir) / name
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        if is_secondary_process():  # started by srun or torchrun it learns the folder from the first, with the trainer
            return cls(Path(shared) if shared else parent / stamp)
        for attempt in range(1000):
            path = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            os.environ[_SHARED_VARIABLE] = str(path.resolve())
            return cls(path)
        raise FileExistsError(f"{parent}: a thousand runs started at {stamp}")

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder | None:
        """The run folder that a checkpoint stands in, if it stands in one."""
        folder = checkpoint.resolve().parent
        is_run = folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file()
        return cls(_relative(folder.parent)) if is_run else None

    def write_start(self, config: str, overrides: Sequence[str]) -> None:
        """What the run is made of: configuration, overrides, environment."""
        write_text(self.config, config)
        write_text(self.path / "overrides.txt", "".join(f"{line}\n" for line in overrides))
        write_text(self.path / "environment.txt", environment_text())

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """The final figures: a flat mapping from name to number."""
        write_json(self.metrics, {name: float(value) for name, value in metrics.items()})


def is_secondary_process() -> bool:
    """Whether this is a process of a distributed run other than the first."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def find_checkpoint(ckpt: str, *, output_dir: str | Path, name: str | None) -> Path:
    """The file that ``ckpt=`` means: ``last``, a run folder, a checkpoint, or the name of a weight of the zoo.

    Args:
        ckpt: What the user said.
        output_dir: Where run folders stand.
        name: The experiment whose newest run ``last`` means; None: of all experiments.

    Raises:
        FileNotFoundError: There is no such checkpoint; the message says where it was looked for.
        ValueError: A weight of that name does not exist, or cannot be run.
    """
    if ckpt == "last":
        parent = Path(output_dir) / (name or "")
        pattern = f"*/checkpoints/{LAST}" if name else f"*/*/checkpoints/{LAST}"
        found = [path for path in sorted(parent.glob(pattern)) if path.is_file()]
        if not found:
            whose = f" of {name!r}" if name else ""
            raise FileNotFoundError(
                f"ckpt=last: no run{whose} below {parent} has written a checkpoint; start one without ckpt"
            )
        return max(found, key=lambda path: path.stat().st_mtime_ns)
    path = Path(ckpt)
    if path.is_dir():
        inside = RunFolder(path).last
        if not inside.is_file():
            raise FileNotFoundError(f"ckpt={ckpt}: the folder holds no checkpoints/{LAST}")
        return inside
    if path.is_file():
        return path
    if is_card_name(ckpt):
        from zoo.training.card_checkpoint import card_checkpoint

        return card_checkpoint(ckpt, output_dir)
    raise FileNotFoundError(
        f"ckpt={ckpt}: no such file; expected 'last', a run folder, a checkpoint, or a name that `zoo download` lists"
    )


def environment_text() -> str:
    """Versions, machine and commit, one fact a line."""
    lines = [
        f"command: {' '.join([sys.executable, *sys.argv])}",
        f"commit: {_commit()}",
        f"python: {platform.python_version()}",
        f"platform: {platform.platform()}",
        f"processor: {_processor()}, {os.cpu_count()} threads",
    ]
    names = (
        "voxelzoo",
        "torch",
        "lightning",
        "hydra-core",
        "omegaconf",
        "numpy",
        "torchmetrics",
        "scipy",
        "safetensors",
    )
    for name in names:
        try:
            lines.append(f"{name}: {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{name}: not installed")
    lines += [
        f"{name}={os.environ[name]}"
        for name in sorted(os.environ)
        if name.startswith("ZOO_") and name != _SHARED_VARIABLE
    ]
    lines += [
        f"{name}={os.environ[name]}" for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES") if name in os.environ
    ]
    return "\n".join(lines) + "\n"


def _commit() -> str:
    """The commit of the checkout that the package stands in, with a mark where files differ from it."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "not a checkout"
    try:
        ask = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown (git does not answer)"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _relative(path: Path) -> Path:
    """Below the working directory a path is shown, and kept, relative to it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
