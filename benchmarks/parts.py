"""What parts of a matrix cost: rows of 8 to 4,096 values, halves, and strips of `sparse_`, by the value.

Each part is compared with the whole, bit for bit, before its time is taken. Times are medians; those that are compared with each
other are taken in turns.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastinit
from benchmarks import machine, report
from benchmarks.cases import Case
from benchmarks.suites import NORMAL, SPARSE_10, SPARSE_90, THREE

WIDTHS = (8, 64, 512, 4096)
VALUES = 2**21  # in the part, where rows are short
COLUMNS = 8192  # of the whole
CHECKED = 512  # rows, where the whole would be too large
SIDE = 4096
ROUNDS, ROUND_SECONDS = 9, 0.03


class Timed(NamedTuple):
    name: str
    call: Callable[[], Any]
    values: int


class Limit(NamedTuple):
    """At most so many times as much time for a value."""

    name: str
    than: str
    most: float


def filled(case: Case, tensor: Tensor) -> Tensor:
    """The tensor, or what stands for a part of one, filled under the key that all have."""
    case.call(fastinit)(tensor, generator=torch.Generator().manual_seed(1))
    return tensor


def part(
    case: Case, whole: tuple[int, int], offset: tuple[int, int], local: Tensor, checked: int | None = None
) -> Timed:
    """A part, once it has the values of the whole, or those of so many of its rows."""
    shape = (checked or whole[0], whole[1])
    expected = filled(case, torch.empty(shape, dtype=local.dtype))[offset[0] :, offset[1] :]
    filled(case, mine := fastinit.part_of(local, whole, offset))
    rows = min(expected.shape[0], local.shape[0])
    if not torch.equal(local[:rows], expected[:rows, : local.shape[1]]):
        raise ValueError(
            f"{case.label}, {tuple(local.shape)} of {whole} at {offset}: not the values of the whole"
        )
    call = case.call(fastinit)
    return Timed("", lambda: call(mine), local.numel())


def take_turns(sides: Iterable[Timed]) -> dict[str, float]:
    """Median seconds for a value."""
    sides = list(sides)
    often = {}
    for side in sides:
        start = time.perf_counter()
        side.call()
        often[side.name] = max(1, int(ROUND_SECONDS / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for _ in range(ROUNDS):
        for side in sides:
            start = time.perf_counter()
            for _ in range(often[side.name]):
                side.call()
            times[side.name].append((time.perf_counter() - start) / often[side.name] / side.values)
    return {name: statistics.median(each) for name, each in times.items()}


def rows_of(case: Case, dtype: torch.dtype, offset: int, values: int = VALUES) -> list[Timed]:
    result = []
    for width in WIDTHS:
        local = torch.zeros(values // width, width, dtype=dtype)
        timed = part(case, (local.shape[0], COLUMNS), (0, offset), local, CHECKED)
        result.append(timed._replace(name=f"rows of {width}"))
    return result


def halves(case: Case, side: int = SIDE) -> list[Timed]:
    whole, call = torch.zeros(side, side), case.call(fastinit)
    shape = (side, side)
    by_rows = part(case, shape, (side // 2, 0), torch.zeros(side // 2, side))
    by_columns = part(case, shape, (0, side // 2), torch.zeros(side, side // 2))
    return [
        Timed("whole", lambda: call(whole), side * side),
        by_rows._replace(name="half of the rows"),
        by_columns._replace(name="half of the columns"),
    ]


def strips(case: Case, side: int = SIDE) -> list[Timed]:
    whole, sparse, normal = torch.zeros(side, side), case.call(fastinit), NORMAL.call(fastinit)
    result = [
        Timed("normal_", lambda: normal(whole), side * side),
        Timed("whole", lambda: sparse(whole), side * side),
    ]
    for width in WIDTHS[1:-1]:
        timed = part(case, (side, side), (0, side // 2), torch.zeros(side, width))
        result.append(timed._replace(name=f"rows of {width}"))
    return result


SHORT = (Limit("rows of 64", "rows of 512", 1.5), Limit("rows of 8", "rows of 512", 4.0))
HALF = tuple(Limit(f"half of the {what}", "whole", 1.2) for what in ("rows", "columns"))  # 0.6 of its time
STRIPS = (
    Limit("whole", "normal_", 1 / 0.65),
    Limit("rows of 64", "whole", 2.0),
    Limit("rows of 512", "whole", 2.0),
)


def measurements() -> Iterable[tuple[str, str, Callable[[], list[Timed]], tuple[Limit, ...]]]:
    for case in THREE:
        for dtype in (torch.float32, torch.bfloat16):
            for offset in (0, 3):
                what = f"{case.label} {str(dtype).removeprefix('torch.')}, from column {offset} on"
                yield "rows", what, lambda c=case, d=dtype, o=offset: rows_of(c, d, o), SHORT  # type: ignore[misc]
    for case in (*THREE, SPARSE_10):
        yield "halves", case.label, lambda c=case: halves(c), HALF  # type: ignore[misc]
    for case in (SPARSE_10, SPARSE_90):
        yield "sparse", case.label, lambda c=case: strips(c), STRIPS  # type: ignore[misc]


def measured(
    suite: str, only: str | None, rows: Iterable[tuple[str, Callable[[], dict[str, Any]]]]
) -> dict[str, Any]:
    """Measure the rows whose names are wanted, telling how it goes, and return what a results file holds."""
    where, start, done = machine.describe(), time.perf_counter(), []
    for name, row in rows:
        if not only or re.search(only, name):
            done.append(row())
            print(done[-1], file=sys.stderr, flush=True)
    seconds = time.perf_counter() - start
    return {"suite": suite, **where, "repeats": ROUNDS, "seconds": seconds, "ok": True, "rows": done}


def row_of(
    table: str, what: str, sides: Callable[[], list[Timed]], limits: Iterable[Limit]
) -> dict[str, Any]:
    seconds = take_turns(sides())
    found = []
    for limit in limits:
        value = seconds[limit.name] / seconds[limit.than]
        found.append(limit._asdict() | {"value": value, "reached": value <= limit.most})
    return {"table": table, "what": what, "seconds": seconds, "limits": found}


def run(only: str | None = None) -> dict[str, Any]:
    return measured(
        "parts", only, ((f"{each[0]}: {each[1]}", partial(row_of, *each)) for each in measurements())
    )


TITLES = {
    "rows": f"Rows of a whole of {COLUMNS:,} columns",
    "halves": f"Halves of {SIDE:,} × {SIDE:,}, float32",
    "sparse": f"All rows of `sparse_`, {SIDE:,} × {SIDE:,}, float32",
}


def markdown(data: dict[str, Any]) -> str:
    parts = ["# Benchmark: parts", report.machine(data)]
    parts.append(
        "Nanoseconds for a value. Each part was compared with the whole first, bit for bit. For each requirement: how many "
        "times as much time a value takes, and how many are allowed."
    )
    for table, title in TITLES.items():
        rows = [row for row in data["rows"] if row["table"] == table]
        if not rows:
            continue
        names = list(rows[0]["seconds"])
        header = ["initialiser", *names]
        header += [f"{limit['name']} ÷ {limit['than']}" for limit in rows[0]["limits"]] + ["reached"]
        lines = [
            [
                row["what"],
                *(report.number(row["seconds"][name] * 1e9) for name in names),
                *(f"{report.number(limit['value'])} (≤ {limit['most']:.3g})" for limit in row["limits"]),
                "yes" if all(limit["reached"] for limit in row["limits"]) else "**no**",
            ]
            for row in rows
        ]
        parts.append(f"## {title}\n\n{report.table(header, lines)}")
    return "\n\n".join(parts) + "\n"
