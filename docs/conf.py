"""How Sphinx builds the documentation: python -m sphinx -W -b html docs docs/_build."""

import inspect
import os
import re

# Figures of the examples need no window; fits of one thread do not wait for others.
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.addnodes import pending_xref

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
    "write_computation_times": False,
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
html_static_path = ["_static"]
html_css_files = ["site.css"]


def _quote_sizes(app, what, name, obj, options, lines):
    """Quote sizes such as n_components_, which reStructuredText takes for links."""
    lines[:] = [
        re.sub(r"(?<![`\w])(n_\w+_)(?=[,)])", r"``\1``", line) for line in lines
    ]


def _signature(app, what, name, obj, options, signature, return_annotation):
    """Take the parameters of __init__, where a class has a __new__ too."""
    if what == "class" and not issubclass(obj, BaseException):
        signature = inspect.signature(obj)
        plain = [
            parameter.replace(annotation=parameter.empty)
            for parameter in signature.parameters.values()
        ]
        return str(signature.replace(parameters=plain)), None
    return None


def _link_names(app, doctree):
    """Link the public names in Markdown pages to the reference."""
    if not doctree["source"].endswith(".md"):
        return
    unlinked = (nodes.title, nodes.reference, pending_xref)
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext().removeprefix("skflowmix.")
        public = re.fullmatch(r"(\w+)(\.\w+)?", name)
        if not public or public[1] not in skflowmix.__all__:
            continue
        if not isinstance(literal.parent, unlinked):
            link = pending_xref(
                refdomain="py", reftype="obj", reftarget=f"skflowmix.{name}"
            )
            literal.replace_self(link)
            link += literal


def _mathml(node, **options):
    """Translate a formula, with thin spaces around log and the like."""
    space = '<mspace width="0.17em"/>'
    formula = tex2mathml(node.astext(), **options)
    formula = formula.replace("<mo>&ApplyFunction;</mo>", space)
    return re.sub(r"(\)</mo>\s*)(?=<mi>\w\w+</mi>)", rf"\1{space}", formula)


def _inline_mathml(translator, node):
    translator.body.append(_mathml(node))
    raise nodes.SkipNode


def _block_mathml(translator, node):
    formula = _mathml(node, as_block=True)
    translator.body.append(f'<div class="formula">{formula}</div>')
    raise nodes.SkipNode


def setup(app):
    # Before numpydoc, whose priority is 500.
    app.connect("autodoc-process-docstring", _quote_sizes, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("doctree-read", _link_names)
    # Formulas that browsers draw by themselves, without scripts from elsewhere.
    app.add_html_math_renderer("mathml", (_inline_mathml, None), (_block_mathml, None))
