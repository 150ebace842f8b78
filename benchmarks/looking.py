"""What it costs to look: calls and small layers in `fastinit.enabled()` and after `fastinit.enable()`, beside torch's own.

Each line is what one call takes. The sides take turns, and times are medians. As `timeit` does, they
leave out Python's garbage collection.
"""

from __future__ import annotations

import gc
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import init

import fastinit
from benchmarks import machine, report

LAYERS = 10_000
ROUNDS, CALLS = 7, 1000


class Line(NamedTuple):
    """A call, and at most how many times torch's time it may take: after enable(), and in a block."""

    name: str
    call: Callable[[], Any]
    enabled: float | None = None
    enable: float | None = None


def calls() -> Iterator[Line]:
    small, large = torch.empty(16, 16), torch.empty(64, 64)
    other = torch.zeros(64, 64)
    parameter, bias = nn.Parameter(torch.empty(16, 16)), torch.empty(16)
    yield Line("init.normal_, 16 × 16", lambda: init.normal_(small), 1)
    yield Line("init.normal_, 64 × 64", lambda: init.normal_(large), 1)
    yield Line("init.normal_, a parameter of 16 × 16", lambda: init.normal_(parameter), 1)
    yield Line("init.kaiming_uniform_, 16 × 16", lambda: init.kaiming_uniform_(small, a=5**0.5))
    yield Line("init.trunc_normal_, 16 × 16", lambda: init.trunc_normal_(small))
    yield Line("init.zeros_, 16", lambda: init.zeros_(bias))
    yield Line("Tensor.normal_, 16 × 16", lambda: small.normal_(0.0, 0.02))
    yield Line("Tensor.uniform_, 16 × 16", lambda: small.uniform_(-1.0, 1.0))
    yield Line("Tensor.zero_, 16", lambda: bias.zero_())
    yield Line("Tensor.fill_, 16", lambda: bias.fill_(1.0))
    yield Line("Tensor.copy_, 64 × 64", lambda: large.copy_(other))
    yield Line("Tensor.clone, 16 × 16", lambda: small.clone())


class Bare(nn.Linear):
    """What a layer takes besides its fills, which nothing here can change."""

    def reset_parameters(self) -> None:
        pass


def layers() -> Iterator[Line]:
    yield Line("nn.Linear(16, 16)", lambda: nn.Linear(16, 16), 1, 0.6)
    yield Line("the same, but nothing is drawn", lambda: Bare(16, 16))
    yield Line("nn.LayerNorm(16)", lambda: nn.LayerNorm(16))
    yield Line("nn.Conv2d(4, 4, 3)", lambda: nn.Conv2d(4, 4, 3))
    yield Line("nn.Embedding(16, 16)", lambda: nn.Embedding(16, 16))


@contextmanager
def side(name: str) -> Iterator[None]:
    with ExitStack() as stack:
        if name == "enable":
            fastinit.enable()
            stack.callback(fastinit.disable)
        elif name == "enabled":
            stack.enter_context(fastinit.enabled())
        yield


def seconds(line: Line, often: int, keep: bool) -> dict[str, float]:
    """Median seconds for a call: torch's, after enable(), in a block. What is made is kept, as in a model."""
    times: dict[str, list[float]] = {"torch": [], "enable": [], "enabled": []}
    for _ in range(ROUNDS):
        for name, taken in times.items():
            with side(name):
                line.call()
                made = []
                gc.collect()
                gc.disable()  # as timeit does
                start = time.perf_counter()
                for _ in range(often):
                    result = line.call()
                    if keep:
                        made.append(result)
                taken.append((time.perf_counter() - start) / often)
                gc.enable()
    return {name: statistics.median(taken) for name, taken in times.items()}


def training(steps: int = 200) -> dict[str, float]:
    """Median seconds for a step of training, outside of a block and in it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256))
    optimizer, batch = torch.optim.AdamW(model.parameters()), torch.randn(128, 256)
    times: dict[str, list[float]] = {"torch": [], "enabled": []}

    def step() -> None:
        optimizer.zero_grad()
        (model(batch) - batch).square().mean().backward()
        optimizer.step()

    for _ in range(ROUNDS):
        for name, taken in times.items():
            with side(name):
                step()
                for _ in range(steps // ROUNDS):
                    start = time.perf_counter()
                    step()
                    taken.append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def run(only: str | None = None) -> dict[str, Any]:
    where, start, rows = machine.describe(), time.perf_counter(), []
    for table, lines, often, keep in (("layers", layers(), LAYERS, True), ("calls", calls(), CALLS, False)):
        for line in lines:
            if only and not re.search(only, line.name):
                continue
            print(f"{line.name}: ", end="", file=sys.stderr, flush=True)
            rows.append(
                {
                    "table": table,
                    "name": line.name,
                    "seconds": seconds(line, often, keep),
                    "most": {"enabled": line.enabled, "enable": line.enable},
                }
            )
            print(
                {name: report.seconds(t) for name, t in rows[-1]["seconds"].items()},
                file=sys.stderr,
                flush=True,
            )
    if not only or re.search(only, "training"):
        rows.append(
            {"table": "training", "name": "a step of AdamW", "seconds": training(), "most": {"enabled": 1.01}}
        )
    ok = all(ratio(row, name) <= most for row in rows for name, most in row["most"].items() if most)
    return {
        "suite": "looking",
        **where,
        "repeats": ROUNDS,
        "seconds": time.perf_counter() - start,
        "ok": ok,
        "rows": rows,
    }


def ratio(row: dict[str, Any], name: str) -> float:
    times: dict[str, float] = row["seconds"]
    return times[name] / times["torch"]


TITLES = {
    "layers": f"{LAYERS:,} layers, for each",
    "calls": "Calls",
    "training": "Training within a block",
}


def markdown(data: dict[str, Any]) -> str:
    parts = [
        "# Benchmark: looking",
        report.machine(data),
        "What one call takes: by torch, after `fastinit.enable()`, and in a block of `fastinit.enabled()`, which reports on it. "
        "In brackets, how many times torch's time that is, and how many are allowed. "
        "Garbage collection is off meanwhile.",
    ]
    for table, title in TITLES.items():
        rows = [row for row in data["rows"] if row["table"] == table]
        if not rows:
            continue
        sides = [name for name in ("enable", "enabled") if name in rows[0]["seconds"]]
        lines = []
        for row in rows:
            cells = [row["name"], report.seconds(row["seconds"]["torch"])]
            reached = []
            for name in sides:
                most, found = row["most"].get(name), ratio(row, name)
                allowed = f", ≤ {most:g}" if most else ""
                cells.append(f"{report.seconds(row['seconds'][name])} ({found:.3g}{allowed})")
                reached += [found <= most] if most else []
            cells.append(("yes" if all(reached) else "**no**") if reached else "")
            lines.append(cells)
        shown = {"enable": "after enable()", "enabled": "in a block"}
        header = [title.split(",")[0].lower(), "torch", *(shown[name] for name in sides), "reached"]
        parts += [f"## {title}", report.table(header, lines)]
    return "\n\n".join(parts) + "\n"
