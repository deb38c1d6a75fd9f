"""The paper's claim in a table: HollowNeRF against the ungated field at equal table size and equal steps, over seeds.

``python -m zoo.benchmark.claim RUN...`` reads finished runs of ``hollownerf_claim`` and ``ngp_claim`` and writes
docs/results/claim/runs.json and docs/benchmarks/claim.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from zoo.benchmark.record import RESULTS, processor_name
from zoo.files import write_json, write_text

PAGE = Path("docs/benchmarks/claim.md")
FIELDS = ("hollownerf", "ngp")
COMMAND = (
    "python tools/train.py -m experiment=hollownerf_claim,ngp_claim "
    "model.log2_table_size={sizes} seed={seeds} threads=1"
)


def read_run(folder: Path) -> dict[str, Any]:
    """What the table needs of one run.

    Raises:
        FileNotFoundError: The folder holds no finished run.
    """
    metrics = json.loads((folder / "metrics.json").read_text())
    config: Any = OmegaConf.load(folder / "config.yaml")
    return {
        "field": "ngp" if config.model.get("saliency") is None else "hollownerf",
        "log2_table_size": int(config.model.log2_table_size),
        "seed": int(config.seed),
        "steps": int(metrics["steps"]),
        "psnr": metrics["test/psnr"],
        "ssim": metrics["test/ssim"],
        "parameters": _parameters(config),
        "train_seconds": metrics["train_seconds"],
    }


def _parameters(config: Any) -> int:
    from zoo.training.configuration import build

    return build(config.model).count_parameters()


def page(runs: Sequence[dict[str, Any]], machine: str) -> str:
    """The table in Markdown."""
    sizes = sorted({run["log2_table_size"] for run in runs})
    seeds = sorted({run["seed"] for run in runs})
    steps = sorted({run["steps"] for run in runs})
    command = COMMAND.format(sizes=",".join(map(str, sizes)), seeds=",".join(map(str, seeds)))
    longest = max(run["train_seconds"] for run in runs)
    lines = [
        "# HollowNeRF against the ungated field",
        "",
        f"Equal table size, {' or '.join(map(str, steps))} steps, seeds {', '.join(map(str, seeds))}; "
        "mean test PSNR in dB (standard deviation over seeds) on the scene that the package generates.",
        "",
        f"`{command}`",
        "",
        f"{machine}, one thread a run; the longest took {longest:.0f} s. "
        "Made by `python -m zoo.benchmark.claim RUN...`.",
        "",
        "| rows of a level | HollowNeRF | parameters | Instant-NGP | parameters | difference | better in |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in sizes:
        found = {
            name: {run["seed"]: run for run in runs if (run["field"], run["log2_table_size"]) == (name, size)}
            for name in FIELDS
        }
        common = sorted(set(found["hollownerf"]) & set(found["ngp"]))
        gains = [found["hollownerf"][seed]["psnr"] - found["ngp"][seed]["psnr"] for seed in common]
        cells = []
        for name in FIELDS:
            values = [run["psnr"] for run in found[name].values()]
            parameters = next(iter(found[name].values()))["parameters"]
            cells.append(f"{statistics.mean(values):.2f} ({statistics.pstdev(values):.2f}) | {parameters:,}")
        wins = sum(gain > 0 for gain in gains)
        lines.append(f"| 2^{size} | {cells[0]} | {cells[1]} | {statistics.mean(gains):+.2f} | {wins} of {len(gains)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m zoo.benchmark.claim", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    options = parser.parse_args(arguments)
    runs = sorted(map(read_run, options.runs), key=lambda run: (run["log2_table_size"], run["field"], run["seed"]))
    machine = processor_name()
    write_json(RESULTS / "claim" / "runs.json", {"machine": machine, "runs": runs})
    write_text(PAGE, page(runs, machine))
    sys.stdout.write(f"{PAGE}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
