"""The ``zoo`` command: the functions behind ``tools/``, so that an installed package needs no checkout."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("zoo.train:main", "train, test and report a run"),
    "predict": ("zoo.predict:main", "run a trained model on your own files"),
    "export": ("zoo.export:main", "write a trained model as graphs for other runtimes"),
    "render": ("zoo.render:main", "render test views, orbits and spirals of a trained field"),
    "download": ("zoo.download:main", "list the weights of the zoo, or fetch them"),
    "convert": ("zoo.convert:main", "convert weights of upstream projects, to timm and others, or into a card"),
    "prepare-data": ("zoo.prepare_data:main", "check, prepare or generate a data set"),
    "benchmark": ("zoo.benchmark.cli:main", "measure the ops beside their peers and the machine's limits"),
    "list": ("zoo.listing:main", "list models and experiments"),
    "doctor": ("zoo.doctor:main", "say what is installed, what is missing and what to do about it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Hand the arguments to the command that the first one names; its module is imported only then."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if arguments[0] in ("-V", "--version"):
        sys.stdout.write(f"voxelzoo {importlib.import_module('zoo').__version__}\n")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        sys.stderr.write(f"zoo: no command {name!r}{hint}\n{usage()}")
        return 2
    module, _, function = COMMANDS[name][0].partition(":")
    sys.argv = [f"zoo {name}", *rest]  # Hydra and argparse read it
    result = getattr(importlib.import_module(module), function)()
    return result if isinstance(result, int) else 0


def usage() -> str:
    """The text of ``zoo --help``."""
    lines = [f"  {name:<13} {description}" for name, (_, description) in COMMANDS.items()]
    return "usage: zoo COMMAND [ARGUMENTS]\n\n" + "\n".join(lines) + "\n\n`zoo COMMAND --help` says more.\n"


if __name__ == "__main__":
    sys.exit(main())
