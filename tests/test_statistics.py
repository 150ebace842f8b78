"""The values have the distributions they should, and their neighbours know nothing of each other: 10^9 values at a time.

test_distributions.py asks the same of millions of values, in seconds. What is here takes minutes, and sees what is a
hundred times smaller; `make test` only runs the checks that these tests can fail.

Every key is fixed, so that nothing here fails now and then. A p-value below goodness.ALARM fails its test; docs/statistics.md
says what that means for all of them together, and what came out.
"""

import math
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy import special

from fills import Fill
from goodness import (
    NORMAL_MOMENTS,
    UNIFORM_MOMENTS,
    Array,
    Cdf,
    Check,
    Choices,
    Histogram,
    PowerSums,
    Truncated,
    anderson_darling,
    binomial,
    chi_squared,
    kolmogorov_smirnov,
)

inf = math.inf
BILLION = 15 << 26  # 1.007e9
CHUNK = 1 << 26

UNIFORM, NORMAL = Fill("uniform_", (0.0, 1.0)), Fill("normal_", (0.0, 1.0))

wide_and_narrow = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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
    for sigma in (4.0, 5.0, 6.0, -4.0, -5.0, -6.0):
        count, border = histogram.beyond(sigma)
        check(f"beyond {sigma}", binomial(count, sums.n, special.ndtr(-abs(border))))


@pytest.mark.long
@wide_and_narrow
def test_normal(check: Check, dtype: torch.dtype) -> None:
    """normal_: chi-squared, KS, AD, moments; tails beyond 4, 5 and 6 sigma"""
    check_normal(check, dtype, draw(NORMAL, dtype, f"normal {name_of(dtype)}"))


# ---------------------------------------------------------------------------------------------------------------
# bfloat16 and float16

