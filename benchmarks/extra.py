"""What the functions of `fastinit.extra` cost: each beside the fill beneath it, 64 Mi values of float32.

The two fill with the same values, bit for bit, before any time is taken. Times are medians, taken in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastinit
from benchmarks import report
from benchmarks.parts import Timed, measured, take_turns
from fastinit import extra

SIDE = 8192
LEAST = 0.95  # of the speed of the fill beneath

Fill = Callable[..., Tensor]


class Pair(NamedTuple):
    """A function, and the fill that gives the same values in a matrix of SIDE rows and columns."""

    name: str
    function: Fill
    beneath: Fill
    shape: tuple[int, ...] | None = None  # instead of the matrix, as many values


def pairs(side: int = SIDE) -> Iterator[Pair]:
    std = side**-0.5
    wide = std / extra.truncated_std(2.0)
    truncated = partial(fastinit.trunc_normal_, mean=0.0, std=wide, a=-2 * wide, b=2 * wide)
    normal = partial(fastinit.normal_, std=std)
    uniform = partial(fastinit.uniform_, a=-(3**0.5) * std, b=3**0.5 * std)
    scaled = extra.variance_scaling_
    yield Pair("variance_scaling_", scaled, truncated)
    yield Pair('variance_scaling_, "normal"', partial(scaled, distribution="normal"), normal)
    yield Pair('variance_scaling_, "uniform"', partial(scaled, distribution="uniform"), uniform)
    yield Pair("variance_scaling_, (in, out)", partial(scaled, in_dim=0), truncated)
    yield Pair("variance_scaling_, 4 splits", partial(scaled, splits=4), truncated)
    experts = (4, side // 4, side)
    yield Pair("variance_scaling_, 4 experts", partial(scaled, batch_dims=0), truncated, experts)
    yield Pair("lecun_normal_", extra.lecun_normal_, truncated)
    yield Pair("lecun_uniform_", extra.lecun_uniform_, uniform)
    yield Pair("xavier_normal_", extra.xavier_normal_, normal)
    yield Pair("xavier_uniform_", extra.xavier_uniform_, uniform)
    yield Pair("kaiming_normal_", partial(extra.kaiming_normal_, nonlinearity="linear"), normal)
    yield Pair("kaiming_uniform_", partial(extra.kaiming_uniform_, nonlinearity="linear"), uniform)
    cut = partial(fastinit.trunc_normal_, std=0.02, a=-0.04, b=0.04)
    yield Pair("trunc_normal_, ±2σ", partial(extra.trunc_normal_, std=0.02), cut)
    yield Pair(
        "residual_normal_",
        partial(extra.residual_normal_, layers=12),
        partial(fastinit.normal_, std=0.02 / 24**0.5),
    )
    yield Pair("small_normal_", extra.small_normal_, partial(fastinit.normal_, std=(2 / (5 * side)) ** 0.5))


def sides_of(pair: Pair, side: int = SIDE) -> Iterator[Timed]:
    """The function and the fill, once their values were compared."""
    tensor = torch.zeros(pair.shape or (side, side))
    expected = torch.zeros_like(tensor)
    pair.function(tensor, generator=torch.Generator().manual_seed(1))
    pair.beneath(expected, generator=torch.Generator().manual_seed(1))
    if not torch.equal(tensor, expected):
        raise ValueError(f"{pair.name}: not the values of the fill beneath")
    yield Timed("function", lambda: pair.function(tensor), tensor.numel())
    yield Timed("fill", lambda: pair.beneath(expected), tensor.numel())


def row_of(pair: Pair) -> dict[str, Any]:
    seconds = take_turns(sides_of(pair, SIDE))
    share = seconds["fill"] / seconds["function"]
    return {"what": pair.name, "seconds": seconds, "share": share, "reached": share >= LEAST}


def run(only: str | None = None) -> dict[str, Any]:
    return measured("extra", only, ((pair.name, partial(row_of, pair)) for pair in pairs(SIDE)))


def markdown(data: dict[str, Any]) -> str:
    parts = ["# Benchmark: fastinit.extra", report.machine(data)]
    parts.append(
        f"{SIDE} × {SIDE} values of float32: each function beside the fill beneath it, called with the right numbers. The two "
        "gave the same values first, bit for bit. The share is that of the fill's speed."
    )
    header = ["function", "its time", "the fill's", "share", "required", "reached"]
    parts.append(report.table(header, list(lines(data["rows"]))))
    return "\n\n".join(parts) + "\n"


def lines(rows: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        times = (report.seconds(row["seconds"][side] * SIDE * SIDE) for side in ("function", "fill"))
        reached = "yes" if row["reached"] else "**no**"
        yield [row["what"], *times, f"{row['share']:.2f}", f"≥ {LEAST}", reached]
