"""Tests of goodness of fit for very many values: histograms whose bins have exactly known borders, and p-values.

A fill draws reals and rounds them to its dtype, so that a floating point number stands for all reals that round to it.
The bins here are ranges of neighbouring floating point numbers, and their borders the reals at which rounding changes
from one bin to the next: the expected counts of a distribution are differences of its distribution function there, with
nothing to allow for.

Every function that ends in a p-value returns one that is uniformly distributed, or nearly so, for a right implementation.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import integrate, special, stats

Array = NDArray[np.float64]
Cdf = Callable[[Array], Array]
Check = Callable[[str, float], None]  # takes a p-value and what it is of; a fixture in conftest.py

# A p-value below this fails its test.
ALARM = 1e-8

INTEGER = {2: torch.int16, 4: torch.int32}


def ordered(values: torch.Tensor) -> torch.Tensor:
    """The bits of floating point numbers as integers that rise with them: -0 is -1, and +0 is 0."""
    bits = values.view(INTEGER[values.element_size()])
    order = bits >> (8 * values.element_size() - 1)  # -1 for negative numbers
    order &= torch.iinfo(bits.dtype).max
    order ^= bits
    return order


def borders(order: NDArray[np.int64], dtype: torch.dtype) -> Array:
    """The reals from which on rounding gives the numbers of this order or greater ones."""
    integer = INTEGER[dtype.itemsize]

    def value(order: NDArray[np.int64]) -> Array:
        bits = torch.from_numpy(order).to(integer)
        bits ^= bits >> (8 * dtype.itemsize - 1) & torch.iinfo(integer).max
        x = bits.view(dtype).double()
        # What overflows is rounded as if there were one more exponent.
        return torch.where(x.isinf(), x.sign() * (2.0**16 if dtype == torch.float16 else 2.0**128), x).numpy()

    middle = (value(order - 1) + value(order)) / 2
    if dtype.itemsize == 2:
        # The fills round to float32 first. What that takes to the middle goes to the number whose last bit is 0.
        even = np.where(order >= 0, order, -1 - order) % 2 == 0
        middle += np.where(even, -0.5, 0.5) * np.spacing(np.abs(middle).astype(np.float32)).astype(np.float64)
    return middle


class Histogram:
    """Counts in ranges of equally many neighbouring floating point numbers, from `low` to `high` and what lies beyond.

    float64 values are rounded to float32 first, which the borders take into account.
    """

    def __init__(self, dtype: torch.dtype, low: float, high: float, bins: int = 1 << 20) -> None:
        self.dtype = torch.float32 if dtype == torch.float64 else dtype
        first, last = ordered(torch.tensor([low, high], dtype=self.dtype)).tolist()
        self.shift = max((last - first) // bins, 0).bit_length()
        self.first, self.last = first >> self.shift, last >> self.shift
        starts = np.arange(self.first + 1, self.last + 1, dtype=np.int64) << self.shift
        self.borders = borders(starts, self.dtype)
        self.counts = np.zeros(self.borders.size + 1, np.int64)

    def bins_of(self, values: torch.Tensor) -> torch.Tensor:
        bins = ordered(values.to(self.dtype))
        bins >>= self.shift
        bins.clamp_(self.first, self.last)
        if bins.dtype == torch.int16:
            bins = bins.int()
        bins -= self.first
        return bins

    def add(self, values: torch.Tensor) -> None:
        self.counts += torch.bincount(self.bins_of(values).flatten(), minlength=self.counts.size).numpy()

    def shares(self, cdf: Cdf) -> Array:
        """The probability of each bin."""
        return np.diff(cdf(self.borders), prepend=0.0, append=1.0)

    def beyond(self, x: float) -> tuple[int, float]:
        """How many values are as far from 0 as x or farther, on its side, and from which real on they round to those. x is
        the first of a bin, on that side."""
        order = int(ordered(torch.tensor([x], dtype=self.dtype)))
        place = (order >> self.shift) - self.first
        if x < 0:
            assert (order + 1) % (1 << self.shift) == 0
            return int(self.counts[: place + 1].sum()), float(self.borders[place])
        assert order % (1 << self.shift) == 0
        return int(self.counts[place:].sum()), float(self.borders[place - 1])


# ---------------------------------------------------------------------------------------------------------------
# P-values


def two_sided(below: float, above: float) -> float:
    return min(1.0, 2 * min(float(below), float(above)))


def chi_squared(counts: NDArray[np.int64], shares: Array, least: float = 20) -> float:
    """Pearson's test, two-sided: too even is as bad as too uneven. Neighbours are merged until a bin expects `least`."""
    expected = shares * counts.sum()
    if expected.min() < least:
        starts, total = [0], 0.0
        for i, e in enumerate(expected[:-1].tolist()):
            total += e
            if total >= least:
                starts.append(i + 1)
                total = 0.0
        if len(starts) > 1 and total + expected[-1] < least:
            starts.pop()
        counts, expected = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    return chi_squared_of(chi2, counts.size - 1)


