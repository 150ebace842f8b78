"""The GPU's loops without a GPU: what a thread and a warp do is plain C++ (csrc/cuda/*.h), so cuda_on_host.cpp
runs it on the CPU, thread after thread. Every value must be the CPU's, and nothing else may be written.

What this does not show: that threads at the same time do the same, and the few instructions of lanes_thread.h that only
a GPU has. tests/contract/test_cuda.py does, where there is one.
"""

import ctypes
import math

import numpy as np
import pytest
import torch

import native
from fills import COMPLEX, FILLS, KEY, REAL, Call, assert_same, bits_of, plain

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
CASES = [(name, dtype) for name, fill in FILLS.items() for dtype in (*fill.dtypes, *FLOAT8)]

every_fill = pytest.mark.parametrize(
    ("name", "dtype"), CASES, ids=lambda case: str(case).removeprefix("torch.")
)


@pytest.fixture
def run():
    """Fills `view`, the part of a tensor of shape `whole` that begins at element `first`, with the GPU's loops."""

    library = native.library("cuda_on_host")

    def fill_view(fill: Call, tensor, whole=None, first=0, key=KEY):
        data = plain(fill, tensor, whole, first)
        library.fastinit_cuda_on_host(
            data.op.encode(),
            (ctypes.c_double * 5)(*data.parameters),
            data.dtype.encode(),
            len(data.region) // 3,
            (ctypes.c_int64 * len(data.region))(*data.region),
            ctypes.c_uint64(data.first),
            ctypes.c_uint64(key),
            ctypes.c_void_p(data.numbers.data_ptr()),
        )
        return tensor

    return fill_view


def poisoned(*shape, dtype):
    """Memory in which a value that was not written, or one that should not have been, shows."""
    return torch.full(shape, math.nan, dtype=dtype)


def untouched(memory):
    return (memory.float() if memory.dtype in FLOAT8 else memory).isnan().all()


def shape_for(fill: Call, elements: int):
    return (elements // 3, 3) if fill.matrix else (elements,)


@every_fill
def test_contiguous_of_any_size_and_alignment(run, name, dtype):
    fill = FILLS[name]
    for elements in (3, 6, 15, 39, 1020, 4095, 4101, 20001):
        shape = shape_for(fill, elements)
        want = fill.new(*shape, dtype=dtype)
        for offset in range(9):
            memory = poisoned(offset + elements + 8, dtype=dtype)
            run(fill, memory[offset : offset + elements].view(shape))
            assert_same(memory[offset : offset + elements], want, f"{elements} from {offset}")
            assert untouched(memory[:offset]) and untouched(memory[offset + elements :])


LAYOUTS = {
    "transposed": ((37, 130), lambda t: t.t(), (130, 37)),
    "columns of a matrix": ((61, 40), lambda t: t[:, 3:30], (61, 27)),
    "aligned columns": ((61, 64), lambda t: t[:, 16:48], (61, 32)),
    "every other column": ((45, 46), lambda t: t[:, ::2], (45, 23)),
    "every other row": ((90, 31), lambda t: t[::2], (45, 31)),
    "one column": ((1100, 3), lambda t: t[:, 1:2], (1100, 1)),
    "channels last": ((5, 3, 3, 7), lambda t: t.permute(0, 3, 1, 2), (5, 7, 3, 3)),
    "reversed dimensions": ((2, 3, 4, 5, 6), lambda t: t.permute(4, 3, 2, 1, 0), (6, 5, 4, 3, 2)),
}


@every_fill
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(run, name, dtype, layout):
    fill = FILLS[name]
    base, view_of, shape = LAYOUTS[layout]
    if fill.matrix and len(shape) != 2:
        pytest.skip("for two dimensions only")
    memory = poisoned(*base, dtype=dtype)
    view = view_of(memory)
    assert view.shape == shape
    run(fill, view)
    assert_same(view, fill.new(*shape, dtype=dtype))
    view.fill_(math.nan)
    assert untouched(memory), "something beside the view was written"


@every_fill
def test_parts_of_a_larger_tensor(run, name, dtype):
    fill, generator = FILLS[name], np.random.default_rng(0)
    whole = (131, 37)
    want = fill.new(*whole, dtype=dtype)
    for _ in range(25):
        (a, b), (c, d) = (np.sort(generator.choice(size + 1, 2, replace=False)) for size in whole)
        part = (
            poisoned(d - c, b - a, dtype=dtype).t()
            if generator.random() < 0.3
            else poisoned(b - a, d - c, dtype=dtype)
        )
        run(fill, part, whole, first=int(a) * whole[1] + int(c))
        assert_same(part, want[a:b, c:d], f"[{a}:{b}, {c}:{d}]")


@pytest.mark.parametrize("rows", [1, 2, 5, 256, 257, 700, 4096, 5000])
@pytest.mark.parametrize("columns", [1, 2, 3, 4, 21])
def test_sparse_matrices_of_any_height(run, rows, columns):
    """Two algorithms, and blocks that reach into the next row or the one after."""
    fill = FILLS["sparse"]
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.complex64):
        want = fill.new(rows, columns, dtype=dtype)
        assert_same(run(fill, poisoned(rows, columns, dtype=dtype)), want, f"{dtype}")
        assert_same(run(fill, poisoned(columns, rows, dtype=dtype).t()), want, f"{dtype}, transposed")


