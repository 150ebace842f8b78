"""What one rank needs for its parts of a large model, drawn as DTensors, on 8 to 4,096 ranks.

One process stands for the first rank, which has the largest parts; a process group that is fake answers for all others. The
parts are drawn one after the other into the same memory, so that a model of 405 billion parameters fits. Replicated drawing (each
rank draws every whole tensor and keeps its slice, as OLMo-core does) is measured on one matrix and extended to the model.
"""

from __future__ import annotations

import math
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard
from torch.distributed.tensor.placement_types import _StridedShard

import fastinit
from benchmarks import machine, report
from benchmarks.memory import peak_extra_bytes
from fastinit._parts import split

DTYPE = torch.bfloat16
TENSOR_PARALLEL = 8
MIB = 2**20


class Llama(NamedTuple):
    """The shapes of Llama 3, with the initialisation of torchtitan."""

    name: str
    layers: int
    width: int
    hidden: int
    words: int = 128256
    keys: int = 1024

    def weights(self) -> Iterator[tuple[tuple[int, ...], bool, int]]:
        """The shape of each weight, whether tensor parallelism splits its rows, and how many there are."""
        width, hidden = self.width, self.hidden
        yield (self.words, width), True, 2
        yield (width, width), True, self.layers  # queries
        yield (self.keys, width), True, 2 * self.layers  # keys and values
        yield (width, width), False, self.layers  # the attention's output
        yield (hidden, width), True, 2 * self.layers
        yield (width, hidden), False, self.layers

    def parameters(self) -> int:
        return sum(math.prod(shape) * times for shape, _, times in self.weights())


MODELS = (
    Llama("Llama-3 8B", 32, 4096, 14336),
    Llama("Llama-3 70B", 80, 8192, 28672),
    Llama("Llama-3 405B", 126, 16384, 53248),
)
RANKS = (8, 64, 512, 4096)


