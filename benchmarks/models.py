"""Whole models of transformers, built by torch and in `fastinit.enabled()`; and what being enabled costs a program.

Each measurement has a process of its own, so that none finds another's memory: `python -m benchmarks.models TASK SIDE`
is one, and prints what it measured as JSON. A model is built twice in it. The first time the system hands the memory
out while it is written; glibc then keeps it, and the second time, which counts, it is warm.
"""

from __future__ import annotations

import gc
import json
import os
import re
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import fastinit
from benchmarks import machine, report
from benchmarks.memory import available_bytes, peak_extra_bytes

# glibc then takes all memory from the heap, and gives none of it back.
WARM = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**46), "MALLOC_TOP_PAD_": "0"}


@dataclass(frozen=True)
class Task:
    name: str
    about: str
    model: str = ""  # a class of transformers
    settings: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)  # for the check before the times are taken
    gigabytes: float = 0.0  # of the model
    sides: tuple[str, ...] = ("torch", "fastinit")
    faster: float | None = None  # required
    extra_bytes: float | None = None  # required
    overhead: float | None = None  # required

    @property
    def warm(self) -> bool:
        return self.extra_bytes is None and bool(self.model)


BLT_PART = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
BLT_PART |= dict(num_key_value_heads=2, vocab_size=100)
BLT_PARTS = {f"{part}_config": BLT_PART for part in ("patcher", "encoder", "decoder", "global")}
BLT_TINY = dict(vocab_size=100, encoder_hash_byte_group_vocab=50) | {
    name: part if name in ("patcher_config", "global_config") else part | dict(hidden_size_global=32)
    for name, part in BLT_PARTS.items()
}

TASKS = (
    Task(
        "GPT-2 XL",
        "its constructor, and its own initialisation after that",
        "GPT2LMHeadModel",
        dict(n_embd=1600, n_layer=48, n_head=25),
        dict(n_embd=32, n_layer=2, n_head=2, vocab_size=100),
        gigabytes=6.3,
        faster=12,
    ),
    Task(
        "BLT, encoder_hash_byte_group_vocab=20000",
        "the same, with trunc_normal_",
        "BltForCausalLM",
        dict(encoder_hash_byte_group_vocab=20000),
        BLT_TINY,
        gigabytes=6.8,
        faster=20,
    ),
    Task(
        "BLT",
        "of 4.6 G parameters; torch runs out of 24 GiB. Memory: at the peak, beyond the model's own",
        "BltForCausalLM",
        {},
        BLT_TINY,
        gigabytes=18.6,
        sides=("fastinit",),
        extra_bytes=64 * 2**20,
    ),
    Task(
        "a training loop",
        "a small network on one thread: time of a step outside and inside of the block",
        sides=("fastinit",),
        overhead=0.01,
    ),
)


# ---- In a process of its own -----------------------------------------------------------------------------------------


