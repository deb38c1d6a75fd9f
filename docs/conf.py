"""Sphinx: ``sphinx-build -W docs docs/_build``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import zoo

project = "voxelzoo"
author = "The voxelzoo authors"
release = version = zoo.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "results"]
html_theme = "furo"
html_title = f"voxelzoo {version}"
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "alphabetical"
default_role = "any"
napoleon_google_docstring = True
napoleon_use_ivar = True
suppress_warnings = ["ref.any", "ref.python", "docutils"]  # docstrings name arguments and private things in backticks
