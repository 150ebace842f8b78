"""Memory: how much is free, and how much a call takes."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


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
