"""Initialise one model on four ranks with torch.nn.init and with fastinit, and compare each with a single process.

`python -m fastinit demo-sharded` starts the ranks by torchrun, on this machine, with gloo. Each of them runs `main`: FSDP, then
FSDP and tensor parallelism together. The model is small, and the code is that of a large one: built on the meta device, sharded,
given memory, initialised by one function.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import math
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import fastinit
from fastinit import info
from fastinit._parts import place_of
from fastinit.demo import count, optional

RANKS = 4
SIZES = {"small": (8, 1024, 32_000), "tiny": (2, 64, 512)}  # layers, width, words
HEADER = ("how", "by", "parameters equal", "with shards that repeat", "seconds", "beyond the parts, MiB")
LEGEND = """\
Parameters equal: to those of one process with the same seed, bit for bit. With shards that repeat: of two ranks that hold
different parts of a parameter, both have the same values. Seconds: the slowest rank's. Beyond the parts: the most memory that a
rank took while it filled, besides its own parameters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--size", choices=SIZES, default="small", help="the model; default: %(default)s")
    add("--plot", metavar="PATH", default="fastinit-sharded.png", help="the picture; default: %(default)s")
    add("--no-plot", dest="plot", action="store_const", const=None, help="draw no picture")
    add("--markdown", action="store_true", help="print the table as Markdown, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Start the ranks, each of which runs this file."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    arguments = json.dumps({"size": args.size, "plot": args.plot, "markdown": args.markdown})
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*torchrun, "-m", __name__, arguments], env=environment).returncode


# ---- The model ---------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A transformer's block as Llama has it. Nobody calls it, so it has no ``forward``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.wq, self.wo = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.wk, self.wv = nn.Linear(width, width // 4, bias=False), nn.Linear(width, width // 4, bias=False)
        self.w1, self.w3 = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, 3 * width, bias=False)
        self.w2 = nn.Linear(3 * width, width, bias=False)


class Model(nn.Module):
    def __init__(self, layers: int, width: int, words: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(words, width)
        self.blocks: Any = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.output = nn.Linear(width, words, bias=False)


def init_weights(model: Model, init: Any) -> None:
    """`init` is torch.nn.init one time, and fastinit the other."""
    init.normal_(model.tokens.weight, std=0.02)
    for layer, block in enumerate(model.blocks):
        for linear in (block.wq, block.wk, block.wv):
            init.xavier_uniform_(linear.weight)
        for linear in (block.w1, block.w3):
            init.kaiming_normal_(linear.weight, nonlinearity="relu")
        std = 0.02 / math.sqrt(2 * (layer + 1))
        for linear in (block.wo, block.w2):
            init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
        init.ones_(block.norm1.weight)
        init.ones_(block.norm2.weight)
    init.ones_(model.norm.weight)
    init.normal_(model.output.weight, std=model.output.in_features**-0.5)


def fsdp(model: Model) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (RANKS,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def fsdp_and_tensor_parallel(model: Model) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
    from torch.distributed.tensor.parallel.style import ParallelStyle

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("fsdp", "tp"))
    plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in ("wq", "wk", "wv", "w1", "w3")}
    plan |= {name: RowwiseParallel() for name in ("wo", "w2")}
    for block in model.blocks:
        parallelize_module(block, mesh["tp"], dict(plan))
    parallelize_module(model, mesh["tp"], {"tokens": RowwiseParallel(), "output": ColwiseParallel()})
    for block in model.blocks:
        fully_shard(block, mesh=mesh["fsdp"])
    fully_shard(model, mesh=mesh["fsdp"])


WAYS: dict[str, Callable[[Model], None]] = {"FSDP": fsdp, "FSDP × TP": fsdp_and_tensor_parallel}


# ---- One rank ----------------------------------------------------------------------------------------------


