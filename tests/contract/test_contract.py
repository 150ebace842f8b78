"""The contract, clause by clause: C2 to C6 against tests/support/reference.py, and what a value must not depend on (C2, C8):
the instruction set, the place in memory, the layout, the dtype, the state of the floating-point unit."""

import ctypes
import itertools
import math
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import reference
from fills import (
    CAPABILITIES,
    CASES,
    COMPLEX,
    FILLS,
    KEY,
    REAL,
    Call,
    assert_same,
    capability,
    int64,
    threads,
)

inf = math.inf


def cases(chosen: list[tuple[str, torch.dtype]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("name", "dtype"), chosen, ids=[f"{name}-{dtype}" for name, dtype in chosen]
    )


every_case = cases(CASES)
every_dtype = pytest.mark.parametrize("dtype", REAL, ids=str)
wide_and_narrow = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


pytestmark = pytest.mark.usefixtures("one_thread")


def long_double(tensor: torch.Tensor) -> reference.Reals:
    return tensor.double().numpy().astype(np.longdouble)


def assert_close(tensor: torch.Tensor, expected: reference.Reals, scale: reference.Reals, ulp: float) -> None:
    """Within `ulp` units in the last place of a number as large as `scale`."""
    epsilon = torch.finfo(tensor.dtype).eps
    error = np.abs(long_double(tensor) - expected) / (epsilon * np.abs(scale))
    worst = int(error.argmax())
    assert error[worst] <= ulp, (
        f"element {worst}: {tensor[worst].item()!r}, but {expected[worst]!r}; {error[worst]} ulp"
    )


# ---------------------------------------------------------------------------------------------------------------
# C3 to C6: the values, by an independent computation


@every_dtype
@pytest.mark.parametrize(
    ("a", "b"),
    [(0.0, 1.0), (-1.25, 2.5), (-0.1, 0.7), (1000.0, 1000.5), (-3.0, -2.0), (0.0, 1e-3), (0.3, 0.3)],
)
def test_uniform_values(dtype: torch.dtype, a: float, b: float) -> None:
    """C3, to the bit."""
    n = 3001
    values = Call("uniform_", (a, b)).new(n, dtype=dtype)
    assert_same(values, reference.uniform(np.arange(n), KEY, a, b, dtype))


@wide_and_narrow
@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 1.0), (0.0, 0.02), (0.5, 2.0), (-100.0, 0.1), (0.3, 0.0), (0.0, 1e30)]
)
def test_normal_values(dtype: torch.dtype, mean: float, std: float) -> None:
    """C4: a few units in the last place from the formula."""
    n, wide = 200_001, dtype == torch.float64
    values = Call("normal_", (mean, std)).new(n, dtype=dtype)
    expected = reference.normal(np.arange(n), KEY, mean, std, wide)
    middle = reference.arithmetic_value(mean, wide)
    assert_close(
        values, expected, np.maximum(np.abs(expected - middle), np.abs(middle) / 4) + np.abs(expected) / 8, 4
    )


# mean, std, a, b, and the proposal that C5 names for such an interval, unless it has quantiles
TRUNCATED = [
    (0.0, 1.0, -2.0, 2.0, "normal"),
    (0.1, 0.02, 0.06, 0.14, "normal"),
    (0.0, 1.0, -inf, inf, "normal"),
    (0.0, 1.0, -inf, 0.5, "normal"),
    (0.0, 1.0, -3.0, 4.5, "normal"),
    (0.5, 2.0, 0.5, inf, "half normal"),
    (0.0, 1.0, -5.0, 0.0, "half normal"),
    (0.0, 1.0, -2.0, 0.125, "normal"),
    (0.5, 0.1, 0.6, 0.7, "exponential"),
    (0.0, 1.0, -4.0, -3.0, "exponential"),
    (0.0, 1.0, 0.0, 4.0, "half normal"),
    (3.0, 2.0, 1.0, inf, "normal"),
    (0.0, 1.0, -0.1, 0.1, "uniform"),
    (0.0, 1.0, 0.2, 0.5, "uniform"),
    (0.0, 1.0, -0.5, -0.2, "uniform"),
    (5.0, 2.0, 1.0, 1.25, "uniform"),
    (0.0, 1.0, 3.0, 4.0, "exponential"),
    (0.0, 1.0, -inf, -3.0, "exponential"),
    (1.0, 0.5, 4.0, inf, "exponential"),
    (-30.0, 1.0, 0.0, inf, "exponential"),
]


