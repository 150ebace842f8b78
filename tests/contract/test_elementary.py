"""core/elementary.h: logarithm, sine and cosine of random words, against a wider arithmetic.

The bounds are those that the header states. Every run compares a sample of words; the test marked `long` goes over the
whole range of float32.
"""

import ctypes
import subprocess
from pathlib import Path

import mpmath
import numpy as np
import pytest
import toolchain
import torch

import native
import reference
from fills import CAPABILITIES, KEY, Call, capability

# As in the header: ulp for the logarithm, absolute for each coordinate of the direction. Seen were, over every word of
# float32: 3.45 ulp, 1.07e-7 and 2.77 ulp; over 10^8 words of float64: 4.18 ulp, 1.80e-16 and 2.60 ulp.
LOG_ULP = {32: 3.5, 64: 4.5}
TURN = {32: 1.5e-7, 64: 3e-16}
# Not in the header, but what C4 stands on: no coordinate loses its relative accuracy near zero either.
COORDINATE_ULP = {32: 3.0, 64: 3.0}

MANTISSA = {32: 24, 64: 53}


pytestmark = pytest.mark.usefixtures("one_thread")


def interesting(bits: int, random: int = 1_000_000) -> np.ndarray:
    """Both ends, every power of two and its surroundings, sqrt(1/2) and its surroundings, and a random million."""
    top = 1 << bits
    near = [0, top - 1, *(1 << k for k in range(bits)), *(top - (1 << k) for k in range(bits))]
    root_half = int(mpmath.mpf(top) * mpmath.sqrt(mpmath.mpf(1) / 2))
    near += [root_half, top - root_half, root_half // 2, 3 * top // 4]
    words = {(centre + offset) % top for centre in near for offset in range(-200, 201)}
    # Steps of a float32 or float64 near sqrt(1/2), where the reduction changes its mind.
    step = 1 << (bits - MANTISSA[bits])
    words |= {(root_half + step * offset) % top for offset in range(-2000, 2001)}
    sample = np.random.default_rng(7).integers(0, 1 << 64, random, dtype=np.uint64, endpoint=False)
    return np.concatenate([np.array(sorted(words), np.uint64), sample >> np.uint64(64 - bits)])


def computed(words: np.ndarray, bits: int) -> list[np.ndarray]:
    words, results = np.ascontiguousarray(words), [np.empty(words.size) for _ in range(3)]
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (words, *results)]
    native.library("core").elementary(pointers[0], ctypes.c_int64(words.size), bits, *pointers[1:])
    return [result.astype(np.longdouble) for result in results]


def ulp(x: np.ndarray, bits: int) -> np.ndarray:
    """The spacing of the arithmetic's numbers around x."""
    _, exponent = np.frexp(np.abs(x))
    return np.ldexp(x.dtype.type(1), exponent - MANTISSA[bits])


def maxima(words: np.ndarray, bits: int, real: type[np.floating] = np.longdouble) -> dict[str, float]:
    log, x, y = (values.astype(real) for values in computed(words, bits))
    true_log = reference.minus_two_log(words, bits == 64, real)
    true_x, true_y = reference.turn(words, bits == 64, real)
    off_x, off_y = np.abs(x - true_x), np.abs(y - true_y)
    return {
        "log, ulp": float((np.abs(log - true_log) / ulp(true_log, bits)).max()),
        "turn": float(max(off_x.max(), off_y.max())),
        "coordinate, ulp": float(max((off_x / ulp(true_x, bits)).max(), (off_y / ulp(true_y, bits)).max())),
    }


def check(found: dict[str, float], bits: int) -> None:
    assert found["log, ulp"] <= LOG_ULP[bits], found
    assert found["turn"] <= TURN[bits], found
    assert found["coordinate, ulp"] <= COORDINATE_ULP[bits], found


@pytest.mark.parametrize("bits", [32, 64])
def test_reference_is_exact_enough(bits: int) -> None:
    """numpy's long double against mpmath: off by less than a thousandth of what is measured with it."""
    words = np.concatenate([interesting(bits, 0)[::40], interesting(bits, 1)[-1:]])
    log, (x, y) = reference.minus_two_log(words, bits == 64), reference.turn(words, bits == 64)
    with mpmath.workprec(200):
        for i, word in enumerate(words.tolist()):
            u = (mpmath.mpf(word) + 0.5) / 2**bits
            signed = word - (1 << bits) if word >> (bits - 1) else word
            angle = mpmath.pi / 4 * (mpmath.mpf(signed) + 0.5) / 2 ** (bits - 1)
            cosine, sine = mpmath.cos(angle), mpmath.sin(angle)
            if word & 1:
                cosine, sine = sine, cosine
            sign = -1 if word & 2 else 1
            for got, expected in ((log[i], -2 * mpmath.log(u)), (x[i], sign * cosine), (y[i], sign * sine)):
                exact = mpmath.mpf(np.format_float_scientific(got, precision=25, unique=False))
                assert abs(exact - expected) <= abs(expected) * mpmath.mpf(2) ** -61


