"""Starting runs from tests: in this process, or as a user does from a shell."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zoo.train import train
from zoo.training.configuration import compose

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = Path(__file__).parent / "configs"
PATIENCE = 120.0  # seconds for a process to end on a machine that is busy with other tests


def train_here(folder: Path, *overrides: str) -> Path:
    """Train in this process; returns the run folder."""
    threads = torch.get_num_threads()
    try:
        cfg = compose([*overrides, f"paths.output_dir={folder}"], config_dir=str(CONFIGS))
        train(cfg, overrides=overrides)
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    return newest_run(folder)


def command(*overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "train.py"), "--config-dir", str(CONFIGS), *overrides]


def environment(**variables: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | variables


def train_there(folder: Path, *overrides: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Train by the command line."""
    arguments = command(*overrides, f"paths.output_dir={folder}")
    return subprocess.run(arguments, env=environment(**variables), capture_output=True, text=True, timeout=300)


def train_and_signal(folder: Path, number: signal.Signals, at_step: int, *overrides: str) -> tuple[int, str]:
    """Train by the command line, send a signal once step ``at_step`` is reported; returns exit code and output."""
    process = subprocess.Popen(
        command(*overrides, f"paths.output_dir={folder}", "callbacks.progress.seconds_between_lines=0"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if reported_step([line]) >= at_step:
            break
    assert process.poll() is None, "".join(lines)
    os.killpg(process.pid, number)  # workers and all: as a terminal's Ctrl-C, or a machine that goes down
    rest, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, "".join(lines) + rest


def reported_step(lines: Sequence[str]) -> int:
    """The last step that the progress lines speak of, -1 if none does."""
    steps = [int(number) for line in lines for number in re.findall(r"^step (\d+)/", line)]
    return steps[-1] if steps else -1


def newest_run(folder: Path) -> Path:
    return max(folder.glob("*/*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent


def checkpoint(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def differences(a: Any, b: Any, path: str = "") -> Sequence[str]:
    """Where two nested containers differ, bit by bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [path]
    if isinstance(a, dict) and isinstance(b, dict):
        return [line for key in {**a, **b} for line in differences(a.get(key), b.get(key), f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [line for i, (x, y) in enumerate(zip(a, b, strict=True)) for line in differences(x, y, f"{path}[{i}]")]
    return [] if a == b else [f"{path}: {a} != {b}"]
