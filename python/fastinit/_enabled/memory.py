"""Which bytes of which storage were filled, and by what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastinit._C import Intervals as Intervals
from fastinit._C import runs as runs
from fastinit._parts import local_of


@dataclass(slots=True)
class Seen:
    """A fill as the log keeps it (csrc/torch/log.h): of which bytes of which storage."""

    function: str
    arguments: Mapping[str, Any]
    key: Any  # a tensor if it is on a GPU, which nobody has waited for yet; read when somebody asks
    shape: tuple[int, ...]
    place: Any  # of a part: where in the whole it lies
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    start: int
    end: int
    solid: bool  # it filled every byte from start to end
    source: Any  # the Fill of what was copied, or None


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
