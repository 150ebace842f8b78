"""C5: which proposal trunc_normal_ takes decides every value of it, so the choice is recorded, and is exact arithmetic's.

`python tests/contract/test_proposals.py` writes tests/vectors/proposals.txt.
"""

import ctypes
import itertools
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest

import native

VECTORS = Path(__file__).parents[1] / "vectors" / "proposals.txt"
NAMES = "nhue"  # normal, half normal, uniform, exponential, as Method counts them

# A standard normal between alpha and alpha + width.
ALPHAS = [*np.arange(-6.0, 6.01, 0.125).tolist(), -math.inf, 8.0, 12.5, 30.0, 100.0, 1000.0]
WIDTHS = [*np.geomspace(0.01, 20.0, 60).tolist(), 100.0, math.inf]
INTERVALS = [
    (a, math.inf if math.isinf(width) else (width - 6 if math.isinf(a) else a + width))
    for a, width in itertools.product(ALPHAS, WIDTHS)
]


def chosen(intervals: list[tuple[float, float]]) -> str:
    parameters = np.array([(0.0, 1.0, a, b) for a, b in intervals])
    result = np.empty(len(intervals), np.int32)
    native.library("core").methods(
        ctypes.c_void_p(parameters.ctypes.data),
        ctypes.c_int64(len(intervals)),
        ctypes.c_void_p(result.ctypes.data),
    )
    return "".join(NAMES[i] for i in result)


def costs(a: float, b: float) -> list[mpmath.mpf]:
    """What a value costs by each proposal (core/truncated_normal.h), exactly."""
    with mpmath.workdps(60):
        if b < 0:
            a, b = -b, -a
        low, high = mpmath.mpf(max(a, 0.0)), mpmath.mpf(b)
        inside = (mpmath.erfc(mpmath.mpf(a) / mpmath.sqrt(2)) - mpmath.erfc(high / mpmath.sqrt(2))) / 2
        peak = mpmath.npdf(low)
        rate = (low + mpmath.sqrt(low * low + 4)) / 2
        accepted = [
            inside * (2 if a == 0 or b == 0 else 1),
            inside / (peak * (high - mpmath.mpf(a))) if b - a < math.inf else mpmath.mpf(0),
            inside * rate * mpmath.exp(low * rate - rate * rate / 2) * mpmath.sqrt(2 * mpmath.pi)
            if a > 0
            else mpmath.mpf(0),
        ]
        return [
            first + again * (1 / p - 1) if p else mpmath.inf
            for (first, again), p in zip([(4, 14), (6, 21), (8, 23)], accepted, strict=True)
        ]


def rows(choice: str) -> list[str]:
    return [choice[i : i + len(WIDTHS)] for i in range(0, len(choice), len(WIDTHS))]


def write() -> None:
    VECTORS.write_text(
        "# The proposal of trunc_normal_ for the intervals of test_proposals.py, one row for each lower bound: n(ormal),\n"
        "# h(alf normal), u(niform) or e(xponential). Part of the contract (C5): a change here is a change of values.\n"
        + "".join(f"{row}\n" for row in rows(chosen(INTERVALS)))
    )


def test_the_choice_is_what_it_was() -> None:
    recorded = [line for line in VECTORS.read_text().splitlines() if not line.startswith("#")]
    assert rows(chosen(INTERVALS)) == recorded


def test_the_choice_is_exact_arithmetics() -> None:
    """But within 1e-4 of a threshold, and where the density is so flat that the uniform proposal is taken at once."""
    compared = 0
    for (a, b), name in zip(INTERVALS, chosen(INTERVALS), strict=True):
        nearest = max(a, -b, 0.0)
        if (b - a) * (nearest + b - a) < 0.5:
            assert name == "u", (a, b)
            continue
        cost = costs(a, b)
        least = min(cost)
        close = sorted(cost)[1] < least * (1 + 1e-4)
        if not close:
            normal = "h" if a == 0 or b == 0 else "n"
            assert name == (normal, "u", "e")[cost.index(least)], (a, b, [float(c) for c in cost])
            compared += 1
    assert compared > 4000


def test_mirrored_intervals_take_the_same() -> None:
    assert chosen([(-b, -a) for a, b in INTERVALS]) == chosen(INTERVALS)


@pytest.mark.parametrize("x", [0.0, 1e-9, 0.1, 0.5, 1.0, 2.0, 3.7, 8.0, 25.0, 1e3, 1e8])
def test_the_functions_it_is_decided_by(x: float) -> None:
    core = native.library("core")
    core.mills.restype = core.exponential.restype = core.mass.restype = ctypes.c_double
    with mpmath.workdps(60):
        y = mpmath.mpf(x)
        ratio = mpmath.quad(
            lambda t: mpmath.exp(-y * t - t * t / 2), [0, 1 / (1 + y), 10 / (1 + y), 100 / (1 + y)]
        )
        assert abs(core.mills(ctypes.c_double(x)) / ratio - 1) < 4e-8
        if x < 5:
            assert abs(core.mass(ctypes.c_double(x)) - mpmath.erf(y / mpmath.sqrt(2))) <= 4e-9 * min(x, 1)
        if x < 64:
            assert abs(core.exponential(ctypes.c_double(-x)) / mpmath.exp(-y) - 1) < 4e-9
        else:
            assert core.exponential(ctypes.c_double(-x)) == 0


if __name__ == "__main__":
    write()
