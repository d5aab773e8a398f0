"""Pages of the documentation: they name all that is public, and link what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import skflowmix

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *ROOT.glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors_of(page):
    """Return the anchors that GitHub and MyST give to the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in titles
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        if target.startswith("auto_examples/"):
            name = target.removeprefix("auto_examples/")
            assert name == "index" or (ROOT / "examples" / f"{name}.py").is_file()
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page.name} links {link}"
        assert not anchor or anchor in anchors_of(path), f"{page.name} links {link}"


def test_the_reference_has_every_public_name():
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name in skflowmix.__all__:
        assert re.search(rf"\b{name}\b", text), name


def test_every_page_is_in_a_table_of_contents():
    pages = {page.stem for page in DOCS.glob("*.md")}
    listed = set()
    for page in DOCS.glob("*.md"):
        for block in re.findall(
            r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
        ):
            lines = [line for line in block.splitlines() if line[:1] not in ("", ":")]
            listed |= {re.sub(r".*<(.*)>", r"\1", line) for line in lines}
    assert pages - listed == {"index"}
    assert listed - pages == {"auto_examples/index"}


def test_tables_of_benchmarks_are_those_of_the_results_that_are_kept():
    code = "import published; print(published.page(), end='')"
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "benchmarks",
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    page = (DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert made.stdout == page, "run python benchmarks/published.py"


def test_the_citation_is_of_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {skflowmix.__version__}\n" in text
