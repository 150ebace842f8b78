"""The values have the distributions they should, and their neighbours know nothing of each other: 10^9 values at a time.

test_distributions.py asks the same of millions of values, in seconds. What is here takes minutes, and sees what is a
hundred times smaller; `make test` only runs the checks that these tests can fail.

Every key is fixed, so that nothing here fails now and then. A p-value below ALARM fails its test. There are less than 5000
of them, so that a right implementation would fail, under random keys, with a probability below 5e-5. docs/statistics.md
shows what came out; FASTINIT_STATISTICS=FILE writes such results.
"""

import functools
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special, stats

from fills import Fill
from goodness import (
    NORMAL_MOMENTS,
    UNIFORM_MOMENTS,
    Array,
    Cdf,
    Histogram,
    PowerSums,
    anderson_darling,
    binomial,
    chi_squared,
    kolmogorov_smirnov,
)

inf = math.inf
ALARM = 1e-8
BILLION = 15 << 26  # 1.007e9
CHUNK = 1 << 26

Check = Callable[[str, float], None]

UNIFORM, NORMAL = Fill("uniform_", (0.0, 1.0)), Fill("normal_", (0.0, 1.0))

wide_and_narrow = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# ---------------------------------------------------------------------------------------------------------------
# P-values, and where they go


@pytest.fixture(scope="session")
def results() -> Iterator[dict[str, dict]]:
    """What each test function found, and how long it took."""
    found: dict[str, dict] = {}
    yield found
    if path := os.environ.get("FASTINIT_STATISTICS"):
        from benchmarks import machine

        Path(path).write_text(json.dumps(machine.describe() | {"alarm": ALARM, "tests": found}, indent=1) + "\n")


@pytest.fixture
def check(request: pytest.FixtureRequest, results: dict[str, dict]) -> Iterator[Check]:
    """Takes p-values and what they are of; fails the test at its end if one is too small."""
    mine = results.setdefault(request.node.originalname, {"seconds": 0.0, "p_values": {}})
    case = request.node.name.removeprefix(request.node.originalname)
    alarms = {}

    def take(what: str, p: float) -> None:
        mine["p_values"][f"{case} {what}".strip()] = p
        if not p > ALARM:
            alarms[what] = p

    began = time.perf_counter()
    yield take
    mine["seconds"] += time.perf_counter() - began
    assert not alarms, alarms


def draw(fill: Fill, dtype: torch.dtype, name: str, n: int = BILLION) -> Iterator[torch.Tensor]:
    """n values under consecutive keys, a part at a time in the same memory. The first key depends on the name."""
    size = min(n, CHUNK // (2 if dtype == torch.float64 else 1))
    values = torch.empty(size, dtype=dtype)
    for i in range(n // size):
        yield fill(values, first_key(name) + i)


def first_key(name: str) -> int:
    return zlib.crc32(name.encode()) << 32


def check_histogram(check: Check, histogram: Histogram, cdf: Cdf, least: float = 20) -> None:
    counts, shares = histogram.counts, histogram.shares(cdf)
    check("chi-squared", chi_squared(counts, shares, least))
    check("chi-squared, 4096 bins", chi_squared(counts, shares, counts.sum() / 4096))
    check("Kolmogorov-Smirnov", kolmogorov_smirnov(counts, shares))
    check("Anderson-Darling", anderson_darling(counts, shares))


def check_moments(check: Check, sums: PowerSums, moments: list[float]) -> None:
    for k, p in enumerate(sums.p_values(moments), 1):
        check(f"moment {k}", p)


# ---------------------------------------------------------------------------------------------------------------
# Uniform and normal


def grid_cdf(x: Array) -> Array:
    """Of the even grid of 2^24 values, of which x has those below it."""
    return np.clip(np.ceil(x * 2.0**24), 0, 2.0**24) / 2.0**24


@pytest.mark.long
@wide_and_narrow
def test_uniform(check: Check, dtype: torch.dtype) -> None:
    """uniform_: each of the 2^24 values, or ranges of the 53 bits; KS, AD, moments"""
    histogram, sums = Histogram(dtype, 0.0, 1.0), PowerSums()
    bits, fields = (24, [(0, 24)]) if dtype == torch.float32 else (53, [(0, 18), (18, 18), (35, 18)])
    counts = [np.zeros(1 << width, np.int64) for _, width in fields]
    for values in draw(UNIFORM, dtype, f"uniform {name_of(dtype)}"):
        histogram.add(values)
        sums.add(values)
        words = values.mul_(2.0**bits).to(torch.int32 if bits == 24 else torch.int64)
        for count, (shift, width) in zip(counts, fields, strict=True):
            field = (words >> shift) & ((1 << width) - 1)
            count += torch.bincount(field, minlength=count.size).numpy()
    for count, (shift, width) in zip(counts, fields, strict=True):
        check(f"bits {shift} to {shift + width - 1}", chi_squared(count, np.full(count.size, 1 / count.size)))
    check_histogram(
        check,
        histogram,
        grid_cdf if dtype == torch.float32 else lambda x: np.clip(x, 0, 1),
    )
    check_moments(check, sums, UNIFORM_MOMENTS)


def check_normal(check: Check, dtype: torch.dtype, parts: Iterator[torch.Tensor]) -> None:
    histogram, sums = Histogram(dtype, -8.0, 8.0), PowerSums()
    for values in parts:
        histogram.add(values)
        sums.add(values)
    check_histogram(check, histogram, special.ndtr)
    check_moments(check, sums, NORMAL_MOMENTS)
    n = sums.n
    for sigma in (4.0, 5.0, 6.0, -4.0, -5.0, -6.0):
        count, border = histogram.beyond(sigma)
        check(f"beyond {sigma}", binomial(count, sums.n, special.ndtr(-abs(border))))


@pytest.mark.long
@wide_and_narrow
def test_normal(check: Check, dtype: torch.dtype) -> None:
    """normal_: chi-squared, KS, AD, moments; tails beyond 4, 5 and 6 sigma"""
    check_normal(check, dtype, draw(NORMAL, dtype, f"normal {name_of(dtype)}"))
