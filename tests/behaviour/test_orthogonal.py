"""orthogonal_ (contract C9): the Q of a Gaussian matrix's QR factorisation, and so Haar distributed.

Keys are fixed, so a test passes always or never. Where a statistic is compared with a distribution, a correct
implementation would be beyond the threshold for one key in 10^5, or fewer: 4.5 standard deviations for one number
(7e-6), 5 where dozens are looked at (6e-7 each), p = 1e-5 for a test of Kolmogorov and Smirnov.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import fastinit
from fastinit import _C, delta_orthogonal_
from fills import CAPABILITIES, COMPLEX, KEY, REAL, assert_same, capability, int64, threads

DTYPES = (*REAL, *COMPLEX)
# The working precision of each dtype, as an error bound for an element of Q.
ROUNDING = {
    torch.float32: 1e-6,
    torch.float64: 3e-14,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
    torch.complex64: 2e-6,
    torch.complex128: 3e-14,
}
# Shorter and longer than the reflectors that are computed in double, and than a block; tall, square and wide.
SHAPES = [
    (1, 1), (2, 2), (1, 5), (5, 1), (4, 3), (16, 16), (63, 64), (65, 65), (129, 128), (3, 700), (700, 3), (180, 130),
    (130, 180), (200, 200), (64, 1000), (1000, 64), (97, 1201),
]  # fmt: skip


def orthogonal(*shape: int, gain: float = 1.0, key: int = KEY, dtype: torch.dtype = torch.float32) -> Tensor:
    return fill(torch.empty(shape, dtype=dtype), gain, key)


def fill(tensor: Tensor, gain: float = 1.0, key: int = KEY) -> Tensor:
    torch.ops.fastinit.orthogonal_.key(tensor, gain, key=int64(key))
    return tensor


def normal(*shape: int, key: int = KEY, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    torch.ops.fastinit.normal_.key(tensor, 0.0, 1.0, key=int64(key))
    return tensor


def draws(count: int, n: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """That many independent n x n matrices, in double precision."""
    with threads(1):  # small ones would only wait for each other
        q = torch.stack([orthogonal(n, n, key=KEY + i, dtype=dtype) for i in range(count)])
    return q.to(torch.complex128 if dtype.is_complex else torch.float64)


def tall(q: Tensor) -> Tensor:
    return q if q.shape[0] >= q.shape[1] else q.T


def error(q: Tensor) -> float:
    """The largest element of Q* Q - 1."""
    q = tall(q.flatten(1)).to(torch.complex128 if q.is_complex() else torch.float64)
    return (q.mH @ q - torch.eye(q.shape[1])).abs().max().item()


def assert_mean(samples: Tensor, expected: float, limit: float = 4.5) -> None:
    """The mean of independent samples (along dimension 0) is the expected one, for each of the others."""
    samples = samples.double()
    deviation = (samples.mean(0) - expected) / (samples.std(0) / samples.shape[0] ** 0.5)
    assert deviation.abs().max() < limit, (samples.mean(0), expected, deviation)


def assert_follows(samples: Tensor, distribution: Callable[[np.ndarray], np.ndarray]) -> None:
    assert scipy.stats.kstest(samples.numpy(), distribution).pvalue > 1e-5


# ---------------------------------------------------------------------------------------------------------------
# It is what it says


def implied_gaussian(x: Tensor) -> Tensor:
    """The Gaussian matrix whose QR factorisation meets the columns of x, from the diagonal down, as reflectors.

    Householder's algorithm run backwards, one reflector at a time and in double precision. Above the diagonal R is as
    free as the matrix is.
    """
    m, n = x.shape
    g = torch.randn(m, n, dtype=torch.complex128 if x.is_complex() else torch.float64).triu(1)
    for j in reversed(range(n)):
        v = x[j:, j].to(g.dtype)
        phase, norm = torch.sgn(v[0]), torch.linalg.vector_norm(v)
        g[j, j] = -phase * norm
        v[0] += phase * norm
        g[j:, j:] -= torch.outer(v, v.conj() @ g[j:, j:]) * (2 / torch.linalg.vector_norm(v) ** 2)
    return g


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_q_of_a_qr_factorisation(shape: tuple[int, int], dtype: torch.dtype) -> None:
    q = tall(orthogonal(*shape, dtype=dtype))
    drawn = normal(*shape, dtype=torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype)
    factor, r = torch.linalg.qr(implied_gaussian(tall(drawn)))
    expected = factor * torch.sgn(r.diagonal())
    assert (q.to(expected.dtype) - expected).abs().max() < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(1300, 1250), (3500, 300), (300, 3500)], ids=str)
def test_is_the_product_of_its_reflectors(shape: tuple[int, int], dtype: torch.dtype) -> None:
    # Larger matrices, with blocks of another size. LAPACK has reflectors 1 - tau v v* with v_0 = 1.
    q = tall(orthogonal(*shape, dtype=dtype))
    wide = torch.complex128 if dtype.is_complex else torch.float64
    x = tall(normal(*shape, dtype=dtype)).to(wide).tril()
    norm, phase = torch.linalg.vector_norm(x, dim=0), torch.sgn(x.diagonal())
    first = x.diagonal() + phase * norm
    tau = first.abs() / norm
    x.diagonal().copy_(first)
    expected = torch.linalg.householder_product(x / first, tau.to(wide)) * -phase
    assert (q.to(wide) - expected).abs().max() < 2 * ROUNDING[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_orthogonal(shape: tuple[int, int], dtype: torch.dtype) -> None:
    # Rounding Q's elements to 16 bits moves an element of Q* Q by a unit of that type, at most.
    bound = {torch.float16: 1e-3, torch.bfloat16: 8e-3, torch.float32: 5e-7, torch.complex64: 1e-6}
    q = orthogonal(*shape, dtype=dtype)
    assert error(q) <= bound.get(dtype, 1e-14)


@pytest.mark.parametrize("shape", [(8, 4, 3), (4, 8, 3, 3), (96, 32, 5, 5), (3, 3, 2, 2, 2)], ids=str)
def test_dimensions_after_the_first_are_columns(shape: tuple[int, ...]) -> None:
    w = orthogonal(*shape)
    assert error(w) <= 1e-6
    assert_same(w.flatten(), orthogonal(shape[0], w[0].numel()).flatten())


@pytest.mark.parametrize("gain", [2.5, -1.0, 0.0, 1e-30, 3e38])
@pytest.mark.parametrize("shape", [(5, 5), (100, 150)], ids=str)
def test_gain(shape: tuple[int, int], gain: float) -> None:
    q, unit = orthogonal(*shape, gain=gain), orthogonal(*shape)
    assert torch.allclose(q.double(), unit.double() * gain, rtol=1e-5, atol=1e-6 * abs(gain))
    if 0 < abs(gain) < 1e10:
        assert error(q / gain) <= 1e-6


def test_gain_that_is_a_power_of_two_is_exact() -> None:
    assert_same(orthogonal(300, 200, gain=-0.25), orthogonal(300, 200) * -0.25)


# ---------------------------------------------------------------------------------------------------------------
# Accuracy


@pytest.mark.parametrize(
    "shape",
    [
        *((2**k, 2**k) for k in range(1, 10)),
        *((64, 16384), (16384, 64), (1500, 200), (200, 1500)),
        *(pytest.param((2**k, 2**k), marks=pytest.mark.long) for k in (10, 11, 12)),
    ],
    ids=str,
)
def test_no_less_accurate_than_torch(shape: tuple[int, int]) -> None:
    repeat = 10 if shape[0] * shape[1] < 2**16 else 2
    ours = [error(orthogonal(*shape, key=KEY + i)) for i in range(repeat)]
    theirs = [error(torch.nn.init.orthogonal_(torch.empty(shape))) for _ in range(repeat)]
    assert max(ours) <= 5e-7
    assert np.mean(ours) <= np.mean(theirs)


def test_accuracy_at_4096() -> None:
    q = orthogonal(4096, 4096)
    assert (q[:, :512].T.double() @ q.double() - torch.eye(512, 4096)).abs().max() <= 5e-7
    last = q[:, -512:].double()
    assert (last.T @ last - torch.eye(512)).abs().max() <= 5e-7


def precision_settings() -> list[object]:
    backends = torch.backends
    return [
        torch.get_float32_matmul_precision(),
        backends.fp32_precision,
        backends.mkldnn.matmul.fp32_precision,
        backends.cuda.matmul.fp32_precision,
    ]


@contextmanager
def lowered_precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.mkldnn.matmul.fp32_precision = before[1]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16], ids=str)
def test_whatever_the_precision_of_products(dtype: torch.dtype, device: str) -> None:
    expected = fill(torch.empty(300, 400, dtype=dtype, device=device))
    with lowered_precision():
        settings = precision_settings()
        assert_same(fill(torch.empty(300, 400, dtype=dtype, device=device)), expected)
        assert precision_settings() == settings


@contextmanager
def products_by_torch() -> Iterator[None]:
    """As on other devices: without a GPU, this is how what they run is tested."""
    previous = _C.multiply_by_torch(True)
    try:
        yield
    finally:
        _C.multiply_by_torch(previous)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_by_torch_agree_to_rounding(shape: tuple[int, int], dtype: torch.dtype) -> None:
    own = orthogonal(*shape, dtype=dtype)
    with products_by_torch():
        theirs = orthogonal(*shape, dtype=dtype)
    assert (theirs - own).abs().max() <= ROUNDING[dtype]


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_autocast_has_no_say_in_products(dtype: torch.dtype) -> None:
    with products_by_torch():
        expected = orthogonal(300, 200, dtype=dtype)
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(orthogonal(300, 200, dtype=dtype), expected)
            assert torch.is_autocast_enabled("cpu")


# ---------------------------------------------------------------------------------------------------------------
# Haar


@pytest.mark.parametrize("n", [2, 3, 6])
def test_moments_of_elements(n: int) -> None:
    q = draws(20000, n)
    for power, expected in ((1, 0), (2, 1 / n), (3, 0), (4, 3 / (n * (n + 2)))):
        assert_mean(q.flatten(1) ** power, expected, limit=5)
    # Weingarten's formula for pairs in a row, pairs apart, and a cycle of four.
    assert_mean(q[:, 0, 0] ** 2 * q[:, 0, 1] ** 2, 1 / (n * (n + 2)))
    assert_mean(q[:, 0, 0] ** 2 * q[:, 1, 1] ** 2, (n + 1) / ((n - 1) * n * (n + 2)))
    assert_mean(q[:, 0, 0] * q[:, 0, 1] * q[:, 1, 0] * q[:, 1, 1], -1 / ((n - 1) * n * (n + 2)))


@pytest.mark.parametrize("shape", [(150, 150), (400, 90), (90, 400)], ids=str)
def test_elements_of_larger_matrices(shape: tuple[int, int]) -> None:
    # Square and off-diagonal blocks on both sides of every border between two ways of computing.
    n = max(shape)
    square = scipy.stats.beta(0.5, (n - 1) / 2).cdf
    with threads(1):
        q = torch.stack([orthogonal(*shape, key=KEY + i) for i in range(400)]).double()
    for i in (0, 1, shape[0] // 2, shape[0] - 1):
        for j in (0, 1, shape[1] // 2, shape[1] - 1):
            assert_follows(q[:, i, j] ** 2, square)
            assert_mean(q[:, i, j].sign(), 0)


@pytest.mark.parametrize("n", [8, 100])
def test_moments_of_traces(n: int) -> None:
    # Diaconis and Evans (2001): the traces of powers have the moments of independent normals.
    q = draws(8000 if n == 8 else 1000, n)
    trace = q.diagonal(dim1=1, dim2=2).sum(1)
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert_mean(trace**power, expected)
    trace_of_square = (q * q.mT).sum((1, 2))
    assert_mean(trace_of_square, 1)
    assert_mean((trace_of_square - 1) ** 2, 2)
    assert_mean(trace * trace_of_square, 0)


@pytest.mark.parametrize("n", [4, 80])
def test_moments_of_unitary_traces(n: int) -> None:
    u = draws(8000 if n == 4 else 600, n, torch.complex64)
    trace = u.diagonal(dim1=1, dim2=2).sum(1)
    trace_of_square = (u * u.mT).sum((1, 2))
    for z in (trace, trace**2, trace_of_square, trace_of_square * trace.conj() ** 2):
        assert_mean(z.real, 0)
        assert_mean(z.imag, 0)
    assert_mean(trace.abs() ** 2, 1)
    assert_mean(trace.abs() ** 4, 2)
    assert_mean(trace_of_square.abs() ** 2, 2)


def test_invariant_under_rotation() -> None:
    # What sees the axes of a matrix must not notice that it has been turned, from either side.
    n, count = 5, 8000
    turn, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))
    q = draws(4 * count, n).view(4, count, n, n)
    seen = [
        lambda x: x[:, 0, 0],
        lambda x: x[:, -1, -1],
        lambda x: x[:, 0, -1],
        lambda x: x.abs().amax((1, 2)),
        lambda x: (x**4).sum((1, 2)),
        lambda x: x.diagonal(dim1=1, dim2=2).sum(1),
        lambda x: x[:, :2, :2].det(),
    ]
    for statistic in seen:
        plain = statistic(q[0]).numpy()
        for turned in (turn @ q[1], q[2] @ turn, turn @ q[3] @ turn):
            assert scipy.stats.ks_2samp(plain, statistic(turned).numpy()).pvalue > 1e-5


def rotations(count: int, n: int) -> Tensor:
    """Haar distributed on SO(n): for odd n by the determinant's sign, for even n those of determinant 1."""
    q = draws(count, n)
    sign = q.det().round()
    return q * sign[:, None, None] if n % 2 else q[sign > 0]


