"""The init modules that are compared: each has functions named as in torch.nn.init, though perhaps not all.

A library that works on something else than a tensor has a method `operand`, which makes that from a tensor.
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

import fastinit
from fastinit import _C


@cache
def library(name: str) -> Any:
    """The library of that name. Raises ImportError where it is not installed."""
    family, _, variant = name.partition(" ")
    match family:
        case "torch":
            return torch.nn.init
        case "fastinit":
            return ByKey() if variant else fastinit
        case "fill_":
            return OneValue()
        case "product":
            return Product()
        case "numpy":
            return Numpy(variant)
        case "jax":
            return Jax(variant)
    raise ValueError(f"no such library: {name}")


def operand(init: Any, tensor: Any) -> Any:
    return init.operand(tensor) if isinstance(init, Product | Numpy | Jax) else tensor


class ByKey:
    """fastinit, each call with a key that the host has: what it costs to draw one is the difference."""

    def __init__(self) -> None:
        self.keys = itertools.count()

    def normal_(self, tensor: Tensor) -> Tensor:
        _C.normal_(tensor, 0.0, 1.0, _C.Key(next(self.keys)))
        return tensor


class OneValue:
    """fill_ in the place of every function: the memory's limit."""

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        return lambda tensor, *arguments, **named: tensor.detach().fill_(1.0)


class Product:
    """One matrix product of an orthogonal matrix's size: m × n by n × n, or m × m by m × n if that is less."""

    def operand(self, tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = tensor.flatten(start_dim=1)
        m, n = rows.shape
        square = torch.randn(min(m, n), min(m, n), dtype=tensor.dtype)
        matrix = torch.randn(m, n, dtype=tensor.dtype)
        return (
            (matrix, square, torch.empty_like(rows)) if m >= n else (square, matrix, torch.empty_like(rows))
        )

    def orthogonal_(self, operand: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        left, right, out = operand
        return torch.mm(left, right, out=out)


class Numpy:
    """A numpy Generator. It uses one thread and knows float32 and float64."""

    def __init__(self, generator: str) -> None:
        random = importlib.import_module("numpy").random
        self.generator = random.Generator(getattr(random, generator)(0))

    def operand(self, tensor: Tensor) -> Any:
        return tensor.numpy()

    def uniform_(self, array: Any) -> None:
        self.generator.random(out=array, dtype=array.dtype)

    def normal_(self, array: Any) -> None:
        self.generator.standard_normal(out=array, dtype=array.dtype)


class Jax:
    """jax on the CPU, jitted. It returns new arrays, on as many threads as it likes."""

    def __init__(self, generator: str) -> None:
        self.jax = importlib.import_module("jax")
        self.orthogonal = self.jax.nn.initializers.orthogonal()
        self.key = self.jax.random.key(0, impl={"threefry": "threefry2x32"}.get(generator, generator))

    def operand(self, tensor: Tensor) -> tuple[tuple[int, ...], str]:
        return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")

    def uniform_(self, operand: Any) -> Any:
        return self.draw(self.jax.random.uniform, *operand)

    def normal_(self, operand: Any) -> Any:
        return self.draw(self.jax.random.normal, *operand)

    def trunc_normal_(self, operand: Any, a: float = -2.0, b: float = 2.0) -> Any:
        return self.draw(self.jax.random.truncated_normal, *operand, a, b)

    def orthogonal_(self, operand: Any) -> Any:
        return self.draw(self.orthogonal, *operand)

    def draw(self, function: Any, shape: Any, dtype: str, *bounds: float) -> Any:
        self.key, key = self.jax.random.split(self.key)
        return self.compiled(function, shape, dtype, *bounds)(key).block_until_ready()

    @cache  # noqa: B019 (there are two of these objects, and they live as long as the process)
    def compiled(self, function: Any, shape: Any, dtype: str, *bounds: float) -> Any:
        return self.jax.jit(lambda key: function(key, *bounds, shape=shape, dtype=dtype))


@contextmanager
def capability(name: str) -> Iterator[None]:
    """Make fastinit use an instruction set; an empty name leaves it as it is. Raises ValueError if it cannot."""
    before = _C.cpu_capability()
    if name:
        _C.set_cpu_capability(name)
    try:
        yield
    finally:
        _C.set_cpu_capability(before)


@cache
def capabilities() -> tuple[str, ...]:
    """The instruction sets that fastinit can use here."""
    usable = []
    for name in _C.build_info()["cpu_capabilities"]:
        try:
            with capability(name):
                usable.append(name)
        except ValueError:
            pass
    return tuple(usable)