def test_a_run_is_cut_where_the_block_number_gains_a_word(run):
    """Block 2^32 - 2 and the next ones, checked against the reference: on the CPU that would be 64 GiB."""
    pytest.importorskip("scipy.special", reason="the reference needs scipy", exc_type=ImportError)
    from reference import bits

    fill = Call("uniform_", (0.0, 1.0))
    for first in (4 * (2**32 - 2) - 3, 4 * (2**34) - 5):
        index = np.arange(first, first + 4133, dtype=np.uint64)
        want = torch.from_numpy(
            (bits(index, KEY, wide=False) >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)
        )
        for stride in (1, 2):
            memory = poisoned(4133, stride, dtype=torch.float32)
            run(fill, memory[:, 0], (2**62,), first)
            assert_same(memory[:, 0], want, f"stride {stride}")


def test_every_attempt_is_its_own(run):
    """Rejected again and again: about one attempt in four succeeds."""
    hard = Call("trunc_normal_", (0.0, 1.0, 0.5, 100.0))
    for dtype in REAL:
        assert_same(run(hard, poisoned(30000, dtype=dtype)), hard.new(30000, dtype=dtype))


def test_points(run):
    """An interval of one value, and no deviation: nothing is rejected for ever."""
    for fill in (
        Call("trunc_normal_", (0.0, 1.0, 0.25, 0.25)),
        Call("normal_", (1.5, 0.0)),
        Call("uniform_", (2.0, 2.0)),
    ):
        for dtype in REAL:
            assert_same(run(fill, poisoned(1000, dtype=dtype)), fill.new(1000, dtype=dtype))


def test_extremes(run):
    """Large numbers, subnormal ones and ties, as the CPU rounds them."""
    for scale in (1e-41, 6e-8, 1e-5, 9e3, 5e37):
        for fill in (Call("normal_", (0.0, scale)), Call("uniform_", (-scale, scale))):
            for dtype in (torch.float32, torch.bfloat16, *([torch.float16] if scale < 3.1e4 else [])):
                want = fill.new(5000, dtype=dtype)
                assert torch.equal(bits_of(run(fill, poisoned(5000, dtype=dtype))), bits_of(want)), (
                    fill,
                    dtype,
                )


def test_the_list_of_fills_is_complete():
    assert {dtype for _, dtype in CASES} == {*REAL, *COMPLEX, *FLOAT8}
