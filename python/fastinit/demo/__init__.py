"""Initialise a GPT-2 XL shaped model with torch.nn.init and with fastinit, and compare the two.

`model.py` has the model and `init_weights`, the one function that both libraries run; `check.py` knows what the values
should look like. This file takes the times and tells what came out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastinit
from fastinit import info
from fastinit.demo.check import CONSTANTS, SAMPLE, TOLERANCE, Verdict
from fastinit.demo.model import PRESETS, gpt2, init_weights

DTYPES = ("float32", "float64", "float16", "bfloat16")
SPARE_BYTES = 2**30  # for what torch's initialisers take beside the model
HEADER = ("initialiser", "parameters", "torch s", "fastinit s", "ratio", "of fill_ speed")
LEGEND = """\
Seconds: the sum over all calls, in memory that was written before. Of fill_ speed: against a plain fill_ of the
same tensors."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shown, add = "default: %(default)s", parser.add_argument
    auto = "model size; auto (the default): the largest that fits"
    add("--preset", choices=["auto", *PRESETS], default="auto", help=auto)
    add("--device", type=device, default="cpu", help=shown)
    add("--dtype", choices=DTYPES, default="float32", help=shown)
    add("--seed", type=int, default=0, help=shown)
    add("--threads", type=int, help="CPU threads; default: torch's choice")
    add("--plot", metavar="PATH", default="fastinit-demo.png", help=f"the histograms; {shown}")
    add("--no-plot", dest="plot", action="store_const", const=None, help="draw no histograms")
    add("--json", action="store_true", help="print the results as JSON, and nothing else")
    add("--markdown", action="store_true", help="print the table as Markdown, and nothing else")


def device(text: str) -> torch.device:
    if text.startswith("cuda") and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no CUDA device")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text} is none of cpu, cuda, cuda:0, cuda:1, ...")
    return torch.device(text)


def run(args: argparse.Namespace) -> int:
    if args.threads:
        torch.set_num_threads(args.threads)
    dtype: torch.dtype = getattr(torch, args.dtype)
    preset = choose_preset(args.device, dtype) if args.preset == "auto" else args.preset
    model = gpt2(PRESETS[preset], dtype).to_empty(device=args.device)
    results: dict[str, Any] = {
        "model": {
            "preset": preset,
            "parameters": parameters(model),
            "dtype": args.dtype,
            "seed": args.seed,
        },
        "where": where(args.device),
        "info": info.collect(),
    }
    quiet = args.json or args.markdown
    print(heading(results), file=sys.stderr if quiet else sys.stdout, flush=True)
    warm_up(model)
    watches = initialise(model, args.seed)
    results |= {
        "rows": rows(watches),
        "checks": checks(watches),
        "plot": args.plot and draw(watches, args.plot),
    }
    results["ok"] = not any(row["fastinit"]["wrong"] for row in results["checks"])
    if args.json:
        print(json.dumps(results, indent=2))
    else:
        print(markdown(results) if args.markdown else text(results))
    return 0 if results["ok"] else 1


# ---- Running -----------------------------------------------------------------------------------------------


@dataclass
class Record:
    """What one initialiser of one library cost and drew."""

    parameters: int = 0
    seconds: float = 0.0
    error: str | None = None
    verdict: Verdict = field(default_factory=Verdict)


