"""C3 and C5: bounds hold as real numbers, in every dtype, whether or not they are numbers of the dtype."""

import ctypes
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

import native
import reference
from fills import CAPABILITIES, KEY, REAL, Call, assert_same, capability

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # as DType counts them
every_dtype = pytest.mark.parametrize("dtype", REAL, ids=str)
narrow = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


pytestmark = pytest.mark.usefixtures("one_thread")


def step(x: float, dtype: torch.dtype) -> float:
    """From x's neighbour below to x rounded down, roughly: the resolution of the dtype there."""
    down = reference.round_down(abs(x), dtype)
    return abs(down - reference.below(down, dtype))


def same_by_every_set(fill: Call, n: int, dtype: torch.dtype) -> torch.Tensor:
    with capability(CAPABILITIES[0]):
        values = fill.new(n, dtype=dtype)
    for name in CAPABILITIES:
        with capability(name):
            assert_same(fill.new(n, dtype=dtype), values, f"{name} {fill}")
    return values


def test_uniform_starts_at_its_bound() -> None:
    values = Call("uniform_", (-0.3, 0.7)).new(1_000_000, dtype=torch.bfloat16).double()
    assert values.min() == -0.298828125 and values.max() == 0.69921875


def test_truncated_stays_within_its_bounds() -> None:
    """5 is the only number of bfloat16 there is between them."""
    assert (Call("trunc_normal_", (5.0, 1.0, 4.97, 5.03)).new(10_000, dtype=torch.bfloat16) == 5).all()
    values = Call("trunc_normal_", (5.0, 1.0, 4.95, 5.06)).new(10_000, dtype=torch.bfloat16)
    assert set(values.double().tolist()) == {4.96875, 5.0, 5.03125}


@every_dtype
def test_a_point_that_is_no_number_of_the_dtype(dtype: torch.dtype) -> None:
    """An empty interval for uniform_: the nearest number, as in torch."""
    assert (Call("uniform_", (0.1, 0.1)).new(100, dtype=dtype) == torch.tensor(0.1, dtype=dtype)).all()


def near_the_resolution(dtype: torch.dtype, trials: int, seed: int) -> Iterator[tuple[float, float]]:
    """Intervals of a fraction of a step to some steps, of any magnitude, that hold a number of the dtype."""
    random = np.random.default_rng(seed)
    limit = math.log2(torch.finfo(dtype).max) - 2
    while trials:
        a = math.ldexp(random.uniform(0.5, 1), int(random.uniform(-limit / 2, limit)))
        a *= random.choice([-1.0, 1.0])
        b = a + random.choice([0.4, 1.5, 4.0, 20.0]) * random.uniform(0.5, 1.5) * step(a, dtype)
        if random.random() < 0.2:
            a = reference.nearest(a, dtype)
        if random.random() < 0.2:
            b = reference.nearest(b, dtype)
        if a < b and reference.round_up(a, dtype) < b:
            trials -= 1
            yield a, b


@every_dtype
def test_uniform_near_the_resolution(dtype: torch.dtype) -> None:
    index = np.arange(403)
    for a, b in near_the_resolution(dtype, 150, 1):
        values = same_by_every_set(Call("uniform_", (a, b)), index.size, dtype)
        assert a <= values.min().item() and values.max().item() < b, (a, b)
        assert_same(values, reference.uniform(index, KEY, a, b, dtype), f"{a}, {b}")


@every_dtype
def test_truncated_near_the_resolution(dtype: torch.dtype) -> None:
    """Around the mean, beside it and far from it, with steep densities and flat ones."""
    random = np.random.default_rng(2)
    single = torch.float64 if dtype == torch.float64 else torch.float32
    for a, b in near_the_resolution(dtype, 150, 3):
        std = (b - a) * float(random.choice([0.1, 1.0, 10.0]))
        mean = reference.nearest(a + (b - a) * random.uniform(-3, 4), single)
        fill = Call("trunc_normal_", (mean, std, a, b))
        values = same_by_every_set(fill, 403, dtype)
        assert a <= values.min().item() and values.max().item() <= b, fill
        if dtype != single:
            first, last = reference.round_up(a, dtype), reference.round_down(b, dtype)
            wide = fill.new(403, dtype=single).to(dtype)
            assert_same(values, reference.nearest_within(wide, first, last), str(fill))


def phi(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


@narrow
@pytest.mark.parametrize("op", ["uniform_", "trunc_normal_"])
def test_each_number_gets_the_reals_nearest_to_it(op: str, dtype: torch.dtype) -> None:
    n = 200_000
    for trial, (a, b) in enumerate(near_the_resolution(dtype, 12, 4)):
        mean, std = (a + b) / 2, (b - a) / 2
        fill = Call(op, (a, b) if op == "uniform_" else (mean, std, a, b))
        first = reference.round_up(a, dtype)
        last = (reference.last_below if op == "uniform_" else reference.round_down)(b, dtype)
        numbers = [first]
        while numbers[-1] < last:
            numbers.append(-reference.below(-numbers[-1], dtype))
        ends = [a, *((x + y) / 2 for x, y in itertools.pairwise(numbers)), b]
        below = [(x - a) / (b - a) if op == "uniform_" else phi((x - mean) / std) for x in ends]
        values = fill.new(n, dtype=dtype, key=KEY + trial).double()
        for i, number in enumerate(numbers):
            mass = (below[i + 1] - below[i]) / (below[-1] - below[0])
            deviation = math.sqrt(mass * (1 - mass) / n)
            share = (values == number).double().mean().item()
            assert abs(share - mass) <= 5 * deviation + 2e-4, (fill, number, share, mass)


@every_dtype
def test_rounding_to_a_side(dtype: torch.dtype) -> None:
    core, code = native.library("core"), DTYPES.index(dtype)
    core.up.restype = core.down.restype = ctypes.c_double
    random = np.random.default_rng(5)
    top = torch.finfo(dtype).max
    some = [
        math.ldexp(x, int(e))
        for x, e in zip(random.uniform(-1, 1, 500), random.uniform(-30, 15, 500), strict=True)
    ]
    for x in [0.0, 1.0, -1.0, 0.1, top, -top, 1e-8, 6e-8, -1e-45, 1e-320, *some]:
        down, up = (f(code, ctypes.c_double(x)) for f in (core.down, core.up))
        assert (down, up) == (reference.round_down(x, dtype), reference.round_up(x, dtype)), x
    for x in (math.inf, 1e300 if dtype != torch.float64 else math.inf):
        assert core.up(code, ctypes.c_double(x)) == math.inf
        assert core.down(code, ctypes.c_double(-x)) == -math.inf
        assert core.down(code, ctypes.c_double(x)) == (top if x < math.inf else math.inf)
