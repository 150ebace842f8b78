"""Times the sides of a row in turns, after a look at the values of each.

The harness is torch.utils.benchmark's: its Timer runs the statement, its Measurement holds the times. Only the
taking of turns is ours.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import benchmark
from torch.utils.benchmark.utils.common import TaskSpec, set_torch_threads

from benchmarks import check, on_device
from benchmarks.cases import AtMost, Faster, ModelCase, Row, Side
from benchmarks.libraries import OneValue, capability, library, operand
from benchmarks.memory import available_bytes, peak_extra_bytes

BLOCK_SECONDS = 0.002  # calls shorter than this are timed many at a time
MOST_REPEATS = 25
SLOW_SECONDS = 1.0  # a call that takes longer needs no warming up: the one that is checked is timed too
LARGE = 2**16  # elements; time grows evenly from here
MEMORY_SHARE = 0.4  # of what is free, for one operand; the libraries need some for themselves
FRESH_BYTES = 2**25  # glibc takes blocks above this from the system each time, and gives them back


@dataclass
class Options:
    repeats: int = 5  # at least
    side_seconds: float = 0.3  # quick calls are repeated for as long as this
    budget: float = math.inf  # seconds that a peer's repeats in one row may take, or it is skipped


@dataclass
class Results:
    """What has been measured; what is to be expected of a larger tensor can be told from it."""

    options: Options = field(default_factory=Options)
    rows: list[dict[str, Any]] = field(default_factory=list)
    calls: dict[Hashable, tuple[int, float]] = field(default_factory=dict)

    def add(self, row: Row) -> dict[str, Any]:
        result = row.describe() | measure(row, self)
        self.rows.append(result)
        return result

    def note(self, row: Row, side: Side, seconds: float) -> None:
        if row.elements >= LARGE:
            self.calls[kind(row, side)] = (row.elements, seconds)

    def expected(self, row: Row, side: Side) -> float:
        """Seconds that a call should take by the last one of its kind; 0 if there was none. Only for skipping."""
        elements, seconds = self.calls.get(kind(row, side), (1, 0.0))
        return seconds * math.pow(row.elements / elements, row.case.growth)


def kind(row: Row, side: Side) -> Hashable:
    return (row.case.label, row.dtype, row.layout, row.memory, row.threads, row.device, side.name)


# What a side may raise: torch's orthogonal_ in bfloat16 does.
ERRORS = (RuntimeError, TypeError, ValueError, AttributeError)


def on_a_gpu(row: Row) -> bool:
    return row.device == "cuda"


class Skip(Exception):
    """Why a side is not measured."""


class Contestant:
    """A side of a row, as it is being measured."""

    def __init__(self, side: Side, row: Row, shared: Any) -> None:
        try:
            init = library(side.library)
            with capability(side.capability):
                pass
        except ImportError:
            raise Skip("not installed") from None
        except ValueError as error:
            raise Skip(str(error)) from None
        self.side, self.row, self.case = side, row, side.case or row.case
        self.target = row.operand(self.case, side.dtype) if side.dtype else shared
        self.call, self.operand = self.case.call(init), operand(init, self.target)
        fresh = row.memory == "first touch"
        self.timer = benchmark.Timer(
            "call(operand)",
            # Only the call is timed: not the set-up before it, nor the freeing of the operand after it.
            setup="operand = fresh()" if fresh else "pass",
            globals={"call": self.call} | ({"fresh": row.operand} if fresh else {"operand": self.operand}),
            num_threads=row.threads,
        )
        self.jax = side.library.startswith("jax")  # returns the values
        self.calls = 1  # timed as one
        self.repeats = 0
        self.times: list[float] = []
        self.on_device: list[on_device.Timing] = []
        self.sleeps = on_device.SLEEPS

    def fill(self) -> None:
        """Fill the target, untimed."""
        with capability(self.side.capability):
            returned = self.call(self.operand)
        if self.jax:
            self.target.copy_(torch.as_tensor(returned))

    def time(self) -> float:
        """Seconds for `calls` calls. (Timer.timeit would make at least two more, which can be minutes.)"""
        if on_a_gpu(self.row):
            timing = on_device.timed(lambda: self.call(self.operand), self.calls, self.sleeps)
            if not timing.overlapped:
                self.sleeps = self.sleeps[:1]
            self.on_device.append(timing)
            return timing.seconds
        with capability(self.side.capability):
            seconds: float = self.timer._timeit(self.calls)
        return seconds

    def prepare(self, results: Results) -> dict[str, Any] | None:
        """Check the values, and find out how often to call. Returns the verdict on the values."""
        limited = self.side.draws and self.side.library != "fastinit" and not self.row.always
        budget = results.options.budget if limited else math.inf
        enough = results.options.repeats
        expected = results.expected(self.row, self.side)
        if expected * enough > budget:
            raise Skip(f"would take about {expected * enough:.0f} s")

        if self.jax:  # compiles on its first call
            self.fill()
        first, verdict = self.time(), None
        if self.side.draws:
            if self.jax or self.row.memory == "first touch":
                self.fill()
            verdict = check.examine(self.case, self.target, self.fill)
            if not verdict["ok"] and self.side.library == "fastinit":
                return verdict
        if first > SLOW_SECONDS:
            self.times.append(first)
        else:
            for _ in range(2):  # the first calls are slower than what follows
                first = self.time() / self.calls
                self.calls = 1 if self.row.memory == "first touch" else math.ceil(BLOCK_SECONDS / first)
                if on_a_gpu(self.row):
                    self.calls = min(self.calls, on_device.MOST_CALLS)
        results.note(self.row, self.side, first)
        if first * enough > budget:
            raise Skip(f"one call took {first:.1f} s")
        often = int(results.options.side_seconds / (first * self.calls))
        self.repeats = max(enough, min(often, MOST_REPEATS))
        return verdict

    def result(self) -> dict[str, Any]:
        spec = TaskSpec("call(operand)", "", num_threads=self.row.threads)
        taken = benchmark.Measurement(self.calls, self.times, spec)
        size = getattr(torch, self.side.dtype or self.row.dtype).itemsize
        host = {}
        if timings := self.on_device[-len(self.times) :]:
            host["host_seconds"] = statistics.median(t.host_seconds for t in timings) / self.calls
            host["without_the_host"] = all(timing.overlapped for timing in timings)
        return host | {
            "min": min(taken.times),
            "median": taken.median,
            "max": max(taken.times),
            "repeats": len(self.times),
            "calls_per_repeat": self.calls,
            "values_per_second": self.row.elements / taken.median,
            "bytes_per_second": self.row.elements * size / taken.median,
        }


def measure(row: Row, results: Results) -> dict[str, Any]:
    """The sides' times, the verdicts on their values, and how far the row's requirements are met."""
    free = available_bytes(torch.device(row.device))
    if row.bytes > free * MEMORY_SHARE:
        reason = f"needs {row.bytes / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
        sides = {side.name: {"skipped": reason} for side in row.sides}
        return {"sides": sides, "checks": {}, "requirements": verdicts(row, sides)}
    if row.memory == "first touch" and row.bytes <= FRESH_BYTES:
        raise ValueError(f"{row}: so small a tensor may be given memory that was used before")
    with set_torch_threads(row.threads), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="mean is more than 2 std")
        sides, checks = take_turns(row, results)
    return {"sides": sides, "checks": checks, "requirements": verdicts(row, sides)}


def take_turns(row: Row, results: Results) -> tuple[dict[str, Any], dict[str, Any]]:
    shared = row.operand()
    row.case.call(OneValue())(shared)
    sides: dict[str, dict[str, Any]] = {side.name: {} for side in row.sides}
    checks: dict[str, dict[str, Any]] = {}
    contestants: dict[str, Contestant] = {}
    for side in row.sides:
        try:
            contestant = Contestant(side, row, shared)
            verdict = contestant.prepare(results)
        except Skip as reason:
            sides[side.name] = {"skipped": str(reason)}
            continue
        except ERRORS as error:
            sides[side.name] = {"skipped": f"raises {type(error).__name__}", "error": str(error)}
            continue
        if verdict is not None:
            checks[side.name] = verdict
        if not contestant.repeats:
            sides[side.name] = {"skipped": "wrong values"}
            continue
        contestants[side.name] = contestant
        if verdict is not None and row.case.function == "orthogonal_":
            sides[side.name]["orthogonality"] = verdict["orthogonality"]
        if side.library == "fastinit" and isinstance(row.case, ModelCase):
            sides[side.name]["extra_bytes"] = peak_extra_bytes(contestant.fill, torch.device(row.device))
    ours = [name for name, contestant in contestants.items() if contestant.side.library == "fastinit"]
    same = check.same_bits(row.case, row.shape, row.torch_dtype, row.layout, row.device) if ours else None
    if same is not None:
        checks["same bits"] = same
        if not same["ok"]:
            for name in ours:
                del contestants[name]
                sides[name] = {"skipped": "wrong values"}

    waiting = list(contestants.values())
    while waiting := [contestant for contestant in waiting if len(contestant.times) < contestant.repeats]:
        for contestant in waiting:
            contestant.times.append(contestant.time())
    for name, contestant in contestants.items():
        sides[name] = contestant.result() | sides[name]
    return sides, checks


def verdicts(row: Row, sides: dict[str, Any]) -> list[dict[str, Any]]:
    return [verdict_on(wanted, sides) for wanted in row.requirements]


def verdict_on(wanted: Faster | AtMost, sides: dict[str, Any]) -> dict[str, Any]:
    """What is required, what was measured, and whether it is reached; None where that cannot be told."""
    ours = sides[wanted.side]
    if isinstance(wanted, AtMost):
        value = ours.get(wanted.figure)
        reached = None if value is None else value <= wanted.most
        return vars(wanted) | {"value": value, "reached": reached}
    theirs = sides[wanted.than]
    value = theirs["median"] / ours["median"] if "median" in ours and "median" in theirs else None
    speed = theirs.get("bytes_per_second", 0.0)
    required = speed < wanted.where_below
    return {
        "side": wanted.side,
        "than": wanted.than,
        "least": wanted.least,
        "value": value,
        "reached": None if value is None or not required else value >= wanted.least,
        "note": "" if required else f"not required: {wanted.than} moves {speed / 1e9:.0f} GB/s",
    }
