"""The documentation is complete, its links lead somewhere, and its examples run. `make docs` runs this, too."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from benchmarks import plots

import fastinit
from fastinit import extra

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted((*DOCS.glob("*.md"), *ROOT.glob("*.md")))
SOURCES = sorted(path for path in (ROOT / "python/fastinit").rglob("*.py") if ">>>" in path.read_text())


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- Complete ------------------------------------------------------------------------------------------------


def documented(text: str) -> set[str]:
    """The names that a page of the reference has an entry for, or mentions as code, with their module."""
    module, names = "", set()
    for line in text.splitlines():
        if found := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = found[1]
        found = re.match(r"\.\. (?:auto(?:function|class)|py:function):: (\w+)", line)
        for name in [found[1]] if found else re.findall(r"``(\w+)``", line):
            names.add(f"{module}.{name}")
    return names


def test_every_public_name_is_in_the_reference() -> None:
    known = set().union(*(documented(page.read_text()) for page in (DOCS / "api").glob("*.rst")))
    wanted = {f"fastinit.{name}" for name in fastinit.__all__ if name != "__version__"}
    wanted |= {f"fastinit.extra.{name}" for name in extra.__all__} | {"fastinit.testing.assert_initialized"}
    assert wanted and not wanted - known


def test_documented() -> None:
    text = ".. currentmodule:: fastinit\n\n.. autofunction:: one_\n.. autoclass:: Two()\n\nAnd ``three``.\n"
    assert documented(text) == {"fastinit.one_", "fastinit.Two", "fastinit.three"}


def test_every_page_is_in_a_table_of_contents() -> None:
    """The index names a page, or collects it with those that nobody names; and it names no others."""
    index = (DOCS / "index.md").read_text()
    named = re.findall(r"^[\w -]+<(\S+)>$", index, re.MULTILINE)
    assert len(named) == len(set(named)) > 10
    missing = [name for name in named if not (DOCS / f"{name}.md").exists()]
    assert not missing
    assert "\n(other pages)\n" in index
    assert re.search(r"^api/\*$", index, re.MULTILINE)


# ---- Links ---------------------------------------------------------------------------------------------------


def links(text: str) -> list[str]:
    text = re.sub(
        r"```.*?```|`[^`\n]*`", lambda code: "" if code[0].startswith("```") else "`", text, flags=re.DOTALL
    )
    found = re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", text, re.MULTILINE)
    return [link for pair in found for link in pair if link and "://" not in link]


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading, and Sphinx too."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    return {slug(head) for head in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def lost(page: Path, text: str) -> list[str]:
    """Links that lead nowhere."""
    wrong = []
    for link in links(text):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        found = target.is_file() and (  # the site has no page for a folder
            not anchor or anchor in anchors(target.read_text() if path else text)
        )
        if not found:
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links(page: Path) -> None:
    assert not lost(page, page.read_text())


def test_lost_links_are_found() -> None:
    page = DOCS / "contract.md"
    text = "# One\n\n[a](contract.md#c1-stream) [b](#one) [c](none.md) [d](#two) [e](contract.md#c0) [f](../docs)\n"
    assert lost(page, text) == ["none.md", "#two", "contract.md#c0", "../docs"]


# ---- Examples ------------------------------------------------------------------------------------------------


def run_examples(text: str, where: str) -> None:
    """Run blocks of ```python, one after the other. (Those of ```py are fragments.)"""
    names: dict[str, Any] = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.DOTALL)):
        name = f"{where}, example {number + 1}"
        if block.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, names, name, None, None)
            assert doctest.DocTestRunner().run(test, clear_globs=False).failed == 0, name
            names |= test.globs
        else:
            exec(compile(block, name, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if "```python\n" in page.read_text()], ids=name_of)
def test_examples_of_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_examples(page.read_text(), name_of(page))


def test_wrong_examples_are_found() -> None:
    first = "```python\nx = 1\n```\n```py\nfragment(...)\n```\n"
    run_examples(
        first + "```python\n>>> x\n1\n>>> y = 2\n```\n```python\nassert (x, y) == (1, 2)\n```\n", "page"
    )
    with pytest.raises(AssertionError, match="page, example 2"):
        run_examples(first + "```python\n>>> x\n2\n```\n", "page")
    with pytest.raises(NameError):
        run_examples(first + "```python\nz\n```\n", "page")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_examples_of_docstrings(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT / "python").with_suffix("").parts).removesuffix(".__init__")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0 < result.attempted


# ---- Figures -------------------------------------------------------------------------------------------------


def test_the_picture_shows_the_committed_tables() -> None:
    assert plots.described(plots.ratios()) in (DOCS / "speed.svg").read_text()


def test_the_first_screen_has_the_figures_of_the_committed_tables() -> None:
    first = " ".join((ROOT / "README.md").read_text().partition("<!-- docs: end -->")[0].split())
    ratios = plots.ratios()
    fills = [value for name, value in ratios.items() if name.endswith("_")]
    models = [value for name, value in ratios.items() if not name.endswith("_")]
    assert (
        f"between {min(fills):.1f} times (`orthogonal_`) and {max(fills):.0f} times (`trunc_normal_`)"
        in first
    )
    assert f"{min(models):.0f} to {max(models):.0f} times" in first
    (gpt2,) = rows_of("models", "GPT-2 XL")
    assert f"GPT-2 XL takes {float(gpt2['fastinit'].split()[0]):.1f} s instead of {gpt2['torch']}" in first
    (loop,) = rows_of("models", "a training loop")
    assert f"[{float(loop['measured'].strip('+%')):.1f} % slower]" in first
    shards = plots.table_rows((plots.RESULTS / "demo-sharded-amd-epyc-2-cores-2.13.0.md").read_text())
    assert {row["parameters equal"] for row in shards if row["by"] == "torch"} == {"17 of 75"}
    assert {row["parameters equal"] for row in shards if row["by"] == "fastinit"} == {"75 of 75"}
    assert "all 75 parameters" in first and "[17 of 75]" in first


def rows_of(table: str, first: str) -> list[dict[str, str]]:
    text = (plots.RESULTS / f"{plots.MACHINE}-{table}.md").read_text()
    return [row for row in plots.table_rows(text) if next(iter(row.values())) == first]
