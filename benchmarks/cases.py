"""Cases, sides, rows and requirements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

import fastinit
from fastinit.demo.model import PRESETS, gpt2, init_weights

Shape = tuple[int, ...]
Call = Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """An initialiser with its arguments."""

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    name: str = ""

    @property
    def label(self) -> str:
        return self.name or self.function

    @property
    def growth(self) -> float:
        """The power of the number of elements with which the time of a large call grows."""
        return 1.5 if self.function == "orthogonal_" else 1.0

    def call(self, library: Any) -> Call:
        """What initialises an operand with a library, torch.nn.init or one that looks like it."""
        function: Call = getattr(library, self.function)
        return partial(function, **self.arguments) if self.arguments else function

    def operand(
        self, shape: Shape, dtype: torch.dtype, layout: str = "contiguous", device: str = "cpu"
    ) -> Any:
        """Memory to initialise, not touched yet."""
        empty = partial(torch.empty, dtype=dtype, device=device)
        match layout:
            case "contiguous":
                return empty(shape)
            case "transposed":
                return empty(shape[::-1]).permute(*reversed(range(len(shape))))
            case "strided":  # every other element of each row
                return empty((*shape[:-1], 2 * shape[-1]))[..., ::2]
        raise ValueError(f"no such layout: {layout}")


@dataclass(frozen=True)
class ModelCase(Case):
    """The demo's model, initialised as the demo does it. The function is the name of a preset."""

    def call(self, library: Any) -> Call:
        return partial(nn.Module.apply, fn=partial(init_weights, init=library))

    def operand(
        self, shape: Shape, dtype: torch.dtype, layout: str = "contiguous", device: str = "cpu"
    ) -> nn.Module:
        return gpt2(PRESETS[self.function], dtype).to_empty(device=device)

    def shape(self) -> Shape:
        model = gpt2(PRESETS[self.function], torch.float32)  # on the meta device
        return (sum(parameter.numel() for parameter in model.parameters()),)


@dataclass(frozen=True)
class ManyCase(Case):
    """Many tensors, one after the other."""

    shapes: tuple[Shape, ...] = ()

    def call(self, library: Any) -> Call:
        one = super().call(library)
        return lambda tensors: [one(tensor) for tensor in tensors]

    def operand(
        self, shape: Shape, dtype: torch.dtype, layout: str = "contiguous", device: str = "cpu"
    ) -> list[torch.Tensor]:
        return [torch.empty(each, dtype=dtype, device=device) for each in self.shapes]

    def shape(self) -> Shape:
        return (sum(map(math.prod, self.shapes)),)


@dataclass(frozen=True)
class BatchCase(Case):
    """A batch of matrices: fastinit's batched_orthogonal_, and for who has none a loop."""

    def call(self, library: Any) -> Call:
        one = super().call(library)
        if library is fastinit:
            return fastinit.batched_orthogonal_
        return lambda batch: [one(matrix) for matrix in batch]


@dataclass(frozen=True)
class PartCase(Case):
    """The part of the last of so many ranks, along one dimension, in the memory of the whole."""

    dim: int = 0
    ranks: int = 1

    def call(self, library: Any) -> Call:
        def fill(tensor: torch.Tensor, rank: int) -> None:
            begin, end = (tensor.shape[self.dim] * i // self.ranks for i in (rank, rank + 1))
            offset = [begin if d == self.dim else 0 for d in range(tensor.dim())]
            part = fastinit.part_of(tensor.narrow(self.dim, begin, end - begin), tensor.shape, offset)
            getattr(fastinit, self.function)(part, generator=torch.Generator().manual_seed(0))

        def look(tensor: torch.Tensor) -> Any:
            """With the parts of all other ranks beside it."""
            whole = tensor.clone()
            for rank in range(self.ranks - 1):
                fill(whole, rank)
            return super(PartCase, self).call(library)(whole)

        return partial(fill, rank=self.ranks - 1) if library is fastinit else look


@dataclass(frozen=True)
class Side:
    """One of those that are compared in a row: a library, perhaps with another case or dtype than the row's."""

    library: str
    capability: str = ""  # the instruction set; fastinit only
    case: Case | None = None
    dtype: str = ""

    @property
    def name(self) -> str:
        parts = (self.library, self.case and self.case.label, self.dtype, self.capability)
        return " ".join(part for part in parts if part)

    @property
    def draws(self) -> bool:
        return self.library not in ("fill_", "product")


FILL, TORCH, FASTINIT, PRODUCT = map(Side, ("fill_", "torch", "fastinit", "product"))
BY_KEY = Side("fastinit by key")
AVX2 = Side("fastinit", "avx2")
NUMPY = tuple(Side(f"numpy {generator}") for generator in ("PCG64", "SFC64", "Philox"))
JAX = tuple(Side(f"jax {generator}") for generator in ("threefry", "rbg"))


@dataclass(frozen=True)
class Faster:
    """`side` is to be at least `least` times as fast as `than`."""

    side: str
    than: str
    least: float
    where_below: float = math.inf  # only where `than` moves fewer bytes per second


@dataclass(frozen=True)
class AtMost:
    """A figure of `side` is to be at most so large."""

    side: str
    figure: str  # "extra_bytes", "orthogonality" or "median" (seconds)
    most: float


@dataclass(frozen=True)
class Row:
    table: str
    case: Case
    shape: Shape
    dtype: str = "float32"
    layout: str = "contiguous"
    memory: str = "warm"  # or "first touch": memory that the system has not handed out yet
    threads: int = 0  # 0: all
    sides: tuple[Side, ...] = (FILL, TORCH, FASTINIT)
    requirements: tuple[Faster | AtMost, ...] = ()
    always: bool = False  # measured however long it takes
    device: str = "cpu"

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def operand(self, case: Case | None = None, dtype: str = "") -> Any:
        torch_dtype = getattr(torch, dtype or self.dtype)
        return (case or self.case).operand(self.shape, torch_dtype, self.layout, self.device)

    def describe(self) -> dict[str, Any]:
        """The row as it stands in a results file."""
        return {
            "table": self.table,
            "case": self.case.label,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "elements": self.elements,
            "layout": self.layout,
            "memory": self.memory,
            "threads": self.threads,
            "device": self.device,
        }

    def __str__(self) -> str:
        words = [self.case.label, self.dtype, "×".join(map(str, self.shape))]
        words += [word for word in (self.layout, self.memory) if word not in ("contiguous", "warm")]
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return ", ".join([*words, threads if self.device == "cpu" else self.device])
