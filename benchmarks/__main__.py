"""`python -m benchmarks`: measure a suite, or show what was measured."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import deferred, ensembles, extra, looking, machine, models, parts, plots, report, sharded
from benchmarks.cases import Row
from benchmarks.fits import fits
from benchmarks.measure import Options, Results
from benchmarks.suites import SUITES

# With measurements and a table of their own.
APART: dict[str, Any] = {
    "models": models,
    "deferred": deferred,
    "sharded": sharded,
    "parts": parts,
    "extra": extra,
    "ensembles": ensembles,
    "looking": looking,
}


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    if args.command == "render":
        for file in args.files:
            data = json.loads(file.read_text())
            if args.table:
                print(report.section(data, args.table))
            else:
                show(data, file.with_suffix(""))
        return 0

    args.suite = args.suite or ("cuda" if args.device == "cuda" else "must")
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.suite in APART:
        data = APART[args.suite].run(args.only)
        print(APART[args.suite].markdown(data))
        if not args.only:
            write(data, args.output)
        return 0 if data["ok"] else 1
    suite = SUITES[args.suite]
    rows = [row for row in suite.rows() if not args.only or re.search(args.only, f"{row.table}: {row}")]
    budget = suite.budget
    if args.budget is not None:
        budget, rows = args.budget, [replace(row, always=False) for row in rows]
    data = run(args.suite, rows, Options(args.repeats, suite.side_seconds, budget))
    if args.only:  # a part is no result to keep
        print(report.markdown(data))
    else:
        write(data, args.output)
    return 0 if data["ok"] else 1


def write(data: dict[str, Any], output: Path) -> None:
    """Write the results file, and what shows it."""
    output.mkdir(parents=True, exist_ok=True)
    stem = output / machine.file_name(data["suite"])
    Path(f"{stem}.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    show(data, stem)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = result.add_argument
    add("command", nargs="?", choices=("run", "render"), default="run", help="default: run")
    add("files", nargs="*", type=Path, help="render: the JSON files whose Markdown and pictures to make anew")
    about = "; ".join(f"{name}: {suite.about}" for name, suite in SUITES.items())
    about += "; models: what whole models have to reach, at 1.5 to 4.6 G parameters"
    about += "; deferred: the same built without memory, and what a rank of 512 draws of Llama-3 70B"
    about += "; sharded: one rank's parts of Llama 3, on 8 to 4,096 ranks"
    about += "; parts: rows of 8 to 4,096 values, halves, strips of sparse_"
    about += "; extra: functions of fastinit.extra beside the fills beneath them"
    about += "; ensembles: 64 members in one call under vmap"
    about += "; looking: calls and small layers in fastinit.enabled()"
    add("--suite", choices=(*SUITES, *APART), help=f"{about}; default: must, or with --device cuda: cuda")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--only", metavar="REGEX", help="measure the rows that match, print the tables and write nothing")
    add("--threads", type=int, help="how many threads are all; default: torch's choice")
    add(
        "--repeats",
        type=int,
        default=5,
        help="at least; fewer than %(default)s, the default, are for a quick look",
    )
    add(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="skip torch, or another peer, in rows that would take it longer",
    )
    add("--output", type=Path, default=machine.ROOT / machine.RESULTS, help="default: %(default)s")
    add("--table", choices=report.TITLES, help="render: print this table, and write nothing")
    return result


def run(suite: str, rows: Iterable[Row], options: Options) -> dict[str, Any]:
    """Measure the rows, telling how it goes, and return what a results file holds."""
    rows = [replace(row, threads=row.threads or torch.get_num_threads()) for row in rows]
    where, results, start = machine.describe(), Results(options), time.perf_counter()
    torch.manual_seed(0)
    try:
        for i, row in enumerate(rows, 1):
            print(f"[{i}/{len(rows)}] {row}: ", end="", file=sys.stderr, flush=True)
            print(told(results.add(row)), file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept", file=sys.stderr, flush=True)
    return {
        "suite": suite,
        **where,
        "seconds": time.perf_counter() - start,
        "repeats": options.repeats,
        "budget": options.budget if math.isfinite(options.budget) else None,
        "ok": all(right(row) for row in results.rows),
        "rows": results.rows,
        "fits": fits(results.rows),
    }


def told(row: dict[str, Any]) -> str:
    times = ", ".join(f"{side} {report.seconds(its['median'])}" for side, its in report.timed(row))
    wrong = [
        f"{'WRONG: ' * ours(side)}{side}: {reason}"
        for side, verdict in row["checks"].items()
        for reason in verdict["wrong"]
    ]
    return "; ".join([times or "skipped", *wrong])


def ours(side: str) -> bool:
    return side.startswith(("fastinit", "same"))


def right(row: dict[str, Any]) -> bool:
    """Whether fastinit did what it was to do, fast or not."""
    checks = all(its["ok"] for side, its in row["checks"].items() if ours(side))
    return checks and not any(
        "error" in its for side, its in row["sides"].items() if side.startswith("fastinit")
    )


def show(data: dict[str, Any], stem: Path) -> None:
    """Write the Markdown and the pictures."""
    if data["suite"] in APART:
        Path(f"{stem}.md").write_text(APART[data["suite"]].markdown(data))
        print(f"Written: {stem}.md")
        return
    pictures = plots.draw(data, stem)
    Path(f"{stem}.md").write_text(report.markdown(data, pictures))
    print(f"Written: {stem}.md and {len(pictures)} pictures")


if __name__ == "__main__":
    sys.exit(main())