@pytest.mark.parametrize("bits", [32, 64])
def test_accuracy(bits: int) -> None:
    check(maxima(interesting(bits), bits), bits)


@pytest.mark.long
def test_accuracy_over_the_range_of_float32() -> None:
    """One word in 61 (all of them take an hour through Python)."""
    step = 1 << 28
    for start in range(0, 1 << 32, step):
        check(maxima(np.arange(start, start + step, 61, dtype=np.uint64), 32, np.float64), 32)


@pytest.mark.parametrize("bits", [32, 64])
def test_logarithm_is_positive_and_finite(bits: int) -> None:
    log = computed(interesting(bits, 100_000), bits)[0]
    assert (log > 0).all() and (log <= (bits + 1) * 2 * np.log(np.longdouble(2)) * (1 + 2.0**-23)).all()


@pytest.mark.parametrize("bits", [32, 64])
def test_logarithm_of_both_ends(bits: int) -> None:
    """The first word is the tail (C4: all bits count), the last one a radius close to zero, exact to full precision."""
    last = (1 << bits) - 1
    log = computed(np.array([0, last], np.uint64), bits)[0]
    assert abs(log[0] / (2 * (bits + 1) * np.log(np.longdouble(2))) - 1) < 2.0 ** (1 - MANTISSA[bits])
    assert log[1] == 2.0**-bits


@pytest.mark.parametrize("bits", [32, 64])
def test_directions_are_symmetric(bits: int) -> None:
    """The two low bits mirror, at the diagonal and at the origin, and a word's complement turns by a right angle."""
    words = interesting(bits, 10_000) & np.uint64((1 << bits) - 4)
    _, x, y = (
        c.reshape(4, -1) for c in computed(np.concatenate([words | np.uint64(k) for k in range(4)]), bits)
    )
    # The four differ by three steps of the angle at most.
    near = 3 * reference.TWO_PI / 2 ** (bits + 2) + TURN[bits]
    for k, (mirrored_x, mirrored_y) in enumerate(
        [(x[0], y[0]), (y[0], x[0]), (-x[0], -y[0]), (-y[0], -x[0])]
    ):
        assert np.abs(x[k] - mirrored_x).max() <= near and np.abs(y[k] - mirrored_y).max() <= near, k
    _, x_opposite, y_opposite = computed(~words & np.uint64((1 << bits) - 1), bits)
    assert np.abs(x_opposite - y[0]).max() <= near and np.abs(y_opposite + x[0]).max() <= near


@pytest.mark.parametrize("bits", [32, 64])
def test_no_coordinate_is_zero(bits: int) -> None:
    _, x, y = computed(interesting(bits, 100_000), bits)
    assert (np.minimum(np.abs(x), np.abs(y)) > 0).all()


@pytest.mark.parametrize("name", CAPABILITIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_kernels_use_these_functions(name: str, dtype: torch.dtype) -> None:
    """A standard normal value is sqrt(-2 ln u) times a coordinate, to the last bit, on every instruction set."""
    wide, n = dtype == torch.float64, 100_000
    with capability(name):
        values = Call("normal_", (0.0, 1.0)).new(n, dtype=dtype).numpy()
    words = reference.bits(np.arange(n), KEY, wide)
    log = computed(words[0::2], 64 if wide else 32)[0].astype(values.dtype)
    _, x, y = computed(words[1::2], 64 if wide else 32)
    radius = np.sqrt(log)
    assert np.array_equal(values[0::2], radius * x.astype(values.dtype))
    assert np.array_equal(values[1::2], radius * y.astype(values.dtype))


@pytest.mark.parametrize("name", ["core", "cuda_on_host"])
def test_no_libm(name: str) -> None:
    """C8: of libm's functions only those that IEEE 754 fixes, wherever values are made or decided."""
    path = subprocess.run(
        [*toolchain.CXX, "-print-file-name=libm.so.6"], check=True, capture_output=True, text=True
    ).stdout.strip()
    libm = native.symbols(Path(path), "defined")
    assert {"exp", "erfc", "fma"} <= libm, "not a list of libm's functions"
    used = native.symbols(Path(native.library(name)._name), "undefined") & libm
    assert used <= {"fma", "fmaf", "sqrt", "sqrtf"}
