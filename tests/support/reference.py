"""The contract (DESIGN.md, README.md) once more, written to be read rather than to be fast, and without looking at
the kernels: numpy's integers for the stream, numpy's long double and its libm for everything after it.

The kernels round each operation to the tensor's arithmetic, float32 or float64. Here nothing is rounded before the end,
so the two agree to a few units in the last place, not to the bit. Where an agreement to the bit can be asked for (the
stream itself, uniform values, the rounding to 16 bits), it is.

`wide` chooses the arithmetic throughout: False for float32 and the 16-bit types, True for float64.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf, erfinv, ndtr, ndtri

Words = NDArray[np.uint64]
Reals = NDArray[np.longdouble]

# Long double must have room for a 64-bit word and to spare for errors to vanish in; x86-64 and aarch64 have that.
assert np.finfo(np.longdouble).nmant >= 63

# What a counter is used for (C1, counter word 3).
VALUES, ACCEPT, COLUMNS = 0, 1, 2

LOW = np.uint64(0xFFFFFFFF)
HALF_WORD = np.uint64(32)
TWO_PI = np.longdouble("6.28318530717958647692528676655900577")


# ---------------------------------------------------------------------------------------------------------------
# C1 and C2: the stream


def philox4x32_10(counter: tuple[Words, ...], key: int) -> tuple[Words, ...]:
    """Philox4x32-10, as the paper has it: ten rounds, the key bumped between them."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (p1 >> HALF_WORD) ^ c1 ^ np.uint64(k0),
            p1 & LOW,
            (p0 >> HALF_WORD) ^ c3 ^ np.uint64(k1),
            p0 & LOW,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def bits(index: Words, key: int, wide: bool, draw: int = 0, purpose: int = VALUES) -> Words:
    """The bits that element `index` owns: 32, or 64 in the wide arithmetic."""
    index = np.asarray(index, np.uint64)
    per_block = np.uint64(2 if wide else 4)
    block, place = index // per_block, (index % per_block).astype(np.intp)
    others = np.full_like(block, draw), np.full_like(block, purpose)
    words = np.stack(philox4x32_10((block & LOW, block >> HALF_WORD, *others), key))
    where = np.arange(index.size)
    if wide:
        return words[2 * place, where] | words[2 * place + 1, where] << HALF_WORD
    return words[place, where]


# ---------------------------------------------------------------------------------------------------------------
# C3: uniform values


def grid(word: Words, wide: bool) -> Words:
    """The upper 24 (53) bits of a word: a point of the even grid on the unit interval."""
    return word >> np.uint64(11 if wide else 8)


def spacing(wide: bool) -> float:
    return 2.0**-53 if wide else 2.0**-24


def nearest(x: float, dtype: torch.dtype) -> float:
    """A parameter as the dtype holds it."""
    return torch.tensor(x, dtype=torch.float64).to(dtype).item()


def below(x: float, dtype: torch.dtype) -> float:
    """The largest value of the dtype that is less than x, itself a value of the dtype."""
    if dtype == torch.float16:
        return float(np.nextafter(np.float16(x), np.float16(-np.inf)))
    t = torch.tensor(x, dtype=dtype)
    return torch.nextafter(t, torch.full_like(t, -torch.inf)).item()


def round_down(x: float, dtype: torch.dtype) -> float:
    """The largest number of the dtype that is x or less."""
    near = nearest(x, dtype)
    return below(near, dtype) if near > x else near


def round_up(x: float, dtype: torch.dtype) -> float:
    return -round_down(-x, dtype)


def last_below(x: float, dtype: torch.dtype) -> float:
    """The largest number of the dtype that is less than x, whatever x is."""
    down = round_down(x, dtype)
    return down if down < x else below(down, dtype)


def uniform(index: Words, key: int, a: float, b: float, dtype: torch.dtype) -> torch.Tensor:
    """C3, exactly: a + u (b - a) rounded once to the arithmetic's type and once to the nearest number of the tensor's dtype
    that lies in [a, b)."""
    wide = dtype == torch.float64
    arithmetic, its_dtype = (np.float64, torch.float64) if wide else (np.float32, torch.float32)
    if a == b:
        return torch.full(index.shape, float(arithmetic(a)), dtype=dtype)
    low, high = arithmetic(round_up(a, its_dtype)), arithmetic(b)
    width, unit = Fraction(float(high - low)), Fraction(spacing(wide))
    sums = [Fraction(float(low)) + int(g) * unit * width for g in grid(bits(index, key, wide), wide)]
    rounded = torch.tensor([_round(s, arithmetic) for s in sums], dtype=torch.float64).to(dtype)
    return nearest_within(rounded, round_up(a, dtype), last_below(b, dtype))


