"""The values have the distributions they should, and their neighbours know nothing of each other: 10^9 values at a time.

test_distributions.py asks the same of millions of values, in seconds. What is here takes minutes, and sees what is a
hundred times smaller; `make test` only runs the checks that these tests can fail.

Every key is fixed, so that nothing here fails now and then. A p-value below goodness.ALARM fails its test; docs/statistics.md
says what that means for all of them together, and what came out.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special

from fills import Call
from goodness import (
    ALARM,
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

ROOT = Path(__file__).parents[2]
inf = math.inf
BILLION = 15 << 26  # 1.007e9
CHUNK = 1 << 26

UNIFORM, NORMAL = Call("uniform_", (0.0, 1.0)), Call("normal_", (0.0, 1.0))

wide_and_narrow = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def draw(fill: Call, dtype: torch.dtype, name: str, n: int = BILLION) -> Iterator[torch.Tensor]:
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


# The bits of a uniform value that are counted together: the lowest, and how many.
FIELDS = {torch.float32: [(0, 24)], torch.float64: [(0, 18), (18, 18), (35, 18)]}


def check_uniform(
    check: Check, dtype: torch.dtype, fields: list[tuple[int, int]], parts: Iterator[torch.Tensor]
) -> None:
    histogram, sums = Histogram(dtype, 0.0, 1.0), PowerSums()
    bits, integer = (24, torch.int32) if dtype == torch.float32 else (53, torch.int64)
    counts = [np.zeros(1 << width, np.int64) for _, width in fields]
    for values in parts:
        histogram.add(values)
        sums.add(values)
        words = values.mul_(2.0**bits).to(integer)
        for count, (shift, width) in zip(counts, fields, strict=True):
            field = (words >> shift) & ((1 << width) - 1)
            count += torch.bincount(field, minlength=count.size).numpy()
    for count, (shift, width) in zip(counts, fields, strict=True):
        check(f"bits {shift} to {shift + width - 1}", chi_squared(count, np.full(count.size, 1 / count.size)))
    check_histogram(check, histogram, grid_cdf if bits == 24 else lambda x: np.clip(x, 0, 1))
    check_moments(check, sums, UNIFORM_MOMENTS)


@pytest.mark.long
@wide_and_narrow
def test_uniform(check: Check, dtype: torch.dtype) -> None:
    """uniform_: each of the 2^24 values, or ranges of the 53 bits; KS, AD, moments"""
    check_uniform(check, dtype, FIELDS[dtype], draw(UNIFORM, dtype, f"uniform {name_of(dtype)}"))


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


# Beyond 5.8 sigma 36 values are expected on either side, so that it would be noticed if there were none.
TAILS = 160 << 26
SIGMAS = (4.0, 4.5, 5.0, 5.5, 5.8, 6.0)


@pytest.mark.long
def test_normal_tails(check: Check) -> None:
    """normal_ in float32, 10^10 values: how many lie beyond 4 to 6 sigma"""
    counts = dict.fromkeys([*SIGMAS, *(-sigma for sigma in SIGMAS)], 0)
    for values in draw(NORMAL, torch.float32, "tails", TAILS):
        tail = values[values.abs() >= min(SIGMAS)]
        for sigma in counts:
            counts[sigma] += int((tail >= sigma if sigma > 0 else tail <= sigma).sum())
    for sigma, count in counts.items():
        check(f"beyond {sigma}", binomial(count, TAILS, special.ndtr(-abs(sigma))))


# ---------------------------------------------------------------------------------------------------------------
# bfloat16 and float16

ROUNDED = {
    "uniform": UNIFORM,
    "uniform on [-1.25, 2.5)": Call("uniform_", (-1.25, 2.5)),
    "normal": NORMAL,
    "normal, mean 0.5": Call("normal_", (0.5, 2.0)),
    "normal, std 1e-6": Call("normal_", (0.0, 1e-6)),  # subnormal in float16
    "normal, std 20000": Call("normal_", (0.0, 20000.0)),  # overflows in float16
    "truncated": Call("trunc_normal_", (0.0, 1.0, -2.0, 2.0)),
    "truncated, narrow": Call("trunc_normal_", (0.0, 1.0, -0.5, 0.375)),
    "truncated, tail": Call("trunc_normal_", (0.0, 1.0, 3.0, inf)),
}


@pytest.mark.long
@pytest.mark.parametrize("name", ROUNDED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bits(check: Check, dtype: torch.dtype, name: str) -> None:
    """All 65536 patterns of bfloat16 and float16 against the exactly rounded distribution"""
    check_sixteen_bits(check, dtype, name, draw(ROUNDED[name], dtype, f"{name} {name_of(dtype)}"))


def check_sixteen_bits(check: Check, dtype: torch.dtype, name: str, parts: Iterator[torch.Tensor]) -> None:
    fill, histogram = ROUNDED[name], Histogram(dtype, -inf, inf)
    for values in parts:
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
    least = histogram.counts.sum() / 4096 if shifted else 20
    check("chi-squared", chi_squared(histogram.counts, shares, least))
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
    parts = draw(Call("trunc_normal_", interval), torch.float32, f"truncated {interval}", n)
    check_truncated(check, interval, torch.float32, parts)


@pytest.mark.long
@pytest.mark.parametrize("interval", INTERVALS[::5], ids=str)
def test_truncated_float64(check: Check, interval: tuple[float, ...]) -> None:
    """trunc_normal_ in float64 on 8 of them: the same"""
    parts = draw(Call("trunc_normal_", interval), torch.float64, f"truncated wide {interval}", 1 << 28)
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


PAIRED: dict[str, tuple[Call, float, float, Cdf]] = {
    "uniform": (UNIFORM, 0.0, 1.0, lambda x: np.clip(x, 0, 1)),
    "normal": (NORMAL, -8.0, 8.0, special.ndtr),
    "truncated": (Call("trunc_normal_", (0.0, 1.0, -2.0, 2.0)), -2.0, 2.0, Truncated(0, 1, -2, 2).cdf),
    "tail": (Call("trunc_normal_", (0.0, 1.0, 3.0, 5.0)), 3.0, 5.0, Truncated(0, 1, 3, 5).cdf),
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
    fill = Call("sparse_", (sparsity, 1.0), matrix=True)
    values = torch.empty(rows, (1 << 24) // rows // 2 * 2)
    key = first_key(f"sparse {rows} {sparsity}")
    masks = (fill(values, key + i) == 0 for i in range(8))
    check_sparse(check, Choices(rows, math.ceil(sparsity * rows)), masks)


# ---------------------------------------------------------------------------------------------------------------
# Would these tests notice? The same with fewer values and larger faults: what shows of a fault in n values shows of one
# that is a tenth of it in 100 n.

Parts = Iterator[torch.Tensor]
Fault = Callable[[torch.Tensor], torch.Tensor]
SMALL = 1 << 22


def alarms(checker: Callable[..., None], *args: object) -> set[str]:
    found = {}
    checker(found.__setitem__, *args)
    assert found
    return {what for what, p in found.items() if not p >= ALARM}


def faulty(fill: Call, dtype: torch.dtype, fault: Fault, n: int = SMALL) -> Parts:
    return (fault(values) for values in draw(fill, dtype, "faulty", n))


def none(values: torch.Tensor) -> torch.Tensor:
    return values


@pytest.mark.parametrize(
    ("dtype", "fault", "noticed"),
    [
        (torch.float32, none, None),
        (torch.float32, lambda x: (x * 2**23).floor() / 2**23, "bits 0 to 11"),
        (torch.float32, lambda x: x**1.01, "Kolmogorov-Smirnov"),
        (torch.float64, lambda x: (x * 2**52).floor() / 2**52, "bits 0 to 11"),
        (torch.float64, lambda x: x * (1 - 3e-3), "moment 1"),
    ],
)
def test_a_faulty_uniform_is_noticed(dtype: torch.dtype, fault: Fault, noticed: str | None) -> None:
    found = alarms(check_uniform, dtype, [(0, 12)], faulty(UNIFORM, dtype, fault))
    assert noticed in found if noticed else not found, found


def cut(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values.abs() > 4.0, values.fmod(4.0), values)


@pytest.mark.parametrize(
    ("fault", "noticed"),
    [
        (none, None),
        (lambda x: x * 1.003, "moment 2"),  # 1.0002 in 10^9
        (lambda x: x + 4e-3, "moment 1"),
        (lambda x: x + 0.01 * (x**2 - 1), "Anderson-Darling"),
        (lambda x: torch.where(x.abs() < 1e-3, 0.0, x), "chi-squared"),
        (cut, "beyond -4.0"),
    ],
)
def test_a_faulty_normal_is_noticed(fault: Fault, noticed: str | None) -> None:
    found = alarms(check_normal, torch.float32, faulty(NORMAL, torch.float32, fault))
    assert noticed in found if noticed else not found, found


def test_a_tail_that_ends_early_would_be_noticed() -> None:
    """As torch's own does on the CPU, at 5.8 sigma."""
    assert binomial(0, TAILS, special.ndtr(-5.8)) < ALARM
    assert binomial(36, TAILS, special.ndtr(-5.8)) > 0.1


