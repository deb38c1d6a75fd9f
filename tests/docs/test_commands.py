"""Every command in the documentation is understood by its tool, and those of the tour and the extensions work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.command_lines import PAGES, ROOT, blocks, commands, extras, understand

WORKED = ("tour", "extending")  # guides that are followed word for word
REDUCED = {  # what makes their runs short; the words of the page stay before these
    "experiment=hollownerf_quickstart": (
        "trainer.max_steps=20",
        "data.generator.image_size=24",
        "data.generator.samples=1",
        "data.generator.num_train=4",
        "data.generator.num_val=2",
        "data.generator.num_test=2",
        "task.renderer.occupancy.resolution=24",
    ),
    "experiment=gridpull": ("trainer.max_steps=20", "model.resolution=32", "task.num_scored=2000"),
    "--config-dir": ("trainer.max_steps=10",),
}


def test_commands_are_found() -> None:
    found = commands()
    assert len(found) > 80
    places = {command.place.partition(":")[0] for command in found}
    assert {"README.md", "docs/guides/tour.md", "docs/systems/dsvt.md", "docs/systems/gridformer.md"} <= places


@pytest.mark.parametrize("words", sorted({command.words for command in commands()}), ids=" ".join)
def test_a_command_is_understood(words: tuple[str, ...]) -> None:
    understand(words)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("zoo trian", "no command 'trian'"),
        ("python tools/trian.py", r"no tools/trian\.py"),
        ("zoo train experiment=no_such", "no_such"),
        ("zoo train experiment=gridpull model.resolutoin=3", "resolutoin"),
        ("zoo train data=kitti", "chooses no task"),
        ("zoo predict inptu=FILE", "inptu"),
        ("zoo download no-such.weight", r"no weight no-such\.weight"),
        ("zoo list --experimnets", "options are refused"),
        ("python -m zoo.no_such", r"no module zoo\.no_such"),
    ],
)
def test_a_wrong_command_is_not(line: str, complaint: str) -> None:
    with pytest.raises(Exception, match=complaint):
        understand(line.split())


def test_extras_exist() -> None:
    for page in PAGES:
        for listed in re.findall(r"(?:voxelzoo|\.)\[([\w,]+)\]'", page.read_text()):
            assert set(listed.split(",")) <= extras(), page


def shell(folder: Path) -> dict[str, str]:
    """An environment with this checkout's ``zoo``, which shortens runs, and nothing of ours in the folder."""
    programs = folder.parent / "bin"
    programs.mkdir(exist_ok=True)
    cases = "\n".join(f'  *" {word}"*) set -- "$@" {" ".join(more)} ;;' for word, more in REDUCED.items())
    script = (
        f'#!/bin/sh\ncase "$1" in train) case " $*" in\n{cases}\nesac ;; esac\nexec {sys.executable} -m zoo.cli "$@"\n'
    )
    (programs / "zoo").write_text(script)
    (programs / "zoo").chmod(0o755)
    path = f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ZOO_") or name == "ZOO_CACHE"}
    return kept | {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKED)
def test_a_guide_works_word_for_word(name: str, tmp_path: Path) -> None:
    """Blocks in their order from an empty folder; one with a path as the comment at its top becomes that file."""
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = shell(folder)
    for block in blocks(ROOT / "docs" / "guides" / f"{name}.md"):
        file = re.match(r"(?:# @package \w+\n)?# (\w[\w/]*\.\w+)\n", block.text)
        if file is not None and block.language in ("python", "yaml"):
            (folder / file.group(1)).parent.mkdir(parents=True, exist_ok=True)
            (folder / file.group(1)).write_text(block.text)
            continue
        if block.language not in ("bash", "python"):
            continue
        program = ["bash", "-eo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*program, block.text], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{name}.md:{block.line}\n{block.text}\n{done.stdout}{done.stderr}"