def nearest_within(rounded: torch.Tensor, first: float, last: float) -> torch.Tensor:
    """Values that were rounded to their dtype, as if only its numbers from `first` to `last` had been there."""
    first_, last_ = (torch.tensor(x, dtype=rounded.dtype) for x in (first, last))
    return torch.where(rounded < first_, first_, torch.where(rounded > last_, last_, rounded))


def _round(x: Fraction, arithmetic: type[np.floating]) -> float:
    """To nearest, ties to even, in one rounding."""
    if arithmetic is np.float64:
        return float(x)  # Python's division of integers is correctly rounded
    twice = np.float32(float(x))  # right, unless float64 has landed on a tie between two float32
    around = [np.nextafter(twice, np.float32(d)) for d in (-np.inf, np.inf)]
    best = min((twice, *around), key=lambda y: (abs(Fraction(float(y)) - x), int(y.view(np.uint32)) & 1))
    return float(best)


# ---------------------------------------------------------------------------------------------------------------
# C4: normal values


def minus_two_log(word: Words, wide: bool, real: type[np.floating] = np.longdouble) -> Reals:
    """-2 ln((x + 1/2) / 2^n), without loss near either end. float64 is enough for 32-bit words, and faster."""
    n = 64 if wide else 32
    word = np.asarray(word, np.uint64)
    upper = word >> np.uint64(n - 1) != 0
    mirrored = np.where(upper, ~word & np.uint64(2**n - 1), word)
    distance = np.ldexp(mirrored.astype(real) + real(0.5), -n)  # from the nearer end
    return np.where(upper, -2 * np.log1p(-distance), -2 * np.log(distance))


def turn(word: Words, wide: bool, real: type[np.floating] = np.longdouble) -> tuple[Reals, Reals]:
    """The direction a word stands for. As a signed number it is an angle within a quarter turn around the first axis;
    bit 0 mirrors that at the diagonal, and bit 1 at the origin."""
    n = 64 if wide else 32
    word = np.asarray(word, np.uint64)
    signed = word.astype(np.int64) if wide else word.astype(np.uint32).view(np.int32)
    angle = real(TWO_PI) * np.ldexp(signed.astype(real) + real(0.5), -n - 2)
    x, y = np.cos(angle), np.sin(angle)
    mirrored, sign = word & np.uint64(1) != 0, np.where(word & np.uint64(2) != 0, -1, 1)
    return sign * np.where(mirrored, y, x), sign * np.where(mirrored, x, y)


def standard_normal(index: Words, key: int, wide: bool, draw: int = 0) -> Reals:
    """Box-Muller on the pair of words that neighbouring elements own: the first gives the radius, the second the angle,
    the even element gets x and the odd one y."""
    index = np.asarray(index, np.uint64)
    even = index & ~np.uint64(1)
    radius = np.sqrt(minus_two_log(bits(even, key, wide, draw), wide))
    x, y = turn(bits(even + np.uint64(1), key, wide, draw), wide)
    return radius * np.where(index == even, x, y)


def normal(index: Words, key: int, mean: float, std: float, wide: bool) -> Reals:
    mean, std = arithmetic_value(mean, wide), arithmetic_value(std, wide)
    return np.longdouble(mean) + np.longdouble(std) * standard_normal(index, key, wide)


def arithmetic_value(x: float, wide: bool) -> float:
    return float(x) if wide else float(np.float32(x))


# ---------------------------------------------------------------------------------------------------------------
# C5: truncated normal values


# How far from the mean both bounds are where float32 has quantiles, and how narrow an interval may be for that.
QUANTILES_WITHIN, NARROW = 4 + 1 / 32, 1 / 8


def has_quantiles(mean: float, std: float, a: float, b: float) -> bool:
    m, s = (np.float32(x).astype(np.float64) for x in (mean, std))
    alpha, beta = (round_up(a, torch.float32) - m) / s, (round_down(b, torch.float32) - m) / s
    most = max(-alpha, beta)
    return bool(most <= QUANTILES_WITHIN and beta - alpha >= NARROW * most)


