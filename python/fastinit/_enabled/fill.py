"""One fill in a block: by fastinit, or by torch what fastinit refuses; and what the reports are told of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any

import torch
from torch import Generator, Tensor

from fastinit import _C
from fastinit._enabled.report import Report
from fastinit._enabled.strict import fell_through
from fastinit._kernels import Record
from fastinit._parts import here, is_part
from fastinit._warn import passed_over

passed_over.add(__file__)

# Blocks belong to a context: to a thread, and in it to a task of asyncio.
blocks: ContextVar[tuple[Report, ...]] = ContextVar("fastinit.enabled", default=())
_C.set_blocks(blocks)


class Thread:
    """What is true of the thread that asks."""

    @property
    def busy(self) -> bool:
        """Whether it is within a fill: what that calls is no fill of its own."""
        return _C.is_busy()

    @busy.setter
    def busy(self, value: bool) -> None:
        _C.set_busy(value)


thread = Thread()

# fastinit.deferred puts it here: what stands in for a tensor that may not be there, or None outside of its blocks.
deferring: Callable[[Tensor], Any] = lambda tensor: None  # noqa: E731


def open_reports() -> list[Report]:
    """The reports of the blocks that are open here, the outermost first. A context may outlive a block of its past."""
    return [report for report in blocks.get() if report._open]


def fill(
    label: str,
    ours: Callable[..., Any],
    torchs: Callable[[], Any] | None,
    tensor: Tensor,
    arguments: dict[str, Any],
    generator: Generator | None,
    random: bool,
) -> Tensor:
    """Fill a tensor by fastinit, or by torch what fastinit refuses; and record it."""
    refused = None
    deferral = deferring(tensor)
    if deferral is not None:
        ours = deferral.by(ours)
    thread.busy = True
    start = perf_counter()
    try:
        with Record() as native:
            try:
                ours(tensor, **arguments, **({"generator": generator} if random else {}))
            except Exception as error:
                # Once the checks have passed, a key may have been taken and memory written. And what torch draws into the
                # shards of a tensor is not one tensor.
                if native.began or torchs is None or is_part(tensor):
                    raise
                refused = str(error)
        if refused is not None and torchs is not None:
            torchs()  # finds all as it was; does what fastinit has no kernel for, and raises torch's errors
        elif deferral is not None:
            deferral.done(label, arguments, native.key)
    finally:
        thread.busy = False
    seconds = perf_counter() - start
    if record(label, arguments, tensor, native.key, seconds, random) and refused is not None and random:
        fell_through(open_reports(), label, refused)
    return tensor


def record(
    label: str,
    arguments: Mapping[str, Any],
    tensor: Tensor,
    key: int | Tensor | None,
    seconds: float,
    random: bool,
    source: Tensor | None = None,
) -> bool:
    """Tell all reports of a fill. Whether there was anything to tell, and anybody."""
    reports = open_reports()
    if not reports or tensor.layout != torch.strided or tensor.is_meta or tensor.numel() == 0:
        return False
    try:
        local, place = here(tensor)
    except RuntimeError:  # torch has filled shards, and nobody knows where they belong
        return False
    # A number in a tensor: as a number, so that no tensor is kept.
    arguments = {k: v.item() if isinstance(v, Tensor) else v for k, v in arguments.items()}
    for report in reports:
        if random and report._draws is not None:
            report._draws.append((label, key, tuple(tensor.shape)))
        report._add(label, arguments, local, place, key, seconds, random, source)
    return True