def chi_squared_of(chi2: float, freedom: int) -> float:
    return two_sided(stats.chi2.cdf(chi2, freedom), stats.chi2.sf(chi2, freedom))


def normal(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


def binomial(count: int, n: int, share: float) -> float:
    """Exact, two-sided."""
    return two_sided(stats.binom.cdf(count, n, share), stats.binom.sf(count - 1, n, share))


def kolmogorov_smirnov(counts: NDArray[np.int64], shares: Array) -> float:
    """The largest distance between the distribution functions at the bins' borders. Between them it may be larger, never
    smaller: alarms are no more frequent than the level says. There is no value in a distance that is too small."""
    n = int(counts.sum())
    distance = np.abs(np.cumsum(counts) / n - np.cumsum(shares)).max()
    return float(stats.kstwobign.sf(distance * math.sqrt(n)))


def anderson_darling(counts: NDArray[np.int64], shares: Array) -> float:
    """T. Anderson, D. Darling: "A test of goodness of fit", J. Amer. Statist. Assoc. 49 (1954).

    The integral of n (F_n - F)^2 / (F (1 - F)) over F, by trapezoids between the bins' borders. Its expectation is 1 whatever
    the bins are, and its distribution the known one as they become narrow.
    """
    n = int(counts.sum())
    f = np.cumsum(shares)[:-1]
    found = np.cumsum(counts)[:-1] / n
    inside = (f > 0) & (f < 1)
    f, found = f[inside], found[inside]
    steps = np.diff(f, prepend=0.0, append=1.0)
    weights = (steps[:-1] + steps[1:]) / 2
    weights[0] += steps[0] / 2
    weights[-1] += steps[-1] / 2
    return anderson_darling_sf(float(n * (weights * (found - f) ** 2 / (f * (1 - f))).sum()))


def anderson_darling_sf(z: float) -> float:
    """The limiting distribution, as that paper has it. Beyond z = 12 the first term of the sum of chi-squared variables that
    the statistic is, Z_j^2 / (j (j + 1)), decides; the others scale its tail by a constant."""
    if z > 12:
        scale = math.sqrt(np.prod([1 / (1 - 2 / (j * (j + 1))) for j in range(2, 10_000)]))
        return float(scale * stats.chi2.sf(2 * z, 1))

    def term(j: int) -> float:
        exponent = (4 * j + 1) ** 2 * math.pi**2 / (8 * z)
        integral = integrate.quad(
            lambda w: math.exp(z / (8 * (w * w + 1)) - exponent * w * w), 0, math.inf, epsabs=0, epsrel=1e-12
        )[0]
        return float(special.binom(-0.5, j)) * (4 * j + 1) * math.exp(-exponent) * integral

    return max(0.0, 1 - math.sqrt(2 * math.pi) / z * math.fsum(term(j) for j in range(12)))


# ---------------------------------------------------------------------------------------------------------------
# Sets of a fixed size: `zeros` of `rows` rows are chosen in each of many columns, every set equally likely


class Choices:
    """What becomes of counts over many independent columns, each a set of `zeros` of `rows` rows.

    q[k] is the probability that k given rows are all chosen. Rows of one column exclude each other, so that counts of rows are
    correlated, all of them alike. Sums of squares of such counts are chi-squared variables times the eigenvalues of the
    covariance matrix, which for pairs are those of the Johnson scheme (P. Delsarte, 1973).
    """

    def __init__(self, rows: int, zeros: int) -> None:
        self.rows, self.zeros = rows, zeros
        self.q = np.cumprod([1.0, *((zeros - i) / (rows - i) for i in range(4))])

    def rows_p(self, counts: Array, columns: int) -> float:
        """How often each row was chosen."""
        return self._contrasts(counts, columns * (self.q[1] - self.q[2]))

    def rows_of_two_columns_p(self, counts: Array, columns: int) -> float:
        """How often each row was chosen in both of two columns."""
        return self._contrasts(counts, columns * (self.q[1] ** 2 - self.q[2] ** 2))

    def _contrasts(self, counts: Array, variance: float) -> float:
        return chi_squared_of(float(((counts - counts.mean()) ** 2).sum()) / variance, self.rows - 1)

    def shared_p(self, shared: NDArray[np.int64]) -> float:
        """How many rows two columns shared, in each pair of columns."""
        law = stats.hypergeom(self.rows, self.zeros, self.zeros)
        return chi_squared(np.bincount(shared, minlength=self.zeros + 1), law.pmf(np.arange(self.zeros + 1)))

    def all_pairs_p(self, pairs: Array, columns: int) -> float:
        """How often each two rows were both chosen, beyond what their own counts say: a symmetric matrix."""
        excess = pairs - columns * self.q[2]
        np.fill_diagonal(excess, 0)
        rows = self.rows
        squares = (excess**2).sum() / 2 - (excess.sum(0) ** 2).sum() / (rows - 2)
        variance = columns * (self.q[2] - 2 * self.q[3] + self.q[4])
        return chi_squared_of(float(squares) / variance, rows * (rows - 3) // 2)

    def classes_of_pairs_p(self, pairs: Array, columns: int) -> dict[str, float]:
        """How often rows r and r + d were both chosen, summed over r, and rows r and r xor d: the smallest p-value of all d,
        times their number. Left out are the d with too few pairs for a normal approximation."""
        rows, row, (_, _, q2, q3, q4) = self.rows, np.arange(self.rows), self.q
        found: dict[str, list[float]] = {"r + d": [], "r xor d": []}
        for d in range(1, rows):
            for kind, other in (("r + d", row + d), ("r xor d", row ^ d)):
                first = row[(row < other) & (other < rows)]
                m = first.size
                if columns * m * min(q2, 1 - q2) < 10_000:
                    continue
                chained = (
                    max(rows - 2 * d, 0) if kind == "r + d" else 0
                )  # pairs (r, r + d) and (r + d, r + 2 d)
                variance = m * q2 + 2 * chained * q3 + (m * (m - 1) - 2 * chained) * q4 - (m * q2) ** 2
                if variance > 1e-9 * (m * q2) ** 2:
                    z = (pairs[first, other[first]].sum() - columns * m * q2) / math.sqrt(columns * variance)
                    found[kind].append(normal(z))
        return {kind: min(1.0, min(p) * len(p)) for kind, p in found.items() if p}


# ---------------------------------------------------------------------------------------------------------------
# Moments


class PowerSums:
    """Sums of the first six powers of (x - centre) / scale, in float64."""

    def __init__(self, centre: float = 0.0, scale: float = 1.0) -> None:
        self.centre, self.scale = centre, scale
        self.n, self.sums = 0, np.zeros(6)

    def add(self, values: torch.Tensor) -> None:
        flat = values.flatten()
        self.n += flat.numel()
        for block in flat.numpy().reshape(-1, 1 << 13):  # fits into the first cache
            x = (block.astype(np.float64) - self.centre) / self.scale
            x2 = x * x
            x3 = x * x2
            self.sums += x.sum(), x2.sum(), x3.sum(), x2 @ x2, x2 @ x3, x3 @ x3

    def p_values(self, moments: Iterable[float]) -> list[float]:
        """Of the first six, given the first twelve of the distribution; the statistics' variances follow from those."""
        m = [1.0, *moments]
        z = [
            (self.sums[k - 1] / self.n - m[k]) / math.sqrt((m[2 * k] - m[k] ** 2) / self.n)
            for k in range(1, 7)
        ]
        return [normal(x) for x in z]


UNIFORM_MOMENTS = [1 / (k + 1) for k in range(1, 13)]
NORMAL_MOMENTS = [0.0 if k % 2 else float(special.factorial2(k - 1)) for k in range(1, 13)]


# ---------------------------------------------------------------------------------------------------------------
# The truncated normal distribution


class Truncated:
    """The distribution function of the normal distribution on [a, b], to full relative precision wherever [a, b] lies.

    With w = (x - a) / std it is G(w) / G((b - a) / std), G(w) being the integral of exp(-alpha t - t^2 / 2) from 0 to w, where
    a is the bound nearer to the mean (else everything is mirrored), or of the density itself when the mean lies inside.
    """

    def __init__(self, mean: float, std: float, a: float, b: float) -> None:
        self.mean, self.std, self.a, self.b = (np.longdouble(x) for x in (mean, std, a, b))
        self.mirrored = bool(self.b <= self.mean)
        self.inside = bool(self.a < self.mean < self.b)

    def cdf(self, x: NDArray[np.longdouble]) -> Array:
        x = np.clip(np.asarray(x, np.longdouble), self.a, self.b)
        if self.inside:
            z = np.array([self.a, self.b]) - self.mean
            low, high, at = (
                special.erf(np.float64(v / self.std / np.sqrt(2))) for v in (z[0], z[1], x - self.mean)
            )
            return (at - low) / (high - low)
        if self.mirrored:
            return 1 - self._share((self.b - x) / self.std, (self.mean - self.b) / self.std)
        return self._share((x - self.a) / self.std, (self.a - self.mean) / self.std)

    def _share(self, w: NDArray[np.longdouble], alpha: np.longdouble) -> Array:
        whole = self._integral(np.array([(self.b - self.a) / self.std]), alpha)
        return np.asarray(self._integral(w, alpha) / whole, np.float64)

    @staticmethod
    def _integral(w: NDArray[np.longdouble], alpha: np.longdouble) -> NDArray[np.longdouble]:
        with np.errstate(all="ignore"):  # the branch that np.where does not take
            series = w - alpha * w * w / 2 + (alpha * alpha - 1) * w**3 / 6
            near, far = (special.erfcx(np.float64(v / np.sqrt(2))) for v in (alpha, alpha + w))
            decay = np.exp(np.longdouble(-1) * alpha * w - w * w / 2)
            closed = np.sqrt(np.pi / 2) * (near - np.where(decay > 0, decay * far, 0))
        return np.where((alpha + 1) * w < 1e-6, series, closed)

    def far(self, share: float = 1e-13) -> tuple[float, float]:
        """The bounds; in the place of one farther than that share of the values, where this share begins."""
        m, s, a, b = (float(x) for x in (self.mean, self.std, self.a, self.b))
        reach = math.sqrt(
            max((a - m) / s, (m - b) / s, 0) ** 2 - 2 * math.log(share)
        )  # the density's ratio to its peak
        return max(a, m - reach * s), min(b, m + reach * s)

    def centre_scale_moments(self) -> tuple[float, float, list[float]]:
        """Mean, standard deviation, and the first twelve moments of (x - mean) / standard deviation."""
        low, high = self.far(1e-40)
        node, weight = np.polynomial.legendre.leggauss(40)
        edges = np.linspace(low, high, 201)
        x = ((edges[1:] + edges[:-1]) / 2)[:, None] + np.outer(np.diff(edges) / 2, node)
        z = (x - float(self.mean)) / float(self.std)
        density = np.exp((np.square(z).min() - np.square(z)) / 2) * weight
        density /= density.sum()
        centre = float((x * density).sum())
        scale = math.sqrt(((x - centre) ** 2 * density).sum())
        return centre, scale, [float((((x - centre) / scale) ** k * density).sum()) for k in range(1, 13)]
