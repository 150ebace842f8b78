"""The values have the distributions they should: C3 to C6 as a statistician sees them.

Every key is fixed, so that nothing here fails now and then. Each comparison is a significance test that a right
implementation would fail, under a random key, with probability ALARM = 1e-7; `accept` is the only place where that is
decided. There are some 3000 comparisons, so that the whole file would raise a false alarm for one key in about 3000. Where a
statistic's distribution is an approximation (chi-squared, the normal one for a mean), the counts behind it are large
enough for that level: no bin of a chi-squared test expects fewer than 20 values.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import special, stats

import reference
from fills import CAPABILITIES, FILLS, KEY, Call, capability, threads
from goodness import Truncated

inf = math.inf
ALARM = 1e-7
N = 2_000_000

Array = NDArray[np.float64]

wide_and_narrow = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

UNIFORM, NORMAL = Call("uniform_", (0.0, 1.0)), Call("normal_", (0.0, 1.0))


@functools.cache
def sample(fill: Call, dtype: torch.dtype, key: int = KEY, n: int = N) -> Array:
    return fill.new(n, dtype=dtype, key=key).double().numpy()


pytestmark = pytest.mark.usefixtures("one_thread")


def accept(p: float, what: str = "") -> None:
    assert p > ALARM, f"{what}: p = {p}"


def accept_mean(values: Array, mean: float, variance: float, what: str = "") -> None:
    """The average of independent values with this mean and variance."""
    z = (values.mean() - mean) / math.sqrt(variance / values.size)
    accept(2 * stats.norm.sf(abs(z)), f"{what}, z = {z}")


def accept_counts(counts: Array, probabilities: Array, what: str = "") -> None:
    """Counts of a multinomial distribution, neighbours merged until each bin expects 20."""
    expected = np.asarray(probabilities, np.float64) * counts.sum()
    edges = [0]
    total = 0.0
    for i, e in enumerate(expected):
        total += e
        if total >= 20 and expected[i + 1 :].sum() >= 20:
            edges.append(i + 1)
            total = 0.0
    counts, expected = np.add.reduceat(counts, edges), np.add.reduceat(expected, edges)
    if counts.size > 1:
        chi2 = float(((counts - expected) ** 2 / expected).sum())
        accept(
            float(stats.chi2.sf(chi2, counts.size - 1)), f"{what}, chi-squared {chi2} of {counts.size - 1}"
        )


def accept_uncorrelated(x: Array, y: Array, what: str = "") -> None:
    x, y = x - x.mean(), y - y.mean()
    z = float(x @ y / math.sqrt((x @ x) * (y @ y)) * math.sqrt(x.size))
    accept(2 * stats.norm.sf(abs(z)), f"{what}, z = {z}")


# ---------------------------------------------------------------------------------------------------------------
# Uniform


@wide_and_narrow
def test_uniform_distribution(dtype: torch.dtype) -> None:
    values = sample(UNIFORM, dtype)
    accept(stats.kstest(values, "uniform", method="asymp").pvalue, "Kolmogorov-Smirnov")
    accept_counts(
        np.bincount((values * 4096).astype(int), minlength=4096), np.full(4096, 1 / 4096), "4096 bins"
    )
    for k in range(1, 7):
        accept_mean(values**k, 1 / (k + 1), 1 / (2 * k + 1) - 1 / (k + 1) ** 2, f"moment {k}")


@wide_and_narrow
def test_every_bit_of_a_uniform_value_is_fair(dtype: torch.dtype) -> None:
    bits = 53 if dtype == torch.float64 else 24
    words = (sample(UNIFORM, dtype) * 2.0**bits).astype(np.int64)
    for bit in range(bits):
        ones = int((words >> bit & 1).sum())
        accept(stats.binomtest(ones, N, 0.5).pvalue, f"bit {bit}")
    # And neighbouring bits are independent of each other.
    for bit in range(bits - 7):
        accept_counts(
            np.bincount(words >> bit & 255, minlength=256), np.full(256, 1 / 256), f"bits {bit} to {bit + 7}"
        )


@wide_and_narrow
@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 16, 64, 4096])
def test_pairs_of_uniform_values(dtype: torch.dtype, lag: int) -> None:
    """The serial test: pairs fall evenly on the unit square."""
    cells = (sample(UNIFORM, dtype) * 64).astype(int)
    pairs = cells[:-lag] * 64 + cells[lag:]
    pairs = pairs[np.arange(pairs.size) // lag % 2 == 0]  # no value in two pairs
    accept_counts(np.bincount(pairs, minlength=4096), np.full(4096, 1 / 4096))


# ---------------------------------------------------------------------------------------------------------------
# Normal


@wide_and_narrow
def test_normal_distribution(dtype: torch.dtype) -> None:
    values = sample(NORMAL, dtype)
    accept(stats.kstest(values, "norm", method="asymp").pvalue, "Kolmogorov-Smirnov")
    accept_counts(
        np.bincount((special.ndtr(values) * 4096).astype(int), minlength=4096),
        np.full(4096, 1 / 4096),
        "bins",
    )

    def moment(k: int) -> float:
        return 0.0 if k % 2 else float(special.factorial2(k - 1)) if k else 1.0

    for k in range(1, 7):
        accept_mean(values**k, moment(k), moment(2 * k) - moment(k) ** 2, f"moment {k}")
        # Per element of a block: each has its own way from the words to the value.
        for place in range(4):
            accept_mean(
                values[place::4] ** k, moment(k), moment(2 * k) - moment(k) ** 2, f"moment {k} of {place}"
            )


@wide_and_narrow
def test_normal_tails(dtype: torch.dtype) -> None:
    """How many values lie beyond 3.5 to 5.5 standard deviations, on either side: 2^24 of them."""
    n = 1 << 24
    values = NORMAL.new(n, dtype=dtype)
    for bound in (3.5, 4.0, 4.5, 5.0, 5.5):
        for side, count in (("above", int((values > bound).sum())), ("below", int((values < -bound).sum()))):
            expected = n * stats.norm.sf(bound)
            p = 2 * min(stats.poisson.cdf(count, expected), stats.poisson.sf(count - 1, expected))
            accept(p, f"{count} {side} {bound}, expected {expected}")


@wide_and_narrow
def test_two_normal_values_of_one_pair(dtype: torch.dtype) -> None:
    """Direction and radius are independent and both as they should be, so the two values are."""
    pairs = sample(NORMAL, dtype).reshape(-1, 2)
    angle = (np.arctan2(pairs[:, 1], pairs[:, 0]) / (2 * np.pi)) % 1.0
    radius = np.exp(-(pairs**2).sum(1) / 2)  # uniform
    accept(stats.kstest(angle, "uniform", method="asymp").pvalue, "angle")
    accept(stats.kstest(radius, "uniform", method="asymp").pvalue, "radius")
    cells = np.minimum(angle * 64, 63).astype(int) * 64 + np.minimum(radius * 64, 63).astype(int)
    accept_counts(np.bincount(cells, minlength=4096), np.full(4096, 1 / 4096), "angle and radius")


# ---------------------------------------------------------------------------------------------------------------
# Independence

TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "value": lambda x: x,
    "square": lambda x: x * x,
    "sign": np.sign,
}
INDEPENDENT = {
    "uniform": Call("uniform_", (-1.0, 1.0)),
    **{name: FILLS[name] for name in FILLS if name.startswith("truncated")},
    "normal": NORMAL,
}
every_independent = pytest.mark.parametrize("name", INDEPENDENT)


@every_independent
@pytest.mark.parametrize("transform", TRANSFORMS)
@wide_and_narrow
def test_lags(dtype: torch.dtype, transform: str, name: str) -> None:
    """Elements at any distance, rows and columns of a matrix included, are uncorrelated."""
    values = TRANSFORMS[transform](sample(INDEPENDENT[name], dtype))[: N // 2]
    if values.var() == 0:
        pytest.skip("all of one sign")
    for lag in (1, 2, 3, 4, 5, 8, 16, 31, 64, 256, 1000, 2048, 65_536):
        accept_uncorrelated(values[:-lag], values[lag:], f"lag {lag}")


@every_independent
@wide_and_narrow
def test_keys_are_independent(dtype: torch.dtype, name: str) -> None:
    """The same index under two keys, and its neighbours: keys that differ in one bit, in either half, or by one."""
    fill, n = INDEPENDENT[name], 200_000
    base = sample(fill, dtype, KEY, n)
    for other in (
        KEY + 1,
        KEY - 1,
        KEY ^ 1 << 31,
        KEY ^ 1 << 32,
        KEY ^ 1 << 63,
        KEY ^ (1 << 64) - 1,
        KEY + 0x9E3779B9,
    ):
        values = fill.new(n, dtype=dtype, key=other).double().numpy()
        for transform in ("value", "square"):
            x, y = TRANSFORMS[transform](base), TRANSFORMS[transform](values)
            for shift in (0, 1, 2):
                accept_uncorrelated(x[shift:], y[: n - shift], f"{transform}, key {other:#x}, shift {shift}")


def test_attempts_are_independent() -> None:
    """What was drawn at the first attempt says nothing of the value that a later one gave."""
    fill = Call("trunc_normal_", (0.0, 1.0, -0.1, inf))  # nearly every other normal value is rejected
    first, values = sample(NORMAL, torch.float32), sample(fill, torch.float32)
    kept = first >= np.float32(-0.1)
    assert np.array_equal(first[kept], values[kept])
    again = ~kept
    accept(
        stats.kstest(values[again], stats.truncnorm(-0.1, inf).cdf, method="asymp").pvalue,
        "the distribution of what was drawn again",
    )
    for transform in ("value", "square"):
        f = TRANSFORMS[transform]
        accept_uncorrelated(f(first[again]), f(values[again]), f"{transform} rejected and redrawn")
        accept_uncorrelated(
            f(values[again][1:]), f(values[again][:-1]), f"{transform} redrawn one after the other"
        )


# ---------------------------------------------------------------------------------------------------------------
# Truncated normal


def neighbours(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of x's dtype just below and just above each x."""
    if x.dtype == torch.float16:
        low, high = (
            torch.from_numpy(np.array(np.nextafter(x.numpy(), np.float16(to)))) for to in (-inf, inf)
        )
        return low, high
    return torch.nextafter(x, torch.full_like(x, -inf)), torch.nextafter(x, torch.full_like(x, inf))


