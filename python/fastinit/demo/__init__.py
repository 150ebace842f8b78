"""Initialise a GPT-2 XL shaped model with torch.nn.init and with fastinit, and compare the two.

`model.py` has the model and `init_weights`, the one function that both libraries run. This file runs
it and tells what came out; `measure.py` takes the times, `theory.py` knows what the values should look
like, `report.py` prints and draws.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastinit
from fastinit import info
from fastinit.demo import report
from fastinit.demo.measure import Fill, Record, Stopwatch, available_bytes
from fastinit.demo.model import PRESETS, gpt2, init_weights
from fastinit.demo.theory import CONSTANTS

DTYPES = ("float32", "float64", "float16", "bfloat16")
SPARE_BYTES = 2**30  # for what torch's initialisers take beside the model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sizes, shown = ["auto", *PRESETS], "default: %(default)s"
    add = parser.add_argument
    add(
        "--preset",
        choices=sizes,
        default="auto",
        help="model size; auto (the default): the largest that fits",
    )
    add("--device", type=device, default="cpu", help=shown)
    add("--dtype", choices=DTYPES, default="float32", help=shown)
    add("--seed", type=int, default=0, help=shown)
    add("--threads", type=int, help="CPU threads; default: torch's choice")
    add("--plot", metavar="PATH", default="fastinit-demo.png", help=f"the histograms; {shown}")
    add("--no-plot", dest="plot", action="store_const", const=None, help="draw no histograms")
    add("--json", action="store_true", help="print the results as JSON, and nothing else")
    add(
        "--markdown", metavar="FILE", help="print the table of results saved from --json, and do nothing else"
    )


def device(text: str) -> torch.device:
    if text.startswith("cuda") and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch finds no CUDA device")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text} is none of cpu, cuda, cuda:0, cuda:1, ...")
    return torch.device(text)


def run(args: argparse.Namespace) -> int:
    if args.markdown:
        print(report.markdown(json.loads(Path(args.markdown).read_text())))
        return 0
    if args.threads:
        torch.set_num_threads(args.threads)

    dtype: torch.dtype = getattr(torch, args.dtype)
    preset = choose_preset(args.device, dtype) if args.preset == "auto" else args.preset
    model = gpt2(PRESETS[preset], dtype).to_empty(device=args.device)
    shape = {"preset": preset, "parameters": parameters(model), "dtype": args.dtype, "seed": args.seed}
    results: dict[str, Any] = {"model": shape, "where": where(args.device), "info": info.collect()}
    print(report.heading(results), file=sys.stderr if args.json else sys.stdout, flush=True)

    warm_up(model)
    watches = initialise(model, args.seed)
    for library in ("torch", "fastinit"):
        watches[library].measure_memory(args.device)
    results["rows"] = rows(watches)
    results["checks"] = checks(watches)
    results["plot"] = args.plot and plot(watches, args.plot)
    results["ok"] = all(row["fastinit"]["ok"] for row in results["checks"])
    print(json.dumps(results, indent=2) if args.json else report.text(results))
    return 0 if results["ok"] else 1


def initialise(model: nn.Sequential, seed: int) -> dict[str, Stopwatch]:
    """Initialise the model with each library; they take turns, part by part, in the same memory."""
    watches = {
        "fill_": Stopwatch(Fill(), check=False),
        "torch": Stopwatch(torch.nn.init),
        "fastinit": Stopwatch(fastinit),
    }
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
    for init in (Fill(), torch.nn.init, fastinit):
        tiny.apply(partial(init_weights, init=Stopwatch(init, check=False)))


def choose_preset(device: torch.device, dtype: torch.dtype) -> str:
    """The largest preset for which there is memory."""
    free = available_bytes(device)
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


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def where(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{info.cpu_name()}, {torch.get_num_threads()} threads"


def rows(watches: dict[str, Stopwatch]) -> list[dict[str, Any]]:
    """The table: a row for each initialiser, the random ones first, and one for the whole model."""
    table = [row(name, *(watch.records[name] for watch in watches.values())) for name in names(watches)]
    return [*table, row("whole model", *(watch.total() for watch in watches.values()))]


def row(name: str, fill: Record, torchs: Record, ours: Record) -> dict[str, Any]:
    both = torchs.error is None and ours.error is None
    return {
        "initialiser": name,
        "calls": fill.calls,
        "parameters": fill.parameters,
        "fill_s": fill.seconds,
        "torch_s": None if torchs.error else torchs.seconds,
        "fastinit_s": None if ours.error else ours.seconds,
        "ratio": torchs.seconds / ours.seconds if both else None,
        "fill_share": None if ours.error else fill.seconds / ours.seconds,
        "torch_extra_bytes": torchs.extra_bytes,
        "fastinit_extra_bytes": ours.extra_bytes,
    }


def checks(watches: dict[str, Stopwatch]) -> list[dict[str, Any]]:
    return [
        {"initialiser": name}
        | {library: watches[library].records[name].verdict() for library in ("torch", "fastinit")}
        for name in names(watches)
    ]


def names(watches: dict[str, Stopwatch]) -> list[str]:
    known = [name for name in torch.nn.init.__all__ if name in watches["fill_"].records]
    return sorted(known, key=lambda name: name in CONSTANTS)


def plot(watches: dict[str, Stopwatch], path: str) -> str | None:
    matplotlib = optional("matplotlib", "there is no picture")
    if matplotlib is None:
        return None
    matplotlib.use("Agg")  # needs no screen
    sides = (watches["torch"].pictures(), watches["fastinit"].pictures())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    report.draw(importlib.import_module("matplotlib.pyplot"), *sides, path)
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
