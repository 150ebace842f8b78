"""What the tests of the contract share: the fills, by key and by generator, and how their results are compared."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import torch

import fastinit
from fastinit import _C

KEY = 0x0123456789ABCDEF

REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (torch.complex64, torch.complex128)


@dataclass(frozen=True)
class Call:
    """An op of fastinit with its parameters."""

    op: str
    parameters: tuple[float, ...]
    dtypes: tuple[torch.dtype, ...] = REAL
    matrix: bool = False  # for two dimensions only

    def __call__(self, tensor: torch.Tensor, key: int = KEY) -> torch.Tensor:
        """Fills the tensor under this key; no generator is asked."""
        getattr(torch.ops.fastinit, self.op).key(tensor, *self.parameters, key=int64(key))
        return tensor

    def draw(self, tensor: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Fills the tensor through the public function, with a key from the generator."""
        return getattr(fastinit, self.op)(tensor, *self.parameters, generator=generator)

    def new(self, *shape: int, dtype: torch.dtype = torch.float32, key: int = KEY) -> torch.Tensor:
        return self(torch.empty(shape, dtype=dtype), key)


# Each with the loops it takes: in float32, the first three of trunc_normal_ reject nothing.
FILLS = {
    "uniform": Call("uniform_", (-1.25, 2.5), (*REAL, *COMPLEX)),
    "normal": Call("normal_", (0.5, 2.0), (*REAL, *COMPLEX)),
    "truncated": Call("trunc_normal_", (0.0, 1.0, -2.0, 2.0)),
    "truncated, near": Call("trunc_normal_", (0.0, 1.0, -0.5, 0.375)),
    "truncated, wide": Call("trunc_normal_", (0.25, 1.0, -2.0, 2.0)),
    "truncated, half normal": Call("trunc_normal_", (0.25, 1.0, 0.25, inf)),
    "truncated, normal proposal": Call("trunc_normal_", (0.25, 1.0, -inf, 2.0)),
    "truncated, half normal proposal": Call("trunc_normal_", (0.25, 1.0, -5.0, 0.25)),
    "truncated, uniform proposal": Call("trunc_normal_", (0.0, 1.0, 2.0, 2.125)),
    "truncated, exponential proposal": Call("trunc_normal_", (0.0, 1.0, 3.0, 5.0)),
    "sparse": Call("sparse_", (0.3, 0.02), (*REAL, *COMPLEX), matrix=True),
}
CASES = [(name, dtype) for name, fill in FILLS.items() for dtype in fill.dtypes]


@dataclass(frozen=True)
class PlainFill:
    """A fill as the kernels get it: core/fill.h, in Python. `numbers` are the tensor's elements, or their real and imaginary
    parts; the region's sizes, strides and index strides stand one after the other."""

    op: str
    parameters: tuple[float, ...]
    numbers: torch.Tensor
    region: tuple[int, ...]
    first: int

    @property
    def dtype(self) -> str:
        return str(self.numbers.dtype).removeprefix("torch.")


def plain(fill: Call, tensor: torch.Tensor, whole: Sequence[int] | None = None, first: int = 0) -> PlainFill:
    """What csrc/torch makes of a fill of a box of a tensor of shape `whole` that begins with its element `first`."""
    whole = tuple(tensor.shape if whole is None else whole)
    parameters = fill.parameters
    if fill.op == "sparse_":
        sparsity, std = parameters
        parameters = (std, *map(float, whole), math.ceil(sparsity * whole[0]), 1.0)
    if tensor.is_complex():
        if fill.op == "normal_":
            parameters = (parameters[0], parameters[1] / math.sqrt(2))
        if fill.op == "sparse_":
            parameters = (parameters[0] / math.sqrt(2), *parameters[1:4], 2.0)
        tensor, whole, first = torch.view_as_real(tensor), (*whole, 2), 2 * first
    # As region_of in torch/regions.cpp: neighbours are one dimension where memory and indices allow it.
    dims: list[list[int]] = []
    index_stride = 1
    for size, stride, extent in zip(
        reversed(tensor.shape), reversed(tensor.stride()), reversed(whole), strict=True
    ):
        if size != 1:
            if dims and [stride, index_stride] == [dims[-1][0] * step for step in dims[-1][1:]]:
                dims[-1][0] *= size
            else:
                dims.append([size, stride, index_stride])
        index_stride *= extent
    region = list(zip(*reversed(dims or [[1, 1, 1]]), strict=True))
    return PlainFill(fill.op, parameters, tensor, (*region[0], *region[1], *region[2]), first)


def int64(key: int) -> torch.Tensor:
    """A key as the ops take it: its 64 bits as a signed number."""
    return torch.tensor(key - (1 << 64) if key >> 63 else key)


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bits of the elements in row-major order, so that -0.0 differs from 0.0 and NaN equals itself."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    return tensor.contiguous().view(integer).flatten()


def assert_same(a: torch.Tensor, b: torch.Tensor, what: str = "") -> None:
    """Equal to the last bit, element by element."""
    assert a.dtype == b.dtype and a.numel() == b.numel(), what
    a, b = bits_of(a), bits_of(b)
    if not torch.equal(a, b):
        wrong = (a != b).nonzero().flatten()
        raise AssertionError(
            f"{what}: {wrong.numel()} of {a.numel()} differ, the first at {wrong[:5].tolist()}"
        )


def available() -> list[str]:
    """The instruction sets that this build contains and this processor runs."""
    found = []
    for name in _C.build_info()["cpu_capabilities"]:
        try:
            previous = _C.set_cpu_capability(name)
        except ValueError:
            continue
        _C.set_cpu_capability(previous)
        found.append(name)
    return found


CAPABILITIES = available()


@contextmanager
def capability(name: str) -> Iterator[None]:
    previous = _C.set_cpu_capability(name)
    try:
        yield
    finally:
        _C.set_cpu_capability(previous)


@contextmanager
def threads(count: int) -> Iterator[None]:
    previous = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(previous)


def next_key(generator: torch.Generator) -> int:
    """The next 64 bits of a generator, by torch's own means."""
    return int(torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=generator)) % 2**64


def run_together(*jobs: Callable[[], None]) -> None:
    """Each job in a Python thread of its own, all started at the same moment; the first error is raised."""
    barrier = threading.Barrier(len(jobs))
    errors: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        barrier.wait()
        try:
            job()
        except BaseException as error:
            errors.append(error)

    running = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    for error in errors:
        raise error
