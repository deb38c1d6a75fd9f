"""``tools/list_models.py`` and ``zoo list``: the models and the experiments that train them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo.registry import describe_models, list_experiments

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table of models, or plain names for scripts."""
    parser = argparse.ArgumentParser(
        prog="zoo list", description="Models of the zoo and the experiments that train them."
    )
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of model names, such as 'dsvt*'")
    parser.add_argument("--experiments", action="store_true", help="names of experiments only, one a line")
    arguments = parser.parse_args(argv)
    console = Console()
    if arguments.experiments:
        for name in list_experiments(arguments.pattern):
            console.print(name, highlight=False)
        return 0
    table = Table("model", "what it is", "experiments", title="voxelzoo")
    for info in describe_models(arguments.pattern):
        table.add_row(*(Text(text) for text in (info.name, info.summary, "\n".join(info.experiments))))
    console.print(table)
    console.print("train one with: python tools/train.py experiment=NAME", highlight=False)
    return 0
