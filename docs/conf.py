"""Sphinx's settings. `make docs` builds the pages into build/docs.

The sources are the Markdown files as they stand in the repository, so that a relative link works there and on the site.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "python"))

import fastinit  # noqa: E402

project = "fastinit"
author = "the fastinit authors"
copyright = author
version = release = fastinit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/results/*.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "csrc", "demo", "dist", "docs/site", "python", "tests"]
# Tables of results are linked, and not listed. tests/build/test_docs.py looks after the other pages.
suppress_warnings = ["toc.not_included"]

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = f"fastinit {release}"
html_extra_path = ["site"]  # the redirect from / to docs/
html_static_path = ["_static"]
html_css_files = ["layout.css"]
html_show_sphinx = False
html_copy_source = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def add_title(app: Any, docname: str, source: list[str]) -> None:
    """Give a table of results that has no title one."""
    if docname.startswith("benchmarks/results/") and not source[0].startswith("# "):
        source[0] = f"# {docname.rpartition('/')[2]}\n\n{source[0]}"


def list_other_pages(app: Any, docname: str, source: list[str]) -> None:
    """Put the pages that no table of contents names where the index says so."""
    if docname == root_doc:
        named = set(re.findall(r"<([\w-]+)>$", source[0], re.MULTILINE))
        others = {path.stem for path in (ROOT / "docs").glob("*.md")} - named - {"index"}
        source[0] = source[0].replace("(other pages)", "\n".join(sorted(others)))


def setup(app: Any) -> None:
    app.connect("source-read", add_title)
    app.connect("source-read", list_other_pages)
