"""The compiled part, csrc/torch/python.cpp: a function for each row of the table of ops (csrc/torch/ops.h), and a few more.

``source`` is where the key comes from, ``caller`` the function that error messages name (the op itself, if it is left away).
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from torch import Generator, Tensor

class Key:
    """A key itself, where a generator may stand: 64 bits, or one int64 in a tensor."""

    value: Tensor

    def __init__(self, value: int | Tensor) -> None: ...

class Record:
    """What the fills of this thread do in a ``with`` block. Blocks nest, and the innermost one is told."""

    began: bool  # a fill has passed its checks: from then on it may have drawn and written
    key: int | Tensor | None  # the key of the last fill that took one; a tensor if it is on a GPU
    def __enter__(self) -> Record: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

def uniform_(
    tensor: Tensor, a: float, b: float, source: Generator | Key | None, caller: str = ..., /
) -> None: ...
def normal_(
    tensor: Tensor, mean: float, std: float, source: Generator | Key | None, caller: str = ..., /
) -> None: ...
def trunc_normal_(
    tensor: Tensor,
    mean: float,
    std: float,
    a: float,
    b: float,
    source: Generator | Key | None,
    caller: str = ...,
    /,
) -> None: ...
def sparse_(
    tensor: Tensor, sparsity: float, std: float, source: Generator | Key | None, caller: str = ..., /
) -> None: ...
def orthogonal_(
    tensor: Tensor, gain: float, source: Generator | Key | None, caller: str = ..., /
) -> None: ...
def batched_orthogonal_(
    tensor: Tensor, gain: float, source: Generator | Key | None, caller: str = ..., /
) -> None: ...
def fill_(tensor: Tensor, value: float, caller: str = ..., /) -> None: ...
def zero_(tensor: Tensor, caller: str = ..., /) -> None: ...
def check_writable(caller: str, tensor: Tensor, one_value: bool = False) -> None: ...

# ---- What is behind a report (csrc/torch/log.h) -----------------------------------------------------------------------

class Intervals:
    """Disjoint, sorted ranges of bytes."""

    ranges: list[tuple[int, int]]
    def add(self, start: int, end: int) -> int:
        """Add a range, and return how many of its bytes were there before."""

def runs(tensor: Tensor) -> tuple[int, list[int]]:
    """The memory of a view: the length of its contiguous pieces and where they start, in bytes of its storage.

    No starts are given for more than 4,096 pieces.
    """

class Log:
    """What the fills of a block did, and to which memory."""

    open: bool  # its block is
    simple: bool  # whether it takes more than ``add``; else whoever fills has to ask Python
    def add(
        self,
        function: str,
        arguments: Mapping[str, Any],
        tensor: Tensor,
        place: Any,
        key: int | Tensor | None,
        seconds: float,
        random: bool,
        source: Any,
    ) -> None: ...
    def remember(
        self, function: str, arguments: Mapping[str, Any], tensor: Tensor, place: Any, source: Any
    ) -> None: ...
    def knows(self, tensor: Tensor) -> bool: ...
    def seen(self, tensor: Tensor) -> list[tuple[Any, ...]]: ...
    def rows(self) -> list[tuple[Any, ...]]: ...
    def memories(self) -> int: ...

# ---- Simple calls in a block (csrc/torch/enabled.h) -------------------------------------------------------------------

def quick(name: str, names: tuple[str, ...], otherwise: Callable[..., Any]) -> Callable[..., Any] | None:
    """A function that does simple calls of an initialiser, and leaves the others to ``otherwise``; None if there is none."""

class Method:
    """A descriptor in front of a method of tensors, which does simple calls and asks ``otherwise`` about the others."""

    otherwise: Any
    def __init__(
        self, name: str, parameters: tuple[str, ...], inherited: Any, otherwise: Any, simple: bool, /
    ) -> None: ...

def set_blocks(variable: ContextVar[Any]) -> None: ...
def set_program_wide(on: bool) -> None: ...
def set_named(on: bool) -> None: ...
def set_busy(on: bool) -> None: ...
def is_busy() -> bool: ...

# ---- About the build --------------------------------------------------------------------------------------------------

def build_info() -> dict[str, Any]: ...
def cpu_capability() -> str: ...
def set_cpu_capability(name: str) -> str: ...
def multiply_by_torch(always: bool) -> bool: ...
