"""C10: parts of any width hold the values of the whole, bit for bit: with every instruction set, any number of threads, in
any layout, at any offset."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fills import CAPABILITIES, CASES, FILLS, KEY, Call, assert_same, capability, int64, threads

SENTINEL = -777.0


def fill_part(
    fill: Call, tensor: torch.Tensor, shape: tuple[int, ...], first: tuple[int, ...], key: int = KEY
) -> None:
    """Fills a tensor that is the box of a whole of that shape that begins there."""
    part = getattr(torch.ops.fastinit, fill.op).part
    part(tensor, *fill.parameters, shape=shape, first=first, length=tuple(tensor.shape), key=int64(key))


def memories(
    sizes: tuple[int, ...], dtype: torch.dtype, random: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Tensors of these sizes, full of sentinels: contiguous, with gaps within and between the rows, transposed."""
    before, after = (int(random.integers(0, 9)) for _ in range(2))
    outer, last = sizes[:-1], sizes[-1]
    yield torch.full(sizes, SENTINEL, dtype=dtype)
    yield torch.full((*outer, before + last + after), SENTINEL, dtype=dtype)[..., before : before + last]
    yield torch.full((*outer, 2 * last), SENTINEL, dtype=dtype)[..., 1::2]
    turned = torch.full((last, *outer[::-1]), SENTINEL, dtype=dtype)
    yield turned.permute(*reversed(range(turned.dim())))


def check(fill: Call, whole: torch.Tensor, view: torch.Tensor, first: tuple[int, ...]) -> None:
    """The view holds the whole's values, and no memory but its own was written."""
    fill_part(fill, view, tuple(whole.shape), first)
    box = whole[tuple(slice(f, f + n) for f, n in zip(first, view.shape, strict=True))]
    assert_same(view, box, f"{tuple(view.shape)} of {tuple(whole.shape)} at {first}, strides {view.stride()}")
    view.fill_(SENTINEL)
    memory = torch.empty(0, dtype=view.dtype).set_(view.untyped_storage())
    assert (memory == SENTINEL).all(), "wrote between or around the elements"


WIDTHS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 31, 33, 63, 64, 65, 100, 127, 128, 130, 255, 257, 300)
ROWS = (1, 2, 3, 9, 40, 130, 300, 700)


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=[f"{name}-{dtype}" for name, dtype in CASES])
def test_narrow_parts(name: str, dtype: torch.dtype) -> None:
    """Random widths, offsets, wholes, layouts, instruction sets, threads."""
    fill, random = FILLS[name], np.random.default_rng(11)
    for trial in range(40):
        rows, width = int(random.choice(ROWS)), int(random.choice(WIDTHS))
        top, left, below, right = (int(random.integers(0, n)) for n in (5, 70, 3, 90))
        if trial % 2 == 0:  # as shards have it: everything begins with a block
            left, right = left // 4 * 4, (right + width) // 4 * 4 - width + 4
        shape, first, sizes = (top + rows + below, left + width + right), (top, left), (rows, width)
        if trial % 5 == 4 and not fill.matrix:
            middle = int(random.integers(1, 6))
            shape, first = (shape[0], middle + 1, shape[1]), (top, int(random.integers(0, 2)), left)
            sizes = (rows, middle, width)
        chosen = str(random.choice(CAPABILITIES))
        with capability(CAPABILITIES[-1]):
            whole = fill.new(*shape, dtype=dtype)
        with capability(chosen), threads(3 if trial % 4 == 0 else 1):
            for view in memories(sizes, dtype, random):
                check(fill, whole, view, first)


@pytest.mark.parametrize("capability_name", CAPABILITIES)
@pytest.mark.parametrize("columns", [16, 64, 200])
@pytest.mark.parametrize("rows", [200, 300, 4096, 5000, 9000])
@pytest.mark.parametrize("sparsity", [0.0, 0.001, 0.1, 0.5, 0.9, 1.0])
def test_parts_of_sparse_columns(sparsity: float, rows: int, columns: int, capability_name: str) -> None:
    """Zeros are the same whether they are found one by one or by walks along the columns, for all rows or for some."""
    if capability_name == "default" and rows > 4096:
        pytest.skip("slow")
    fill = Call("sparse_", (sparsity, 1.0), matrix=True)
    shape = (rows, 301)
    with capability(capability_name), threads(1):
        whole = fill.new(*shape)
        expected = torch.empty(shape)
        for row in range(0, rows, 100):  # so few that each is asked for
            fill_part(fill, expected[row : row + 100], shape, (row, 0))
        assert_same(whole, expected)
        for first, n in ((0, rows), (rows // 3, rows // 2), (rows - 7, 7)):
            part = torch.empty(n, columns)
            fill_part(fill, part, shape, (first, 37))
            assert_same(part, whole[first : first + n, 37 : 37 + columns])


def test_rows_that_are_far_apart() -> None:
    """A row's blocks may be 2^32 and more after those of the row before."""
    fill = FILLS["normal"]
    for columns in (2**33 + 6, 2**35, 2**40 + 1):
        shape, rows = (40, columns), torch.empty(40, 5)
        fill_part(fill, rows, shape, (0, columns - 9))
        for i in range(40):
            row = torch.empty(5)
            fill_part(fill, row, (40 * columns,), (i * columns + columns - 9,))
            assert_same(rows[i], row, f"row {i} of {columns} columns")
