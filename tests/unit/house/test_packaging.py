"""Links in the root, the import name they must not shadow, and what an installed package holds."""

from __future__ import annotations

import os
import shutil
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


def run(*command: str, cwd: Path, **variables: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install_alone(wheel: Path, site: Path) -> None:
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel), cwd=site.parent)


def clean_copy(folder: Path) -> Path:
    """The tracked and new files of the checkout, so that builds leave nothing in it."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in listed.splitlines():
        if (ROOT / name).exists() or (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    return folder


@pytest.mark.slow
def test_sdist_and_wheel_hold_the_package(tmp_path: Path) -> None:
    """The wheel is built from the sdist, installed alone, and lists the zoo outside the checkout."""
    source = clean_copy(tmp_path / "source")
    run(sys.executable, "-m", "build", "--outdir", str(tmp_path), cwd=source)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    expected = {
        str(path.relative_to(source))
        for path in (source / "zoo").rglob("*")
        if path.suffix in (".py", ".yaml", ".h", ".cpp", ".cu")
    }
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert expected <= {member.name.split("/", 1)[-1] for member in members}
    assert not [member.name for member in members if member.issym() or member.islnk()]
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert expected <= inside
    assert all(name.startswith(("zoo/", "voxelzoo-")) for name in inside)
    install_alone(wheel, tmp_path / "site")
    code = "import zoo, zoo.cli, sys; print(zoo.__file__); sys.exit(zoo.cli.main(['list']))"
    listed = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert listed.startswith(str(tmp_path / "site"))
    assert "hollownerf" in listed


@pytest.mark.slow
def test_a_wheel_brings_its_kernels(tmp_path: Path) -> None:
    """Built ahead, the kernels are used on a machine without a compiler and without a cache."""
    source = clean_copy(tmp_path / "source")
    run(sys.executable, "-m", "zoo.ops.build", "--into", "zoo/ops/_native", cwd=source, PYTHONPATH=str(source))
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), cwd=source)
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-linux_" in wheel.name
    install_alone(wheel, tmp_path / "site")
    code = (
        "import torch, zoo.ops; zoo.ops.spherical_harmonics(torch.eye(3)); "
        "from zoo.ops import native; print(native.binary())"
    )
    binary = run(
        sys.executable,
        *("-c", code),
        cwd=tmp_path,
        PYTHONPATH=str(tmp_path / "site"),
        CXX="no-such-compiler",
        ZOO_CACHE=str(tmp_path / "cache"),
        ZOO_OPS="native",
    )
    assert binary.strip().startswith(str(tmp_path / "site" / "zoo" / "ops" / "_native"))