@wide_and_narrow
@pytest.mark.parametrize(("mean", "std", "a", "b", "proposal"), TRUNCATED)
def test_truncated_values(
    dtype: torch.dtype, mean: float, std: float, a: float, b: float, proposal: str
) -> None:
    """C5: the quantile, or the first accepted attempt, each with its own draw and each decision with its own coin."""
    n, wide = 50_001, dtype == torch.float64
    values = Call("trunc_normal_", (mean, std, a, b)).new(n, dtype=dtype)
    if not wide and reference.has_quantiles(mean, std, a, b):
        expected_values = reference.truncated_quantiles(np.arange(n), KEY, mean, std, a, b)
        # As fine as an even grid of 2^24 points: near the mean, if the interval's middle is somewhere else, no finer.
        middle = abs((a + b) / 2 - mean)
        scale = np.abs(expected_values - mean) + middle + np.abs(expected_values) / 4 + abs(mean) / 4
        return assert_close(values, expected_values, scale, 6)
    expected = reference.truncated_normal(np.arange(n), KEY, mean, std, a, b, proposal, wide)
    sure = ~expected.close
    assert sure.mean() > 0.99
    # Among so few values.
    seldom = [abs(x - mean) > 4.5 * std or (x == mean and proposal == "half normal") for x in (a, b)]
    assert all(seldom) or expected.attempts[sure].max() >= 2
    anchor = (
        next(x for x in (mean, a, b) if np.isfinite(x))
        if "normal" in proposal
        else a
        if np.isfinite(a)
        else b
    )
    scale = np.abs(expected.values - anchor) + np.abs(expected.values) + np.abs(np.longdouble(anchor)) / 4
    assert_close(values[torch.from_numpy(sure)], expected.values[sure], scale[sure], 6)


@wide_and_narrow
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 5), (64, 300), (300, 64), (1000, 1), (1, 1000)])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_sparse_values(dtype: torch.dtype, rows: int, columns: int, sparsity: float) -> None:
    """C6: so many zeros in each column, to the element, and elsewhere the values that normal_ draws."""
    values = Call("sparse_", (sparsity, 0.02)).new(rows, columns, dtype=dtype)
    zero = values == 0
    assert (zero.sum(0) == math.ceil(sparsity * rows)).all()
    dense = Call("normal_", (0.0, 0.02)).new(rows, columns, dtype=dtype)
    assert_same(values, torch.where(zero, torch.zeros_like(dense), dense))


def test_sparse_rounds_up() -> None:
    """The number of zeros is torch's: the ceiling of the product of two floats."""
    for rows, sparsity in itertools.product(
        (3, 10, 49, 100, 1000), (0.07, 0.1, 0.29, 1 / 3, 0.55, 0.58, 0.7, 1e-9)
    ):
        zeros = (Call("sparse_", (sparsity, 1.0)).new(rows, 9) == 0).sum(0)
        assert (zeros == math.ceil(sparsity * rows)).all(), (rows, sparsity)


@pytest.mark.parametrize("dtype", [*REAL[1:], *COMPLEX], ids=str)
def test_sparse_zeros_do_not_depend_on_the_dtype(dtype: torch.dtype) -> None:
    for shape in ((37, 53), (600, 41), (3, 700)):
        assert torch.equal(FILLS["sparse"].new(*shape, dtype=dtype) == 0, FILLS["sparse"].new(*shape) == 0)


# ---------------------------------------------------------------------------------------------------------------
# C8: every instruction set gives the same bits, wherever the tensor lies, and writes nothing else

CANARY = 0x5A
SIZES = [*range(67), 95, 96, 97, 127, 128, 129, 130, 1000, 2047, 2048, 2049, 4096, 4099, 16385, 20_001]


def shapes(fill: Call, size: int) -> list[tuple[int, ...]]:
    if not fill.matrix:
        return [(size,)]
    return [(size, 3) if size % 2 else (3, size)] + [(300 + size, size % 10)] * (size < 10)