def main(options: dict[str, Any]) -> None:
    warnings.filterwarnings(
        "ignore", "DTensor random operators"
    )  # torch says itself that its values are of no use
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)  # of full_tensor
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    shape = SIZES[options["size"]]
    rows, pictures = [], {}
    for library, init in (("torch", torch.nn.init), ("fastinit", fastinit)):
        reference = None
        if dist.get_rank() == 0:
            torch.manual_seed(0)
            reference = Model(*shape)
            torch.manual_seed(0)
            init_weights(reference, init)
        for way, shard in WAYS.items():
            with torch.device("meta"):
                model = Model(*shape)
            shard(model)
            model.to_empty(device="cpu")
            seconds, memory = initialise(model, init)
            equal, repeating, shown = compare(model, reference)
            rows.append((way, library, equal, repeating, seconds, memory))
            pictures[way, library] = shown
    parameters = sum(p.numel() for p in model.parameters())
    ok = True
    if dist.get_rank() == 0:  # the one that has the reference
        plot = options["plot"] and draw(pictures, options["plot"])
        print(told(rows, parameters, plot, options["markdown"]), flush=True)
        ok = all(equal == total for _, library, (equal, total), *_ in rows if library == "fastinit")
    dist.destroy_process_group()
    if not ok:
        print("FAIL: a parameter is not that of a single process", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Without the interpreter's own end: a thread of gloo that gives up a tensor meanwhile would abort the process.
    os._exit(0 if ok else 1)


def initialise(model: Model, init: Any) -> tuple[float, float]:
    """Initialise the parts that this rank holds. The slowest rank's seconds, and the most MiB that one took besides."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.to_local().zero_()  # type: ignore[attr-defined]  # no first time is to be timed
    torch.manual_seed(0)
    dist.barrier()
    before, start = peak_memory(reset=True), time.perf_counter()
    init_weights(model, init)
    seconds = time.perf_counter() - start
    most = torch.tensor([seconds, (peak_memory() - before) / 2**20])
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most[0].item(), most[1].item()


def peak_memory(reset: bool = False) -> int:
    """The most bytes that this process has had resident since the last reset; 0 where the system does not say."""
    try:
        if reset:
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
            if trim is not None:  # freed memory could be used again unseen
                trim(0)
            Path("/proc/self/clear_refs").write_text("5")
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except (OSError, ValueError):
        return 0
    return 1024 * int(kilobytes)


def compare(model: Model, reference: Model | None) -> tuple[tuple[int, int], tuple[int, int], Tensor | None]:
    """How many parameters are the reference's, and of how many two shards are alike; and some of one weight's."""
    equal = repeating = drawn = 0
    expected: Iterator[Tensor] | None = None if reference is None else reference.parameters()
    shown = None
    for name, parameter in model.named_parameters():
        whole = parameter.detach().full_tensor()  # type: ignore[attr-defined]
        if expected is not None:
            equal += torch.equal(whole, next(expected))
        place = tuple(place_of(parameter).runs)
        first = parameter.to_local().flatten()[:64].tolist()  # type: ignore[attr-defined]
        everyone: list[Any] = [None] * RANKS
        dist.all_gather_object(everyone, (place, first))
        if "norm" not in name:
            drawn += 1
            parts = {where: tuple(values) for where, values in everyone}
            repeating += len({*parts.values()}) < len(parts)
        if name == "blocks.0.wq.weight":
            rows, columns = (max(1, size // 4) for size in whole.shape)
            shown = torch.cat(
                [
                    torch.cat([whole[r * rows :][:8, c * columns :][:, :8] for c in range(4)], 1)
                    for r in range(4)
                ]
            )
    total = len(list(model.parameters()))
    return (equal, total), (repeating, drawn), shown


# ---- Telling -----------------------------------------------------------------------------------------------


def told(rows: list[Any], parameters: int, plot: str | None, markdown: bool) -> str:
    cells = [
        (
            way,
            library,
            f"{equal[0]} of {equal[1]}",
            f"{repeating[0]} of {repeating[1]}",
            f"{seconds:.3f}",
            f"{memory:.1f}",
        )
        for way, library, equal, repeating, seconds, memory in rows
    ]
    heading = (
        f"{count(parameters)} parameters on {RANKS} ranks of one thread each. {info.cpu_name()}; torch "
        f"{torch.__version__}, fastinit {fastinit.__version__}."
    )
    if markdown:
        lines = [HEADER, ("---",) * 2 + ("---:",) * 4, *cells]
        return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", heading, LEGEND])
    widths = [max(map(len, column)) for column in zip(HEADER, *cells, strict=True)]
    table = [
        "  ".join([*map(str.ljust, line[:2], widths[:2]), *map(str.rjust, line[2:], widths[2:])])
        for line in (HEADER, *cells)
    ]
    picture = [f"Picture: {plot}", ""] if plot else []
    return "\n".join(["", heading, "", table[0], "-" * len(table[0]), *table[1:], "", LEGEND, "", *picture])


def draw(pictures: dict[tuple[str, str], Tensor | None], path: str) -> str | None:
    """A weight's first values in sixteen places, as each library has drawn them on four ranks."""
    matplotlib = optional("matplotlib", "there is no picture")
    if matplotlib is None:
        return None
    matplotlib.use("Agg")
    pyplot = optional("matplotlib.pyplot", "there is no picture")
    figure, axes = pyplot.subplots(1, len(pictures), figsize=(3 * len(pictures), 3.4), layout="constrained")
    for axis, ((way, library), values) in zip(axes.flat, pictures.items(), strict=True):
        axis.imshow(values, cmap="RdBu")
        axis.set_title(f"{library}, {way}", fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle("One weight on four ranks: 8 × 8 values from each sixteenth of it", fontsize=11)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
