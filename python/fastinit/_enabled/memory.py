"""Which bytes of which storage were filled, and by what."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastinit._parts import local_of

MOST_RUNS = 4096  # a view in more separate pieces is left out of the count of elements drawn again


class Intervals:
    """Disjoint, sorted ranges of bytes."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def add(self, start: int, end: int) -> int:
        """Add a range, and return how many of its bytes were there before."""
        first = bisect_left(self.ends, start)
        last = bisect_right(self.starts, end)  # ranges that touch are merged as well
        known = 0
        for i in range(first, last):
            known += max(0, min(end, self.ends[i]) - max(start, self.starts[i]))
        if first < last:
            start, end = min(start, self.starts[first]), max(end, self.ends[last - 1])
        self.starts[first:last] = [start]
        self.ends[first:last] = [end]
        return known


def runs(tensor: Tensor) -> tuple[int, list[int]]:
    """The memory of a view: the length of its contiguous pieces and where they start, in bytes of its storage.

    No starts are given for more than ``MOST_RUNS`` pieces.
    """
    size, offset = tensor.element_size(), int(tensor.storage_offset())
    if tensor.is_contiguous():
        return tensor.numel() * size, [offset * size]
    length, outer = 1, []
    for stride, count in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if stride == length:
            length *= count
        elif count > 1 and stride > 0:
            outer.append((stride, count))
    if math.prod(count for _, count in outer) > MOST_RUNS:
        return length * size, []
    starts = [offset]
    for stride, count in outer:
        starts = [start + i * stride for start in starts for i in range(count)]
    return length * size, [start * size for start in starts]


@dataclass(slots=True)
class Seen:
    """A fill as it is kept: of which bytes of which storage."""

    function: str
    arguments: Mapping[str, Any]
    key: Any  # a tensor if it is on a GPU, which nobody has waited for yet; read when somebody asks
    shape: torch.Size
    place: Any  # of a part: where in the whole it lies
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    start: int
    end: int
    solid: bool  # it filled every byte from start to end
    source: Any  # the Fill of what was copied, or None


@dataclass(slots=True)
class Memory:
    """What is known of one storage."""

    drawn: Intervals = field(default_factory=Intervals)
    fills: dict[tuple[Any, ...], Seen] = field(default_factory=dict)


def storage_of(tensor: Tensor) -> int | None:
    """Which memory a tensor lies in."""
    try:
        return int(local_of(tensor).untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError, ValueError):  # sparse, or not initialised yet
        return None


def extent(tensor: Tensor) -> tuple[int, int]:
    """The bytes of its storage within which a tensor lies: where they start and end."""
    tensor = local_of(tensor)
    size, start = tensor.element_size(), int(tensor.storage_offset())
    if tensor.numel() == 0:
        return start * size, start * size
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return start * size, (start + last + 1) * size