def surrounded(elements: int, offset: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Memory full of canaries on a cache line, and the elements `offset` after its first 128."""
    memory = torch.full(((elements + offset + 256) * dtype.itemsize,), CANARY, dtype=torch.uint8).view(dtype)
    assert memory.data_ptr() % 64 == 0
    return memory, memory[128 + offset : 128 + offset + elements]


def check_surrounded(fill: Call, expected: torch.Tensor, offset: int, what: str) -> None:
    memory, view = surrounded(expected.numel(), offset, expected.dtype)
    fill(view.view(expected.shape))
    assert_same(view, expected, what)
    first = 128 + offset
    outside = torch.cat([memory[:first], memory[first + view.numel() :]]).view(torch.uint8)
    assert (outside == CANARY).all(), f"{what}: wrote outside of the tensor"


@every_case
def test_capabilities_agree_on_every_size(name: str, dtype: torch.dtype) -> None:
    fill = FILLS[name]
    # A one-dimensional tensor is the beginning of every longer one (C2).
    with capability(CAPABILITIES[0]):
        longest = None if fill.matrix else fill.new(max(SIZES), dtype=dtype)
    for size in SIZES if not fill.matrix else [size for size in SIZES if size < 3000]:
        offsets = [0, 1, 3, 10] if size < 35 else [size % 4]
        for shape in shapes(fill, size):
            with capability(CAPABILITIES[0]):
                expected = fill.new(*shape, dtype=dtype) if longest is None else longest[:size]
            for capability_name, offset in itertools.product(CAPABILITIES, offsets):
                with capability(capability_name):
                    check_surrounded(fill, expected, offset, f"{capability_name}, {shape}, offset {offset}")


STREAMED = 4 << 20  # bytes from which on stores go past the caches


@cases([(name, dtype) for name, dtype in CASES if dtype in REAL])
def test_capabilities_agree_on_large_tensors(name: str, dtype: torch.dtype) -> None:
    """Where stores bypass the caches, from every alignment: of elements, of blocks, of vectors, of cache lines."""
    fill = FILLS[name]
    elements = STREAMED // dtype.itemsize + 12_345
    shape = (elements // 1021, 1021) if fill.matrix else (elements,)
    with capability(CAPABILITIES[-1]):
        expected = fill.new(*shape, dtype=dtype)
    for capability_name in CAPABILITIES:
        # The baseline is slow, and has little that depends on the alignment.
        for offset in (1,) if capability_name == "default" else (0, 1, 4, 10, 24):
            with capability(capability_name):
                check_surrounded(fill, expected, offset, f"{capability_name}, offset {offset}")


@every_case
def test_capabilities_agree_on_strided_tensors(name: str, dtype: torch.dtype) -> None:
    fill = FILLS[name]
    for rows, columns in [(5, 3), (67, 65), (9, 300), (1030, 17)]:
        expected = fill.new(rows, columns, dtype=dtype)
        for capability_name in CAPABILITIES:
            with capability(capability_name):
                assert_same(fill(torch.empty(columns, rows, dtype=dtype).t()), expected, capability_name)
                gaps = torch.empty(rows, columns + 9, dtype=dtype)[:, 3 : columns + 3]
                assert_same(fill(gaps), expected, capability_name)


# ---------------------------------------------------------------------------------------------------------------
# C2: every layout holds the same value at the same logical index

SENTINEL = -777.0


def memory_of(view: torch.Tensor) -> torch.Tensor:
    return torch.empty(0, dtype=view.dtype).set_(view.untyped_storage())


def check_layout(fill: Call, view: torch.Tensor) -> None:
    """`view` lies in memory full of sentinels; only its own elements are written, and they are as in a contiguous one."""
    expected = fill.new(*view.shape, dtype=view.dtype)
    strides, offset = view.stride(), view.storage_offset()
    fill(view)
    assert (view.stride(), view.storage_offset()) == (strides, offset)
    assert_same(view, expected, f"shape {tuple(view.shape)}, strides {strides}, offset {offset}")
    view.fill_(SENTINEL)
    assert (memory_of(view) == SENTINEL).all(), (
        f"wrote between or around the elements: {view.shape}, {strides}"
    )


def full(*shape: int) -> Callable[[torch.dtype], torch.Tensor]:
    return lambda dtype: torch.full(shape, SENTINEL, dtype=dtype)


def strided(
    size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0
) -> Callable[[torch.dtype], torch.Tensor]:
    span = offset + 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    return lambda dtype: torch.full((span + 5,), SENTINEL, dtype=dtype).as_strided(size, stride, offset)


LAYOUTS: dict[str, Callable[[torch.dtype], torch.Tensor]] = {
    "no dimensions": full(),
    "one element": full(1, 1, 1),
    "no elements": full(3, 0, 5),
    "contiguous": full(17, 19, 3),
    "transposed": lambda d: full(70, 65)(d).t(),
    "transposed, tall": lambda d: full(67, 1100)(d).t(),
    "transposed, wide": lambda d: full(1100, 67)(d).t(),
    "transposed, narrow": lambda d: full(20, 1900)(d).t(),
    "transposed, batched": lambda d: full(5, 130, 40)(d).transpose(1, 2),
    "transposed, sliced": lambda d: full(150, 140)(d).t()[3:133, 7:140],
    "transposed, with steps": lambda d: full(150, 140)(d).t()[::3, 1::2],
    "transposed, on several threads": lambda d: full(300, 211)(d).t(),
    "permuted": lambda d: full(6, 7, 8, 9)(d).permute(2, 0, 3, 1),
    "reversed dimensions": lambda d: full(4, 5, 6, 7)(d).permute(3, 2, 1, 0),
    "columns": lambda d: full(40, 50)(d)[:, 3:31],
    "long columns": lambda d: full(9, 700)(d)[:, 5:617],
    "one column": lambda d: full(400, 7)(d)[:, 3],
    "one row": lambda d: full(7, 400)(d)[3],
    "rows": lambda d: full(40, 50)(d)[4:37],
    "every other row": lambda d: full(40, 50)(d)[::2],
    "every third element": lambda d: full(1000)(d)[1::3],
    "steps in all dimensions": lambda d: full(13, 14, 15)(d)[::2, 1::3, 2::5],
    "diagonal": lambda d: full(90, 90)(d).diagonal(),
    "channels_last": lambda d: full(4, 5, 6, 7)(d).to(memory_format=torch.channels_last),
    "channels_last_3d": lambda d: full(3, 5, 4, 6, 7)(d).to(memory_format=torch.channels_last_3d),
    "channels_last, sliced": lambda d: full(4, 8, 6, 7)(d).to(memory_format=torch.channels_last)[:, 2:7, 1:],
    "storage offset": strided((300,), (1,), 3),
    "size-1 dimensions expanded": lambda d: full(50, 1, 60)(d)[:, :, :45].expand(50, 1, 45).unsqueeze(0),
    "size-1 dimensions of any stride": strided((1, 20, 1, 30), (7, 30, 0, 1)),
    "interleaved": strided((2, 3), (3, 2)),
    "interleaved, long": strided((2, 400), (5, 2), 1),
    "interleaved, three ways": strided((2, 2, 5), (13, 3, 2)),
    "unfolded without overlap": lambda d: full(600)(d).unfold(0, 20, 25),
    "many dimensions": lambda d: full(*[2] * 12)(d).permute(*range(11, -1, -1)),
    "real part": lambda d: full(60, 20, 2)(d)[..., 0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", FILLS)
def test_layouts(name: str, layout: str) -> None:
    fill = FILLS[name]
    for dtype in fill.dtypes:
        view = LAYOUTS[layout](dtype)
        if fill.matrix:  # two dimensions of whatever there are
            view = view[(None,) * max(0, 2 - view.dim())]
            view = view[(0,) * (view.dim() - 2)] if view.numel() else view[:, :, 0]
        with threads(3 if view.numel() > 50_000 else 1):
            check_layout(fill, view)


@every_case
def test_random_layouts(name: str, dtype: torch.dtype) -> None:
    """Any box: random sizes, steps, gaps and orders of dimensions; some span several windows, rows or threads."""
    fill = FILLS[name]
    random = np.random.default_rng(3)
    for trial in range(45):
        dims = 2 if fill.matrix else int(random.integers(1, 6))
        largest = [2000, 100, 16, 8, 5][dims - 1]
        sizes = random.integers(1, largest, dims, endpoint=True)
        if trial % 3 == 0:
            sizes[random.integers(dims)] *= 2
        steps = random.integers(1, 3, dims, endpoint=True) if trial % 2 else np.ones(dims, int)
        first, rest = random.integers(0, 4, dims), random.integers(0, 3, dims)
        base = torch.full(tuple((first + sizes * steps + rest).tolist()), SENTINEL, dtype=dtype)
        slices = (
            slice(f, f + n * s, s)
            for f, n, s in zip(first.tolist(), sizes.tolist(), steps.tolist(), strict=True)
        )
        check_layout(fill, base[tuple(slices)].permute(*random.permutation(dims).tolist()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("name", ["normal", "truncated, normal proposal", "sparse"])
def test_large_layouts(name: str, dtype: torch.dtype) -> None:
    """Beyond the size from which on contiguous stores go past the caches."""
    fill = FILLS[name]
    if dtype not in fill.dtypes:
        pytest.skip("not for this dtype")
    rows, columns = 2100, STREAMED // dtype.itemsize // 2000
    with threads(3):
        check_layout(fill, torch.full((columns, rows), SENTINEL, dtype=dtype).t())
        check_layout(fill, torch.full((rows, columns + 5), SENTINEL, dtype=dtype)[:, 3 : columns + 3])


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("dtype", [*COMPLEX, torch.complex32], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (5, 7), (1001,), (3, 4, 5)], ids=str)
def test_complex_is_its_parts_in_turn(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """The real and the imaginary part of element i are the elements 2 i and 2 i + 1 of a real tensor."""
    real = dtype.to_real()
    for whole, parts in [
        (FILLS["uniform"], FILLS["uniform"]),
        (Call("normal_", (0.5, 2.0)), Call("normal_", (0.5, 2.0 / math.sqrt(2.0)))),
    ]:
        assert_same(torch.view_as_real(whole.new(*shape, dtype=dtype)), parts.new(*shape, 2, dtype=real))


OVERLAPPING: dict[str, Callable[[], torch.Tensor]] = {
    "expanded": lambda: torch.full((1, 5), SENTINEL).expand(4, 5),
    "stride 0": lambda: torch.full((5,), SENTINEL).as_strided((3, 5), (0, 1)),
    "unfolded": lambda: torch.full((20,), SENTINEL).unfold(0, 5, 3),
    "interleaved": lambda: torch.full((64,), SENTINEL).as_strided((4, 6), (3, 2)),
    "interleaved, one pair shared": lambda: torch.full((64,), SENTINEL).as_strided((3, 4), (3, 2)),
    "diagonals": lambda: torch.full((64,), SENTINEL).as_strided((5, 5), (1, 1)),
    "complex": lambda: torch.full((64,), SENTINEL, dtype=torch.complex64).as_strided((5, 5), (1, 1)),
}


@pytest.mark.parametrize("layout", OVERLAPPING)
@pytest.mark.parametrize("name", FILLS)
def test_overlapping_elements_are_refused(name: str, layout: str) -> None:
    view = OVERLAPPING[layout]()
    if view.dtype not in FILLS[name].dtypes:
        pytest.skip("not for this dtype")
    version = view._version
    with pytest.raises(RuntimeError, match="share memory"):
        FILLS[name](view)
    assert (memory_of(view) == SENTINEL).all() and view._version == version


# ---------------------------------------------------------------------------------------------------------------
# C8: one rounding at the end


HALVES = (torch.float16, torch.bfloat16)
ROUNDED = [
    *FILLS.values(),
    Call("normal_", (0.0, 0.02)),
    Call("normal_", (0.0, 9e3)),  # as far as float16 reaches
    Call("normal_", (6e4, 800.0)),
    Call("normal_", (0.0, 5e37), (torch.float32, torch.float64, torch.bfloat16)),  # as far as bfloat16 does
    Call("normal_", (0.0, 1e-7)),  # float16 is subnormal
    Call("normal_", (0.0, 6e-5)),  # on both sides of that
    Call("normal_", (0.0, 1e-39)),  # float32 and bfloat16 are subnormal
    Call("trunc_normal_", (0.0, 1e-6, -1e-6, 2e-6)),
    Call("trunc_normal_", (0.0, 1.0, -1 / 3, 1 / 3)),
    Call("trunc_normal_", (0.1, 0.02, 0.06, 0.14)),
]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("fill", ROUNDED, ids=str)
@pytest.mark.parametrize("name", CAPABILITIES)
def test_16_bits_are_float32_rounded(name: str, fill: Call, dtype: torch.dtype) -> None:
    if dtype not in fill.dtypes:
        pytest.skip("not for this dtype")
    shape = (1000, 41) if fill.matrix else (41_003,)
    with capability(name):
        expected = fill.new(*shape).to(dtype)
        if fill.op != "normal_" and not fill.matrix:  # but for what would leave the bounds
            a, b = fill.parameters[-2:]
            last = (reference.last_below if fill.op == "uniform_" else reference.round_down)(b, dtype)
            expected = reference.nearest_within(expected, reference.round_up(a, dtype), last)
        assert_same(fill.new(*shape, dtype=dtype), expected)


# ---------------------------------------------------------------------------------------------------------------
# C3: a uniform value lies in [a, b), in the tensor's dtype

largest = {dtype: torch.finfo(dtype).max for dtype in REAL}
smallest = {dtype: torch.finfo(dtype).smallest_normal for dtype in REAL}


def above(x: float, dtype: torch.dtype, steps: int = 1) -> float:
    for _ in range(steps):
        x = -reference.below(-x, dtype)
    return x


BOUNDS: dict[str, Callable[[torch.dtype], tuple[float, float]]] = {
    "unit": lambda d: (0.0, 1.0),
    "symmetric": lambda d: (-1.0, 1.0),
    "not in the dtype": lambda d: (-0.1, 0.7),
    "not in the dtype, positive": lambda d: (0.1, 0.3),
    "thirds": lambda d: (1 / 3, 2 / 3),
    "negative": lambda d: (-3.0, -2.0),
    "up to zero": lambda d: (-1.0, 0.0),
    "adjacent": lambda d: (1.0, above(1.0, d)),
    "adjacent, negative": lambda d: (-above(1.0, d), -1.0),
    "two apart": lambda d: (1.0, above(1.0, d, 2)),
    "three apart": lambda d: (5.0, above(5.0, d, 3)),
    "across a power of two": lambda d: (reference.below(2.0, d), above(2.0, d)),
    "coarse": lambda d: (1 / torch.finfo(d).eps, 1 / torch.finfo(d).eps + 16),
    "coarse and fine": lambda d: (-1e-3, 1000.0),
    "large": lambda d: (-largest[d] / 2, largest[d] / 2),
    "up to the largest": lambda d: (0.0, largest[d]),
    "from the lowest": lambda d: (-largest[d], 0.0),
    "near the largest": lambda d: (reference.below(largest[d], d), largest[d]),
    "down to the smallest normal": lambda d: (smallest[d], 2 * smallest[d]),
    "subnormal": lambda d: (0.0, smallest[d] / 4),
    "around zero, subnormal": lambda d: (-smallest[d] / 8, smallest[d] / 4),
    "one subnormal step": lambda d: (0.0, above(0.0, d)),
    "last subnormal step": lambda d: (reference.below(smallest[d], d), smallest[d]),
    "small": lambda d: (0.0, smallest[d] * 64),
    "small, not a power of two": lambda d: (0.0, smallest[d] * 50.75),
    "small, with an offset": lambda d: (smallest[d] * 64, smallest[d] * 192),
    "a point": lambda d: (3.0, 3.0),
    "a point at zero": lambda d: (0.0, 0.0),
    "a point at minus zero": lambda d: (-0.0, -0.0),
    "from minus zero to zero": lambda d: (-0.0, 0.0),
    "a point not in the dtype": lambda d: (0.1, 0.1),
}


@every_dtype
@pytest.mark.parametrize("bounds", BOUNDS)
def test_uniform_lies_in_its_interval(bounds: str, dtype: torch.dtype) -> None:
    a, b = BOUNDS[bounds](dtype)
    n = 40_001
    fill = Call("uniform_", (a, b))
    with capability(CAPABILITIES[0]):
        values = fill.new(n, dtype=dtype)
    for name in CAPABILITIES:
        with capability(name):
            assert_same(fill.new(n, dtype=dtype), values, name)
    assert values.isfinite().all()
    if a == b:
        assert (values == reference.nearest(a, dtype)).all()
        return
    assert a <= values.min().item() and values.max().item() < b
    # Nor is it anywhere else than it should be: the mean within six standard errors, and one step for the roundings.
    low, high = reference.round_up(a, dtype), reference.nearest(b, dtype)
    mean = ((values.double() - a) / (b - a)).mean().item()
    step = max(high - reference.below(high, dtype), above(low, dtype) - low) / (b - a)
    assert abs(mean - 0.5) <= 6 / math.sqrt(12 * n) + step


# ---------------------------------------------------------------------------------------------------------------
# C4: how far the tails reach


@wide_and_narrow
def test_normal_tails(dtype: torch.dtype) -> None:
    """No value is farther out than word 0's radius, and a small word does give a large radius."""
    wide = dtype == torch.float64
    limit = math.sqrt(2 * (65 if wide else 33) * math.log(2))  # 6.76 for float32
    n = 1 << 20
    values = Call("normal_", (0.0, 1.0)).new(n, dtype=dtype)
    assert 4.5 < values.abs().max().item() < limit * (1 + 1e-6)
    # Where the smallest word says that the largest radius is.
    words = reference.bits(np.arange(0, n, 2), KEY, wide)
    pair = int(words.argmin())
    x = reference.standard_normal(np.array([2 * pair, 2 * pair + 1]), KEY, wide)
    assert np.allclose(values[2 * pair : 2 * pair + 2].double().numpy(), x.astype(np.float64), rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------
# C8: the caller's floating-point unit does not matter

SMALL_NUMBERS = [
    Call("uniform_", (0.0, 1e-38)),
    Call("uniform_", (-1e-40, 1e-39)),
    Call("uniform_", (0.0, 1e-30)),
    Call("normal_", (0.0, 1e-39)),
    Call("normal_", (1e-42, 1e-38)),
    Call("trunc_normal_", (0.0, 1e-38, -1e-39, 2e-38)),
    Call("trunc_normal_", (0.0, 1e-36, -1e-38, 1e-38)),
    Call("trunc_normal_", (0.0, 1e-38, 3e-38, 5e-38), (torch.float32, torch.float64, torch.bfloat16)),
]
SMALL_DOUBLES = [
    Call(fill.op, tuple(math.ldexp(x, -896) for x in fill.parameters), (torch.float64,))
    for fill in SMALL_NUMBERS
]
DECIMALS = [
    Call("uniform_", (-0.1, 0.7)),
    Call("normal_", (0.1, 0.02), (*REAL, *COMPLEX)),
    Call("trunc_normal_", (0.1, 0.02, 0.06, 0.14)),
    Call("trunc_normal_", (0.1, 0.7, 0.3, 0.4)),
    Call("trunc_normal_", (0.1, 0.02, 0.2, 0.3)),
    Call("sparse_", (0.1, 0.01), (*REAL, *COMPLEX), matrix=True),
    Call("sparse_", (0.7, 0.01), matrix=True),
]
ENVIRONMENTS = [*FILLS.values(), *SMALL_NUMBERS, *SMALL_DOUBLES, *DECIMALS]


@contextmanager
def flushing_denormals() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def rounding(mode: int) -> Iterator[None]:
    libm = ctypes.CDLL("libm.so.6")
    assert libm.fesetround(mode) == 0
    try:
        yield
    finally:
        assert libm.fesetround(0) == 0


STATES: dict[str, Callable[[], object]] = {"flushing denormals": flushing_denormals}
if platform.machine() == "x86_64":  # FE_DOWNWARD and its like are the processor's own
    STATES |= {
        "rounding down": lambda: rounding(0x400),
        "rounding up": lambda: rounding(0x800),
        "rounding to zero": lambda: rounding(0xC00),
    }


SMALLEST, HALF, ONE, THREE = (np.array([x], np.float32) for x in (2.0**-126, 0.5, 1.0, 3.0))


def fingerprint() -> list[float]:
    """Numbers that differ between the states of the floating-point unit."""
    return [*(SMALLEST * HALF).tolist(), *(ONE / THREE).tolist(), *(-ONE / THREE).tolist()]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("fill", ENVIRONMENTS, ids=str)
def test_state_of_the_floating_point_unit(fill: Call, state: str) -> None:
    for dtype in fill.dtypes:
        for shape in [(61, 67), (300, 71)] if fill.matrix else [(4099,), (20_001,)]:
            expected, tensor, key = fill.new(*shape, dtype=dtype), torch.empty(shape, dtype=dtype), int64(KEY)
            op = getattr(torch.ops.fastinit, fill.op).key
            with STATES[state]():  # type: ignore[attr-defined]
                before = fingerprint()
                op(tensor, *fill.parameters, key=key)
                after = fingerprint()
            assert_same(tensor, expected, str(dtype))
            assert before == after, "the state was not put back"
