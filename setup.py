"""A wheel that carries compiled kernels is for one platform and any Python; all else stands in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel

NATIVE = Path(__file__).parent / "zoo" / "ops" / "_native"  # filled by `python -m zoo.ops.build --into zoo/ops/_native`


class Wheel(bdist_wheel):
    """The kernels use no Python headers, so only the platform is in the wheel's tag."""

    def finalize_options(self) -> None:
        """Without kernels the wheel is plain Python."""
        super().finalize_options()
        self.root_is_pure = not any(NATIVE.glob("*.so"))

    def get_tag(self) -> tuple[str, str, str]:
        """``py3-none-PLATFORM``, or ``py3-none-any``."""
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"bdist_wheel": Wheel})
