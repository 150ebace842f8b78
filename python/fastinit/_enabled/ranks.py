"""Whether all ranks of a group drew the same: one all-reduce at a block's end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fastinit._enabled.report import Draw


def check(draws: Sequence[Draw], group: Any) -> None:
    """Compare what the ranks of a group drew, and raise if it was not the same.

    Args:
        draws: what this rank drew, in order.
        group: the process group.

    Raises:
        RuntimeError: on every rank of the group; it names the first fill that differs.
    """
    lines = [line(*draw) for draw in draws]
    digest = hashlib.sha256("\n".join(lines).encode()).digest()
    mine = int.from_bytes(digest[:8], "little") >> 1  # its negative is an int64 too
    # The largest of all, and the smallest.
    extremes = torch.tensor([mine, -mine], device=device_of(group))
    dist.all_reduce(extremes, dist.ReduceOp.MAX, group)
    largest, smallest = extremes[0].item(), -extremes[1].item()
    if largest == smallest:
        return
    everyone: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everyone, lines, group)
    number = next(i for i in range(max(map(len, everyone))) if len({told(rank, i) for rank in everyone}) > 1)
    what = "; ".join(f"rank {rank}: {told(theirs, number)}" for rank, theirs in enumerate(everyone))
    raise RuntimeError(
        f"the ranks of the group did not draw the same: random fill {number} differs ({what}). "
        "Their generators must be in the same state before the first fill."
    )


def line(function: str, key: int | Tensor | None, shape: tuple[int, ...]) -> str:
    number = int(key.item()) % 2**64 if isinstance(key, Tensor) else key
    return f"{function} of shape {shape} with " + ("no key" if number is None else f"key {number:#018x}")


def told(lines: Sequence[str], number: int) -> str:
    return lines[number] if number < len(lines) else "none"


def device_of(group: Any) -> torch.device:
    """Where the group's collectives take tensors."""
    backends = dist.get_backend_config(group)
    accelerator = torch.accelerator.current_accelerator()
    return torch.device("cpu") if "cpu" in backends or accelerator is None else accelerator