def long_double(x: torch.Tensor) -> NDArray[np.longdouble]:
    return x.double().numpy().astype(np.longdouble)


def next_after(x: float, dtype: torch.dtype, steps: int = 1) -> float:
    t = torch.tensor(x, dtype=dtype)
    for _ in range(steps):
        t = neighbours(t)[1]
    return t.item()


# Which way a lower bound rounds, and an upper one.
INWARDS = (reference.round_up, reference.round_down)

# mean, std, a, b
Interval = tuple[float, float, float, float]
INTERVALS: dict[str, Callable[[torch.dtype], Interval]] = {
    "two sigma": lambda d: (0.0, 1.0, -2.0, 2.0),
    "two sigma, small": lambda d: (0.0, 0.02, -0.04, 0.04),
    "as most models have it": lambda d: (0.0, 0.02, -2.0, 2.0),
    "off centre": lambda d: (0.1, 0.7, -0.5, 2.3),
    "everything": lambda d: (0.0, 1.0, -inf, inf),
    "upper half": lambda d: (0.0, 1.0, 0.0, inf),
    "lower half": lambda d: (0.0, 1.0, -inf, 0.0),
    "half a sigma": lambda d: (0.0, 1.0, -0.5, 0.5),
    "narrow": lambda d: (0.0, 1.0, -0.1, 0.1),
    "narrow, aside": lambda d: (0.0, 1.0, 0.2, 0.21),
    "narrow, long tail": lambda d: (0.0, 1.0, -1e-3, 100.0),
    "beside the mean": lambda d: (0.5, 0.25, 0.625, 1.0),
    "one to two sigma": lambda d: (0.0, 1.0, 1.0, 2.0),
    "minus two to minus one": lambda d: (0.0, 1.0, -2.0, -1.0),
    "just outside": lambda d: (0.0, 1.0, 0.25, inf),
    "three to four sigma": lambda d: (0.0, 1.0, 3.0, 4.0),
    "minus four to minus three": lambda d: (0.0, 1.0, -4.0, -3.0),
    "narrow at six sigma": lambda d: (0.0, 1.0, 6.0, 6.125),
    "beyond eight sigma": lambda d: (0.0, 1.0, 8.0, inf),
    "below minus eight sigma": lambda d: (0.0, 1.0, -inf, -8.0),
    "thirty sigma": lambda d: (-30.0, 1.0, 0.0, inf),
    "thirty sigma, bounded": lambda d: (-30.0, 1.0, 0.0, 0.03125),
    "thirty sigma, the other side": lambda d: (30.0, 1.0, -inf, 0.0),
    "thirty sigma, coarse": lambda d: (0.0, 1.0, 30.0, 31.0),
    "ten thousand sigma": lambda d: (-1e4, 1.0, 0.0, inf),
    "ten thousand sigma, the other side": lambda d: (1e4, 1.0, -inf, 0.0),
    "ten thousand sigma, small": lambda d: (0.0, 1e-3, 10.0, inf),
    "1e18 sigma": lambda d: (0.0, 1e-18, 1.0, 2.0),
    "1e30 sigma": lambda d: (1e30, 1.0, 0.0, 1.0),
    # Narrow beside the distance to the mean, but not for the density, which falls by a fifth on its way.
    "1e10 sigma, narrow": lambda d: (-1e10, 1.0, 0.0, 2e-11),
    "1e10 sigma, narrow, the other side": lambda d: (1e10, 1.0, -2e-11, 0.0),
    "1e7 sigma, narrow": lambda d: (-1e7, 1.0, 0.0, 1e-7),
    "1e7 sigma, narrow, the other side": lambda d: (1e7, 1.0, -1e-7, 0.0),
    "a thousand sigma, narrow, the other side": lambda d: (1000.0, 1.0, -1e-3, 0.0),
    "tiny std": lambda d: (0.25, 1e-30, -1.0, 1.0),
    "tiny std, mean outside": lambda d: (5.0, 1e-30, -1.0, 1.0),
    "huge std": lambda d: (0.0, 1e30, -1.0, 1.0),
    "huge mean and std": lambda d: (1e30, 1e30, 0.0, 1.0),
    "1e-17 beside the mean": lambda d: (0.0, 1.0, 0.0, 2.0**-24 if d == torch.float16 else 1e-17),
    "1e-17 around the mean": lambda d: (
        (0.0, 1.0, -(2.0**-24), 2.0**-24) if d == torch.float16 else (0.0, 1.0, -1e-17, 1e-17)
    ),
    "adjacent": lambda d: (0.0, 1.0, 1.0, next_after(1.0, d)),
    "adjacent, negative": lambda d: (0.0, 1.0, -next_after(1.0, d), -1.0),
    "adjacent, huge std": lambda d: (0.0, 1e5, 1.0, next_after(1.0, d)),
    "adjacent, far out": lambda d: (0.0, 1.0, 30.0, next_after(30.0, d)),
    "adjacent at the mean": lambda d: (1.0, 1.0, 1.0, next_after(1.0, d)),
    "five values": lambda d: (0.0, 1.0, 1.0, next_after(1.0, d, 4)),
    "five values, huge std": lambda d: (-3.0, 1e6, 1.0, next_after(1.0, d, 4)),
    "a point": lambda d: (0.0, 1.0, 0.75, 0.75),
    "a point far out": lambda d: (0.0, 1.0, 1000.0, 1000.0),
}

