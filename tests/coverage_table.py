"""The tables in docs/coverage.md: python tests/coverage_table.py FILE, with the file that `make coverage` has made."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def markdown(results: dict[str, Any]) -> str:
    python, cpp = results["Python"], results["C++"]
    lines = [
        "| Python | lines | covered | | branches | covered | |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(f"| {name} | {row([file])} | {row([file], 'branches')} |" for name, file in python.items()),
        f"| all | {row(python.values())} | {row(python.values(), 'branches')} |",
        "",
        "| C++ | lines | covered | |",
        "| :--- | ---: | ---: | ---: |",
        *(f"| {name} | {row([file])} |" for name, file in cpp.items()),
        f"| all | {row(cpp.values())} |",
        "",
        f"{results['date'][:10]}, commit {results['commit'][:10]}{', with changes' if results['dirty'] else ''}; "
        f"{results['compiler']}; Python {results['versions']['python']}, torch {results['versions']['torch']}.",
    ]
    return "\n".join(lines)


def row(files: Iterable[dict[str, Any]], what: str = "lines") -> str:
    total, covered = counts(files, what)
    return f"{total} | {covered} | {100 * covered / total:.1f}%" if total else "0 | 0 | "


def percent(files: Iterable[dict[str, Any]]) -> float:
    total, covered = counts(files, "lines")
    return 100 * covered / total


def counts(files: Iterable[dict[str, Any]], what: str) -> tuple[int, int]:
    files = list(files)
    covered = "covered" if what == "lines" else "branches_covered"
    return sum(file[what] for file in files), sum(file[covered] for file in files)


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