def mesh_of(way: str, ranks: int) -> DeviceMesh:
    shape = (ranks,) if way == "FSDP" else (ranks // TENSOR_PARALLEL, TENSOR_PARALLEL)
    return DeviceMesh("cpu", torch.arange(ranks).view(shape), _init_backend=False)


def placements_of(way: str, rows: bool) -> tuple[Placement, ...]:
    if way == "FSDP":
        return (Shard(0),)
    # fully_shard after parallelize_module: the rows that tensor parallelism has left are split.
    return (_StridedShard(0, split_factor=TENSOR_PARALLEL), Shard(0)) if rows else (Shard(0), Shard(1))


def part(
    memory: Tensor, shape: tuple[int, ...], mesh: DeviceMesh, placements: tuple[Placement, ...]
) -> DTensor:
    """This rank's part of a tensor of that shape, in memory that is there."""
    place = split(shape, tuple(mesh.shape), placements, tuple(mesh.get_coordinate() or ()))
    sizes = place.sizes()
    local = memory[: math.prod(sizes)].view(sizes)
    return DTensor.from_local(
        local, mesh, placements, run_check=False, shape=torch.Size(shape), stride=(shape[1], 1)
    )


def fill(weight: Tensor, init: Any = fastinit) -> None:
    init.trunc_normal_(weight, std=0.02)


def check(way: str, ranks: int) -> None:
    """A small weight's part is the slice of the whole."""
    shape, mesh = (1024, 512), mesh_of(way, ranks)
    torch.manual_seed(1)
    fill(whole := torch.empty(shape, dtype=DTYPE))
    for rows in (True, False):
        torch.manual_seed(1)
        placements = placements_of(way, rows)
        fill(mine := part(torch.empty(whole.numel(), dtype=DTYPE), shape, mesh, placements))
        expected = whole
        for placement, size, at in zip(placements, mesh.shape, mesh.get_coordinate() or (), strict=True):
            pieces, _ = placement._split_tensor(expected, size, with_padding=False, contiguous=True)  # type: ignore[attr-defined]
            expected = pieces[at]
        if not torch.equal(mine.to_local(), expected):
            raise ValueError(f"{way} on {ranks} ranks: a part has not the values of the whole")


def measure(model: Llama, way: str, ranks: int) -> dict[str, Any]:
    """The time of all parts, and the most memory that one takes besides."""
    check(way, ranks)
    mesh = mesh_of(way, ranks)
    kinds = [(shape, placements_of(way, rows), times) for shape, rows, times in model.weights()]
    where = tuple(mesh.shape), tuple(mesh.get_coordinate() or ())
    sizes = [
        math.prod(split(shape, where[0], placements, where[1]).sizes()) for shape, placements, _ in kinds
    ]
    memory = torch.zeros(max(sizes), dtype=DTYPE)
    seconds, extra = 0.0, 0
    for shape, placements, times in kinds:
        weight = part(memory, shape, mesh, placements)
        extra = max(extra, peak_extra_bytes(lambda w=weight: fill(w), torch.device("cpu")) or 0)  # type: ignore[misc]
        seconds += times * median_time(lambda w=weight: fill(w), most=times)  # type: ignore[misc]
    values = sum(size * times for size, (*_, times) in zip(sizes, kinds, strict=True))
    return {"values": values, "seconds": seconds, "extra_bytes": extra}


def median_time(call: Callable[[], Any], most: int) -> float:
    """A call's median time: of as many as fit into a second, and of three at least, where so many are made."""
    times: list[float] = []
    while len(times) < min(most, 3) or (sum(times) < 1 and len(times) < min(most, 25)):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def replicated(shape: tuple[int, int] = (8192, 4096)) -> dict[str, float]:
    """Seconds for each value of a whole tensor, by torch and by fastinit."""
    weight = torch.zeros(shape, dtype=DTYPE)
    sides = {"torch": torch.nn.init, "fastinit": fastinit}
    return {
        name: median_time(lambda i=init: fill(weight, i), most=3) / weight.numel()
        for name, init in sides.items()
    }  # type: ignore[misc]


def run(
    only: str | None = None, models: tuple[Llama, ...] = MODELS, counts: tuple[int, ...] = RANKS
) -> dict[str, Any]:
    """Measure all, telling how it goes, and return what a results file holds."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    warnings.filterwarnings("ignore", "DTensor random operators")
    where, start, rows = machine.describe(), time.perf_counter(), []
    dist.init_process_group("fake", rank=0, world_size=max(counts), store=FakeStore())
    try:
        whole = replicated()
        for model in models:
            for way in ("FSDP", f"FSDP × TP {TENSOR_PARALLEL}"):
                for ranks in counts:
                    row = {"table": "sharded", "model": model.name, "way": way, "ranks": ranks}
                    if only and not re.search(only, " ".join(map(str, row.values()))):
                        continue
                    row |= measure(model, way, ranks) | {"parameters": model.parameters()}
                    row["replicated"] = {side: each * model.parameters() for side, each in whole.items()}
                    rows.append(row)
                    print(row, file=sys.stderr, flush=True)
    finally:
        dist.destroy_process_group()
    ok = all(row["extra_bytes"] < MIB for row in rows)
    return {"suite": "sharded", **where, "seconds": time.perf_counter() - start, "ok": ok, "rows": rows}


def markdown(data: dict[str, Any]) -> str:
    header = ["model", "split by", "ranks", "parameters of the rank", "seconds", "values per second"]
    header += ["beyond the part", "every tensor whole, by fastinit", "by torch"]
    lines = [
        [
            row["model"],
            row["way"],
            f"{row['ranks']:,}",
            report.count(row["values"]),
            report.seconds(row["seconds"]),
            report.count(row["values"] / row["seconds"]),
            f"{row['extra_bytes'] / 1024:.0f} KiB",
            report.seconds(row["replicated"]["fastinit"]),
            report.seconds(row["replicated"]["torch"]),
        ]
        for row in data["rows"]
    ]
    about = (
        "The first rank's parts of all weights, by `trunc_normal_(std=0.02)` in bfloat16, as DTensors. Each rank draws its "
        "own and nothing else, without communication. Beyond the part: the most memory that a fill takes besides. Every tensor "
        "whole: what replicated drawing takes on each rank, extended from one matrix of 32 Mi values; it also needs the memory "
        "of the largest tensor."
    )
    return (
        "\n\n".join(("# Benchmark: sharded", report.machine(data), about, report.table(header, lines))) + "\n"
    )