every_interval = pytest.mark.parametrize("interval", INTERVALS)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)


@every_interval
@every_dtype
def test_truncated_distribution(dtype: torch.dtype, interval: str) -> None:
    """Within the bounds, distributed as it should be down to the dtype's single values, and none piled up on a bound.

    The expected share of each bin is that of all reals which are nearest to one of its numbers, so coarse dtypes are no
    exception; the numbers are those between the bounds.
    """
    parameters = INTERVALS[interval](dtype)
    n = 100_001
    values = Call("trunc_normal_", parameters).new(n, dtype=dtype)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    mean, std = (reference.nearest(x, arithmetic) for x in parameters[:2])
    a, b = (f(x, arithmetic) for f, x in zip(INWARDS, parameters[2:], strict=True))
    bounds = torch.tensor([f(x, dtype) for f, x in zip(INWARDS, parameters[2:], strict=True)], dtype=dtype)
    assert (values >= bounds[0]).all() and (values <= bounds[1]).all(), "outside"
    assert not values.isnan().any()
    if a == b:
        return
    truth = Truncated(mean, std, a, b)

    # Bins that begin at values of the dtype, spread over what was drawn.
    starts = torch.cat([values[torch.linspace(0, n - 1, 400).long()], bounds[bounds.isfinite()]]).unique()
    lower, _ = neighbours(starts)
    edges = (long_double(lower) + long_double(starts)) / 2  # all above rounds to the start or beyond
    edges[(starts == bounds[0]).numpy()] = a
    shares = np.diff(truth.cdf(edges), prepend=0.0, append=1.0)
    bins = np.searchsorted(starts.double().numpy(), values.double().numpy(), side="right")
    accept_counts(np.bincount(bins, minlength=starts.numel() + 1).astype(np.float64), shares, interval)

    # On the bounds themselves: as many as round there, be it none.
    lower, upper = neighbours(bounds)
    half_way = (long_double(bounds) + long_double(torch.stack([upper[0], lower[1]]))) / 2
    at = truth.cdf(half_way)
    for bound, share in zip(bounds, (at[0], 1 - at[1]), strict=True):
        if bound.isfinite():
            on_it = int((values == bound).sum())
            accept(
                stats.binom.sf(on_it - 1, n, min(max(share, 1e-9), 1.0)), f"{on_it} of {n} on {bound.item()}"
            )


