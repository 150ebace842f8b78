"""The table in docs/statistics.md: python tests/support/p_values.py FILE, with a file that FASTINIT_P_VALUES=FILE has made."""

import json
import sys
from pathlib import Path
from typing import Any


def markdown(results: dict[str, Any]) -> str:
    lines = [
        "| test | of | p-values | the smallest | to be expected | seconds |",
        "| :--- | :--- | ---: | ---: | ---: | ---: |",
    ]
    everything: list[float] = []
    seconds = 0.0
    notes = []
    for number, run in enumerate(results["runs"], 1):
        for name, test in run["tests"].items():
            p_values = list(test["p_values"].values())
            lines.append(f"| `{name}` | {test['about']} | {summary(p_values)} | {test['seconds']:.0f} |")
            everything += p_values
            seconds += test["seconds"]
        versions = run["versions"]
        changes = ", with changes" if run["dirty"] else ""
        notes.append(
            f"- Run {number}, {run['date'][:10]}, commit {run['commit'][:10]}{changes}: {', '.join(run['tests'])}. "
            f"{run['machine']['cpu']}, {run['threads']} threads ({run['fastinit']['active']['instruction_set']}); "
            f"torch {versions['torch']}, scipy {versions['scipy']}, Python {versions['python']}."
        )
    lines.append(f"| all | | {summary(everything)} | {seconds:.0f} |")
    rate = len(everything) * results["alarm"]
    alarms = sum(not p >= results["alarm"] for p in everything)
    return "\n".join(
        [
            *lines,
            "",
            f"An alarm is a p-value below {results['alarm']:.0e}: with {len(everything)} of them, under random keys, a right",
            f"implementation raises one with a probability of at most {rate:.1e}. Here there were {alarms or 'none'}.",
            "",
            *notes,
        ]
    )


def summary(p_values: list[float]) -> str:
    """How many, the smallest, and what that is on average if they are independent."""
    return f"{len(p_values)} | {min(p_values):.2g} | {1 / (len(p_values) + 1):.2g}"


if __name__ == "__main__":
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
