"""Links in the root, the import name they must not shadow, and what an installed package holds."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", ["ops", "configs", "data"])
def test_root_links_are_relative(name: str) -> None:
    link = ROOT / name
    assert link.is_symlink()
    assert os.readlink(link) == f"zoo/{name}"
    assert link.is_dir()


def test_ops_under_another_name_is_refused() -> None:
    done = subprocess.run([sys.executable, "-c", "import ops"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "zoo.ops" in done.stderr


def test_git_does_not_ignore_code() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    paths = ["zoo/data/x.py", "zoo/configs/data/x.yaml", "data", "docs/results/x.json"]
    done = subprocess.run(["git", "-C", str(ROOT), "check-ignore", *paths], capture_output=True, text=True)
    assert done.stdout == ""


@pytest.mark.slow
def test_sdist_and_wheel_hold_the_package(tmp_path: Path) -> None:
    """The wheel is built from the sdist, installed alone, and lists the zoo outside the checkout."""
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "zoo").rglob("*")
        if path.suffix in (".py", ".yaml", ".h", ".cpp", ".cu") and "__pycache__" not in path.parts
    }
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = {member.name.split("/", 1)[-1] for member in members}
    assert expected <= names
    assert not [member.name for member in members if member.issym() or member.islnk()]
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert expected <= inside
    assert all(name.startswith(("zoo/", "voxelzoo-")) for name in inside)
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    ask = [sys.executable, "-c", "import zoo, zoo.cli, sys; print(zoo.__file__); sys.exit(zoo.cli.main(['list']))"]
    listed = subprocess.run(
        ask, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=60
    )
    assert listed.returncode == 0, listed.stderr
    assert listed.stdout.startswith(str(site))
    assert "hollownerf" in listed.stdout
