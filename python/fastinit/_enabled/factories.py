"""Factories of random tensors in blocks of ``enabled(factories=True)``: ``torch.rand``, ``randn`` and their like.

They have no code that could be exchanged, so the attributes of ``torch`` are. A program that has imported one by its name
(``from torch import randn``) keeps torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.compiler import is_dynamo_compiling
from torch.jit import _builtins
from torch.overrides import _get_current_function_mode_stack

from fastinit import init
from fastinit._enabled import fill, patch
from fastinit._kernels import Record
from fastinit._lock import lock
from fastinit._warn import passed_over

passed_over.add(__file__)


def empty(*size: Any, **options: Any) -> Tensor:
    if "memory_format" in options:
        raise TypeError("random factories take no memory_format")
    return torch.empty(*size, **options)


def rand(*size: Any, generator: Any = None, **options: Any) -> Tensor:
    return init.uniform_(empty(*size, **options), generator=generator)


def randn(*size: Any, generator: Any = None, **options: Any) -> Tensor:
    return init.normal_(empty(*size, **options), generator=generator)


def rand_like(input: Tensor, *, generator: Any = None, **options: Any) -> Tensor:
    return init.uniform_(torch.empty_like(input, **options), generator=generator)


def randn_like(input: Tensor, *, generator: Any = None, **options: Any) -> Tensor:
    return init.normal_(torch.empty_like(input, **options), generator=generator)


def normal(mean: float, std: float, size: Any, *, generator: Any = None, **options: Any) -> Tensor:
    return init.normal_(empty(size=size, **options), mean, std, generator)


class Factory:
    """What stands in ``torch`` for a factory."""

    def __init__(self, ours: Callable[..., Tensor], beneath: Callable[..., Any]) -> None:
        self.__name__ = self.__qualname__ = ours.__name__
        self.__doc__ = beneath.__doc__
        self.ours, self.beneath = ours, beneath  # the latter stood there

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling() or not wanted(args, kwargs):
            return self.beneath(*args, **kwargs)
        native = Record()
        try:
            with native:
                result = self.ours(*args, **kwargs)
        except Exception:
            if native.began:
                raise
            return self.beneath(*args, **kwargs)  # what fastinit has no kernel for, and torch's errors
        if not result.is_meta and result.numel() > 0:
            for report in fill.open_reports():
                report._stood_in(f"torch.{self.__name__}")
        return result


def wanted(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether this call is fastinit's: the innermost block says so, and no mode or transform has a say in it."""
    reports = fill.open_reports()
    if not reports or not reports[-1]._with_factories or fill.thread.busy:
        return False
    if functorch.peek_interpreter_stack() is not None or torch._C._get_tracing_state() is not None:
        return False
    if not all(type(mode) in patch.SEEING_ONLY for mode in _get_current_function_mode_stack()):  # type: ignore[no-untyped-call]
        return False
    return all(patch.plain(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))


made: list[Factory] = []  # and kept: torch.jit knows them by their ids
installed: list[Factory] = []
users = 0


def standing_in(ours: Callable[..., Tensor]) -> Factory:
    """One for each function that ever stood there: it may be somebody's that calls what he found, an earlier one of these."""
    there = getattr(torch, ours.__name__)
    if isinstance(there, Factory):  # covered when its block ended, and uncovered since
        there = there.beneath
    for factory in made:
        if factory.ours is ours and factory.beneath is there:
            return factory
    made.append(Factory(ours, there))
    _builtins._register_builtin(made[-1], f"aten::{ours.__name__}")
    return made[-1]


def install() -> None:
    global users
    with lock:
        users += 1
        if users == 1:
            installed[:] = [standing_in(ours) for ours in (rand, randn, rand_like, randn_like, normal)]
            for factory in installed:
                setattr(torch, factory.__name__, factory)


def uninstall() -> None:
    global users
    with lock:
        users -= 1
        if users == 0:
            for factory in installed:
                if (
                    getattr(torch, factory.__name__) is factory
                ):  # else somebody has put another one there, which counts
                    setattr(torch, factory.__name__, factory.beneath)