@pytest.mark.parametrize(
    ("dtype", "name"), [(torch.bfloat16, "normal"), (torch.float16, "truncated, tail")], ids=str
)
def test_wrong_rounding_is_noticed(dtype: torch.dtype, name: str) -> None:
    """Towards zero instead of to nearest: what is left of float32's bits is cut off."""
    dropped = 16 if dtype == torch.bfloat16 else 13

    def towards_zero(values: torch.Tensor) -> torch.Tensor:
        return (values.view(torch.int32) >> dropped << dropped).view(torch.float32).to(dtype)

    for fault, noticed in ((lambda values: values.to(dtype), False), (towards_zero, True)):
        found = alarms(check_sixteen_bits, dtype, name, faulty(ROUNDED[name], torch.float32, fault))
        assert ("chi-squared" in found) == noticed, (found, noticed)


@pytest.mark.parametrize(
    ("interval", "drawn"),
    [
        ((0.0, 1.0, -2.0, 2.0), (0.01, 1.0, -2.0, 2.0)),
        ((0.0, 1.0, 3.0, inf), (0.0, 1.0, 3.002, inf)),
        ((0.0, 1.0, 20.0, 21.0), (0.1, 1.0, 20.0, 21.0)),
    ],
    ids=str,
)
def test_a_faulty_truncation_is_noticed(interval: tuple[float, ...], drawn: tuple[float, ...]) -> None:
    for parameters in (interval, drawn):
        parts = faulty(Call("trunc_normal_", parameters), torch.float32, none)
        found = alarms(check_truncated, interval, torch.float32, parts)
        assert bool(found) == (parameters == drawn), (found, parameters)