@pytest.mark.parametrize("exponent", [-300, -100, -40, -30, -20, *range(-18, 0)])
@pytest.mark.parametrize("place", [0.0, -0.5, -1.0, 0.7, -3.0, 40.0])
@wide_and_narrow
def test_narrow_intervals_of_every_width(dtype: torch.dtype, place: float, exponent: int) -> None:
    """From where a bound times the width begins: nothing is lost as the width vanishes beside the standard deviation."""
    n, width = 10_001, 10.0**exponent
    tiny = torch.finfo(dtype).smallest_normal * 2.0**64
    if width < tiny:
        pytest.skip("subnormal")
    values = Call("trunc_normal_", (-place * width, 1.0, 0.0, width)).new(n, dtype=dtype).double()
    assert values.min() >= 0 and values.max() <= torch.tensor(width, dtype=dtype).double()
    exact = torch.tensor([-place * width, 1.0, 0.0, width], dtype=torch.float64)
    truth = Truncated(*exact.to(dtype).double().tolist())
    accept(stats.kstest(values.numpy(), truth.cdf, method="asymp").pvalue)


def test_intervals_of_every_magnitude() -> None:
    """Random parameters over the whole range of numbers: nothing leaves its interval, and nothing takes forever."""
    random = np.random.default_rng(5)

    def magnitude(limit: float) -> float:
        return 10.0 ** random.uniform(*((-limit, limit) if random.random() < 0.3 else (-6, 6)))

    for dtype, limit in ((torch.float32, 37), (torch.float64, 150), (torch.bfloat16, 37), (torch.float16, 4)):
        arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
        largest = torch.finfo(dtype).max
        for _ in range(400):
            mean, std = random.integers(-1, 2) * magnitude(limit), magnitude(limit)
            near = (0.0, mean, random.choice([-1, 1]) * magnitude(limit))[random.integers(3)]
            a = near + random.integers(-1, 2) * magnitude(limit)
            b = a + magnitude(limit)
            a, b = ((-inf, b), (a, inf), (a, b), (a, b), (a, b))[random.integers(5)]
            exact = torch.tensor([mean, std, a, b], dtype=torch.float64).to(arithmetic)
            if not exact[:2].isfinite().all() or a > largest or b < -largest:
                continue
            if reference.round_up(a, dtype) > reference.round_down(b, dtype):
                continue  # no number of the dtype lies between them
            values = Call("trunc_normal_", (mean, std, a, b)).new(40, dtype=dtype).double()
            assert a <= values.min() and values.max() <= b, (dtype, mean, std, a, b)


