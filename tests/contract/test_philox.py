"""C1 and C2: Philox4x32-10, and which of its bits an element owns."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import native
import reference
from fills import KEY, Call, threads

VECTORS = [
    [int(word, 16) for word in line.split()]
    for line in (Path(__file__).parents[1] / "vectors" / "philox.txt").read_text().splitlines()
    if not line.startswith("#")
]


def philox(counter: list[int], key: list[int]) -> list[int]:
    result = (ctypes.c_uint32 * 4)()
    native.library("core").philox((ctypes.c_uint32 * 4)(*counter), (ctypes.c_uint32 * 2)(*key), result)
    return list(result)


UNIT = Call("uniform_", (0.0, 1.0))
KEYS = [0, 1, KEY, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{v[0]:08x}" for v in VECTORS])
def test_published_known_answers(vector: list[int]) -> None:
    counter, key, answer = vector[:4], vector[4:6], vector[6:]
    assert philox(counter, key) == answer
    words = reference.philox4x32_10(tuple(np.array([c], np.uint64) for c in counter), key[0] | key[1] << 32)
    assert [int(word[0]) for word in words] == answer, "the tests' own Philox"


def test_three_vectors_were_read() -> None:
    assert len(VECTORS) == 3


def test_random_counters_and_keys() -> None:
    """Every bit of the counter and of the key matters, and carries go where they belong."""
    random = np.random.default_rng(1)
    for counter, key in zip(
        random.integers(0, 2**32, (2000, 4)).tolist(),
        random.integers(0, 2**32, (2000, 2)).tolist(),
        strict=True,
    ):
        words = reference.philox4x32_10(
            tuple(np.array([c], np.uint64) for c in counter), key[0] | key[1] << 32
        )
        assert philox(counter, key) == [int(word[0]) for word in words]


@pytest.mark.parametrize("key", KEYS, ids=hex)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_element_owns_these_bits(dtype: torch.dtype, key: int) -> None:
    """On [0, 1) a uniform value is its bits, and nothing has been lost: the layout of the stream can be read off it."""
    wide = dtype == torch.float64
    n = 4099
    values = UNIT.new(n, dtype=dtype, key=key).numpy()
    grid = reference.grid(reference.bits(np.arange(n), key, wide), wide)
    assert np.array_equal(values / reference.spacing(wide), grid.astype(np.float64))


def test_float64_joins_the_words_of_float32() -> None:
    """C2 in one line: element i of float64 has the words 2 i and 2 i + 1 of the stream that float32 reads one by one."""
    words = reference.bits(np.arange(2000), KEY, False)
    joined = reference.bits(np.arange(1000), KEY, True)
    assert np.array_equal(joined, words[0::2] | words[1::2] << np.uint64(32))


# ---------------------------------------------------------------------------------------------------------------
# Large indices. No test machine has the memory, so the tensor's pages are one file's, over and over: what was
# written last, at the end of the tensor, is what stays. One thread, so that the end is written last.


@contextmanager
def folded(elements: int, dtype: torch.dtype, period: int) -> Iterator[torch.Tensor]:
    """A tensor in which all elements whose indices agree modulo `period` share memory, unknown to torch."""
    size = dtype.itemsize
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    protection, failed = mmap.PROT_READ | mmap.PROT_WRITE, ctypes.c_void_p(-1).value
    fixed, noreserve, populate = (
        0x10,
        0x4000,
        0x8000,
    )  # MAP_...; the last halves the time, which page faults take
    file = os.memfd_create("folded")
    address = None
    try:
        os.ftruncate(file, period * size)
        address = libc.mmap(
            None, elements * size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | noreserve, -1, 0
        )
        assert address != failed, os.strerror(ctypes.get_errno())
        for start in range(0, elements, period):
            length = min(period, elements - start) * size
            at = libc.mmap(
                address + start * size, length, protection, mmap.MAP_SHARED | fixed | populate, file, 0
            )
            assert at == address + start * size, os.strerror(ctypes.get_errno())
        memory = (ctypes.c_byte * (elements * size)).from_address(address)
        yield torch.frombuffer(memory, dtype=dtype)
    finally:
        os.close(file)
        if address is not None:
            libc.munmap(address, elements * size)


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "boundary"),
    [
        (torch.bfloat16, 1 << 32),  # the element's number no longer fits 32 bits
        (torch.bfloat16, 1 << 34),  # the block's number neither
        (torch.float64, 1 << 33),
    ],
    ids=lambda x: str(x) if isinstance(x, torch.dtype) else f"2^{x.bit_length() - 1}",
)
def test_beyond_32_bits(dtype: torch.dtype, boundary: int) -> None:
    period = 1 << 22
    after = 1_234_567  # an odd place to end at
    wide = dtype == torch.float64
    with folded(boundary + after, dtype, period) as tensor, threads(1):
        UNIT(tensor)
        n = 4096
        for place in (boundary - n, boundary, boundary + after - n):
            index = np.arange(place, place + n, dtype=np.uint64)
            expected = reference.grid(reference.bits(index, KEY, wide), wide).astype(
                np.float64
            ) * reference.spacing(wide)
            values = torch.from_numpy(expected)
            top = torch.tensor(reference.below(1.0, dtype), dtype=dtype)
            assert torch.equal(tensor[place : place + n], torch.minimum(values.to(dtype), top)), place
