"""Models of transformers, built without memory and drawn once (`fastinit.deferred`), beside torch's construction.

Each measurement has a process of its own, as in `benchmarks.models`: `python -m benchmarks.deferred TASK SIDE` is one, and prints
what it measured as JSON.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastinit
from benchmarks import machine, models, report
from benchmarks.memory import available_bytes, peak_extra_bytes

CPU = torch.device("cpu")
MIB = 2**20
RANKS = 512


@dataclass(frozen=True)
class Task:
    name: str
    about: str
    measure: Callable[[Task, str], dict[str, Any]]
    model: str
    settings: dict[str, Any]
    tiny: dict[str, Any]
    gigabytes: float = 1.0
    sides: tuple[str, ...] = ("fastinit",)
    least: dict[str, float] = field(default_factory=dict)  # how many times as fast as torch
    most: dict[str, float] = field(default_factory=dict)

    @property
    def warm(self) -> bool:
        return bool(self.least)


def llama(layers: int, hidden: int, intermediate: int, heads: int) -> dict[str, Any]:
    return dict(
        vocab_size=128256,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )


TINY = llama(2, 64, 96, 8) | dict(vocab_size=120)


# ---- In a process of its own -------------------------------------------------------------------------------


def deferred(kind: str, settings: dict[str, Any]) -> tuple[nn.Module, fastinit.Recipe]:
    dtype = torch.get_default_dtype()
    with fastinit.deferred() as block:
        torch.set_default_dtype(settings.get("dtype", dtype))
        model = models.build(kind, {name: value for name, value in settings.items() if name != "dtype"})
        torch.set_default_dtype(dtype)
    return model, block.recipe(model)


def check(task: Task) -> None:
    """A small model of the kind is the same, drawn at once and deferred."""
    with fastinit.enabled():
        eager = models.build(task.model, task.tiny)
    model, recipe = deferred(task.model, task.tiny)
    recipe.materialize_(model)
    pairs = zip(eager.named_parameters(), model.parameters(), strict=True)
    wrong = [name for (name, parameter), other in pairs if not torch.equal(parameter, other)]
    if wrong or not recipe.verify(model):
        raise ValueError(f"{task.name}: drawn at once, and deferred, these differ: {wrong}")


def built(task: Task, side: str) -> dict[str, Any]:
    """The time from nothing to a model with its initial values: at first in fresh memory, then in memory that there is."""
    check(task)
    found: list[nn.Module] = []
    seconds, peak = [], []

    def construct() -> None:
        start = time.perf_counter()
        if side == "torch":
            found.append(models.build(task.model, task.settings))
        else:
            model, recipe = deferred(task.model, task.settings)
            found.append(recipe.materialize_(model))
        seconds.append(time.perf_counter() - start)

    for _ in range(2):
        found.clear()
        gc.collect()
        peak.append(peak_extra_bytes(construct, CPU))
    size = sum(p.numel() * p.element_size() for p in found[0].parameters())
    result = {
        "parameters": sum(p.numel() for p in found[0].parameters()),
        "fresh": seconds[0],
        "warm": seconds[1],
    }
    return result if peak[0] is None else result | {"extra_bytes": peak[0] - size}


def large(task: Task, side: str) -> dict[str, Any]:
    """Build it deferred, and draw the parts of the first of many ranks."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore

    check(task)
    found: list[Any] = []
    start = time.perf_counter()
    building = peak_extra_bytes(lambda: found.append(deferred(task.model, task.settings)), CPU)
    seconds = time.perf_counter() - start
    model, recipe = found[0]
    parameters = sum(p.numel() for p in model.parameters())
    dist.init_process_group("fake", rank=0, world_size=RANKS, store=FakeStore())
    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    parts: list[float] = []

    def materialize() -> None:
        start = time.perf_counter()
        recipe.materialize_(model)
        parts.append(time.perf_counter() - start)

    drawing = peak_extra_bytes(materialize, CPU)
    size = sum(p.to_local().untyped_storage().nbytes() for p in model.parameters())
    dist.destroy_process_group()
    result = {"parameters": parameters, "seconds": seconds, "part_seconds": parts[0], "part_bytes": size}
    if building is None or drawing is None:
        return result
    return result | {"building_bytes": building, "beyond_part_bytes": drawing - size}


def saved(task: Task, side: str) -> dict[str, Any]:
    """The size of the recipe's file, which is read again."""
    model, recipe = deferred(task.model, task.settings)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.recipe.json"
        recipe.save(path)
        start = time.perf_counter()
        names = fastinit.Recipe.load(path).names
        seconds = time.perf_counter() - start
        if names != recipe.names:
            raise ValueError(f"{task.name}: the file does not hold what was saved")
        size = path.stat().st_size
    return {"parameters": sum(p.numel() for p in model.parameters()), "file_bytes": size, "loading": seconds}


