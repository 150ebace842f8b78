"""C5: the quantiles of which trunc_normal_ is made in float32, for bounds within 4 sigma of the mean."""

import ctypes

import numpy as np
import pytest
from numpy.typing import NDArray

import native
import reference

LIMITS = [1 + 1 / 64, 2 + 7 / 64, 4 + 1 / 32]  # up to which an interval is near, central or wide
INTERVALS = [
    *((-c, c) for c in (1e-6, 0.1, 0.5, 1.0, 1.02, 2.0, 2.2, 3.0, 4.0, *LIMITS)),
    *((0.0, c) for c in (1e-3, 1.0, 2.0, 4.0)),
    *((c, 2 * c) for c in (1e-3, 0.4, 1.0, 2.0)),
    *((c, 8.01 / 7 * c) for c in (0.8, 1.8, 3.5)),
    *(
        (-0.01, 4.0),
        (-4.0, 0.01),
        (-1.0, 2.0),
        (-2.0, 1.0),
        (-0.5, 0.375),
        (0.01, 4.0),
        (3.0, 4.0),
        (1.0, 3.0),
    ),
]
ENDS = (0x80000000, 0x7FFFFFFF)  # as integers with a sign, the smallest and the largest


def words() -> NDArray[np.uint32]:
    """The ends, the middle, what is near them on every scale, and 2^16 others."""
    steps = np.unique(np.geomspace(1, 2**31 - 1, 4000).astype(np.uint32))
    around = [
        np.uint32(place) + sign * steps
        for place in (*ENDS, 0)
        for sign in (np.uint32(1), np.uint32(0xFFFFFFFF))
    ]
    others = np.random.default_rng(1).integers(0, 1 << 32, 1 << 16, np.uint32)
    return np.concatenate([np.array([*ENDS, 0, 0xFFFFFFFF], np.uint32), *around, others])


def quantiles(low: float, high: float, at: NDArray[np.uint32]) -> tuple[NDArray[np.float32], int]:
    """And which range the interval is in."""
    z = np.empty(at.size, np.float32)
    kind = native.library("core").quantiles(
        ctypes.c_double(low),
        ctypes.c_double(high),
        ctypes.c_void_p(at.ctypes.data),
        ctypes.c_int64(at.size),
        ctypes.c_void_p(z.ctypes.data),
    )
    return z, kind


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_accuracy(low: float, high: float) -> None:
    """6 ulp of the exact ones; near the mean, of what an even grid of 2^24 points would have."""
    at = words()
    z, kind = quantiles(low, high, at)
    expected = reference.quantiles(low, high, at)
    assert kind == sum(max(-low, high) > limit for limit in LIMITS)
    centre = abs(low + high) / 2 if -low != high else 0
    ulp = np.maximum(
        np.spacing(np.abs(expected).astype(np.float32)), np.spacing(np.float32(centre)) if centre else 0
    )
    error = np.abs(z - expected) / ulp
    worst = int(error.argmax())
    assert error[worst] <= 6, (hex(at[worst]), z[worst], expected[worst])


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_order_and_ends(low: float, high: float) -> None:
    """They grow from bound to bound, but for their rounding, and are not farther beyond a bound than that."""
    at = words()
    z, _ = quantiles(low, high, at)
    in_order = z[np.argsort(at.view(np.int32))].astype(np.float64)
    slack = 8 * np.spacing(np.float32(max(-low, high)))
    assert (np.diff(in_order) >= -slack).all()
    assert low - slack <= in_order[0] <= low + slack + (high - low) * 1e-8
    assert high - slack - (high - low) * 1e-6 <= in_order[-1] <= high + slack


@pytest.mark.parametrize(
    ("low", "high", "covered"),
    [
        (-2.0, 2.0, True),
        (-4.0, 4.0, True),
        (-4.1, 0.0, False),
        (0.0, np.inf, False),
        (3.0, 4.0, True),
        (3.6, 4.0, False),  # so narrow that the rounding of its bounds would show
        (1.0, 1.125, False),
        (1.0, 1.25, True),
        (-1e-30, 1e-30, True),
    ],
)
def test_which_intervals(low: float, high: float, covered: bool) -> None:
    core = native.library("core")
    core.covered.restype = ctypes.c_bool
    for a, b in ((low, high), (-high, -low)):
        assert core.covered(ctypes.c_double(a), ctypes.c_double(b)) == covered