class Stopwatch:
    """Stands in for an init module: passes each call on and times it, then looks at what it drew."""

    def __init__(self, init: Any) -> None:
        self._init = init
        self.records: defaultdict[str, Record] = defaultdict(Record)

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        function = getattr(self._init, name)

        def timed(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            record = self.records[name]
            synchronize(tensor.device)
            start = time.perf_counter()
            try:
                function(tensor, *args, **kwargs)
            except RuntimeError as error:  # torch has no orthogonal_ in bfloat16, for one
                record.error = str(error).splitlines()[0]
                return tensor
            synchronize(tensor.device)
            record.seconds += time.perf_counter() - start
            record.parameters += tensor.numel()
            if not isinstance(self._init, OneValue):
                record.verdict.look(name, tensor, *args, **kwargs)
            return tensor

        return timed

    def total(self) -> Record:
        """The whole model."""
        records = self.records.values()
        return Record(
            sum(record.parameters for record in records),
            sum(record.seconds for record in records),
            next((record.error for record in records if record.error), None),
        )


class OneValue:
    """An init module that does nothing but write memory: the limit for all others."""

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        return lambda tensor, *args, **kwargs: tensor.detach().fill_(1.0)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def initialise(model: nn.Sequential, seed: int) -> dict[str, Stopwatch]:
    """Initialise the model with each library; they take turns, part by part, in the same memory."""
    inits = {"fill_": OneValue(), "torch": torch.nn.init, "fastinit": fastinit}
    watches = {name: Stopwatch(init) for name, init in inits.items()}
    torch.manual_seed(seed)
    for part in progress_bar(list(model.children())):
        for init in watches.values():
            part.apply(partial(init_weights, init=init))
    return watches


def warm_up(model: nn.Module) -> None:
    """Touch the model's memory, and run everything on a tiny model: no first time is to be timed."""
    for parameter in model.parameters():
        parameter.detach().zero_()
    tiny = gpt2(PRESETS["tiny"], parameter.dtype).to_empty(device=parameter.device)
    for init in (OneValue(), torch.nn.init, fastinit):
        tiny.apply(partial(init_weights, init=Stopwatch(init)))


def choose_preset(device: torch.device, dtype: torch.dtype) -> str:
    """The largest preset for which there is memory."""
    free = free_bytes(device)
    needed = {
        preset: parameters(gpt2(shape, dtype)) * dtype.itemsize + SPARE_BYTES
        for preset, shape in PRESETS.items()
    }
    largest = next(iter(PRESETS))
    preset = next((preset for preset, size in needed.items() if size <= free), "tiny")
    if preset != largest:
        wanted = needed[largest]
        note(f"{largest} needs {wanted / 1e9:.1f} GB and {free / 1e9:.1f} GB are free: taking {preset}.")
    return preset


def free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on the device; on the CPU, also within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        (kilobytes,) = re.findall(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
        free = 1024 * int(kilobytes)
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{f}").read_text()) for f in ("max", "current"))
    except (OSError, ValueError):  # no such files, or no limit ("max")
        return free
    return min(free, limit - used)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def where(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{info.cpu_name()}, {torch.get_num_threads()} threads"


# ---- Telling -----------------------------------------------------------------------------------------------


def rows(watches: dict[str, Stopwatch]) -> list[dict[str, Any]]:
    """The table: a row for each initialiser, the random ones first, and one for the whole model."""
    table = [row(name, *(watch.records[name] for watch in watches.values())) for name in names(watches)]
    return [*table, row("whole model", *(watch.total() for watch in watches.values()))]


def row(name: str, fill: Record, torchs: Record, ours: Record) -> dict[str, Any]:
    theirs, mine = (None if record.error else record.seconds for record in (torchs, ours))
    return {
        "initialiser": name,
        "parameters": fill.parameters,
        "fill_s": fill.seconds,
        "torch_s": theirs,
        "fastinit_s": mine,
        "ratio": theirs / mine if theirs and mine else None,
        "fill_share": fill.seconds / mine if mine else None,
    }


def checks(watches: dict[str, Stopwatch]) -> list[dict[str, Any]]:
    return [
        {"initialiser": name}
        | {side: verdict_on(watches[side].records[name]) for side in ("torch", "fastinit")}
        for name in names(watches)
    ]


def verdict_on(record: Record) -> dict[str, Any]:
    raised = [f"raised: {record.error}"] if record.error else []
    mean, std = record.verdict.errors()
    return {"mean_error": mean, "std_error": std, "wrong": [*raised, *record.verdict.reasons()]}


def names(watches: dict[str, Stopwatch]) -> list[str]:
    known = [name for name in torch.nn.init.__all__ if name in watches["fill_"].records]
    return sorted(known, key=lambda name: name in CONSTANTS)


def heading(results: dict[str, Any]) -> str:
    """What was initialised, where, and by what."""
    model, versions = results["model"], results["info"]["versions"]
    return (
        f"{model['preset']}: {count(model['parameters'])} parameters, {model['dtype']}. "
        f"{results['where']}; torch {versions['torch']}, fastinit {versions['fastinit']} "
        f"({results['info']['active']['instruction_set']})."
    )


def count(n: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return str(n)


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    patterns = {"torch_s": "{:.4f}", "fastinit_s": "{:.4f}", "ratio": "{:.1f}", "fill_share": "{:.0%}"}
    figures = ("–" if row[key] is None else pattern.format(row[key]) for key, pattern in patterns.items())
    return row["initialiser"], count(row["parameters"]), *figures


def text(results: dict[str, Any]) -> str:
    lines = [HEADER, *map(cells, results["rows"])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    rule = "-" * len(table[0])
    found = [
        f"Checks: mean and variance within {TOLERANCE:g} standard errors, by a sample of up to {SAMPLE:,} values of each",
        "tensor; bounds, zeros of each column, orthonormality, by all values.",
    ]
    for row in results["checks"]:
        for side in ("torch", "fastinit"):
            found += [f"FAIL {side} {row['initialiser']}: {wrong}" for wrong in row[side]["wrong"]]
    picture = [f"Histograms: {results['plot']}"] if results["plot"] else []
    verdict = "All checks of fastinit passed." if results["ok"] else "FAIL: a check of fastinit did not pass."
    return "\n".join(
        ["", table[0], rule, *table[1:-1], rule, table[-1], "", LEGEND, "", *found, "", *picture, verdict]
    )


def markdown(results: dict[str, Any]) -> str:
    """The table and the machine, for the README."""
    lines = [HEADER, (":---",) + ("---:",) * (len(HEADER) - 1), *map(cells, results["rows"])]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", heading(results), LEGEND])


def draw(watches: dict[str, Stopwatch], path: str) -> str | None:
    """Histograms of the first tensor of each initialiser, fastinit's over torch's."""
    matplotlib = optional("matplotlib", "there is no picture")
    if matplotlib is None:
        return None
    matplotlib.use("Agg")  # needs no screen
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(3, 3, figsize=(12, 8), layout="constrained")
    shown = [name for name in names(watches) if name not in CONSTANTS]
    for name, axis in zip(shown, axes.flat, strict=False):
        samples = {side: watches[side].records[name].verdict.shown for side in ("torch", "fastinit")}
        drawn = {side: sample.numpy() for side, sample in samples.items() if sample is not None}
        axis.hist([*drawn.values()], bins=60, density=True, histtype="step", label=[*drawn])
        axis.set_title(name, fontsize=10)
        axis.set_yticks([])
        axis.tick_params(labelsize=8)
    axes.flat[0].legend(fontsize=8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def progress_bar(parts: list[nn.Module]) -> Iterable[nn.Module]:
    tqdm = optional("tqdm", "there is no progress bar")
    if tqdm is None:
        return parts
    # disable=None: only on a terminal.
    bar: Iterable[nn.Module] = tqdm.tqdm(parts, desc="initialising", unit="part", disable=None)
    return bar


def optional(module: str, without: str) -> Any:
    """A module that the demo can do without; None, and a line that says so, where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        note(f'{module} is not installed, so {without} ("pip install {module}", or the extra "demo")')
        return None


def note(text: str) -> None:
    print(text, file=sys.stderr)
