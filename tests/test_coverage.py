"""docs/coverage.md says what `make coverage` has measured, and gives a reason for every line that was not reached."""

import json
import re
from pathlib import Path

from coverage_table import markdown

ROOT = Path(__file__).parents[1]
DOC = ROOT / "docs" / "coverage.md"
BLOCK = re.search(r"<!-- coverage-table: (\S+) -->\n(.*?)\n?<!-- /coverage-table -->", DOC.read_text(), re.S)
assert BLOCK is not None
RESULTS = json.loads((ROOT / BLOCK[1]).read_text())


def test_the_table_in_the_docs_is_of_its_file() -> None:
    assert BLOCK[2] == markdown(RESULTS)


def test_every_file_with_lines_not_reached_is_explained() -> None:
    missing = {
        name: file["missing"]
        for side in ("Python", "C++")
        for name, file in RESULTS[side].items()
        if file["missing"]
    }
    explained = dict(re.findall(r"^\| `(\S+)` \| ([\d, -]+) \|", DOC.read_text(), re.M))
    assert explained == missing