@pytest.mark.parametrize("where", ["nowhere", "in a row", "in a column", "under keys"])
def test_dependent_neighbours_are_noticed(where: str) -> None:
    """Correlated by a twentieth: a five hundredth in 10^9."""
    _, low, high, cdf = PAIRED["normal"]

    def matrices() -> Parts:
        previous = None
        for i in range(4):
            values = NORMAL(torch.empty(1 << 11, 1 << 11), first_key("dependent") + i)
            if where == "in a row":
                values[:, 1::2] += 0.05 * values[:, 0::2]
            if where == "in a column":
                values[1::2] += 0.05 * values[0::2]
            if where == "under keys" and previous is not None:
                values += 0.05 * previous
            previous = values.clone()
            yield values / values.std()

    tables = pair_tables(Classes(torch.float32, low, high, cdf), matrices())
    found = {what for what, table in tables.items() if not table.p_value() >= ALARM}
    assert any(what.startswith(where) for what in found) == (where != "nowhere"), found


@pytest.mark.parametrize(
    ("fault", "noticed"),
    [("none", None), ("first rows", "rows"), ("runs", "two rows"), ("runs", "rows r and r + d"),
     ("columns", "shared by columns 2 c and 2 c + 1"), ("keys", "shared by keys 2 k and 2 k + 1")],
)  # fmt: skip
def test_unfair_zeros_are_noticed(fault: str, noticed: str | None) -> None:
    """One column in fifty is not as it should be."""
    rows, columns, zeros = 100, 1 << 16, 50
    sparse = Call("sparse_", (zeros / rows, 1.0), matrix=True)

    def masks() -> Parts:
        for i in range(2):
            mask = (
                sparse(torch.empty(rows, columns), first_key("unfair") + (0 if fault == "keys" else i)) == 0
            )
            first = (torch.arange(rows) < zeros)[:, None]
            if fault == "first rows":
                mask[:, ::50] = first
            if fault == "runs":
                starts = torch.arange(columns)[::50] % rows
                mask[:, ::50] = (torch.arange(rows)[:, None] + starts) % rows < zeros
            if fault == "columns":
                mask[:, 1::50] = mask[:, 0:-1:50]
            yield mask

    found = alarms(check_sparse, Choices(rows, zeros), masks())
    assert noticed in found if noticed else not found, found
