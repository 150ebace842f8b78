"""Random values that torch draws itself while ``enabled(strict=True)`` looks."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from fastinit._enabled.report import Report
from fastinit._warn import program_line


def fell_through(reports: Sequence[Report], function: str, reason: str) -> None:
    """Warn once for each line of a program at which torch draws random values itself."""
    place = program_line()
    first = [report._fell(function, *place, reason) for report in reports if report.strict]
    if any(first):
        why = f": {reason}" if reason else ""
        message = f"{function} draws its values by torch, not by fastinit{why}"
        warnings.warn_explicit(message, UserWarning, *place, registry=None)


def draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call of an operator draws random numbers. Dropout and attention may be told not to."""
    if torch.Tag.nondeterministic_seeded not in func.tags or func.namespace == "fastinit":
        return False
    named = func._schema.arguments
    given = {argument.name: argument.default_value for argument in named}
    given |= dict(zip((argument.name for argument in named), args, strict=False)) | kwargs
    if given.get("train", given.get("training")) is False:
        return False
    return bool(given.get("dropout_p")) or "attention" not in func.overloadpacket.__name__


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees torch's own random operators. One serves all blocks of a thread."""

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # torch.compile would leave all functions alone that are first called under the mode

    def __init__(self, reports: Callable[[], Sequence[Report]], busy: Callable[[], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reports, self.busy = reports, busy

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if draws(func, args, kwargs or {}) and not self.busy():
            drawn = result[0] if isinstance(result, tuple) else result
            if isinstance(drawn, Tensor) and not drawn.is_meta and drawn.numel() > 0:
                fell_through(self.reports(), func.overloadpacket.__name__, "")
        return result


class Thread(threading.local):
    def __init__(self) -> None:
        self.blocks = 0  # strict ones that were opened in this thread and are open
        self.watch: Watch | None = None


thread = Thread()


def watch(reports: Callable[[], Sequence[Report]], busy: Callable[[], bool]) -> Callable[[], None]:
    """Look at every operator of this thread until the function that is returned is called."""
    state = thread.__dict__  # of the thread that opens the block: another one may close it
    thread.blocks += 1
    if thread.watch is None:
        thread.watch = Watch(reports, busy)
        thread.watch.__enter__()  # type: ignore[no-untyped-call]

    def stop() -> None:
        state["blocks"] -= 1
        here = thread.watch
        # A mode can be left in its own thread only, and only if it is the innermost one. Else a later block leaves it.
        if thread.blocks == 0 and here is not None and _get_current_dispatch_mode() is here:
            thread.watch = None
            here.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    return stop