def quantiles(low: float, high: float, words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """The distribution function's inverse on an even grid of 2^32 points, which the words number as integers with a sign."""
    step = (words.view(np.int32).astype(np.float64) + 0.5) / 2**32  # from the middle
    mass = ndtr(-low) - ndtr(-high) if low > 0 else ndtr(high) - ndtr(low)
    # The tails beyond each point: the smaller one is as accurate as it is small.
    above, below = ndtr(-high) + (0.5 - step) * mass, ndtr(low) + (0.5 + step) * mass
    # Near the mean, what lies between it and the point.
    start, end = erf(np.array([low, high]) / math.sqrt(2))
    between = (start + end) / 2 + step * (end - start)
    near = np.abs(between) < 0.5
    tails = np.where(above < 0.5, -ndtri(above), ndtri(below))
    return np.where(near, math.sqrt(2) * erfinv(np.where(near, between, 0)), tails)


def truncated_quantiles(index: Words, key: int, mean: float, std: float, a: float, b: float) -> Reals:
    m, s = (np.longdouble(arithmetic_value(x, False)) for x in (mean, std))
    alpha, beta = (float((round_up(a, torch.float32) - m) / s), float((round_down(b, torch.float32) - m) / s))
    words = bits(index, key, False).astype(np.uint32)
    if beta <= 0:  # from the bound that is nearer to the mean outwards
        return m - s * quantiles(-beta, -alpha, words)
    return m + s * quantiles(alpha, beta, words)


@dataclass
class Truncated:
    values: Reals
    attempts: NDArray[np.int64]  # how many each element took
    close: NDArray[np.bool_]  # some decision was so narrow that rounding may turn it


def truncated_normal(
    index: Words, key: int, mean: float, std: float, a: float, b: float, proposal: str, wide: bool
) -> Truncated:
    """The first accepted attempt of each element. `proposal` is one of "normal", "half normal", "uniform", "exponential"."""
    index = np.asarray(index, np.uint64)
    dtype = torch.float64 if wide else torch.float32
    m, s = (np.longdouble(arithmetic_value(x, wide)) for x in (mean, std))
    low, high = np.longdouble(round_up(a, dtype)), np.longdouble(round_down(b, dtype))
    epsilon = np.longdouble(np.finfo(np.float64 if wide else np.float32).eps)
    alpha, beta = (low - m) / s, (high - m) / s
    side = -1 if beta < 0 else 1  # on which side of the mean the interval's peak lies
    side_of_mean = -1 if high == m else 1
    peak = np.longdouble(beta if beta < 0 else max(alpha, np.longdouble(0)))

    def attempt(i: Words, draw: int) -> tuple[Reals, NDArray[np.bool_], NDArray[np.bool_]]:
        """The proposed values, whether they are accepted, and whether that was close."""
        if "normal" in proposal:
            z = standard_normal(i, key, wide, draw)
            x = m + s * (z if proposal == "normal" else side_of_mean * abs(z))
            excess = np.zeros_like(x)
        elif proposal == "uniform":
            u = grid(bits(i, key, wide, draw), wide).astype(np.longdouble) * spacing(wide)
            x = low + u * (high - low)
            z = alpha + u * (beta - alpha)
            excess = (z - peak) * (z + peak)
        else:  # Robert (1995): an exponential of the best rate, from the nearer bound outwards
            rate = (abs(peak) + np.sqrt(peak * peak + 4)) / 2
            step = minus_two_log(bits(i, key, wide, draw), wide) / (2 * rate)
            x = (low if side > 0 else high) + side * s * step
            excess = (abs(peak) + step - rate) ** 2
        coin = minus_two_log(bits(i, key, wide, draw, ACCEPT), wide)
        sure = 64 * epsilon
        close = (
            abs(excess - coin) < sure * (1 + coin) if "normal" not in proposal else np.zeros(x.shape, bool)
        )
        for bound in (low, high):
            if proposal == "half normal" and bound == m:
                continue
            close |= abs(x - bound) <= sure * abs(x - m) if "normal" in proposal else x == bound
        return x, (excess <= coin) & (low <= x) & (x <= high), close

    result = Truncated(
        np.zeros(index.shape, np.longdouble), np.zeros(index.shape, np.int64), np.zeros(index.shape, bool)
    )
    pending = np.arange(index.size)
    draw = 0
    while pending.size:
        x, accepted, close = attempt(index[pending], draw)
        result.values[pending] = x
        result.attempts[pending] = draw + 1
        result.close[pending] |= close
        pending = pending[~accepted]
        draw += 1
    return result
