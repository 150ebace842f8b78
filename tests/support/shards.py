"""Parts of a tensor, and which of the whole's values belong there: cut by torch, or by plain slicing.

There is one process. Its process group is torch's fake one, which communicates nothing, and its rank is moved from place to
place of a mesh.
"""

from __future__ import annotations

import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard

import fastinit
from fills import bits_of

WORLD = 64  # ranks of the fake process group, more than any mesh has


@contextmanager
def fake_world(rank: int = 0, ranks: int = WORLD) -> Iterator[None]:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@cache
def mesh_of(shape: tuple[int, ...]) -> DeviceMesh:
    """A mesh of the first ranks. One for each shape: torch keeps meshes by their ranks, and would exchange equal ones."""
    ranks = torch.arange(torch.Size(shape).numel()).view(shape)
    return DeviceMesh("cpu", ranks, _init_backend=False)


def everywhere(mesh: DeviceMesh) -> Iterator[tuple[int, ...]]:
    """The coordinates of all ranks; the mesh is seen from there meanwhile."""
    for coordinate in itertools.product(*map(range, mesh.shape)):
        mesh._coordinate_on_dim = coordinate
        yield coordinate
    mesh._coordinate_on_dim = (0,) * mesh.ndim


def cut(whole: torch.Tensor, mesh: DeviceMesh, placements: Sequence[Any]) -> torch.Tensor:
    """What the mesh's rank gets of a tensor, by torch's own code."""
    for placement, ranks, rank in zip(placements, mesh.shape, mesh.get_coordinate(), strict=True):
        if not isinstance(placement, Replicate):
            whole = placement._split_tensor(whole, ranks, with_padding=False, contiguous=True)[0][rank]
    return whole


def dtensor(local: torch.Tensor, mesh: DeviceMesh, placements: Sequence[Any], shape: Sequence[int]) -> Any:
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        local, mesh, placements, shape=torch.Size(shape), stride=stride, run_check=False
    )


# ---- What is drawn -----------------------------------------------------------------------------------------

REAL = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
COMPLEX = (*REAL, torch.complex64, torch.complex128)
ANY = (*COMPLEX, torch.int64, torch.uint8, torch.bool)
SIZES = (0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 8, 9, 11, 13, 16, 17)


@dataclass(frozen=True)
class Function:
    """A function, and what it may be called with."""

    arguments: Callable[[random.Random, tuple[int, ...]], tuple[Any, ...]] = lambda r, shape: ()
    dims: tuple[int, ...] = (0, 1, 2, 2, 2, 3, 4, 5)
    dtypes: tuple[torch.dtype, ...] = COMPLEX
    random: bool = True


def fan_arguments(r: random.Random, shape: tuple[int, ...]) -> tuple[Any, ...]:
    return r.choice([0, 0.5]), r.choice(["fan_in", "fan_out"]), r.choice(["leaky_relu", "relu", "linear"])