def measure(name: str, side: str) -> dict[str, Any]:
    """What one side needs for one task."""
    (task,) = (task for task in TASKS if task.name == name)
    if not task.model:
        return training_loop()
    check(task)
    peak: list[int | None] = []
    built: list[nn.Module] = []
    seconds = []

    def construct() -> None:
        with fastinit.enabled() if side == "fastinit" else nullcontext():
            start = time.perf_counter()
            built.append(build(task.model, task.settings))
            seconds.append(time.perf_counter() - start)

    for _ in range(2 if task.warm else 1):
        built.clear()
        gc.collect()
        if task.extra_bytes is None:
            construct()
        else:
            peak.append(peak_extra_bytes(construct, torch.device("cpu")))
    model = built[0]
    parameters = sum(p.numel() for p in model.parameters())
    memory = {t.untyped_storage().data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    own = sum(t.untyped_storage().nbytes() for t in memory.values())
    bad = [
        name for name, p in model.named_parameters() if not bool(p.detach().flatten()[:4096].isfinite().all())
    ]
    if bad:
        raise ValueError(f"not finite: {bad}")
    result: dict[str, Any] = {
        "parameters": parameters,
        "bytes": own,
        "fresh": seconds[0],
        "seconds": seconds[-1],
    }
    if peak and peak[0] is not None:
        result["extra_bytes"] = peak[0] - own
    return result


def build(name: str, settings: dict[str, Any]) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    built: nn.Module = kind(kind.config_class(**settings, bos_token_id=0, eos_token_id=1, pad_token_id=2))
    return built


def check(task: Task) -> None:
    """A small model of the kind is built by fastinit, and gets the values that the report says."""
    with fastinit.enabled() as told:
        model = build(task.model, task.tiny)
    fills = {name: fill for name, fill in told.parameters(model).items() if fill and fill.key is not None}
    wrong = [name for name, fill in fills.items() if not fill.matches(model.get_parameter(name))]
    if wrong or not fills:
        raise ValueError(f"{task.name}: values are not those of their keys: {wrong or 'no keys'}")


def training_loop(rounds: int = 120, steps: int = 25) -> dict[str, Any]:
    """Steps of SGD, outside and inside of the block in turns: the ratio of the medians."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.LayerNorm(128), nn.Linear(128, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    x, y = torch.randn(32, 64), torch.randint(10, (32,))

    def block() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return (time.perf_counter() - start) / steps

    outside, inside = [], []
    for i in range(rounds + 5):
        for enabled in (False, True) if i % 2 else (True, False):
            with fastinit.enabled() if enabled else nullcontext():
                seconds = block()
            if i >= 5:
                (inside if enabled else outside).append(seconds)
    medians = statistics.median(outside), statistics.median(inside)
    return {"outside": medians[0], "seconds": medians[1], "overhead": medians[1] / medians[0] - 1}


# ---- All of them -----------------------------------------------------------------------------------------------------


def run(only: str | None) -> dict[str, Any]:
    """Measure the tasks, telling how it goes, and return what a results file holds."""
    where, start, rows = machine.describe(), time.perf_counter(), []
    where["versions"]["transformers"] = machine.version("transformers")
    for task in TASKS:
        if only and not re.search(only, task.name):
            continue
        sides = {side: in_a_process(task, side) for side in task.sides}
        rows.append(
            {"table": "models", "task": task.name, "about": task.about, "sides": sides} | verdict(task, sides)
        )
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    ok = all("error" not in its for row in rows for its in row["sides"].values())
    return {"suite": "models", **where, "seconds": time.perf_counter() - start, "ok": ok, "rows": rows}


def in_a_process(task: Task, side: str) -> dict[str, Any]:
    needed, free = task.gigabytes * 1.05e9 + 1e9, available_bytes(torch.device("cpu"))
    if free < needed:
        return {"skipped": f"needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"}
    if task.model and not machine.version("transformers"):
        return {"skipped": "transformers is not installed"}
    print(f"{task.name}: {side} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.models", task.name, side],
        cwd=machine.ROOT,
        env=os.environ | (WARM if task.warm else {}),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        return {"error": f"ended with {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def verdict(task: Task, sides: dict[str, Any]) -> dict[str, Any]:
    ours, theirs = sides["fastinit"], sides.get("torch", {})
    found: dict[str, Any] = {}
    if task.faster is not None:
        ratio = theirs["seconds"] / ours["seconds"] if "seconds" in theirs and "seconds" in ours else None
        found = {
            "value": ratio,
            "required": task.faster,
            "reached": None if ratio is None else ratio >= task.faster,
        }
    for figure, most in (("extra_bytes", task.extra_bytes), ("overhead", task.overhead)):
        if most is not None:
            value = ours.get(figure)
            found = {"value": value, "required": most, "reached": None if value is None else value <= most}
    return found


def markdown(data: dict[str, Any]) -> str:
    body = report.table(
        ["model", "parameters", "torch", "fastinit", "in fresh memory", "measured", "required", "reached"],
        [line(row) for row in data["rows"]],
    )
    notes = "\n".join(f"- {row['task']}: {row['about']}." for row in data["rows"])
    return "\n\n".join(("# Benchmark: models", report.machine(data), body, notes)) + "\n"


def line(row: dict[str, Any]) -> list[str]:
    torchs, ours = row["sides"].get("torch", {}), row["sides"]["fastinit"]
    value, least = row["value"], row["required"]
    if value is None:
        shown = ["–", ""]
    elif "extra_bytes" in ours:
        shown = [f"{value / 2**20:.1f} MiB", f"≤ {least / 2**20:.0f} MiB"]
    elif "overhead" in ours:
        shown = [f"{value:+.2%}", f"≤ {least:.0%}"]
    else:
        shown = [f"{report.number(value)}×", f"≥ {report.number(least)}×"]
    before = torchs.get("seconds", ours.get("outside"))
    fresh = [its["fresh"] for its in (torchs, ours) if "fresh" in its]
    return [
        row["task"],
        report.count(ours["parameters"]) if "parameters" in ours else "",
        report.seconds(before) if before is not None else told(torchs),
        report.seconds(ours["seconds"]) if "seconds" in ours else told(ours),
        " → ".join(map(report.seconds, fresh)),
        *shown,
        report.reached([row]),
    ]


def told(its: dict[str, Any]) -> str:
    return str(its.get("skipped") or its.get("error") or "–")


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