ROUNDED = {
    "uniform": UNIFORM,
    "uniform on [-1.25, 2.5)": Fill("uniform_", (-1.25, 2.5)),
    "normal": NORMAL,
    "normal, mean 0.5": Fill("normal_", (0.5, 2.0)),
    "normal, std 1e-6": Fill("normal_", (0.0, 1e-6)),  # subnormal in float16
    "normal, std 20000": Fill("normal_", (0.0, 20000.0)),  # overflows in float16
    "truncated": Fill("trunc_normal_", (0.0, 1.0, -2.0, 2.0)),
    "truncated, narrow": Fill("trunc_normal_", (0.0, 1.0, -0.5, 0.375)),
    "truncated, tail": Fill("trunc_normal_", (0.0, 1.0, 3.0, inf)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits(check: Check, dtype: torch.dtype, name: str) -> None:
    """All 65536 patterns of bfloat16 and float16 against the exactly rounded distribution"""
    fill = ROUNDED[name]
    histogram = Histogram(dtype, -inf, inf)
    for values in draw(fill, dtype, f"{name} {name_of(dtype)}"):
        histogram.add(values)
    if fill.op == "uniform_":
        shares = rounded_uniform(histogram, *fill.parameters)
    elif fill.op == "normal_":
        mean, std = float32(*fill.parameters)
        shares = histogram.shares(lambda x: special.ndtr((x - mean) / std))
    else:
        shares = histogram.shares(Truncated(*float32(*fill.parameters)).cdf)
    # Where the values near 0 are differences of larger ones, they have the grid of those: coarser than the dtype's own.
    shifted = fill.op != "uniform_" and (fill.parameters[0] != 0 or "narrow" in name)
    check("chi-squared", chi_squared(histogram.counts, shares, BILLION / 4096 if shifted else 20))
    check("Kolmogorov-Smirnov", kolmogorov_smirnov(histogram.counts, shares))


def rounded_uniform(like: Histogram, a: float, b: float) -> Array:
    """By taking all 2^24 values of the grid: to float32, to the dtype, and down by one where that is b."""
    histogram = Histogram(like.dtype, -inf, inf)
    grid = torch.arange(1 << 24, dtype=torch.float64) / 2**24
    values = (a + grid * (b - a)).float().to(like.dtype)
    top = histogram.bins_of(torch.tensor([b], dtype=like.dtype)) - 1
    bins = histogram.bins_of(values).clamp_(max=int(top))
    return torch.bincount(bins, minlength=histogram.counts.size).double().numpy() / 2**24


def float32(*parameters: float) -> list[float]:
    """The parameters as the arithmetic has them."""
    return torch.tensor(parameters, dtype=torch.float32).tolist()


# ---------------------------------------------------------------------------------------------------------------
# Truncated normal

# mean, std, a, b
INTERVALS = [
    # The mean inside: wide, narrow, of one side, asymmetric
    (0.0, 1.0, -2.0, 2.0),
    (0.0, 1.0, -3.0, 3.0),
    (0.0, 1.0, -1.0, 1.0),
    (0.0, 1.0, -0.5, 0.5),
    (0.0, 1.0, -0.1, 0.1),
    (0.0, 1.0, -1e-3, 1e-3),
    (0.0, 1.0, -6.0, 6.0),
    (0.0, 1.0, -inf, inf),
    (0.0, 1.0, 0.0, inf),
    (0.0, 1.0, -inf, 0.0),
    (0.0, 1.0, -1.0, inf),
    (0.0, 1.0, -inf, 2.5),
    (0.0, 1.0, -0.25, 4.0),
    (0.0, 1.0, -1e-3, 100.0),
    (0.0, 0.02, -0.04, 0.04),
    (0.0, 0.02, -2.0, 2.0),
    (0.1, 0.7, -0.5, 2.3),
    (-3.0, 1.5, -5.0, 0.25),
    (100.0, 10.0, 80.0, 105.0),
    # Beside the mean
    (0.0, 1.0, 0.2, 0.21),
    (0.0, 1.0, 0.1, 1.0),
    (0.0, 1.0, 0.5, inf),
    (0.0, 1.0, 1.0, 2.0),
    (0.0, 1.0, -2.0, -1.0),
    (0.0, 1.0, 1.5, inf),
    (0.5, 0.25, 0.625, 1.0),
    (-1.0, 3.0, 0.0, 1.0),
    (2.0, 0.5, -inf, 1.0),
    # Tails
    (0.0, 1.0, 2.5, 6.0),
    (0.0, 1.0, 3.0, 3.25),
    (0.0, 1.0, 3.0, inf),
    (0.0, 1.0, -inf, -5.0),
    (0.0, 1.0, -4.0, -3.0),
    (0.0, 1.0, 6.0, 6.125),
    (0.0, 1.0, 8.0, inf),
    (0.0, 1.0, 20.0, 21.0),
    (0.0, 1.0, -31.0, -30.0),
    (-30.0, 1.0, 0.0, inf),
    (10.0, 1e-3, -inf, 0.0),
    (-1e4, 1.0, 0.0, inf),
]
assert len(set(INTERVALS)) == 40
AT_A_BILLION = [(0.0, 1.0, -2.0, 2.0), (0.0, 1.0, -0.5, 0.5), (0.0, 1.0, 1.0, 2.0), (0.0, 1.0, 3.0, inf)]


def check_truncated(
    check: Check, interval: tuple[float, ...], dtype: torch.dtype, parts: Iterator[torch.Tensor]
) -> None:
    truth = Truncated(*(float32(*interval) if dtype == torch.float32 else interval))
    centre, scale, moments = truth.centre_scale_moments()
    histogram, sums = Histogram(dtype, *truth.far()), PowerSums(centre, scale)
    for values in parts:
        histogram.add(values)
        sums.add(values)
    # The grid of 24 bits that the uniform proposal has would show in narrower bins than these.
    shares = histogram.shares(truth.cdf)
    check("chi-squared", chi_squared(histogram.counts, shares, sums.n / 4096))
    check("Kolmogorov-Smirnov", kolmogorov_smirnov(histogram.counts, shares))
    check("Anderson-Darling", anderson_darling(histogram.counts, shares))
    check_moments(check, sums, moments)


@pytest.mark.long
@pytest.mark.parametrize("interval", INTERVALS, ids=str)
def test_truncated(check: Check, interval: tuple[float, ...]) -> None:
    """trunc_normal_ on 40 intervals: chi-squared, KS, AD, moments"""
    n = BILLION if interval in AT_A_BILLION else 1 << 28
    parts = draw(Fill("trunc_normal_", interval), torch.float32, f"truncated {interval}", n)
    check_truncated(check, interval, torch.float32, parts)


@pytest.mark.long
@pytest.mark.parametrize("interval", INTERVALS[::5], ids=str)
def test_truncated_float64(check: Check, interval: tuple[float, ...]) -> None:
    """trunc_normal_ in float64 on 8 of them: the same"""
    parts = draw(Fill("trunc_normal_", interval), torch.float64, f"truncated wide {interval}", 1 << 28)
    check_truncated(check, interval, torch.float64, parts)


# ---------------------------------------------------------------------------------------------------------------
# Pairs

CLASSES = 64


class Classes:
    """Cuts a distribution into 64 classes of about the same, exactly known probability."""

    def __init__(self, dtype: torch.dtype, low: float, high: float, cdf: Cdf) -> None:
        self.histogram = Histogram(dtype, low, high, 1 << 16)
        shares = self.histogram.shares(cdf)
        of_bin = np.clip((np.cumsum(shares) - shares / 2) * CLASSES, 0, CLASSES - 1).astype(np.int16)
        self.shares = np.bincount(of_bin, shares, CLASSES)
        self.of_bin = torch.from_numpy(of_bin)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return torch.take(self.of_bin, self.histogram.bins_of(values).long())


class Pairs:
    """Counts of pairs of classes. No value may be in two pairs of one table, or the counts are not independent."""

    def __init__(self, classes: Classes) -> None:
        self.shares = np.outer(classes.shares, classes.shares).ravel()
        self.counts = np.zeros(CLASSES**2, np.int64)

    def add(self, first: torch.Tensor, second: torch.Tensor) -> None:
        pairs = first[: second.shape[0]] * CLASSES + second
        self.counts += torch.bincount(pairs.flatten(), minlength=CLASSES**2).numpy()

    def p_value(self) -> float:
        return chi_squared(self.counts, self.shares)


PAIRED: dict[str, tuple[Fill, float, float, Cdf]] = {
    "uniform": (UNIFORM, 0.0, 1.0, lambda x: np.clip(x, 0, 1)),
    "normal": (NORMAL, -8.0, 8.0, special.ndtr),
    "truncated": (Fill("trunc_normal_", (0.0, 1.0, -2.0, 2.0)), -2.0, 2.0, Truncated(0, 1, -2, 2).cdf),
    "tail": (Fill("trunc_normal_", (0.0, 1.0, 3.0, 5.0)), 3.0, 5.0, Truncated(0, 1, 3, 5).cdf),
}


def pair_tables(classes: Classes, matrices: Iterator[torch.Tensor]) -> dict[str, Pairs]:
    """Of matrices under consecutive keys. Neighbours in a row are told apart by their place in a block of the stream: the
    first and the third pair are a radius and an angle of Box and Muller's."""
    tables = {f"in a row, from element 4 i + {k}": Pairs(classes) for k in range(4)}
    tables |= {f"in a column, from {parity} rows": Pairs(classes) for parity in ("even", "odd")}
    tables |= {f"under keys k and k + 1, from {parity} keys": Pairs(classes) for parity in ("even", "odd")}
    rows_of, columns_of, keys_of = (
        list(tables.values())[:4],
        list(tables.values())[4:6],
        list(tables.values())[6:],
    )
    previous = None
    for i, values in enumerate(matrices):
        cells = classes(values)
        for k, table in enumerate(rows_of):
            table.add(cells.flatten()[k::4], cells.flatten()[k + 1 :: 4])
        for k, table in enumerate(columns_of):
            table.add(cells[k::2], cells[k + 1 :: 2])
        if previous is not None:
            keys_of[(i + 1) % 2].add(previous, cells)
        previous = cells
    return tables


@pytest.mark.long
@pytest.mark.parametrize("columns", [4096, 4097])
@pytest.mark.parametrize("name", PAIRED)
def test_pairs(check: Check, name: str, columns: int) -> None:
    """Neighbours in a row, in a column and under consecutive keys: chi-squared of 64 x 64 classes"""
    fill, low, high, cdf = PAIRED[name]
    values = torch.empty(CHUNK // 4096, columns)
    key = first_key(f"pairs {name} {columns}")
    matrices = (fill(values, key + i) for i in range(BILLION // CHUNK))
    for what, table in pair_tables(Classes(torch.float32, low, high, cdf), matrices).items():
        check(what, table.p_value())


@pytest.mark.long
def test_pairs_float64(check: Check) -> None:
    """The same of normal values in float64, 2.7e8 of them"""
    _, low, high, cdf = PAIRED["normal"]
    values = torch.empty(CHUNK // 8192, 4096, dtype=torch.float64)
    matrices = (NORMAL(values, first_key("pairs wide") + i) for i in range(8))
    for what, table in pair_tables(Classes(torch.float64, low, high, cdf), matrices).items():
        check(what, table.p_value())


# ---------------------------------------------------------------------------------------------------------------
# Sparse

# Up to 256 rows are selected one by one; above, a permutation of 8 rounds decides, of 6 rounds from 4096 rows on.
ROWS = [37, 255, 256, 257, 1000, 2048, 4095, 4096, 5000]


def check_sparse(check: Check, choices: Choices, masks: Iterator[torch.Tensor]) -> None:
    """Of matrices with an even number of columns, under consecutive keys, that say where the zeros are."""
    rows = choices.rows
    pairs = torch.zeros(rows, rows, dtype=torch.float64)
    kinds = ("columns 2 c and 2 c + 1", "columns 2 c + 1 and 2 c + 2", "keys 2 k and 2 k + 1")
    both = {kind: torch.zeros(rows, dtype=torch.int64) for kind in kinds}
    shared: dict[str, list[torch.Tensor]] = {kind: [] for kind in kinds}
    columns = 0
    previous = None
    for i, mask in enumerate(masks):
        assert (mask.sum(0) == choices.zeros).all()
        columns += mask.shape[1]
        chosen = mask.float()
        pairs += chosen @ chosen.T  # whole numbers below 2^24: exact
        two = [(mask[:, 0::2], mask[:, 1::2]), (mask[:, 1:-1:2], mask[:, 2::2])]
        if i % 2:
            two.append((previous, mask))
        for kind, (a, b) in zip(kinds, two, strict=False):
            hits = a & b
            both[kind] += hits.sum(1)
            shared[kind].append(hits.sum(0))
        previous = mask
    counts = pairs.numpy()
    check("rows", choices.rows_p(counts.diagonal(), columns))
    for kind in kinds:
        n = torch.cat(shared[kind])
        check(f"rows in {kind}", choices.rows_of_two_columns_p(both[kind].double().numpy(), n.numel()))
        check(f"shared by {kind}", choices.shared_p(n.numpy()))
    check("two rows", choices.all_pairs_p(counts, columns))
    for kind, p in choices.classes_of_pairs_p(counts, columns).items():
        check(f"rows r and {kind}", p)


@pytest.mark.long
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("rows", ROWS)
def test_sparse(check: Check, rows: int, sparsity: float) -> None:
    """sparse_: single rows, all pairs of rows, pairs of columns, pairs of keys"""
    fill = Fill("sparse_", (sparsity, 1.0), matrix=True)
    values = torch.empty(rows, (1 << 24) // rows // 2 * 2)
    key = first_key(f"sparse {rows} {sparsity}")
    masks = (fill(values, key + i) == 0 for i in range(8))
    check_sparse(check, Choices(rows, math.ceil(sparsity * rows)), masks)
