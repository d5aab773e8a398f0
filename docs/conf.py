"""How Sphinx builds the documentation: python -m sphinx -W -b html docs docs/_build."""

import os
import re

# Figures of the examples need no window; fits of one thread do not wait for others.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import skflowmix

project = "skflowmix"
author = "skflowmix developers"
copyright = "skflowmix developers, BSD-3-Clause"
version = release = skflowmix.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
default_role = "py:obj"
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("skflowmix",),
    # Those of the README, which take a minute or more and save pictures, stay out.
    "ignore_pattern": r"(quickstart|pinwheel)\.py$",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "min_reported_time": 5,
}

html_theme = "pydata_sphinx_theme"
html_title = f"skflowmix {release}"
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"getting_started": [], "api": [], "auto_examples/index": []}
html_show_sourcelink = False


def _quote_sizes(app, what, name, obj, options, lines):
    """Quote sizes such as n_components_, which reStructuredText takes for links."""
    lines[:] = [re.sub(r"(?<![`\w])(n_\w+_)(?=[,)])", r"``\1``", line) for line in lines]


def setup(app):
    # Before numpydoc, whose priority is 500.
    app.connect("autodoc-process-docstring", _quote_sizes, priority=400)
