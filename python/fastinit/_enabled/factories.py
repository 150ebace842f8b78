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


def rand(*size: Any, generator: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
    return init.uniform_(torch.empty(*size, **options), generator=generator).requires_grad_(requires_grad)


def randn(*size: Any, generator: Any = None, requires_grad: bool = False, **options: Any) -> Tensor:
    return init.normal_(torch.empty(*size, **options), generator=generator).requires_grad_(requires_grad)


def rand_like(
    tensor: Tensor, *, requires_grad: bool = False, generator: Any = None, **options: Any
) -> Tensor:
    result = init.uniform_(torch.empty_like(tensor, **options), generator=generator)
    return result.requires_grad_(requires_grad)


def randn_like(
    tensor: Tensor, *, requires_grad: bool = False, generator: Any = None, **options: Any
) -> Tensor:
    result = init.normal_(torch.empty_like(tensor, **options), generator=generator)
    return result.requires_grad_(requires_grad)


def normal(
    mean: float, std: float, size: Any, *, generator: Any = None, requires_grad: bool = False, **options: Any
) -> Tensor:
    result = init.normal_(torch.empty(size, **options), float(mean), float(std), generator)
    return result.requires_grad_(requires_grad)


class Factory:
    """What stands in ``torch`` for a factory."""

    def __init__(self, ours: Callable[..., Tensor]) -> None:
        self.__name__ = self.__qualname__ = ours.__name__
        self.ours, self.torchs = ours, getattr(torch._C._VariableFunctions, ours.__name__)
        self.__doc__ = self.torchs.__doc__
        self.beneath: Any = None  # what stood there

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


FACTORIES = [Factory(ours) for ours in (rand, randn, rand_like, randn_like, normal)]
users = 0


def install() -> None:
    global users
    with lock:
        users += 1
        if users == 1:
            for factory in FACTORIES:
                factory.beneath = getattr(torch, factory.__name__)
                setattr(torch, factory.__name__, factory)
                _builtins._register_builtin(factory, f"aten::{factory.__name__}")


def uninstall() -> None:
    global users
    with lock:
        users -= 1
        if users == 0:
            for factory in FACTORIES:
                if (
                    getattr(torch, factory.__name__) is factory
                ):  # else somebody has put another one there, which counts
                    setattr(torch, factory.__name__, factory.beneath)