@pytest.mark.parametrize(
    "interval", ["two sigma", "off centre", "upper half", "narrow", "three to four sigma", "one to two sigma"]
)
@wide_and_narrow
def test_truncated_moments(dtype: torch.dtype, interval: str) -> None:
    """scipy's word for the mean and the variance; its distribution function for the rest."""
    mean, std, a, b = INTERVALS[interval](dtype)
    values = sample(Call("trunc_normal_", (mean, std, a, b)), dtype)
    truth = stats.truncnorm((a - mean) / std, (b - mean) / std, mean, std)
    centre, variance, _, excess = (float(x) for x in truth.stats("mvsk"))
    accept_mean(values, centre, variance, "mean")
    accept_mean((values - centre) ** 2, variance, (excess + 2) * variance**2, "variance")
    accept(stats.kstest(values[: N // 8], truth.cdf, method="asymp").pvalue, "Kolmogorov-Smirnov")


# ---------------------------------------------------------------------------------------------------------------
# Sparse

# rows, columns, zeros in each column: small and large numbers of rows, even, odd and powers of two
MATRICES = [
    (2, 200_000, 1),
    (3, 200_000, 1),
    (4, 200_000, 2),
    (7, 150_000, 3),
    (8, 150_000, 4),
    (11, 100_000, 5),
    (31, 50_000, 3),
    (63, 30_000, 31),
    (64, 30_000, 32),
    (255, 8_000, 25),
    (256, 8_000, 128),
    (257, 8_000, 128),
    (300, 8_000, 30),
    (511, 5_000, 460),
    (513, 5_000, 51),
    (1000, 3_000, 500),
    (4095, 1_000, 409),
    (4096, 1_000, 2048),
    (4097, 1_000, 2000),
    (10_000, 500, 1000),
]
every_matrix = pytest.mark.parametrize(("rows", "columns", "zeros"), MATRICES)


@functools.cache
def zeros_of(rows: int, columns: int, zeros: int, key: int = KEY) -> NDArray[np.bool_]:
    mask = (
        Call("sparse_", ((zeros - 0.5) / rows, 1.0), matrix=True).new(rows, columns, key=key) == 0
    ).numpy()
    assert (mask.sum(0) == zeros).all()
    return mask


@every_matrix
def test_every_row_is_equally_likely(rows: int, columns: int, zeros: int) -> None:
    share = zeros / rows
    counts = zeros_of(rows, columns, zeros).sum(1)
    # One column's zeros exclude each other, which takes a degree of freedom and leaves the variance below.
    chi2 = float(
        ((counts - columns * share) ** 2).sum() / (columns * share * (1 - share)) * (rows - 1) / rows
    )
    accept(float(stats.chi2.sf(chi2, rows - 1)), "rarely even")
    accept(float(stats.chi2.cdf(chi2, rows - 1)), "too even")


@every_matrix
def test_pairs_of_rows(rows: int, columns: int, zeros: int) -> None:
    """How often two rows at a given distance are both zero; also the nearest and the farthest."""
    if rows < 3:
        pytest.skip("one pair")
    mask = zeros_of(rows, columns, zeros)
    distances = {
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        16,
        31,
        32,
        64,
        100,
        128,
        256,
        512,
        1024,
        2048,
        rows // 2,
        rows // 3,
        rows - 1,
    }
    both = zeros * (zeros - 1) / (rows * (rows - 1))
    for distance in sorted(d for d in distances if 0 < d < rows):
        hits = (mask[:-distance] & mask[distance:]).sum(0).astype(np.float64)
        if hits.var() > 0:
            accept_mean(hits, both * (rows - distance), hits.var(), f"distance {distance}")


@every_matrix
def test_parts_of_a_column(rows: int, columns: int, zeros: int) -> None:
    """The number of zeros in a part of the rows has the hypergeometric distribution: halves, strides, random parts."""
    mask = zeros_of(rows, columns, zeros)
    row = np.arange(rows)
    random = np.random.default_rng(1)
    parts = {
        "first half": row < rows // 2,
        "even rows": row % 2 == 0,
        "every third": row % 3 == 0,
        "every fourth": row % 4 == 1,
        "every sixteenth": row % 16 == 3,
        "first few": row < 5,
        "last quarter": row >= rows - rows // 4,
        **{f"random {i}": random.random(rows) < 0.5 for i in range(5)},
    }
    for name, part in parts.items():
        if 0 < part.sum() < rows:
            law = stats.hypergeom(rows, zeros, int(part.sum()))
            counts = np.bincount(mask[part].sum(0), minlength=int(part.sum()) + 1)
            accept_counts(counts.astype(np.float64), law.pmf(np.arange(counts.size)), name)


@pytest.mark.parametrize(
    ("rows", "zeros"), [(2, 1), (3, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 3), (8, 4), (9, 2), (12, 3)]
)
def test_every_set_of_rows_is_equally_likely(rows: int, zeros: int) -> None:
    columns = 400_000
    mask = (
        Call("sparse_", ((zeros - 0.5) / rows, 1.0), matrix=True).new(rows, columns, key=KEY + 1) == 0
    ).numpy()
    sets, counts = np.unique((mask * (1 << np.arange(rows))[:, None]).sum(0), return_counts=True)
    assert sets.size == math.comb(rows, zeros)
    accept_counts(counts.astype(np.float64), np.full(sets.size, 1 / sets.size))


@every_matrix
def test_columns_are_independent(rows: int, columns: int, zeros: int) -> None:
    """Columns near each other, and the same column under another key, share as many zeros as chance has it."""
    mask = zeros_of(rows, columns, zeros)
    expected = zeros * zeros / rows
    variance = expected * (rows - zeros) / rows * (rows - zeros) / (rows - 1)
    for distance in (1, 2, 3, 4, 8, 16, 255, 256):
        shared = (mask[:, :-distance] & mask[:, distance:]).sum(0).astype(np.float64)
        accept_mean(shared, expected, variance, f"columns {distance} apart")
    for other in (KEY + 1, KEY ^ 1 << 32):
        shared = (mask & zeros_of(rows, columns, zeros, other)).sum(0).astype(np.float64)
        accept_mean(shared, expected, variance, f"key {other:#x}")


@pytest.mark.parametrize("rows", [37, 1000])
def test_zeros_do_not_depend_on_the_values(rows: int) -> None:
    columns, zeros = 1_000_000 // rows, rows // 3
    mask = zeros_of(rows, columns, zeros)
    values = NORMAL.new(rows, columns).double().numpy()
    for transform, f in TRANSFORMS.items():
        accept_uncorrelated(f(values).ravel(), mask.ravel().astype(np.float64), transform)


# ---------------------------------------------------------------------------------------------------------------


def test_these_samples_are_everybodys() -> None:
    """What was tested above is what every instruction set and number of threads gives (test_contract.py, test_threads.py)."""
    expected = sample(NORMAL, torch.float32)[:100_003]
    with capability(CAPABILITIES[0]), threads(3):
        assert np.array_equal(NORMAL.new(100_003).double().numpy(), expected)
