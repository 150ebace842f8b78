"""A stopwatch around an init module, and the memory that its calls take."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastinit.demo import theory


@dataclass
class Record:
    """What one initialiser of one library cost and drew."""

    calls: int = 0
    parameters: int = 0
    seconds: float = 0.0
    extra_bytes: int | None = None  # at the peak, beyond the tensor itself
    error: str | None = None
    tally: theory.Tally = field(default_factory=theory.Tally)
    shown: theory.Picture | None = None  # of the first call
    largest: tuple[int, Callable[[], Any]] = (0, lambda: None)  # the call on the largest tensor

    def verdict(self) -> dict[str, Any]:
        verdict = self.tally.verdict()
        if self.error:
            verdict |= {"ok": False, "wrong": [f"raised: {self.error}", *verdict["wrong"]]}
        return verdict


class Stopwatch:
    """Stands in for an init module: passes each call on and times it, then looks at what it drew."""

    def __init__(self, init: Any, check: bool = True) -> None:
        self._init = init
        self._check = check
        self.records: defaultdict[str, Record] = defaultdict(Record)

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        function = getattr(self._init, name)

        def timed(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            record = self.records[name]
            synchronize(tensor.device)
            start = time.perf_counter()
            try:
                function(tensor, *args, **kwargs)
            except RuntimeError as error:  # torch has no orthogonal_ in bfloat16, for one
                record.error = str(error).splitlines()[0]
                return tensor
            synchronize(tensor.device)
            record.seconds += time.perf_counter() - start
            record.calls += 1
            record.parameters += tensor.numel()
            if self._check:
                given = theory.arguments_of(name, tensor, *args, **kwargs)
                record.tally.add(name, given)
                record.shown = record.shown or theory.picture_of(name, given)
                repeat = (tensor.numel(), lambda: function(tensor, *args, **kwargs))
                record.largest = max(record.largest, repeat, key=lambda pair: pair[0])
            return tensor

        return timed

    def total(self) -> Record:
        """The whole model."""
        records = self.records.values()
        known = [record.extra_bytes for record in records if record.extra_bytes is not None]
        return Record(
            calls=sum(record.calls for record in records),
            parameters=sum(record.parameters for record in records),
            seconds=sum(record.seconds for record in records),
            extra_bytes=max(known, default=None),
            error=next((record.error for record in records if record.error), None),
        )

    def pictures(self) -> dict[str, theory.Picture]:
        return {name: record.shown for name, record in self.records.items() if record.shown}

    def measure_memory(self, device: torch.device) -> None:
        """Repeat the largest call of each initialiser, and note how much memory it takes at the peak."""
        for record in self.records.values():
            if record.calls:
                record.extra_bytes = peak_extra_bytes(record.largest[1], device)


class Fill:
    """An init module that does nothing but write memory: the limit for all others."""

    def __getattr__(self, name: str) -> Callable[..., Tensor]:
        return lambda tensor, *args, **kwargs: tensor.detach().fill_(1.0)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def available_bytes(device: torch.device) -> int:
    """Memory that can still be taken on the device; on the CPU, also within the container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = status_bytes("/proc/meminfo", "MemAvailable") or free
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{what}").read_text()) for what in ("max", "current"))
    except (OSError, ValueError):  # no such files, or no limit ("max")
        return free
    return min(free, limit - used)


def peak_extra_bytes(call: Callable[[], Any], device: torch.device) -> int | None:
    """How far memory in use rises above its present level during a call; None where the system does not say.

    On the CPU this is the resident set's high-water mark, which Linux lets a process set back.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    give_back_free_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    before = status_bytes("/proc/self/status", "VmHWM")
    call()
    return max(0, status_bytes("/proc/self/status", "VmHWM") - before)


def give_back_free_memory() -> None:
    """Return freed heap memory to the system, or a call could use it again unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def status_bytes(path: str, key: str) -> int:
    """The value of a `key:  n kB` line under /proc; 0 where there is none."""
    try:
        match = re.search(rf"^{key}:\s+(\d+) kB", Path(path).read_text(), re.MULTILINE)
    except OSError:
        match = None
    return int(match[1]) * 1024 if match else 0
