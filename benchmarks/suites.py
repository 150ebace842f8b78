"""The suites: which rows each measures."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch

from benchmarks.cases import (
    AVX2,
    BY_KEY,
    FASTINIT,
    FILL,
    JAX,
    NUMPY,
    PRODUCT,
    TORCH,
    AtMost,
    BatchCase,
    Case,
    Faster,
    ManyCase,
    ModelCase,
    PartCase,
    Row,
    Shape,
    Side,
)

UNIFORM, NORMAL = Case("uniform_"), Case("normal_")
TRUNCATED = Case("trunc_normal_", name="trunc_normal_ ±2σ")
TRUNCATED_FAR = Case("trunc_normal_", {"a": 3.0, "b": 4.0}, "trunc_normal_ 3σ..4σ")
TRUNCATED_TAIL = Case("trunc_normal_", {"a": 1.0, "b": 2.0}, "trunc_normal_ 1σ..2σ")
TRUNCATED_NARROW = Case("trunc_normal_", {"a": -0.1, "b": 0.1}, "trunc_normal_ ±0.1σ")
TRUNCATED_HALF = Case("trunc_normal_", {"a": 0.0, "b": math.inf}, "trunc_normal_ 0..∞")
XAVIER_UNIFORM, XAVIER_NORMAL = Case("xavier_uniform_"), Case("xavier_normal_")
KAIMING_UNIFORM, KAIMING_NORMAL = Case("kaiming_uniform_"), Case("kaiming_normal_")
SPARSE_10, SPARSE_90 = (Case("sparse_", {"sparsity": s}, f"sparse_ {s}") for s in (0.1, 0.9))
ORTHOGONAL = Case("orthogonal_")
ORTHOGONAL_BATCH = BatchCase("orthogonal_", name="batched_orthogonal_")
CONSTANT = Case("constant_", {"val": 0.5})
ONES, ZEROS, EYE, DIRAC = map(Case, ("ones_", "zeros_", "eye_", "dirac_"))
MODEL = ModelCase("gpt2-xl", name="the demo's model, 1.56 G")
TINY_MODEL = ModelCase("tiny", name="the demo's model, tiny")

RANKS = (2, 4, 8, 32)
THREE = (UNIFORM, NORMAL, TRUNCATED)
TRUNCATIONS = (TRUNCATED_FAR, TRUNCATED_TAIL, TRUNCATED_NARROW, TRUNCATED_HALF)
SCALED = (XAVIER_UNIFORM, XAVIER_NORMAL, KAIMING_UNIFORM, KAIMING_NORMAL)
FIXED = (CONSTANT, ONES, ZEROS, EYE)
FUNCTIONS = (*THREE, *SCALED, SPARSE_10, ORTHOGONAL, *FIXED, DIRAC)  # each once
PEERS = {"uniform_": (*NUMPY, *JAX), "normal_": (*NUMPY, *JAX), "trunc_normal_": JAX, "orthogonal_": JAX}
NOT_SLOWER = (Faster("fastinit", "torch", 1),)


def matrix(elements: int) -> Shape:
    """A power of two as a matrix, square or twice as wide as high."""
    k = elements.bit_length() - 1
    return (1 << k // 2, 1 << k - k // 2)


def kernel(elements: int) -> Shape:
    """A power of two as a convolution's weight."""
    inner = min(elements, 4)
    return (*matrix(elements // inner), inner)


# ---- What has to be reached --------------------------------------------------------------------------------


class Must(NamedTuple):
    case: Case
    ratio: float  # to torch
    dtype: str = "float32"
    shape: Shape = matrix(2**26)
    share: tuple[float, Side] | None = None  # and so much of the speed of another side
    where_below: float = math.inf  # if that one moves fewer bytes per second
    extra_bytes: float | None = None  # and at most so much memory besides

    def row(self) -> Row:
        sides = [FILL, TORCH]
        requirements: list[Faster | AtMost] = []
        for capability, part in (("", 1.0), ("avx2", AVX2_PART)):
            ours = Side("fastinit", capability)
            sides.append(ours)
            requirements.append(Faster(ours.name, "torch", part * self.ratio))
            if self.share:
                least, other = self.share
                if other.draws:
                    other = replace(other, capability=capability)
                    sides.append(other)
                requirements.append(Faster(ours.name, other.name, part * least, self.where_below))
            if self.extra_bytes is not None:
                requirements.append(AtMost(ours.name, "extra_bytes", self.extra_bytes))
        requirements.append(Faster(AVX2.name, "fastinit", AVX2_OF_BEST))
        return Row(
            "must",
            self.case,
            self.shape,
            self.dtype,
            sides=tuple(sides),
            requirements=tuple(requirements),
            always=True,
        )


AVX2_PART = 0.6  # of what is required with the best instruction set
AVX2_OF_BEST = 0.55  # and of its speed
AS_FLOAT32 = (0.9, Side("fastinit", dtype="float32"))
IN_NORMALS = Side("fastinit", dtype="float32", case=NORMAL)
MUST = (
    Must(UNIFORM, 25, share=(0.7, FILL), where_below=30e9),
    Must(NORMAL, 10),
    Must(KAIMING_NORMAL, 10),
    Must(XAVIER_NORMAL, 10),
    Must(UNIFORM, 10, "bfloat16", share=AS_FLOAT32),
    Must(NORMAL, 10, "bfloat16", share=AS_FLOAT32),
    Must(UNIFORM, 10, "float16", share=AS_FLOAT32),
    Must(NORMAL, 10, "float16", share=AS_FLOAT32),
    Must(UNIFORM, 6, "float64"),
    Must(NORMAL, 12, "float64"),
    Must(TRUNCATED, 110, share=(0.75, IN_NORMALS)),
    Must(TRUNCATED, 110, "bfloat16", share=(0.75, IN_NORMALS)),
    Must(TRUNCATED_FAR, 300, share=(0.45, IN_NORMALS)),
    Must(TRUNCATED_TAIL, 230, share=(0.3, IN_NORMALS)),
    Must(TRUNCATED_NARROW, 75, share=(0.85, IN_NORMALS)),
    Must(TRUNCATED_HALF, 1, share=(0.7, IN_NORMALS)),
    Must(SPARSE_10, 22, shape=(4096, 4096), share=(0.65, IN_NORMALS)),
    Must(SPARSE_90, 40, shape=(4096, 4096), share=(0.65, IN_NORMALS)),
    Must(MODEL, 12, shape=MODEL.shape(), extra_bytes=16 * 2**20),
)

ORTHOGONAL_RATIOS: dict[Shape, float] = {
    **{(n, n): 1 for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)},
    (1024, 1024): 3,
    (2048, 2048): 3,
    (4096, 4096): 4,
    (8192, 1024): 2.5,
    (1024, 8192): 2.5,
    # Other shapes: very wide and very tall, and weights of convolutions.
    (64, 65536): 1,
    (65536, 64): 1,
    (16, 1024): 1,
    (1024, 16): 1,
    (512, 128): 1,
    (64, 3, 7, 7): 1,
    (256, 64, 3, 3): 1,
}


def must() -> Iterator[Row]:
    return (each.row() for each in MUST)


ORTHOGONAL_BATCHES: dict[Shape, float] = {
    (64, 256, 256): 4,
    **dict.fromkeys(((256, 64, 64), (16, 512, 512), (4, 1024, 1024)), 1),
}
ORTHOGONAL_PARTS: tuple[Shape, ...] = ((2048, 2048), (4096, 4096), (8192, 2048), (2048, 8192))


def orthogonal(
    shapes: Iterable[Shape] = ORTHOGONAL_RATIOS,
    shape: Shape = (1024, 1024),
    batches: Iterable[Shape] = ORTHOGONAL_BATCHES,
    parts: Iterable[Shape] = ORTHOGONAL_PARTS,
) -> Iterator[Row]:
    """float32 in the shapes, the other dtypes in one; batches, and parts of 2 to 32 ranks."""
    for each in shapes:
        requirements: tuple[Faster | AtMost, ...] = (Faster("fastinit", "torch", ORTHOGONAL_RATIOS[each]),)
        if each == (4096, 4096):
            requirements += (
                Faster("fastinit", "product", 1 / 0.6),
                AtMost("fastinit", "orthogonality", 2e-6),
            )
        sides = (PRODUCT, TORCH, FASTINIT, *JAX[:1])
        yield Row("orthogonal", ORTHOGONAL, each, sides=sides, requirements=requirements)
    for dtype in ("float64", "bfloat16", "float16"):
        yield Row("orthogonal", ORTHOGONAL, shape, dtype, sides=(PRODUCT, TORCH, FASTINIT))
    for each in batches:
        requirements = (Faster("fastinit", "torch", ORTHOGONAL_BATCHES[each]),)
        yield Row(
            "orthogonal batches", ORTHOGONAL_BATCH, each, sides=(TORCH, FASTINIT), requirements=requirements
        )
    for each, (dim, name) in product(parts, enumerate(("rows", "columns"))):
        some = {
            n: Side("fastinit", case=PartCase("orthogonal_", name=f"1/{n}", dim=dim, ranks=n)) for n in RANKS
        }
        requirements = (Faster(some[2].name, "fastinit", 1 / 0.6),) if each == (4096, 4096) else ()
        of = Case("orthogonal_", name=f"its {name}")
        yield Row("orthogonal parts", of, each, sides=(FASTINIT, *some.values()), requirements=requirements)


# ---- Everything else ---------------------------------------------------------------------------------------


def sizes(exponents: Iterable[int], dtypes: Iterable[str] = ("float32",)) -> Iterator[Row]:
    for case, dtype, k in product(THREE, dtypes, exponents):
        peers = [p for p in PEERS[case.function] if dtype == "float32"]
        yield Row("sizes", case, matrix(2**k), dtype, sides=(FILL, TORCH, FASTINIT, AVX2, *peers))


def threads(k: int) -> Iterator[Row]:
    cores = len(os.sched_getaffinity(0))
    counts = (
        range(1, cores + 1) if cores <= 8 else sorted({2**i for i in range(cores.bit_length())} | {cores})
    )
    for case, n in product(THREE, counts):
        sides = (FILL, FASTINIT) if case is TRUNCATED else (FILL, TORCH, FASTINIT)
        yield Row("threads", case, matrix(2**k), threads=n, sides=sides)


def layouts(exponents: Iterable[int]) -> Iterator[Row]:
    for case, k, layout in product(THREE, exponents, ("transposed", "strided")):
        yield Row("layouts", case, matrix(2**k), layout=layout, requirements=NOT_SLOWER)


def initialisers(k: int) -> Iterator[Row]:
    for case in (*SCALED, SPARSE_10, SPARSE_90, *FIXED, DIRAC):
        yield Row("initialisers", case, kernel(2**k) if case is DIRAC else matrix(2**k))
    for case in TRUNCATIONS:  # torch needs up to a second for each million of these
        yield Row("initialisers", case, matrix(2 ** (k - 2)))


def small(elements: Iterable[int] = (1, 16, 256, 4096)) -> Iterator[Row]:
    for case, n in product(FUNCTIONS, elements):
        shape = kernel(n) if case is DIRAC else matrix(n)
        yield Row("small", case, shape, sides=(TORCH, FASTINIT), requirements=NOT_SLOWER)


def quick() -> Iterator[Row]:
    yield from small((1, 4096))
    yield from sizes((0, 8, 16, 20))
    yield from sizes((20,), ("float64", "bfloat16", "float16"))
    yield from threads(20)
    yield from layouts((16,))
    yield from initialisers(18)
    yield from orthogonal([(n, n) for n in (4, 64, 256, 512)], (128, 128), (), ())
    yield Row("model", TINY_MODEL, TINY_MODEL.shape())


# ---- On a GPU ----------------------------------------------------------------------------------------------

# torch 2.11 inverts the error function to draw trunc_normal_; newer ones reject over whole tensors.
INVERTS = "erfinv" in inspect.getsource(torch.nn.init._no_grad_trunc_normal_)
TRUNCATED_RATIO = 2.5 if INVERTS else 10.0
TORCH_TRUNCATES = replace(
    TRUNCATED, name=f"{TRUNCATED.name} (torch {'inverts erf' if INVERTS else 'rejects'})"
)
WIDE, HIDDEN, WORDS = 4096, 14336, 128256  # a decoder of 8 billion parameters, with grouped queries
LAYER = (
    (WIDE, WIDE),
    (1024, WIDE),
    (1024, WIDE),
    (WIDE, WIDE),
    (HIDDEN, WIDE),
    (HIDDEN, WIDE),
    (WIDE, HIDDEN),
)
DECODER = ((WORDS, WIDE), *(LAYER * 32), (WORDS, WIDE))


def cuda(device: str = "cuda", scale: int = 1) -> Iterator[Row]:
    """What the GPU's kernels were built for. `scale` divides the sizes, for a rehearsal elsewhere."""

    def row(case: Case, shape: Shape, dtype: str, ratio: float, share: float = 0, **more: Any) -> Row:
        sides = more.pop("sides", (FILL, TORCH, FASTINIT))
        wanted = [Faster("fastinit", "torch", ratio)] + [Faster("fastinit", "fill_", share)] * (share > 0)
        requirements = (*wanted, *more.pop("and_more", ()))
        return Row("cuda", case, shape, dtype, sides=sides, requirements=requirements, device=device, **more)

    for case, dtype, ratio, share in (
        (UNIFORM, "float32", 1.0, 0.95),
        (UNIFORM, "bfloat16", 1.2, 0.65),
        (NORMAL, "float32", 1.2, 0.78),
        (NORMAL, "bfloat16", 1.2, 0.4),
        (TORCH_TRUNCATES, "float32", TRUNCATED_RATIO, 0.5),
        (TORCH_TRUNCATES, "bfloat16", TRUNCATED_RATIO, 0.25),
    ):
        yield row(case, matrix(2**30 // scale), dtype, ratio, share)
        for k in (20, 24):
            yield row(case, matrix(2**k // scale), dtype, 1.0)
    side = 4096 // math.isqrt(scale)
    yield row(SPARSE_10, (side, side), "float32", 300)
    yield row(ORTHOGONAL, (side, side), "float32", 10)
    yield row(ORTHOGONAL, (2 * side, 2 * side), "float32", 10)
    small = ManyCase("normal_", name="normal_, 1,000 tensors", shapes=((64, 64),) * 1000)
    yield row(small, small.shape(), "float32", 1.0, sides=(FILL, TORCH, FASTINIT, BY_KEY))
    layers = DECODER if scale == 1 else ((side, 64),) * 9
    model = ManyCase("normal_", {"std": 0.02}, "normal_, 8 G parameters", shapes=layers)
    yield row(model, model.shape(), "bfloat16", 1.5, and_more=(AtMost("fastinit", "median", 0.04),))


class Suite(NamedTuple):
    rows: Callable[[], Iterable[Row]]
    about: str
    budget: float = math.inf  # seconds that a peer may take in one row
    side_seconds: float = 0.3  # how long quick calls are repeated


SUITES = {
    "quick": Suite(quick, "a little of everything, under a minute", budget=2, side_seconds=0.1),
    "must": Suite(must, "what the CPU fills have to reach, at 64 Mi elements"),
    "orthogonal": Suite(orthogonal, "what orthogonal_ has to reach"),
    "small": Suite(small, "calls on tensors of 1 to 4096 elements"),
    "cuda": Suite(cuda, "what the fills have to reach on a GPU", budget=20),
    "cuda-rehearsal": Suite(
        partial(cuda, "cpu", 4096), "its rows on the CPU, small", budget=2, side_seconds=0.05
    ),
}