def test_angle_in_the_plane() -> None:
    q = draws(8000, 2)
    angle = torch.atan2(q[:, 1, 0], q[:, 0, 0])  # of the rotation, or twice that of the mirror
    for sign in (-1, 1):
        assert_follows(angle[q.det().round() == sign], scipy.stats.uniform(-np.pi, 2 * np.pi).cdf)


def test_angle_in_space() -> None:
    trace = rotations(8000, 3).diagonal(dim1=1, dim2=2).sum(1)
    angle = ((trace - 1) / 2).clamp(-1, 1).acos()
    assert_follows(angle, lambda x: (x - np.sin(x)) / np.pi)


@pytest.mark.parametrize(("n", "count"), [(6, 3000), (90, 150)])
def test_eigenvalue_angles(n: int, count: int) -> None:
    # One angle of each rotation, at random. In SO(2k) their density is (2k - 1 + sin((2k - 1) x) / sin x) / (2 pi k).
    with threads(1):
        angle = torch.linalg.eigvals(rotations(2 * count, n)).angle()
    angle = angle.abs().sort(dim=1).values[:, ::2]  # they come in pairs
    chosen = angle.gather(1, torch.randint(n // 2, (angle.shape[0], 1)))[:, 0]

    def distribution(x: np.ndarray) -> np.ndarray:
        waves = np.arange(2, n, 2)  # sin((n - 1) x) / sin x = 1 + 2 cos 2x + 2 cos 4x + ...
        return (x + (np.sin(np.multiply.outer(x, waves)) / waves).sum(-1) * 2 / n) / np.pi

    assert_follows(chosen, distribution)


def test_eigenvalue_angles_of_unitary_matrices() -> None:
    angles = torch.linalg.eigvals(draws(8000, 2, torch.complex64)).angle()
    assert_follows(angles[:, 0], scipy.stats.uniform(-np.pi, 2 * np.pi).cdf)
    apart = (angles[:, 0] - angles[:, 1]) % (2 * np.pi)
    assert_follows(apart, lambda x: (x - np.sin(x)) / (2 * np.pi))
    # And so in larger ones: the angles are uniform, and neighbours keep apart. (2.47 is the limit of Kolmogorov and
    # Smirnov at 1e-5; gaps that are not next to each other are as good as independent.)
    n, count = 80, 150
    with threads(1):
        angles = torch.linalg.eigvals(draws(count, n, torch.complex64)).angle()
    assert_follows(angles[:, 0], scipy.stats.uniform(-np.pi, 2 * np.pi).cdf)
    gaps = angles.sort(dim=1).values.diff(dim=1)[:, ::8] * n / (2 * np.pi)

    def wigner(x: np.ndarray) -> np.ndarray:  # the density 32 / pi^2 x^2 exp(-4 x^2 / pi), right to 0.5 %
        return scipy.stats.maxwell(scale=(np.pi / 8) ** 0.5).cdf(x)

    assert scipy.stats.kstest(gaps.flatten().numpy(), wigner).statistic < 0.005 + 2.47 / gaps.numel() ** 0.5


@pytest.mark.parametrize(("n", "count"), [(1, 4000), (2, 4000), (5, 4000), (65, 1000), (100, 1000)])
def test_both_determinants_occur_equally_often(n: int, count: int) -> None:
    assert_mean(draws(count, n).det().round(), 0)


# ---------------------------------------------------------------------------------------------------------------
# The same values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(7, 5), (700, 900), (40, 5000)], ids=str)
def test_the_same_bits_for_any_number_of_threads(shape: tuple[int, int], dtype: torch.dtype) -> None:
    results = []
    for count in (1, 2, 3, 7):
        with threads(count):
            results.append(orthogonal(*shape, dtype=dtype))
    for result in results[1:]:
        assert_same(result, results[0])


@pytest.mark.skipif(len(CAPABILITIES) < 2, reason="only one instruction set here")
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", [(5, 7), (130, 97), (97, 1201), (800, 500)], ids=str)
def test_instruction_sets(shape: tuple[int, int], dtype: torch.dtype) -> None:
    results = {}
    for name in CAPABILITIES:
        with capability(name):
            results[name] = orthogonal(*shape, dtype=dtype)
    best = results.pop(CAPABILITIES[-1])
    plain = results.pop("default")  # without fma, the product rounds twice
    assert (plain.double() - best.double()).abs().max() < ROUNDING[dtype]
    for name, result in results.items():
        assert_same(result, best, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (150, 130), (90, 300)], ids=str)
def test_strides(shape: tuple[int, int], dtype: torch.dtype) -> None:
    expected = orthogonal(*shape, dtype=dtype)
    rows, cols = shape
    views = {
        "transposed": torch.empty(cols, rows, dtype=dtype).T,
        "sliced": torch.empty(rows + 3, cols + 5, dtype=dtype)[2:-1, 3:-2],
        "every second": torch.empty(2 * rows, 3 * cols, dtype=dtype)[::2, 1::3],
        "two in one": torch.empty(rows, cols, 2, dtype=dtype)[..., 1],
    }
    for name, view in views.items():
        assert_same(fill(view), expected, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_strides_that_make_no_matrix(dtype: torch.dtype) -> None:
    expected = orthogonal(20, 12, 3, 3, dtype=dtype)
    last = torch.empty(20, 12, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    assert_same(fill(last), expected)
    assert_same(fill(torch.empty(3, 20, 3, 12, dtype=dtype).permute(1, 3, 0, 2)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(5, 5), (200, 300)], ids=str)
def test_half_precision_is_single_precision_rounded(shape: tuple[int, int], dtype: torch.dtype) -> None:
    assert_same(orthogonal(*shape, dtype=dtype, gain=1.5), orthogonal(*shape, gain=1.5).to(dtype))


def test_a_generator_and_a_leaf() -> None:
    generator = torch.Generator().manual_seed(5)
    parameter = torch.nn.Parameter(torch.empty(60, 50))
    assert fastinit.orthogonal_(parameter, 2, generator=generator) is parameter
    assert parameter.is_leaf and parameter.requires_grad and parameter.grad_fn is None
    generator.manual_seed(5)
    other = fastinit.orthogonal_(torch.empty(60, 50), 2, generator=generator)
    assert_same(parameter, other)
    assert not torch.equal(fastinit.orthogonal_(torch.empty(60, 50), 2, generator=generator), other)


# ---------------------------------------------------------------------------------------------------------------
# Parts


Cut = list[tuple[int, int]]  # the first index of each run and its length


def cuts(size: int, ranks: int) -> list[Cut]:
    """A dimension cut into one run for each rank."""
    ends = [size * i // ranks for i in range(ranks + 1)]
    return [[(first, end - first)] for first, end in itertools.pairwise(ends)]


def along(shape: tuple[int, ...], dim: int, cut: Cut) -> list[Cut]:
    """That of one dimension, and all of the others."""
    return [cut if d == dim else [(0, size)] for d, size in enumerate(shape)]


def part(
    shape: tuple[int, ...],
    *runs: Cut,
    local: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    key: int = KEY,
    gain: float = 1.0,
    op: str = "orthogonal_",
) -> Tensor:
    if local is None:
        local = torch.full([sum(length for _, length in cut) for cut in runs], 7.0, dtype=dtype)
    first, length = zip(*(run for cut in runs for run in cut), strict=True)
    packet = getattr(torch.ops.fastinit, op)
    packet.part(local, gain, shape=shape, first=first, length=length, key=int64(key))
    return local


# Square, with the last reflectors in double; one block of reflectors; tall enough for rows to be solved for.
WHOLES = [(40, 40), (300, 300), (500, 60), (1100, 100), (60, 500), (100, 1100)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", WHOLES, ids=str)
def test_parts_along_the_longer_side_have_the_bits_of_the_whole(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """Columns of a matrix with no fewer rows, or rows of one with no fewer columns."""
    whole, dim = orthogonal(*shape, dtype=dtype), 1 if shape[0] >= shape[1] else 0
    size = shape[dim]
    for cut in (*cuts(size, 3), [(0, 1), (2, 1), (size // 2, size // 3)], [(size - 1, 1)]):
        index = torch.cat([torch.arange(first, first + length) for first, length in cut])
        found, expected = part(shape, *along(shape, dim, cut), dtype=dtype), whole.index_select(dim, index)
        if dtype.is_complex:
            assert (found - expected).abs().max() < ROUNDING[dtype]
        else:
            assert_same(found, expected, str(cut))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ranks", [2, 20])
@pytest.mark.parametrize("shape", WHOLES, ids=str)
def test_parts_along_the_shorter_side_agree_to_rounding(
    shape: tuple[int, int], ranks: int, dtype: torch.dtype
) -> None:
    """And are orthogonal together, as the whole is."""
    dim = 0 if shape[0] >= shape[1] else 1
    together = torch.cat(
        [part(shape, *along(shape, dim, cut), dtype=dtype) for cut in cuts(shape[dim], ranks)], dim
    )
    assert (together - orthogonal(*shape, dtype=dtype)).abs().max() < ROUNDING[dtype]
    if dtype == torch.float32:
        assert error(together) <= 5e-7


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", WHOLES, ids=str)
def test_parts_with_products_by_torch(shape: tuple[int, int], dtype: torch.dtype) -> None:
    whole = orthogonal(*shape, dtype=dtype)
    with products_by_torch():
        for dim, size in enumerate(shape):
            for cut in (*cuts(size, 2), [(0, 1), (size // 2, size // 3)]):
                index = torch.cat([torch.arange(first, first + length) for first, length in cut])
                found = part(shape, *along(shape, dim, cut), dtype=dtype)
                assert (found - whole.index_select(dim, index)).abs().max() < ROUNDING[dtype]
        batch = batched(2, *shape, dtype=dtype)
    assert (batch - batched(2, *shape, dtype=dtype)).abs().max() < ROUNDING[dtype]


@pytest.mark.parametrize("instruction_set", CAPABILITIES)
@pytest.mark.parametrize("shape", [(40, 40), (300, 200), (200, 300)], ids=str)
def test_parts_on_every_instruction_set_and_number_of_threads(
    shape: tuple[int, int], instruction_set: str
) -> None:
    whole, dim = None, 1 if shape[0] >= shape[1] else 0
    for count in (1, 2, 5):
        with capability(instruction_set), threads(count):
            whole = orthogonal(*shape) if whole is None else whole
            for cut in cuts(shape[dim], 2):
                assert_same(part(shape, *along(shape, dim, cut)), whole.narrow(dim, *cut[0]))


@pytest.mark.parametrize("shape", [(70, 50), (50, 70), (7, 4, 3, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_parts_of_both_sides(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    whole = orthogonal(*shape, dtype=dtype)
    for ranks in (2, 3):
        for chosen in itertools.product(*([*cuts(size, ranks)[-1:], [(0, size)]] for size in shape)):
            expected = whole
            for dim, [(first, length)] in enumerate(chosen):
                expected = expected.narrow(dim, first, length)
            for local in (
                torch.full(expected.shape, 7.0, dtype=dtype),
                torch.full([2 * size for size in expected.shape[::-1]], 7.0, dtype=dtype).permute(
                    *reversed(range(expected.dim()))
                )[tuple(slice(None, None, 2) for _ in shape)],
            ):
                assert part(shape, *chosen, local=local) is local
                assert (local - expected).abs().max() < ROUNDING[dtype], chosen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.complex64], ids=str)
@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (900, 80), (6, 4, 5)], ids=str)
def test_flat_parts(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Within a row, over some rows, in two pieces, of a tensor with gaps; rows that are not whole are not written beyond."""
    whole = orthogonal(*shape, dtype=dtype).flatten()
    row, n = whole.numel() // shape[0], whole.numel()
    for cut in (
        [(1, row // 2)],
        [(row // 2, 3 * row)],
        [(2, n // 3), (n // 2, n // 4)],
        [(0, n)],
        [(n - 1, 1)],
    ):
        expected = torch.cat([whole[first : first + length] for first, length in cut])
        memory = torch.full((expected.numel() + 2, 2), 7.0, dtype=dtype)
        part(shape, cut, local=memory[1:-1, 1])
        assert (memory[1:-1, 1] - expected).abs().max() < ROUNDING[dtype], cut
        assert memory[[0, -1]].eq(7).all() and memory[:, 0].eq(7).all()


@pytest.mark.parametrize("gain", [-2.5, 0.0, 1e-30, 3e38])
def test_gain_of_parts(gain: float) -> None:
    for shape, cut in (((70, 50), [(10, 30)]), ((900, 80), [(10, 400)])):
        found, unit = (part(shape, cut, [(0, shape[1])], gain=g) for g in (gain, 1.0))
        assert torch.allclose(found.double(), unit.double() * gain, rtol=1e-5, atol=1e-6 * abs(gain))


def test_an_empty_part_takes_the_key_and_writes_nothing() -> None:
    torch.manual_seed(1)
    orthogonal_ = torch.ops.fastinit.orthogonal_
    orthogonal_(torch.empty(6, 4), 1.0)
    state = torch.get_rng_state()
    for sizes in ((0, 4), (6, 0)):
        torch.manual_seed(1)
        orthogonal_.part(torch.empty(sizes), 1.0, shape=(6, 4), first=(6 - sizes[0], 0), length=sizes)
        assert torch.equal(torch.get_rng_state(), state)


def test_a_flat_part_of_a_vector_is_refused() -> None:
    tensor = torch.full((3,), 7.0)
    with pytest.raises(ValueError, match="2 or more dimensions, but has 1"):
        part((5,), [(0, 3)], local=tensor)
    assert tensor.eq(7).all()


def test_parts_put_together_are_haar() -> None:
    """Four corners of each matrix, made one by one: by columns, and by rows."""
    n, count = 6, 4000
    halves = cuts(n, 2)
    q = torch.stack(
        [
            torch.cat([torch.cat([part((n, n), a, b, key=KEY + i) for b in halves], 1) for a in halves])
            for i in range(count)
        ]
    ).double()
    for power, expected in ((1, 0), (2, 1 / n), (3, 0), (4, 3 / (n * (n + 2)))):
        assert_mean(q.flatten(1) ** power, expected, limit=5)
    trace = q.diagonal(dim1=1, dim2=2).sum(1)
    trace_of_square = (q * q.mT).sum((1, 2))
    assert_mean(trace**2, 1)
    assert_mean(trace**4, 3)
    assert_mean(trace_of_square, 1)
    assert_mean((trace_of_square - 1) ** 2, 2)


@pytest.mark.parametrize("shape", [(150, 150), (800, 90), (90, 800)], ids=str)
def test_elements_of_parts_put_together(shape: tuple[int, int]) -> None:
    n, count = max(shape), 200
    square = scipy.stats.beta(0.5, (n - 1) / 2).cdf
    for dim in (0, 1):
        halves = [along(shape, dim, cut) for cut in cuts(shape[dim], 2)]
        with threads(1):
            drawn = [
                torch.cat([part(shape, *half, key=KEY + i) for half in halves], dim) for i in range(count)
            ]
        q = torch.stack(drawn).double()
        for i in (0, shape[0] // 2, shape[0] - 1):
            for j in (0, shape[1] // 2, shape[1] - 1):
                assert_follows(q[:, i, j] ** 2, square)
                assert_mean(q[:, i, j].sign(), 0)


# ---------------------------------------------------------------------------------------------------------------
# Batches


def batched(*shape: int, gain: float = 1.0, key: int = KEY, dtype: torch.dtype = torch.float32) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    torch.ops.fastinit.batched_orthogonal_.key(tensor, gain, key=int64(key))
    return tensor


BATCHES = [
    (1, 5, 3),
    (7, 20, 30),
    (5, 70, 70),
    (3, 8, 4, 3, 3),
    (3, 1100, 1000),
]  # the last: one after the other


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", BATCHES, ids=str)
def test_a_batch_has_the_reflectors_that_its_place_gives(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The numbers that normal_ puts into the tensor are those of each matrix."""
    if math.prod(shape) > 10**6 and dtype != torch.float32:
        return
    q = batched(*shape, dtype=dtype)
    drawn = normal(*shape, dtype=torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype)
    assert_same(q[0], orthogonal(*shape[1:], dtype=dtype))
    for matrix, numbers in zip(q, drawn, strict=True):
        if matrix.numel() > 10**6:
            assert error(matrix) <= 5e-7
            continue
        factor, r = torch.linalg.qr(implied_gaussian(tall(numbers.flatten(1))))
        expected = factor * torch.sgn(r.diagonal())
        assert (tall(matrix.flatten(1)).to(expected.dtype) - expected).abs().max() < ROUNDING[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(9, 70, 50), (4, 1100, 1000)], ids=str)
def test_a_matrix_does_not_depend_on_the_rest_of_its_batch(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    expected = batched(*shape, dtype=dtype)
    for count in (1, 2, 3, 5):
        with threads(count):
            assert_same(batched(*shape, dtype=dtype), expected)
            assert_same(batched(3, *shape[1:], dtype=dtype), expected[:3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_batches_of_any_strides(dtype: torch.dtype) -> None:
    expected = batched(6, 20, 30, dtype=dtype)
    views = {
        "transposed": torch.empty(6, 30, 20, dtype=dtype).mT,
        "last": torch.empty(20, 30, 6, dtype=dtype).permute(2, 0, 1),
        "sliced": torch.empty(12, 25, 40, dtype=dtype)[1::2, 3:23, 5:35],
        "no matrices": torch.empty(6, 3, 20, 10, dtype=dtype).permute(0, 2, 3, 1),
    }
    for name, view in views.items():
        torch.ops.fastinit.batched_orthogonal_.key(view, 1.0, key=int64(KEY))
        assert_same(view.reshape(6, 20, 30), expected, name)


def test_the_matrices_of_a_batch_are_independent() -> None:
    """Each is Haar, and so is the one seen from the other."""
    n = 5
    q = torch.stack([batched(4, n, n, key=KEY + i) for i in range(6000)]).double()
    for a, b in itertools.combinations(range(4), 2):
        turn = q[:, a].mT @ q[:, b]
        trace = turn.diagonal(dim1=1, dim2=2).sum(1)
        for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3)):
            assert_mean(trace**power, expected)
        assert_mean((turn * turn.mT).sum((1, 2)), 1)
        assert_mean(q[:, a, 0, 0] * q[:, b, 0, 0], 0)


@pytest.mark.parametrize("gain", [-2.5, 0.0, 1e-30])
def test_gain_of_a_batch(gain: float) -> None:
    q, unit = batched(3, 9, 7, gain=gain), batched(3, 9, 7)
    assert torch.allclose(q.double(), unit.double() * gain, rtol=1e-5, atol=1e-6 * abs(gain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_parts_of_a_batch(dtype: torch.dtype) -> None:
    """Experts, and columns and rows of them; and a flat piece that begins in one and ends in another."""
    shape = (5, 30, 20)
    whole = batched(*shape, dtype=dtype)
    for dim, cut in ((0, [(1, 3)]), (0, [(0, 2), (4, 1)]), (1, [(3, 20)]), (2, [(0, 5), (9, 2)])):
        index = torch.cat([torch.arange(first, first + length) for first, length in cut])
        found = part(shape, *along(shape, dim, cut), dtype=dtype, op="batched_orthogonal_")
        assert (found - whole.index_select(dim, index)).abs().max() < ROUNDING[dtype]
        if dim != 1 and not dtype.is_complex:
            assert_same(found, whole.index_select(dim, index))
    found = part(shape, [(500, 1000), (2000, 900)], dtype=dtype, op="batched_orthogonal_")
    expected = torch.cat([whole.flatten()[500:1500], whole.flatten()[2000:2900]])
    assert (found - expected).abs().max() < ROUNDING[dtype]


def test_batched_orthogonal() -> None:
    w = torch.nn.Parameter(torch.zeros(3, 5, 4))
    torch.manual_seed(3)
    assert fastinit.batched_orthogonal_(w, 2.0) is w
    torch.manual_seed(3)
    assert_same(w[0], fastinit.orthogonal_(torch.empty(5, 4), 2.0))
    state = torch.get_rng_state()
    for shape in ((0, 3, 4), (2, 0, 3)):
        assert fastinit.batched_orthogonal_(torch.empty(shape)).shape == shape
    assert fastinit.batched_orthogonal_(torch.empty(2, 3, 3, device="meta")).is_meta
    with pytest.raises(ValueError, match="3 or more dimensions"):
        fastinit.batched_orthogonal_(torch.empty(3, 3))
    with pytest.raises(ValueError, match="3 or more dimensions, but has 2"):
        batched(3, 3)
    with pytest.raises(RuntimeError, match="gain"):
        fastinit.batched_orthogonal_(torch.empty(2, 3, 3), gain=math.inf)
    with pytest.raises(RuntimeError, match="share memory"):
        fastinit.batched_orthogonal_(torch.empty(1, 3, 3).expand(2, 3, 3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_batch_in_compiled_code(backend: str) -> None:
    def program(w: Tensor) -> Tensor:
        return fastinit.batched_orthogonal_(w, 2.0) + 1

    torch.library.opcheck(
        torch.ops.fastinit.batched_orthogonal_.key, (torch.zeros(2, 5, 4), 1.5), {"key": int64(5)}
    )
    torch._dynamo.reset()
    torch.manual_seed(1)
    expected = program(torch.empty(3, 6, 5))
    torch.manual_seed(1)
    assert_same(torch.compile(program, backend=backend, fullgraph=True)(torch.empty(3, 6, 5)), expected)


def test_a_report_draws_a_batch_again() -> None:
    layer = torch.nn.Module()
    layer.experts = torch.nn.Parameter(torch.empty(4, 6, 5))
    with fastinit.enabled() as report:
        fastinit.batched_orthogonal_(layer.experts, gain=2)
    fill = report.parameters(layer)["experts"]
    assert fill.function == "batched_orthogonal_" and fill.matches(layer.experts)


# ---------------------------------------------------------------------------------------------------------------
# Memory


def peak(call: Callable[[], object]) -> int:
    """By how much the process's memory grew, at most, while the call ran."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    except OSError:
        pytest.skip("the kernel does not let a process reset its peak memory")
    before = _status("VmRSS")
    call()
    return max(_status("VmHWM") - before, 0)


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@pytest.mark.parametrize(
    ("shape", "dtype", "bound"),
    [
        ((3000, 3000), torch.float32, 0.4),
        ((1000, 8000), torch.float32, 0.4),
        ((60000, 64), torch.float32, 0.4),
        ((64, 60000), torch.float64, 0.4),
        ((3000, 3000), torch.bfloat16, 1.4),  # and the matrix in float32
        ((1000, 3000), torch.complex64, 1.5),
    ],
    ids=str,
)
def test_workspace(shape: tuple[int, int], dtype: torch.dtype, bound: float) -> None:
    tensor = torch.zeros(shape, dtype=dtype)
    fill(torch.empty(300, 300, dtype=dtype))  # what is loaded and allocated once
    size = tensor.numel() * max(tensor.element_size(), 4)
    assert peak(lambda: fill(tensor)) <= bound * size + 3 * 2**20


@pytest.mark.parametrize(
    ("shape", "dim", "dtype", "panels"),
    [
        ((4096, 4096), 0, torch.float32, 2.5),
        ((4096, 4096), 1, torch.float32, 2.5),
        ((4096, 4096), 1, torch.bfloat16, 5.5),  # and a chunk
        ((4096, 4096), 0, torch.bfloat16, 5.5),
        ((8000, 1500), 0, torch.float32, 3.5),  # solved for
        ((1500, 8000), 0, torch.float32, 2.5),
    ],
    ids=str,
)
def test_workspace_of_parts(shape: tuple[int, int], dim: int, dtype: torch.dtype, panels: float) -> None:
    """A sixteenth of the matrix, in memory for so many blocks of reflectors besides."""
    runs = along(shape, dim, cuts(shape[dim], 16)[-1])
    local = part(shape, *runs, dtype=dtype)
    block = min(384, int(math.prod(shape) ** 0.5 / 10) // 48 * 48)
    panel = max(shape) * block * 4
    assert peak(lambda: part(shape, *runs, local=local)) <= panels * panel + 3 * 2**20


# ---------------------------------------------------------------------------------------------------------------
# CUDA


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cuda_agrees_with_the_cpu(shape: tuple[int, int], dtype: torch.dtype) -> None:
    there = fill(torch.empty(shape, dtype=dtype, device="cuda")).cpu()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    assert (there.to(wide) - orthogonal(*shape, dtype=dtype).to(wide)).abs().max() < ROUNDING[dtype]
    if dtype == torch.float32:
        assert error(there) <= 1e-6


@pytest.mark.cuda
def test_cuda_accuracy_at_4096() -> None:
    with lowered_precision():
        q = fill(torch.empty(4096, 4096, device="cuda")).double()
    assert (q.T @ q - torch.eye(4096, device="cuda")).abs().max() <= 1e-6


# ---------------------------------------------------------------------------------------------------------------
# delta_orthogonal_


@pytest.mark.parametrize("shape", [(8, 5, 3), (8, 8, 3, 5), (4, 3, 2, 1, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_delta_orthogonal(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    w = torch.full(shape, 7.0, dtype=dtype)
    torch.manual_seed(3)
    assert delta_orthogonal_(w, gain=2.0) is w
    torch.manual_seed(3)
    matrix = fastinit.orthogonal_(torch.empty(shape[:2], dtype=dtype), 2.0)
    centre = tuple((size - 1) // 2 for size in shape[2:])
    assert_same(w[(..., *centre)], matrix)
    w[(..., *centre)] = 0
    assert not w.any()


def test_delta_orthogonal_keeps_norms() -> None:
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    for field in (3, 5):
        w = delta_orthogonal_(torch.nn.Parameter(torch.empty(6, 4, field, field, dtype=torch.float64)))
        y = torch.nn.functional.conv2d(x, w.detach(), padding="same")
        assert torch.allclose(y.square().sum(1), x.square().sum(1))


def test_delta_orthogonal_rejects() -> None:
    for shape in ((4, 4), (4,) * 6):
        with pytest.raises(ValueError, match="3, 4, or 5 dimensions"):
            delta_orthogonal_(torch.empty(shape))
    with pytest.raises(ValueError, match="at least as many outputs"):
        delta_orthogonal_(torch.empty(3, 4, 1))
    w = torch.ones(4, 3, 3)
    with pytest.raises((ValueError, RuntimeError), match="gain"):
        delta_orthogonal_(w, gain=float("nan"))
    assert w.eq(1).all()
    with pytest.raises(RuntimeError, match="share memory"):
        delta_orthogonal_(torch.empty(4, 3, 1).expand(4, 3, 3))
    assert delta_orthogonal_(torch.empty(4, 0, 3)).shape == (4, 0, 3)
    assert delta_orthogonal_(torch.empty(4, 3, 3, device="meta")).is_meta
