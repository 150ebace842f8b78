"""What an ensemble costs: the weights of 64 models in one call under `torch.vmap`, beside a loop of torch's own fills.

Each member is compared with its fill alone, bit for bit, before any time is taken. Times are medians, taken in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import report
from benchmarks.parts import Timed, measured, take_turns
from fastinit import extra

MEMBERS = 64
SIDES = (64, 256, 1024)
LEAST = 20.0  # times as fast as the loop, by the default distribution

Fill = Callable[..., Any]


class Kind(NamedTuple):
    name: str
    ours: Fill
    torchs: Fill
    least: float | None


def truncated(tensor: Tensor) -> Tensor:
    """What `variance_scaling_` fills with by default, by torch."""
    std = (1 / tensor.shape[1]) ** 0.5 / extra.truncated_std(2.0)
    return nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std)


KINDS = (
    Kind("variance_scaling_", extra.variance_scaling_, truncated, LEAST),
    Kind("xavier_normal_", extra.xavier_normal_, nn.init.xavier_normal_, None),
    Kind("xavier_uniform_", extra.xavier_uniform_, nn.init.xavier_uniform_, None),
)


def sides_of(kind: Kind, side: int, members: int = MEMBERS) -> Iterator[Timed]:
    """The loop and the two ways to fill all members in one call, once their values were looked at."""
    weights = torch.zeros(members, side, side)
    keys = extra.split_key(1, members)

    def by_keys() -> Tensor:
        return torch.vmap(lambda w, key: kind.ours(w, key=key))(weights, keys)

    def by_generator() -> Tensor:
        return torch.vmap(kind.ours, randomness="different")(weights)

    def loop() -> None:
        for weight in weights:
            kind.torchs(weight)

    by_keys()
    for weight, key in zip(weights, keys, strict=True):
        if not torch.equal(weight, kind.ours(torch.empty(side, side), key=key)):
            raise ValueError(
                f"{kind.name}, {side} x {side}: a member does not have the values that it has alone"
            )
    by_generator()
    if len({float(weight[0, 0]) for weight in weights}) < members:
        raise ValueError(f"{kind.name}, {side} x {side}: members with the same values")
    for name, call in (("torch", loop), ("keys", by_keys), ("generator", by_generator)):
        yield Timed(name, call, weights.numel())


def row_of(what: str, kind: Kind, side: int) -> dict[str, Any]:
    seconds = take_turns(sides_of(kind, side))
    ratio = seconds["torch"] / max(seconds["keys"], seconds["generator"])
    reached = None if kind.least is None else ratio >= kind.least
    row = {"what": what, "values": MEMBERS * side * side, "seconds": seconds}
    return row | {"ratio": ratio, "least": kind.least, "reached": reached}


def run(only: str | None = None) -> dict[str, Any]:
    rows = (
        (what := f"{kind.name}, {MEMBERS} of {side} × {side}", partial(row_of, what, kind, side))
        for kind, side in product(KINDS, SIDES)
    )
    return measured("ensembles", only, rows)


def markdown(data: dict[str, Any]) -> str:
    parts = ["# Benchmark: ensembles", report.machine(data)]
    parts.append(
        "The weights of 64 models, float32: torch's fills in a loop, and fastinit's in one call under `torch.vmap`, with a key "
        'for each member or with `randomness="different"`. Each member was compared with its fill alone first, bit for bit. '
        "The ratio is that of the slower way. `variance_scaling_` is compared with `torch.nn.init.trunc_normal_`."
    )
    header = ["initialiser", "torch", "a key each", "one generator", "ratio", "required", "reached"]
    parts.append(report.table(header, list(lines(data["rows"]))))
    return "\n\n".join(parts) + "\n"


def lines(rows: Iterable[dict[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        times = (
            report.seconds(row["seconds"][side] * row["values"]) for side in ("torch", "keys", "generator")
        )
        required = ["", ""]
        if row["least"] is not None:
            required = [f"≥ {row['least']:.3g}×", "yes" if row["reached"] else "**no**"]
        yield [row["what"], *times, f"{report.number(row['ratio'])}×", *required]
