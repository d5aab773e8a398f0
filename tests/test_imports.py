"""The module table in docs/design.md, held against the imports in the code."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "skflowmix"
WINGS = ("starts", "model", "training", "displays")
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py" or path.parent == PACKAGE
}
MAX_CODE_LINES = 400
IMPORTED_WHEN_USED = {"matplotlib", "pandas", "rich"}


def read_table(text):
    """Return {module: modules it may import}, in the order of the rows."""
    allowed = {}
    for row in re.finditer(
        r"^\| `([\w/]+)\.py` \|.*\| ([^|]+) \|$", text, re.MULTILINE
    ):
        module, cell = row.groups()
        module = module.replace("/", ".")
        assert module not in allowed, f"{module} has two rows"
        if cell == "all above":
            allowed[module] = set(allowed)
        elif cell == "-":
            allowed[module] = set()
        else:
            allowed[module] = {name.replace("/", ".") for name in cell.split(", ")}
    return allowed


def imported_from_package(tree, modules):
    """Return the modules of the package that `tree` imports, wherever it does.

    A name that is no module, as in ``from skflowmix import FlowMixture``, counts as
    an import of ``__init__``.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                if top == PACKAGE.name:
                    found.add(rest or "__init__")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports within the package are absolute"
            top, _, source = node.module.partition(".")
            if top != PACKAGE.name:
                continue
            if source and source not in WINGS:
                found.add(source)
            else:
                prefix = source and f"{source}."
                names = {f"{prefix}{alias.name}" for alias in node.names}
                found |= {name if name in modules else "__init__" for name in names}
    return found


def imported_at_module_level(tree):
    """Return the top-level packages that importing the module imports."""
    found = set()
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
        else:
            pending += ast.iter_child_nodes(node)
    return found


def count_code_lines(source):
    """Count the lines that are not only docstring, comment or blank."""
    silent = {
        tokenize.COMMENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
        tokenize.INDENT,
        tokenize.NEWLINE,
        tokenize.NL,
    }
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node, clean=False):
            docstring = node.body[0]
            lines.difference_update(range(docstring.lineno, docstring.end_lineno + 1))
    return len(lines)


TABLE = read_table((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))


def test_table_names_only_rows_above():
    assert TABLE
    above = set()
    for module, allowed in TABLE.items():
        assert allowed <= above, f"{module}: {sorted(allowed - above)} not above it"
        above.add(module)


def test_wings_are_those_of_the_table():
    folders = {path.parent.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert {str(folder) for folder in folders} == {".", *WINGS}
    for wing in WINGS:
        tree = ast.parse((PACKAGE / wing / "__init__.py").read_text(encoding="utf-8"))
        assert len(tree.body) == 1, f"{wing}/__init__.py holds more than a docstring"


@pytest.mark.parametrize("module", [name for name in MODULES if name != "__init__"])
def test_module_imports_what_its_row_allows(module):
    assert module in TABLE, f"{module}.py has no row in docs/design.md"
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    excess = imported_from_package(tree, {*TABLE, *MODULES}) - TABLE[module]
    assert not excess, f"{module}.py may not import {sorted(excess)}"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_optional_packages_when_used(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert not imported_at_module_level(tree) & IMPORTED_WHEN_USED


@pytest.mark.parametrize("module", MODULES)
def test_module_is_short(module):
    lines = count_code_lines(MODULES[module].read_text(encoding="utf-8"))
    assert lines <= MAX_CODE_LINES, f"{module}.py has {lines} lines of code"


def test_reading_of_imports():
    source = '''
"""Docstring
of two lines."""
import os, skflowmix.model.nn  # a comment
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

try:
    import rich.console
except ImportError:
    pass

class A:
    """Docstring."""

    def f(self):
        import matplotlib.pyplot
        from skflowmix import FlowMixture
        from skflowmix.model import flows
        from skflowmix.mixture import x
        from skflowmix.training.trainer import y
        from sklearn import z
'''
    tree = ast.parse(source)
    modules = {"model.nn", "model.flows", "mixture", "training.trainer"}
    assert imported_from_package(tree, modules) == {*modules, "__init__"}
    assert imported_at_module_level(tree) == {"os", "skflowmix", "typing", "rich"}
    assert count_code_lines(source) == 16
