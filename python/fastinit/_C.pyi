"""The compiled part, csrc/torch/python.cpp: a function for each row of the table of ops (csrc/torch/ops.h), and a few more.

``source`` is where the key comes from, ``caller`` the function that error messages name (the op itself, if it is left away).
"""

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
def build_info() -> dict[str, Any]: ...
def cpu_capability() -> str: ...
def set_cpu_capability(name: str) -> str: ...
def multiply_by_torch(always: bool) -> bool: ...