TASKS = (
    Task(
        "GPT-2 XL",
        "its constructor and its own initialisation; deferred, each parameter is drawn once",
        built,
        "GPT2LMHeadModel",
        dict(n_embd=1600, n_layer=48, n_head=25),
        dict(n_embd=32, n_layer=2, n_head=2, vocab_size=100),
        gigabytes=6.3,
        sides=("torch", "fastinit"),
        least={"warm": 15, "fresh": 12},
    ),
    Task(
        "BLT, encoder_hash_byte_group_vocab=20000",
        "the same, with trunc_normal_",
        built,
        "BltForCausalLM",
        dict(encoder_hash_byte_group_vocab=20000),
        models.BLT_TINY,
        gigabytes=6.8,
        sides=("torch", "fastinit"),
        least={"warm": 40},
    ),
    Task(
        "Llama-3 70B",
        f"built deferred in bfloat16, sharded by FSDP2 (not timed), and the parts of the first of {RANKS} ranks drawn",
        large,
        "LlamaForCausalLM",
        llama(80, 8192, 28672, 64) | dict(dtype=torch.bfloat16),
        TINY,
        most={"seconds": 10, "building_bytes": 200 * MIB, "part_seconds": 1, "beyond_part_bytes": MIB},
    ),
    Task(
        "Llama-3 8B",
        "the recipe's file",
        saved,
        "LlamaForCausalLM",
        llama(32, 4096, 14336, 32) | dict(dtype=torch.bfloat16),
        TINY,
        most={"file_bytes": 200_000},
    ),
)


# ---- All of them -------------------------------------------------------------------------------------------


def run(only: str | None = None) -> dict[str, Any]:
    """Measure the tasks, telling how it goes, and return what a results file holds."""
    where, start, rows = machine.describe(), time.perf_counter(), []
    where["versions"]["transformers"] = machine.version("transformers")
    for task in TASKS:
        if only and not re.search(only, task.name):
            continue
        sides = {side: in_a_process(task, side) for side in task.sides}
        rows.append({"table": "deferred", "task": task.name, "about": task.about, "sides": sides})
        rows[-1]["verdicts"] = list(verdicts(task, sides))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    ok = all("error" not in its for row in rows for its in row["sides"].values())
    return {"suite": "deferred", **where, "seconds": time.perf_counter() - start, "ok": ok, "rows": rows}


def in_a_process(task: Task, side: str) -> dict[str, Any]:
    needed, free = task.gigabytes * 1.05e9 + 1e9, available_bytes(CPU)
    if free < needed:
        return {"skipped": f"needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"}
    if not machine.version("transformers"):
        return {"skipped": "transformers is not installed"}
    print(f"{task.name}: {side} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.deferred", task.name, side],
        cwd=machine.ROOT,
        env=os.environ | (models.WARM if task.warm else {}),
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        return {"error": f"ended with {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


WHAT = {
    "warm": "time, in memory that there is",
    "fresh": "time, in fresh memory",
    "seconds": "time to build it",
    "building_bytes": "memory to build it",
    "part_seconds": "time to draw a rank's parts",
    "beyond_part_bytes": "memory beyond these parts",
    "file_bytes": "size",
}


def verdicts(task: Task, sides: dict[str, Any]) -> Iterator[dict[str, Any]]:
    ours, torchs = sides["fastinit"], sides.get("torch", {})
    for figure, least in task.least.items():
        known = figure in ours and figure in torchs
        ratio = torchs[figure] / ours[figure] if known else None
        yield {
            "figure": figure,
            "value": ratio,
            "least": least,
            "reached": None if ratio is None else ratio >= least,
        }
    for figure, most in task.most.items():
        value = ours.get(figure)
        yield {
            "figure": figure,
            "value": value,
            "most": most,
            "reached": None if value is None else value <= most,
        }


def markdown(data: dict[str, Any]) -> str:
    header = ["model", "parameters", "figure", "torch", "fastinit", "measured", "required", "reached"]
    lines = [line(row, verdict) for row in data["rows"] for verdict in row["verdicts"]]
    notes = "\n".join(f"- {row['task']}: {row['about']}." for row in data["rows"])
    body = report.table(header, lines)
    return "\n\n".join(("# Benchmark: deferred", report.machine(data), body, notes)) + "\n"


def line(row: dict[str, Any], verdict: dict[str, Any]) -> list[str]:
    figure, value = verdict["figure"], verdict["value"]
    ours, torchs = row["sides"]["fastinit"], row["sides"].get("torch")
    if "least" in verdict:
        measured, required = (
            f"{report.number(x)}×" if x is not None else "–" for x in (value, verdict["least"])
        )
        required = f"≥ {required}"
    else:
        measured, required = (shown(figure, x) for x in (value, verdict["most"]))
        required = f"≤ {required}"
    return [
        row["task"],
        report.count(ours["parameters"]) if "parameters" in ours else "",
        WHAT[figure],
        ""
        if torchs is None
        else shown(figure, torchs.get(figure))
        if figure in torchs
        else models.told(torchs),
        shown(figure, ours[figure]) if figure in ours else models.told(ours),
        measured,
        required,
        report.reached([verdict]),
    ]


def shown(figure: str, value: float | None) -> str:
    if value is None:
        return "–"
    if not figure.endswith("bytes"):
        return report.seconds(value)
    return f"{value / 1000:.0f} KB" if figure == "file_bytes" else f"{value / MIB:.1f} MiB"


def main(name: str, side: str) -> None:
    (task,) = (task for task in TASKS if task.name == name)
    warnings.filterwarnings("ignore")
    print(json.dumps(task.measure(task, side)))


if __name__ == "__main__":
    main(*sys.argv[1:])
