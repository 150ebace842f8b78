"""C3, C4 and C8 for 8 bits: a value is the one of float32, rounded once, to nearest even, as torch's casts round it."""

import ctypes
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

import fastinit
import native
from fastinit import extra
from fills import CAPABILITIES, FILLS, KEY, Call, assert_same, capability, threads

# In DType's order, with the largest number.
LARGEST = {
    torch.float8_e4m3fn: 448.0,
    torch.float8_e4m3fnuz: 240.0,
    torch.float8_e5m2: 57344.0,
    torch.float8_e5m2fnuz: 57344.0,
}
FIRST = 4  # of them in DType
every_dtype = pytest.mark.parametrize("dtype", LARGEST, ids=lambda dtype: str(dtype).removeprefix("torch."))
every_fill = pytest.mark.parametrize("name", FILLS)
pytestmark = pytest.mark.usefixtures("one_thread")


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As torch casts. Before torch 2.13 its e4m3fn became NaN where it overflows, which now is the largest number."""
    return (x.clamp(-448, 448) if dtype == torch.float8_e4m3fn else x).to(dtype)


def numbers(dtype: torch.dtype) -> torch.Tensor:
    """All finite numbers of the dtype in order."""
    every = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    return every[every.isfinite()].unique()


def expected(fill: Call, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    """The float32 fill, cast; where it has bounds, to the nearest of the numbers within them."""
    wide = fill.new(*shape)
    if fill.op == "uniform_" or fill.op == "trunc_normal_":
        a, b = fill.parameters[-2:]
        within = numbers(dtype)
        within = within[(within >= a) & (within < b if fill.op == "uniform_" else within <= b)]
        wide = wide.clamp(within[0].item(), within[-1].item())
    return cast(wide, dtype)


# ---------------------------------------------------------------------------------------------------------------
# The rounding


@every_dtype
def test_rounding(dtype: torch.dtype) -> None:
    """All float32 of a few bits, which hold every tie and its neighbours, and many others."""
    core = native.library("core")
    top = np.arange(2**16, dtype=np.uint32) << 16
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    others = np.random.default_rng(0).integers(0, 2**32, 2**20, dtype=np.uint32)
    bits = np.concatenate([(top[:, None] | low).ravel(), others])
    x = bits.view(np.float32)
    x = x[~np.isnan(x)]
    rounded = np.empty(x.size, np.uint8)
    core.to_float8(
        FIRST + list(LARGEST).index(dtype), ctypes.c_int64(x.size), x.ctypes.data_as(ctypes.c_void_p),
        rounded.ctypes.data_as(ctypes.c_void_p),
    )  # fmt: skip
    assert_same(torch.from_numpy(rounded).view(dtype), cast(torch.from_numpy(x), dtype))


@every_dtype
def test_rounding_to_a_side(dtype: torch.dtype) -> None:
    core, code, every = native.library("core"), FIRST + list(LARGEST).index(dtype), numbers(dtype).tolist()
    core.up.restype = core.down.restype = ctypes.c_double
    between = [(a + b) / 2 for a, b in itertools.pairwise(every)]
    for x in [*every, *between, *(y + 1e-12 for y in between), 0.1, -1e-300, 1e5, -1e5, math.inf]:
        down = max((y for y in every if y <= x), default=-math.inf)
        up = min((y for y in every if y >= x), default=math.inf)
        if x != math.inf:  # which is a number of e5m2
            assert core.down(code, ctypes.c_double(x)) == down, x
        assert core.up(code, ctypes.c_double(x)) == up, x


# ---------------------------------------------------------------------------------------------------------------
# The fills


@every_dtype
@every_fill
@pytest.mark.parametrize("set_name", CAPABILITIES)
def test_values_are_float32_rounded(set_name: str, name: str, dtype: torch.dtype) -> None:
    fill = FILLS[name]
    with capability(set_name):
        for size in (1, 7, 33, 2047, 2049, 41_003):
            shape = (size, 3) if fill.matrix else (size,)
            assert_same(fill.new(*shape, dtype=dtype), expected(fill, *shape, dtype=dtype), f"{shape}")


@every_dtype
@pytest.mark.parametrize("std", [1e-7, 0.002, 0.02, 30.0])
def test_small_and_large_values(std: float, dtype: torch.dtype) -> None:
    """Subnormal numbers, and those that are next to the largest."""
    fill = Call("normal_", (0.0, std))
    assert_same(fill.new(100_001, dtype=dtype), expected(fill, 100_001, dtype=dtype))


LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "an odd address": ((31 * 40 + 1,), lambda t: t[1:].view(31, 40)),
    "transposed": ((67, 130), lambda t: t.t()),
    "columns": ((61, 40), lambda t: t[:, 3:30]),
    "every other column": ((45, 46), lambda t: t[:, ::2]),
    "one column": ((1100, 3), lambda t: t[:, 1:2]),
    "columns of a transposed matrix": ((40, 61), lambda t: t.t()[:, 5:]),
}


@every_dtype
@every_fill
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, name: str, dtype: torch.dtype) -> None:
    fill, (shape, view_of) = FILLS[name], LAYOUTS[layout]
    for set_name in CAPABILITIES:
        memory = torch.full(shape, 77, dtype=torch.uint8)
        view = view_of(memory.view(dtype))
        with capability(set_name):
            fill(view)
        assert_same(view, fill.new(*view.shape, dtype=dtype), set_name)
        view_of(memory).fill_(77)
        assert (memory == 77).all(), "something beside the view was written"


@every_dtype
def test_threads_and_stores_past_the_caches(dtype: torch.dtype) -> None:
    n = (4 << 20) + 12_345
    for name in ("uniform", "normal"):
        alone = FILLS[name].new(n, dtype=dtype)
        with threads(4):
            assert_same(FILLS[name].new(n, dtype=dtype), alone)
    assert_same(alone, expected(FILLS["normal"], n, dtype=dtype))


@every_dtype
def test_parts(dtype: torch.dtype) -> None:
    whole = FILLS["normal"].new(37, 53, dtype=dtype)
    part = torch.empty(10, 21, dtype=dtype)
    torch.ops.fastinit.normal_.part(
        part, 0.5, 2.0, shape=[37, 53], first=[5, 30], length=[10, 21], key=torch.tensor(KEY)
    )
    assert_same(part, whole[5:15, 30:51])


@every_dtype
def test_functions(dtype: torch.dtype) -> None:
    def same(function: Callable[..., torch.Tensor], *shape: int, **arguments: float) -> None:
        narrow, wide = (
            function(torch.empty(shape, dtype=d), generator=torch.Generator().manual_seed(3), **arguments)
            for d in (dtype, torch.float32)
        )
        assert_same(narrow, cast(wide, dtype), function.__name__)

    same(fastinit.orthogonal_, 64, 48)
    same(fastinit.orthogonal_, 5, 300, gain=2.0)
    same(extra.batched_orthogonal_, 3, 16, 16)
    same(extra.delta_orthogonal_, 16, 8, 3)
    same(fastinit.xavier_normal_, 40, 30)
    same(fastinit.kaiming_normal_, 40, 30, 3)
    assert (fastinit.eye_(torch.empty(4, 4, dtype=dtype)).float() == torch.eye(4)).all()


# ---------------------------------------------------------------------------------------------------------------
# What is beyond the dtype


@every_dtype
def test_overflow(dtype: torch.dtype) -> None:
    """A format whose casts saturate has no value that is too large. In the others it would be no number."""
    std = LARGEST[dtype] / 2
    if dtype != torch.float8_e4m3fn:
        with pytest.raises(RuntimeError, match="out of bounds"):
            Call("normal_", (0.0, std)).new(10, dtype=dtype)
        std = LARGEST[dtype] / 6.78
    fill = Call("normal_", (0.0, std))
    values = fill.new(100_000, dtype=dtype)
    assert_same(values, expected(fill, 100_000, dtype=dtype))
    assert values.float().isfinite().all()
    assert (values.float().abs() == LARGEST[dtype]).any() == (dtype == torch.float8_e4m3fn)


@every_dtype
def test_bounds_that_are_refused(dtype: torch.dtype) -> None:
    for op, parameters in [
        ("uniform_", (0.0, 2 * LARGEST[dtype])),
        ("uniform_", (1.01, 1.02)),  # between two numbers
        ("trunc_normal_", (0.0, 1.0, 1.01, 1.02)),
        ("orthogonal_", (2 * LARGEST[dtype],)),
    ]:
        with pytest.raises(RuntimeError, match=r"out of bounds|has no number"):
            Call(op, parameters).new(4, 4, dtype=dtype)


@pytest.mark.parametrize("op", ["uniform_", "normal_", "trunc_normal_", "sparse_", "orthogonal_"])
def test_other_dtypes_are_refused(op: str) -> None:
    arguments = (0.5,) if op == "sparse_" else ()
    with pytest.raises(NotImplementedError, match="e8m0fnu, which holds scales"):
        getattr(fastinit, op)(torch.empty(4, 4, dtype=torch.float8_e8m0fnu), *arguments)
    for dtype in (torch.int32, torch.uint8, torch.bool):
        with pytest.raises(NotImplementedError, match="not implemented for dtype"):
            getattr(fastinit, op)(torch.empty(4, 4, dtype=dtype), *arguments)