def interval(r: random.Random, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """By quantiles, and with each of the three proposals."""
    return r.choice(
        [(0.25, 1.0, -2.0, 2.0), (0.25, 1.0, -5.0, 2.0), (0.0, 0.02, 0.04, 0.042), (0.0, 1.0, 3.0, 5.0)]
    )


WEIGHT = dict(dims=(2, 2, 2, 3, 4, 5))
FUNCTIONS = {
    "uniform_": Function(lambda r, shape: (r.uniform(-2, 0), r.uniform(0.5, 2))),
    "normal_": Function(lambda r, shape: (r.uniform(-2, 2), r.uniform(0, 2))),
    "trunc_normal_": Function(interval, dtypes=REAL),
    "xavier_uniform_": Function(lambda r, shape: (r.uniform(0.1, 2),), **WEIGHT),
    "xavier_normal_": Function(lambda r, shape: (r.uniform(0.1, 2),), **WEIGHT),
    "kaiming_uniform_": Function(fan_arguments, **WEIGHT),
    "kaiming_normal_": Function(fan_arguments, **WEIGHT),
    "sparse_": Function(lambda r, shape: (r.choice([0.0, 0.1, 0.5, 0.9, 1.0]), 0.5), dims=(2,)),
    "orthogonal_": Function(lambda r, shape: (r.uniform(0.5, 2),), dims=(2, 2, 3, 4)),
    "batched_orthogonal_": Function(lambda r, shape: (r.uniform(0.5, 2),), dims=(3, 3, 4)),
    "delta_orthogonal_": Function(lambda r, shape: (r.uniform(0.5, 2),), dims=(3, 4, 5)),
    "constant_": Function(lambda r, shape: (r.choice([2, 0, 7.0]),), dtypes=ANY, random=False),
    "ones_": Function(dtypes=ANY, random=False),
    "zeros_": Function(dtypes=ANY, random=False),
    "eye_": Function(dims=(2,), dtypes=ANY, random=False),
    "dirac_": Function(
        lambda r, shape: (r.choice([n for n in range(1, shape[0] + 1) if shape[0] % n == 0] or [1]),),
        dims=(3, 4, 5),
        dtypes=ANY,
        random=False,
    ),
}
DEPRECATED = [
    "uniform", "normal", "constant", "eye", "dirac", "xavier_uniform", "xavier_normal", "kaiming_uniform",
    "kaiming_normal", "orthogonal", "sparse",
]  # fmt: skip
ORTHOGONAL = ("orthogonal_", "batched_orthogonal_", "delta_orthogonal_", "orthogonal")
NAMES = (*FUNCTIONS, *DEPRECATED)


@dataclass(frozen=True)
class Call:
    """A call of an initialiser, for any tensor of one shape."""

    name: str
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int
    own_generator: bool

    @property
    def random(self) -> bool:
        return FUNCTIONS[self.name.removesuffix("_") + "_"].random

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Call it, with a generator in the same state each time. Returns that generator's state afterwards."""
        generator = torch.Generator() if self.own_generator else torch.default_generator
        generator.manual_seed(self.seed)
        more = {"generator": generator} if self.random and self.own_generator else {}
        with warnings.catch_warnings():  # of deprecated names, intervals and empty tensors
            warnings.simplefilter("ignore")
            assert getattr(fastinit, self.name)(tensor, *self.arguments, **more) is tensor
        return generator.get_state()

    def whole(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What it fills the whole tensor with, and the generator's state."""
        whole = torch.empty(self.shape, dtype=self.dtype)
        state = self(whole)
        return whole, state


def call_of(name: str, r: random.Random) -> Call:
    function = FUNCTIONS[name.removesuffix("_") + "_"]
    dims = r.choice(function.dims)
    shape = [r.choice(SIZES) for _ in range(dims)]
    if (
        dims and 0 not in shape and r.random() < 0.2
    ):  # long enough for vectors, or for the long columns of sparse_
        shape[r.randrange(dims)] = r.randrange(200, 900)
    while torch.Size(shape).numel() > 20_000:
        shape[max(range(dims), key=shape.__getitem__)] //= 2
    if name.startswith(("xavier", "dirac")):  # without fans or a centre there is an error, as in torch
        shape = [max(size, 1) for size in shape]
    if name == "delta_orthogonal_":
        shape[:2] = sorted(shape[:2], reverse=True)
    return Call(
        name,
        function.arguments(r, tuple(shape)),
        tuple(shape),
        r.choice(function.dtypes),
        r.randrange(2**32),
        r.random() < 0.5,
    )


GUARD = 3


def memory_for(
    shape: Sequence[int], dtype: torch.dtype, r: random.Random
) -> tuple[torch.Tensor, Callable[[], bool]]:
    """A tensor of some strides. The function says whether memory around it was written to, and spoils the tensor."""
    order = r.sample(range(len(shape)), len(shape))
    steps = [1 for _ in order]
    if order and r.random() < 0.5:
        steps[r.randrange(len(order))] = 2
    sizes = [shape[d] for d in order]
    room = torch.full(
        [size * step + 1 for size, step in zip(sizes, steps, strict=True)] or [1], GUARD, dtype=dtype
    )
    view = room[tuple(slice(1, size * step + 1, step) for size, step in zip(sizes, steps, strict=True))]
    view = view.permute([order.index(d) for d in range(len(shape))]) if shape else view.view(())

    def wrote_outside() -> bool:
        view.fill_(GUARD)
        return not bool((room == torch.tensor(GUARD, dtype=dtype)).all())

    return view, wrote_outside


def assert_part(found: torch.Tensor, expected: torch.Tensor, call: Call, what: str = "") -> None:
    """Equal to the last bit; to rounding, where a product of matrices may be cut in another way."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, (call, what)
    if call.name in ORTHOGONAL:
        torch.testing.assert_close(found, expected, msg=lambda text: f"{call} {what}: {text}")
    elif found.dtype in COMPLEX:
        assert torch.equal(bits_of(found), bits_of(expected)), (call, what)
    else:
        assert torch.equal(found, expected), (call, what)


# ---- How it is cut -----------------------------------------------------------------------------------------


def placements_for(shape: Sequence[int], mesh: Sequence[int], r: random.Random) -> tuple[Any, ...]:
    found: list[Any] = []
    for _ in mesh:
        kind = r.choice(["shard", "shard", "strided", "replicate"]) if shape else "replicate"
        dim = r.randrange(len(shape)) if shape else 0
        found.append(
            Shard(dim)
            if kind == "shard"
            else _StridedShard(dim, split_factor=r.choice([1, 2, 3, 4]))
            if kind == "strided"
            else Replicate()
        )
    return tuple(found)


def runs_for(size: int, r: random.Random, pieces: int) -> list[tuple[int, int]]:
    """Some pieces of a dimension, in order."""
    edges = sorted(r.choices(range(size + 1), k=2 * pieces))
    return [(first, end - first) for first, end in zip(edges[::2], edges[1::2], strict=True)]
