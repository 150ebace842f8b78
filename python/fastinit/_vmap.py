"""What ``torch.func.vmap`` means for a fill: all samples of a batch are filled in one call.

With a key for each sample, a sample has the values that it would get alone. A generator gives one key to the whole fill:
with ``randomness="same"`` all samples have its values, with ``"different"`` sample i has those of the i-th key that
``member_keys`` makes of it (contract C7). What is given a key draws nothing, so that ``randomness`` has no say in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch._C import _functorch as functorch
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

from fastinit import _parts

# What is called without these belongs to the transforms around this one.
KEYS = DispatchKeySet(DispatchKey.FuncTorchBatched) | DispatchKeySet(DispatchKey.FuncTorchVmapMode)


class Samples(NamedTuple):
    """A tensor as the transforms around see it: with the samples along dimension 0, or the same one for all."""

    tensor: Tensor
    batched: bool


class Level:
    """The innermost ``vmap``, one of whose kernels is running."""

    def __init__(self, caller: str) -> None:
        self.vmap: Any = retrieve_current_functorch_interpreter()
        self.caller = caller

    def samples(self, tensor: Tensor) -> Samples:
        inside, dim = functorch._unwrap_batched(tensor, self.vmap.level())
        return Samples(inside, False) if dim is None else Samples(inside.movedim(dim, 0), True)

    def wrap(self, samples: Tensor, dim: int) -> Tensor:
        return functorch._add_batch_dim(samples, dim, self.vmap.level())

    def different(self, batched: bool) -> bool:
        """Whether the samples are to have values of their own."""
        randomness = self.vmap.randomness()
        if randomness == "error":
            raise self.error('random numbers take randomness="same" or "different", or a key')
        if randomness == "different" and not batched:
            raise self.error(
                'with randomness="different" a tensor that is the same for all samples cannot be filled'
            )
        return bool(randomness == "different")

    def error(self, text: str) -> RuntimeError:
        return RuntimeError(f"fastinit.{self.caller}: within vmap, {text}")


def outside(rule: Callable[..., Any]) -> Callable[..., Any]:
    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(KEYS):
            return rule(*args, **kwargs)

    return kernel


def filling(name: str, overload: str) -> Callable[..., None]:
    """The operator. Within ``functionalize``, which takes none that changes a tensor, the one that draws a new one."""
    op = getattr(getattr(torch.ops.fastinit, name), overload)

    def fill(tensor: Tensor, *numbers: float, **source: Any) -> None:
        if torch._is_functional_tensor(tensor):
            drawn = getattr(getattr(torch.ops.fastinit, name[:-1]), overload)(tensor, *numbers, **source)
            with torch.no_grad():
                tensor.copy_(drawn)
        else:
            op(tensor, *numbers, **source)

    return fill


def rule_for(name: str, overload: str) -> Callable[..., None]:
    op = filling(name, overload)
    with_key = filling(name, "key") if overload == "default" else op

    def fill(
        tensor: Tensor,
        *numbers: float,
        generator: Generator | None = None,
        key: Tensor | None = None,
        **part: list[int],
    ) -> None:
        level = Level(name)
        samples, batched = level.samples(tensor)

        def fill_alike(fill_one: Callable[[Tensor], None]) -> None:
            if not batched:
                return fill_one(samples)
            one = samples.new_empty(samples.shape[1:])
            fill_one(one)
            with torch.no_grad():
                samples.copy_(one)

        if key is not None:
            keys, of_samples = level.samples(key)
            if of_samples and not batched:
                raise level.error(
                    "there is a key for each sample, but the tensor is the same for all of them; make it of the "
                    "key, by key.new_empty(shape, dtype=...)"
                )
            if of_samples:
                with_key(samples, *numbers, key=keys, **part)
            else:
                fill_alike(lambda one: with_key(one, *numbers, key=keys, **part))
        elif not level.different(batched):
            fill_alike(lambda one: op(one, *numbers, generator=generator, **part))
        else:
            draws = samples.numel() > 0 or part
            keys = (
                keys_of_samples(samples, generator) if draws else torch.zeros(len(samples), dtype=torch.int64)
            )
            with_key(samples, *numbers, key=keys, **part)

    return outside(fill)


def keys_of_samples(samples: Tensor, generator: Generator | None) -> Tensor:
    key = torch.ops.fastinit.take_key(samples, generator=generator)
    keys: Tensor = torch.ops.fastinit.member_keys(key, samples.shape[0])
    return keys


@outside
def take_key(tensor: Tensor, *, generator: Generator | None = None) -> Tensor:
    level = Level("take_key")
    samples, batched = level.samples(tensor)
    if level.different(batched):
        return level.wrap(keys_of_samples(samples, generator), 0)
    key: Tensor = torch.ops.fastinit.take_key(samples, generator=generator)
    return key


@outside
def member_keys(key: Tensor, count: int) -> Tensor:
    level = Level("member_keys")
    samples, batched = level.samples(key)
    keys: Tensor = torch.ops.fastinit.member_keys(samples, count)
    return level.wrap(keys, 1) if batched else keys


library: Any = torch.library.Library("fastinit", "IMPL")  # type: ignore[no-untyped-call]
for name in _parts.DRAWING:
    for overload in ("default", "key", "part"):
        suffix = "" if overload == "default" else f".{overload}"
        library.impl(name + suffix, rule_for(name, overload), "FuncTorchBatched")
library.impl("take_key", take_key, "FuncTorchBatched")
library.impl("member_keys", member_keys, "FuncTorchBatched")
