"""How Sphinx builds the documentation: python -m sphinx -W -b html docs docs/_build."""

import inspect
import os
import re

# Figures of the examples need no window; fits of one thread do not wait for others.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

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
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
default_role = "py:obj"
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("skflowmix",),
    # Other examples are commands, and may take minutes.
    "ignore_pattern": r"(^|[/\\])(?!plot_)[^/\\]+\.py$",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "min_reported_time": 5,
}

html_math_renderer = "mathml"
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
    lines[:] = [
        re.sub(r"(?<![`\w])(n_\w+_)(?=[,)])", r"``\1``", line) for line in lines
    ]


def _signature(app, what, name, obj, options, signature, return_annotation):
    """Take the parameters of __init__, where a class has a __new__ too."""
    if what == "class" and not issubclass(obj, BaseException):
        return str(inspect.signature(obj)), None
    return None


def _inline_mathml(translator, node):
    translator.body.append(tex2mathml(node.astext()))
    raise SkipNode


def _block_mathml(translator, node):
    formula = tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div style="margin: 1em 0">{formula}</div>')
    raise SkipNode


def setup(app):
    # Before numpydoc, whose priority is 500.
    app.connect("autodoc-process-docstring", _quote_sizes, priority=400)
    app.connect("autodoc-process-signature", _signature)
    # Formulas that browsers draw by themselves, without scripts from elsewhere.
    app.add_html_math_renderer("mathml", (_inline_mathml, None), (_block_mathml, None))
